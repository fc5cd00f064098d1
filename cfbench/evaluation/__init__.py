"""Abduction, action and prediction for a plan of questions, and scores of the answers."""

from __future__ import annotations
