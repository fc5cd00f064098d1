"""From a request to finished tasks: prepare, fit, score, execute, Ray, failures, display."""

from __future__ import annotations
