"""Values of variables that judges predict, or that are measured, from images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..evidence import Evidence
from ..graph import Variable

__all__ = ["distance", "measured", "off_target", "predicted"]


def predicted(reading: Tensor) -> Tensor:
    """The class [N] of probabilities [N, K], or the value [N]: float64, NaN where the reading is not finite."""
    if reading.ndim == 1:
        return reading.double()
    return reading.argmax(1).double().masked_fill(~reading.isfinite().all(1), torch.nan)


def distance(variable: Variable, a: Tensor, b: Tensor) -> Tensor:
    """|a - b| in raw units, or for classes 1 where a and b differ and else 0; NaN where either is NaN: float64 [N]."""
    gap = (a.double() - b.double()).abs()
    return (gap > 0.5).double().masked_fill(gap.isnan(), torch.nan) if variable.categorical else gap


def measured(evidence: Evidence, images: str) -> Mapping[str, Tensor]:
    """The variables measured from ``evidence.images`` (x, answer) without a learned judge; empty where none can be."""
    assert evidence.measure is not None
    instrument = evidence.measure
    readings: Mapping[str, Tensor] = evidence.each(
        f"measure:{images}", lambda block: dict(instrument(getattr(block, images)) or {})
    )
    return readings


def off_target(evidence: Evidence) -> Iterator[tuple[Variable, Tensor]]:
    """Variables that the intervention should not change, each with the rows [N] whose value is unchanged.

    These are neither the intervened variable nor its descendants; rows whose counterfactual parents change one of them
    nevertheless are left out.
    """
    graph = evidence.graph
    affected = {evidence.do, *graph.descendants(evidence.do)}
    for k, variable in enumerate(graph.variables):
        if variable.name not in affected:
            yield variable, evidence.cf_pa[:, k] == evidence.pa[:, k]
