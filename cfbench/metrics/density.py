"""Density and coverage: how generated features fall among real ones (Naeem et al. 2020, arXiv 2002.09797)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["MANY", "NEAREST", "Balls", "coverage", "density", "expected_coverage", "inside", "pack", "radii", "spaced"]

NEAREST = 5
MANY = 10_000
"""Maximum number of real images, as many as Naeem et al. had, which bounds memory and time."""
ROWS = 512
"""Rows of distances in memory at once."""
Balls = tuple[Tensor, Tensor, Tensor]
"""Of each point the balls that hold it, a bit each, uint8 [N, M / 8]; how many these are [N]; how many all are [N]."""


def spaced(features: Tensor, n: int = MANY) -> Tensor:
    """At most n evenly spaced rows of features [M, F]."""
    m = len(features)
    return features[torch.arange(min(n, m)) * m // min(n, m)] if m else features


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The matrix-product form loses the digits that tell a point from itself.
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def radii(real: Tensor, k: int = NEAREST) -> Tensor:
    """Distance [M] of each real point [M, F] to its k-th nearest other; NaN for all where M <= k."""
    if len(real) <= k:
        return torch.full((len(real),), torch.nan, dtype=torch.float64)
    found = torch.empty(len(real), dtype=torch.float64)
    for start in range(0, len(real), ROWS):
        found[start : start + ROWS] = _distances(real[start : start + ROWS], real).kthvalue(k + 1, dim=1).values
    return found


def inside(features: Tensor, real: Tensor, radius: Tensor) -> Tensor:
    """Whether each point [N, F] lies strictly within the ball around each real point [M, F]: bool [N, M]."""
    return _distances(features, real) < radius


def pack(features: Tensor, real: Tensor, radius: Tensor) -> Balls:
    """The balls around real points [M, F] that hold each point [N, F]."""
    n, m = len(features), len(real)
    # Allocated first: small allocations between large buffers would keep the allocator from reusing theirs.
    bits = torch.empty(n, -(-m // 8), dtype=torch.uint8)
    count = torch.empty(n, dtype=torch.long)
    for start in range(0, n, ROWS):
        within = inside(features[start : start + ROWS], real, radius)
        bits[start : start + ROWS] = torch.from_numpy(np.packbits(within.numpy(), axis=1))
        count[start : start + ROWS] = within.sum(1)
    return bits, count, torch.full_like(count, m)


def density(balls: Balls, k: int = NEAREST) -> Tensor:
    """Mean number of balls around a point, over k: 0-d, about 1 for points of the same law, unbounded above."""
    return balls[1].sum().double() / (k * len(balls[1]))


def coverage(balls: Balls) -> Tensor:
    """Share of balls that hold a point: 0-d in [0, 1], float64."""
    bits, _, every = balls
    held = np.unpackbits(np.bitwise_or.reduce(bits.numpy(), axis=0)).sum()
    return torch.tensor(held / int(every[0]), dtype=torch.float64)


def expected_coverage(answers: int, real: int, k: int = NEAREST) -> float:
    """The mean coverage of so many points by as many answers of the same law, continuous and otherwise arbitrary.

    The probability of a ball that reaches the k-th of M - 1 others has the law Beta(k, M - k) of an order statistic,
    so a ball holds none of N answers with probability E (1 - p)ᴺ = Π_{i=1..k} (M - i) / (M + N - i).
    """
    return 1 - math.prod((real - i) / (real + answers - i) for i in range(1, k + 1))
