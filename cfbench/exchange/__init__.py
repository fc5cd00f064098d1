"""Across machines and laboratories: merge, compare, verify, bundles, external answers."""

from __future__ import annotations
