"""Classifier-free guidance of a noise prediction or a velocity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

__all__ = ["classifier_free"]

T = TypeVar("T", int, float)


def classifier_free(
    conditional: Callable[[Tensor, T], Tensor], base: Callable[[Tensor, T], Tensor], scale: float
) -> Callable[[Tensor, T], Tensor]:
    """base + scale (conditional - base), functions of images and time (Ho & Salimans 2022, arXiv 2207.12598).

    At scale 1 the base is not evaluated.
    """
    if scale == 1:
        return conditional

    def guided(x: Tensor, t: T) -> Tensor:
        start = base(x, t)
        return start + scale * (conditional(x, t) - start)

    return guided
