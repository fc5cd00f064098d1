"""The command line: click only; what a command does is imported when it is called."""

from __future__ import annotations
