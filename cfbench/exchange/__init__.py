"""Runs across machines and laboratories: merged, compared, verified, bundled; external answers scored."""

from __future__ import annotations
