"""The distribution of stroke thickness in Morpho-MNIST (Pawlowski et al. 2020, https://arxiv.org/abs/2006.06485)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["THICKNESS", "gamma_thickness"]

THICKNESS = (0.8, 6.5)
"""The bounds that thicknesses are kept within: two of 100,000 draws lie outside."""


def gamma_thickness(count: int, rng: torch.Generator) -> Tensor:
    """Return ``count`` draws of 0.5 + Gamma(10, rate 5), float64, drawn again outside `THICKNESS`.

    Each is the sum of ten exponential waiting times.
    """
    parts: list[Tensor] = []
    while sum(map(len, parts)) < count:
        waits = -torch.log1p(-torch.rand(count, 10, generator=rng, dtype=torch.float64))
        t = 0.5 + waits.sum(1) / 5
        parts.append(t[(t >= THICKNESS[0]) & (t <= THICKNESS[1])])
    return torch.cat(parts)[:count]
