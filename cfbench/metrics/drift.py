"""Off-target drift: what a counterfactual changes in variables that the intervention should leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence
from .readings import distance, measured, off_target, predicted

__all__ = ["Drift", "MeasuredDrift"]


class Drift(Metric):
    """How far a judge's reading of each variable that is no descendant of the intervened one moves.

    ``drift/k`` [N] compares the readings of answer and factual, in the unit of a continuous variable k;
    ``flip/k`` [N] is 1 where the class that is read changes. The judge's bias cancels, unlike in effectiveness.
    Rows whose counterfactual parents change k are NaN.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "drift": Column("change of a reading that should stay", "lower", "variable's unit", 0.0, printed=False),
        "flip": Column(
            "class that should stay is read as another", "lower", "share of images", 0.0, 1.0, printed=False
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64, for every non-descendant that a judge reads."""
        before, after = evidence.judge("read", "x"), evidence.judge("read", "answer")
        scores = {}
        for variable, stays in off_target(evidence):
            if variable.name in after:
                moved = distance(variable, predicted(after[variable.name]), predicted(before[variable.name]))
                name = "flip" if variable.categorical else "drift"
                scores[f"{name}/{variable.name}"] = moved.masked_fill(~stays, torch.nan)
        return scores


class MeasuredDrift(Metric):
    """How far the measurement of each continuous variable that is no descendant of the intervened one moves.

    ``measured_drift/k`` [N] in the unit of k; rows whose counterfactual parents change k are NaN.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "measured_drift": Column(
            "measurement of a variable that should stay, answer against factual",
            "lower",
            "variable's unit",
            0.0,
            printed=False,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"measure"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64, for every continuous non-descendant that can be measured."""
        before, after = measured(evidence, "x"), measured(evidence, "answer")
        scores = {}
        for variable, stays in off_target(evidence):
            if variable.name in after and not variable.categorical:
                moved = distance(variable, after[variable.name], before[variable.name])
                scores[f"measured_drift/{variable.name}"] = moved.masked_fill(~stays, torch.nan)
        return scores
