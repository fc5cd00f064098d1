"""The control that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from cfbench.contract import Method
from cfbench.rng import Streams

__all__ = ["Identity"]


class Identity(Method):
    """Answers every question with the factual: the noise of an image is the image."""

    residual: str = "full"
    reacts: ClassVar[bool] = False
    in_gallery: ClassVar[bool] = False

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        return x

    def predict(self, u: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        return u

    @property
    def evaluations(self) -> Mapping[str, float]:
        return {"abduct": 0, "predict": 0}
