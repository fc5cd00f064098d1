"""The SCM over digit, thickness, intensity and slant: its graph, draws from it, and its response to interventions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cfbench.graph import CausalGraph, Variable

from ..common.thickness import THICKNESS, gamma_thickness
from .pen import SIZE

__all__ = ["GRAPH", "act", "sample", "sample_independent"]

INTENSITY = (64.0, 255.0)
SLANT = (-31.0, 43.0)
SLANT_MEAN, SLANT_SLOPE, SLANT_STD = 6.0, 2.0, 7.0  # degrees
TRUNCATION = 4.0
"""Standard deviations beyond which the noise of the slant is drawn again."""

GRAPH = CausalGraph(
    (
        Variable("digit", "categorical", size=10, truth="convention"),
        Variable("thickness", "continuous", low=THICKNESS[0], high=THICKNESS[1], truth="exact"),
        Variable(
            "intensity", "continuous", low=INTENSITY[0], high=INTENSITY[1], unit="grey level",
            parents=("thickness",), truth="exact",
        ),
        Variable("slant", "continuous", low=SLANT[0], high=SLANT[1], unit="degrees", parents=("digit",), truth="exact"),
    ),
    (1, SIZE, SIZE),
)  # fmt: skip


def slant_mean(digit: Tensor) -> Tensor:
    """Return the mean slant in degrees of each digit: later digits lean further to the right."""
    return SLANT_MEAN + SLANT_SLOPE * (digit - 4.5)


def intensity(thickness: Tensor, eps: Tensor) -> Tensor:
    """Return i = 64 + 191 sigmoid(2 (t - 2.5) + eps / 2), the mechanism of Morpho-MNIST (Pawlowski et al. 2020)."""
    return 64 + 191 * torch.sigmoid(2 * (thickness - 2.5) + 0.5 * eps)


def intensity_noise(thickness: Tensor, intensity: Tensor) -> Tensor:
    """Return the eps with which `intensity` gives this intensity at this thickness."""
    return 2 * (torch.logit((intensity - 64) / 191) - 2 * (thickness - 2.5))


def act(pa: Tensor, do: Mapping[str, Tensor]) -> Tensor:
    """Return the response of pa [B, 4] to ``do``, exact: intensity and slant keep the noise of the factual.

    Raises:
        ValueError: a factual intensity lies outside [64, 255], where the SCM has no noise for it.
    """
    new = GRAPH.set(pa, do)
    digit, t, i, slant = pa.double().unbind(1)
    if "thickness" in do and "intensity" not in do:
        if ((i < INTENSITY[0]) | (i > INTENSITY[1])).any():
            raise ValueError("a factual intensity lies outside [64, 255]")
        other = intensity(new[:, 1].double(), intensity_noise(t, i))
        new[:, 2] = torch.where(new[:, 1] == pa[:, 1], i, other).to(new.dtype)
    if "digit" in do and "slant" not in do:
        new[:, 3] = (slant + slant_mean(new[:, 0].double()) - slant_mean(digit)).to(new.dtype)
    return new


def sample(count: int, rng: torch.Generator) -> Tensor:
    """Return parents [count, 4] drawn from the SCM."""
    digit = torch.randint(10, (count,), generator=rng).double()
    t = gamma_thickness(count, rng)
    i = intensity(t, torch.randn(count, generator=rng, dtype=torch.float64))
    slant = slant_mean(digit) + SLANT_STD * _truncated_normal(count, rng)
    return torch.stack([digit, t, i, slant], dim=1).float()


def sample_independent(count: int, rng: torch.Generator) -> Tensor:
    """Return parents [count, 4] independent of each other; half of the thicknesses are uniform over the support."""
    digit = torch.randint(10, (count,), generator=rng).double()
    uniform = torch.rand(3, count, generator=rng, dtype=torch.float64)
    even = THICKNESS[0] + (THICKNESS[1] - THICKNESS[0]) * uniform[0]
    t = torch.where(torch.rand(count, generator=rng) < 0.5, even, gamma_thickness(count, rng))
    i = INTENSITY[0] + (INTENSITY[1] - INTENSITY[0]) * uniform[1]
    slant = SLANT[0] + (SLANT[1] - SLANT[0]) * uniform[2]
    return torch.stack([digit, t, i, slant], dim=1).float()


def _truncated_normal(count: int, rng: torch.Generator) -> Tensor:
    """Return standard normal noise within `TRUNCATION` standard deviations, by the inverse distribution function."""
    low = 0.5 * (1 + math.erf(-TRUNCATION / math.sqrt(2)))
    p = low + (1 - 2 * low) * torch.rand(count, generator=rng, dtype=torch.float64)
    return math.sqrt(2) * torch.erfinv(2 * p - 1)
