"""Density and coverage: how generated features fall among real ones (Naeem et al. 2020, arXiv 2002.09797)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["coverage", "density", "inside", "radii", "spaced"]

NEAREST = 5


def spaced(features: Tensor, n: int) -> Tensor:
    """At most n rows of features [M, F] at even distances."""
    m = len(features)
    return features[torch.arange(min(n, m)) * m // min(n, m)] if m else features


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The matrix-product form loses the digits that tell a point from itself.
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def radii(real: Tensor, k: int = NEAREST) -> Tensor:
    """Distance [M] of each real point [M, F] to its k-th nearest other; NaN for all where M <= k."""
    if len(real) <= k:
        return torch.full((len(real),), torch.nan, dtype=torch.float64)
    return _distances(real, real).kthvalue(k + 1, dim=1).values


def inside(features: Tensor, real: Tensor, radius: Tensor) -> Tensor:
    """Whether each point [N, F] lies strictly within the ball around each real point [M, F]: bool [N, M]."""
    return _distances(features, real) < radius


def density(within: Tensor, k: int = NEAREST) -> Tensor:
    """Mean number of balls around a point, over k: 0-d, about 1 for points of the same law, unbounded above."""
    return within.sum().double() / (k * len(within))


def coverage(within: Tensor) -> Tensor:
    """Share of balls that hold a point: 0-d in [0, 1], about 1 - 2⁻ᵏ for as many points of the same law."""
    return within.to(torch.uint8).amax(0).double().mean()
