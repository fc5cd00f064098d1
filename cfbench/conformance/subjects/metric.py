"""A metric as a subject: evidence on the toy data with answers of known quality."""

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
from .oracle_judges import OracleJudges, measure
from .subject import Subject
from .toy import BARS, ROOT, draw

__all__ = ["GRAPH", "OPTIONAL", "MetricSubject", "Quality", "evidence", "only"]

Quality = Literal["good", "true", "noise", "copies"]
ROWS = 48
GRAPH = CausalGraph((*BARS.graph.variables, Variable("ground", "continuous", 1, 0.0, 0.15)), BARS.graph.shape)
"""The graph of the toy data with the background as a further variable without parents."""
OPTIONAL: Mapping[str, Any] = {"truth": None, "reverse": None, "cycles": {}, "judges": None, "measure": None}
"""Evidence that a metric must name in ``needs``, and the values of the fields without it."""
COSTS = {
    "fit_cpu_s": 3.0, "fit_s": 3.5, "tune_s": 0.5, "abduct_cpu_ms": 0.1, "predict_cpu_ms": 0.2,
    "abduct_ms": 0.2, "predict_ms": 0.3, "abduct_evals": 1.0, "predict_evals": 2.0,
    "parameters": 1000.0, "peak_mb": 64.0, "bits_per_dim": 2.5, "images_seen": 1024.0, "train_peak_mb": 80.0,
    "fit_others": 0.0, "answer_others": 0.0,
}  # fmt: skip


def evidence(do: str, quality: Quality = "good") -> Evidence:
    """Evidence on 48 test images, with the other 80 as real images.

    Args:
        do: a variable, ``null`` or ``cell``.
        quality: of the answers: the truth with a little noise, the truth, noise, or copies of the factual.
    """
    split, rng = BARS.split(ROOT, "test"), torch.Generator().manual_seed(7)
    u = BARS.table()[1][split.index]
    extended = Split(split.images, torch.cat([split.parents, u[:, 1:]], 1), split.index)
    own, real = extended[:ROWS], extended[ROWS:]
    cf_pa = _response(own.parents, do)
    x, truth = own.x, draw(cf_pa[:, :2], torch.stack([u[:ROWS, 0], cf_pa[:, 2]], 1))
    answers = {name: _degraded(image, x, quality, rng) for name, image in (("answer", truth), ("x", x), ("once", x))}
    return Evidence(
        GRAPH, do, x, own.parents, cf_pa, answers["answer"], real, OracleJudges(), measure,
        truth=truth, reverse=answers["x"], cycles={1: answers["once"], 10: answers["x"]}, costs=dict(COSTS),
        scope="null" if do == "null" else "cell" if do == "cell" else "do",
    )  # fmt: skip


def _response(pa: Tensor, do: str) -> Tensor:
    """Parents after an intervention that sets a variable to another row's value, or to the other class."""
    new = pa.clone()
    if do in GRAPH.names:
        k = GRAPH.index(do)
        new[:, k] = 1 - pa[:, k] if do == "kind" else pa[:, k].roll(5)
        new[:, 1] += 0.2 * (new[:, 0] - pa[:, 0])
    return new


def _degraded(image: Tensor, x: Tensor, quality: Quality, rng: torch.Generator) -> Tensor:
    noise = torch.rand(image.shape, generator=rng)
    return {
        "good": (image + 0.04 * (noise - 0.5)).clamp(0, 1), "true": image, "noise": noise, "copies": x.clone(),
    }[quality]  # fmt: skip


def only(given: Evidence, needs: frozenset[str]) -> Evidence:
    """A copy of the evidence with the optional fields in ``needs`` only and nothing computed."""
    return replace(given, **{k: v for k, v in OPTIONAL.items() if k not in needs}, memo={}, shared={})


class MetricSubject(Subject):
    """A metric with the evidence of its scope."""

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
    def interventions(self) -> tuple[str, ...]:
        """What the metric is called on: the variables, ``null`` or ``cell``."""
        return GRAPH.names if self.plugin.scope == "do" else (self.plugin.scope,)

    def evidence(self, do: str, quality: Quality = "good") -> Evidence:
        """Evidence as the harness gives it, with what the metric needs only."""
        return only(evidence(do, quality), self.needs)

    def score(self, given: Evidence) -> dict[str, Any]:
        """The metric's outputs by name."""
        with self.calling("the metric"):
            found = self.metric(given)
        if not isinstance(found, Mapping):
            raise Violation(f"the metric gives a {type(found).__name__}; give a dict of a tensor for each column")
        return {str(k): copied(v) for k, v in found.items()}

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Scores of good answers by intervention and output."""
        found = {do: self.score(self.evidence(do)) for do in self.interventions}
        demand(
            any(found.values()),
            f"the metric gives no score for any of do({'), do('.join(self.interventions)}); "
            "give a tensor for each column",
        )
        return found

    def by_quality(self, quality: Quality) -> dict[str, dict[str, Any]]:
        """Scores of answers of another quality."""
        return {do: self.score(self.evidence(do, quality)) for do in self.interventions}
