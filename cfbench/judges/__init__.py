"""The judges of a data set: readers, encoders and auto-encoders that metrics need and no method sees."""

from __future__ import annotations

from .panel import Judges
from .report import card
from .training import JudgeBudget, train_judges

__all__ = ["JudgeBudget", "Judges", "card", "train_judges"]
