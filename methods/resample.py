"""The control that forgets the factual: a fresh interventional sample of another row's model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor

from cfbench.contract import Derived, Method
from cfbench.rng import Streams

__all__ = ["Resample"]


class Sampler(Protocol):
    """A method that can draw from its model."""

    def sample(self, pa: Tensor, rng: Streams) -> Tensor: ...


class Resample(Derived):
    """An image drawn anew from the model under the new parents, whatever the factual was.

    It shows what scores are worth without abduction: realism and effectiveness at the model's own level, and none of
    the factual's identity. Asked for as ``resample[of=deepscm]``, for any method that has ``sample``.
    """

    residual: str = "-"

    @classmethod
    def applies(cls, method: type[Method]) -> bool:
        return callable(getattr(method, "sample", None))

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        """Nothing: a place for each image."""
        return pa

    def predict(self, u: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        return cast(Sampler, self.of).sample(pa, rng)

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Those of the model's prediction, which draws from noise in the same way."""
        return {"abduct": 0.0, "predict": self.of.evaluations.get("predict", float("nan"))}
