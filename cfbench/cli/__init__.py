"""The command line: click only, importing what a command does when it is called."""

from __future__ import annotations
