"""The check that a metric declares truthfully where better lies."""

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
        about = column_of(s, name)
        if about.direction != "none":
            best, worst, still = (_loss(about, found[do].get(name)) for found in (true, noise, copies))
            if not best < worst:
                lost[name, do] = f"{float(value.double().nanmean()):.4g}", best < still
    judged = {(name, do) for do, name, _ in each(true) if column_of(s, name).direction != "none"}
    for (name, do), (mean, beats_copies) in lost.items():
        about = column_of(s, name)
        noisy = float(noise[do][name].double().nanmean())
        # One part of a score may like noise (a change that should be large), where its other columns do not.
        demand(
            beats_copies and any(other != name.partition("/")[0] for other in _won(judged, lost)),
            f"{name} under do({do}) is {mean} for true counterfactuals and {noisy:.4g} for noise, declared "
            f"{about.direction!r}: noise would win; change the direction, or declare 'none'",
        )


def _won(judged: set[tuple[str, str]], lost: dict[tuple[str, str], Any]) -> set[str]:
    """Columns that prefer the truth to noise wherever they are asked."""
    bad = {name.partition("/")[0] for name, _ in lost}
    return {name.partition("/")[0] for name, _ in judged} - bad


def _loss(about: Column, value: Tensor | None) -> float:
    """The mean score turned so that less is better; infinite where there is none."""
    if value is None or not bool(value.isfinite().any()):
        return float("inf")
    v = value.double()
    turned = {"lower": v, "higher": -v, "target": (v - (about.target or 0.0)).abs()}[about.direction]
    return float(turned.nanmean())
