"""The control that has learned nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from cfbench.contract import Fit, Method, Noise
from cfbench.graph import CausalGraph
from cfbench.rng import Streams

from .deepscm import DeepSCM

__all__ = ["Untrained"]


class Untrained(Method):
    """DeepSCM with its initial weights: what the architecture and the residual policy earn without learning.

    The residual is carried in full, which makes composition perfect whatever the network knows. Keywords are those
    of `DeepSCM`.
    """

    answer_params: ClassVar[frozenset[str]] = DeepSCM.answer_params

    def __init__(
        self, graph: CausalGraph, residual: Literal["none", "scaled", "faded", "full"] = "full", **params: Any
    ) -> None:
        super().__init__(graph)
        self.model = DeepSCM(graph, residual=residual, **params)
        self.residual = residual

    def fit(self, run: Fit) -> None:
        """Take over the scale of the parents from ``run.train``, and nothing else."""
        self.model.parents.fit(run.train.parents)

    @property
    def evaluations(self) -> Mapping[str, float]:
        return self.model.evaluations

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Noise:
        return self.model.abduct(x, pa, rng)

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor:
        return self.model.predict(u, pa, rng)
