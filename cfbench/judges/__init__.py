"""The judges of a data set: classifiers, encoders and auto-encoders that metrics use and methods do not."""

from __future__ import annotations

from .panel import Judges
from .report import card
from .training import JudgeBudget, train_judges

__all__ = ["JudgeBudget", "Judges", "card", "train_judges"]
