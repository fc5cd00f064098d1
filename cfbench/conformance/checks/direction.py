"""The check of a metric's direction."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...contract import Column
from ..check import check
from ..outcomes import demand
from ..subjects.metric import MetricSubject
from .metrics import alone, column_of, each, finite

__all__ = ["directed"]


@check("direction", "true counterfactuals score better than noise", finite, alone)
def directed(s: MetricSubject) -> None:
    true, noise, copies = (s.by_quality(q) for q in ("true", "noise", "copies"))
    lost = {}
    for do, name, value in each(true):
        column = column_of(s, name)
        if column.direction != "none":
            best, worst, copied = (_loss(column, found[do].get(name)) for found in (true, noise, copies))
            if not best < worst:
                lost[name, do] = f"{float(value.double().nanmean()):.4g}", best < copied
    scored = {(name, do) for do, name, _ in each(true) if column_of(s, name).direction != "none"}
    for (name, do), (mean, beats_copies) in lost.items():
        column = column_of(s, name)
        noisy = float(noise[do][name].double().nanmean())
        # A column may prefer noise (a change that should be large) if another column of its metric does not.
        demand(
            beats_copies and any(other != name.partition("/")[0] for other in _better_than_noise(scored, lost)),
            f"{name} under do({do}) is {mean} for true counterfactuals and {noisy:.4g} for noise, declared "
            f"{column.direction!r}: noise would win; change the direction, or declare 'none'",
        )


def _better_than_noise(scored: set[tuple[str, str]], lost: dict[tuple[str, str], Any]) -> set[str]:
    """Columns that score the truth better than noise under all interventions."""
    bad = {name.partition("/")[0] for name, _ in lost}
    return {name.partition("/")[0] for name, _ in scored} - bad


def _loss(column: Column, value: Tensor | None) -> float:
    """The mean score with its sign such that lower is better; infinite where there is none."""
    if value is None or not bool(value.isfinite().any()):
        return float("inf")
    v = value.double()
    loss = {"lower": v, "higher": -v, "target": (v - (column.target or 0.0)).abs()}[column.direction]
    return float(loss.nanmean())
