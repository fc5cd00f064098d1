"""Effectiveness: whether a counterfactual shows its counterfactual parents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence
from .readings import distance, measured, predicted

__all__ = ["Effectiveness", "MeasuredEffectiveness"]


class Effectiveness(Metric):
    """How well each variable, as a learned judge reads it from the answer, meets its counterfactual value.

    ``accuracy/k`` [N] is 1 or 0 for a categorical variable k, ``error/k`` [N] the absolute error of a continuous
    one in its own unit. With one call for each do(v) they make the do × variable matrix of Monteiro et al. 2023
    (arXiv 2303.01274). The judge's own error on real images is a lower bound of what can be resolved.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "accuracy": Column(
            "judge reads the class that was asked for",
            "higher",
            "share of images",
            0.0,
            1.0,
            printed=True,
            order=0,
            role="effectiveness",
        ),
        "error": Column(
            "judge's reading against the value that was asked for",
            "lower",
            "variable's unit",
            0.0,
            printed=True,
            order=0,
            role="effectiveness",
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64, for every variable that a judge reads."""
        readings = evidence.judge("read", "answer")
        scores = {}
        for k, variable in enumerate(evidence.graph.variables):
            if variable.name in readings:
                miss = distance(variable, predicted(readings[variable.name]), evidence.cf_pa[:, k])
                name = "accuracy" if variable.categorical else "error"
                scores[f"{name}/{variable.name}"] = 1 - miss if variable.categorical else miss
        return scores


class MeasuredEffectiveness(Metric):
    """How well each continuous variable, as measured from the answer, meets its counterfactual value.

    ``measured_error/k`` [N] is the absolute error in the unit of k. No network is involved, so nothing that a
    method was trained against can be deceived here.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "measured_error": Column(
            "measurement against the value that was asked for", "lower", "variable's unit", 0.0, printed=True, order=10
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"measure"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64, for every continuous variable that can be measured."""
        readings = measured(evidence, "answer")
        return {
            f"measured_error/{variable.name}": distance(variable, readings[variable.name], evidence.cf_pa[:, k])
            for k, variable in enumerate(evidence.graph.variables)
            if variable.name in readings and not variable.categorical
        }
