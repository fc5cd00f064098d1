"""From a request to finished tasks: prepare, fit, score, execute, interrupts, failures, display."""

from __future__ import annotations
