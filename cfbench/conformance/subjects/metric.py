"""A metric under examination: evidence on the toy data, of good answers, of noise and of copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ...contract import Metric, Split
from ...evidence import Evidence
from ...graph import CausalGraph, Variable
from ..outcomes import Violation, demand
from .method import copied
from .oracle_judges import Eye, measure
from .subject import Subject
from .toy import BARS, ROOT, draw

__all__ = ["GRAPH", "OPTIONAL", "MetricSubject", "Quality", "evidence", "only"]

Quality = Literal["good", "true", "noise", "copies"]
ROWS = 48
GRAPH = CausalGraph((*BARS.graph.variables, Variable("ground", "continuous", 1, 0.0, 0.15)), BARS.graph.shape)
"""The toy's graph with the background among the variables, which none of the others causes."""
OPTIONAL: Mapping[str, Any] = {"truth": None, "reverse": None, "cycles": {}, "judges": None, "measure": None}
"""Evidence that a metric must name in ``needs``, and what stands in its place where it is not there."""
COSTS = {
    "fit_s": 3.5, "tune_s": 0.5, "abduct_ms": 0.2, "predict_ms": 0.3, "abduct_evals": 1.0, "predict_evals": 2.0,
    "parameters": 1000.0, "peak_mb": 64.0, "bits_per_dim": 2.5, "images_seen": 1024.0, "train_peak_mb": 80.0,
    "fit_others": 0.0, "answer_others": 0.0,
}  # fmt: skip


def evidence(do: str, quality: Quality = "good") -> Evidence:
    """Evidence on 48 test images, the other 80 as the real ones.

    Args:
        do: a variable, ``null`` or ``cell``.
        quality: of the answers: a little blurred, the truth itself, noise, or the factual unchanged.
    """
    split, rng = BARS.split(ROOT, "test"), torch.Generator().manual_seed(7)
    hand = BARS.table()[1][split.index]
    every = Split(split.images, torch.cat([split.parents, hand[:, 1:]], 1), split.index)
    own, real = every[:ROWS], every[ROWS:]
    cf_pa = _response(own.parents, do)
    x, truth = own.x, draw(cf_pa[:, :2], torch.stack([hand[:ROWS, 0], cf_pa[:, 2]], 1))
    made = {name: _made(image, x, quality, rng) for name, image in (("answer", truth), ("x", x), ("once", x))}
    return Evidence(
        GRAPH, do, x, own.parents, cf_pa, made["answer"], real, Eye(), measure,
        truth=truth, reverse=made["x"], cycles={1: made["once"], 10: made["x"]}, costs=dict(COSTS),
    )  # fmt: skip


def _response(pa: Tensor, do: str) -> Tensor:
    """The parents when a variable takes another row's value, or the other class."""
    new = pa.clone()
    if do in GRAPH.names:
        k = GRAPH.index(do)
        new[:, k] = 1 - pa[:, k] if do == "kind" else pa[:, k].roll(5)
        new[:, 1] += 0.2 * (new[:, 0] - pa[:, 0])
    return new


def _made(image: Tensor, x: Tensor, quality: Quality, rng: torch.Generator) -> Tensor:
    noise = torch.rand(image.shape, generator=rng)
    return {
        "good": (image + 0.04 * (noise - 0.5)).clamp(0, 1), "true": image, "noise": noise, "copies": x.clone(),
    }[quality]  # fmt: skip


def only(given: Evidence, needs: frozenset[str]) -> Evidence:
    """The evidence without what a metric does not ask for, nothing computed yet."""
    return replace(given, **{k: v for k, v in OPTIONAL.items() if k not in needs}, memo={}, shared={})


class MetricSubject(Subject):
    """A metric and the evidence that its scope is about."""

    def make(self) -> Metric:
        with self.calling("the constructor"):
            metric: Metric = self.plugin()
        return metric

    @cached_property
    def metric(self) -> Metric:
        return self.make()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.plugin.needs)

    @property
    def asked(self) -> tuple[str, ...]:
        """What the metric is called on."""
        return GRAPH.names if self.plugin.scope == "do" else (self.plugin.scope,)

    def evidence(self, do: str, quality: Quality = "good") -> Evidence:
        """Evidence as the harness gives it, without what the metric does not need."""
        return only(evidence(do, quality), self.needs)

    def score(self, given: Evidence) -> dict[str, Any]:
        """What the metric gives."""
        with self.calling("the metric"):
            found = self.metric(given)
        if not isinstance(found, Mapping):
            raise Violation(f"the metric gives a {type(found).__name__}; give a dict of a tensor for each column")
        return {str(k): copied(v) for k, v in found.items()}

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores of good answers by what was done."""
        found = {do: self.score(self.evidence(do)) for do in self.asked}
        demand(
            any(found.values()),
            f"the metric gives no score for any of do({'), do('.join(self.asked)}); give a tensor for each column",
        )
        return found

    def by_quality(self, quality: Quality) -> dict[str, dict[str, Any]]:
        """Scores of other answers."""
        return {do: self.score(self.evidence(do, quality)) for do in self.asked}
