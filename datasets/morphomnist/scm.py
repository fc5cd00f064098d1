"""The SCMs over the parents of Morpho-MNIST digits: their graphs, draws from them, their responses to interventions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from cfbench.graph import CausalGraph, Variable

from ..common.thickness import THICKNESS, gamma_thickness

__all__ = ["ConfoundedThickness", "Scm", "ThicknessIntensity", "ThicknessSlant"]

INTENSITY = (64.0, 255.0)
SLANT = (-45.0, 90.0)
_DIGIT = Variable("digit", "categorical", size=10)
_THICKNESS = Variable("thickness", "continuous", low=THICKNESS[0], high=THICKNESS[1], unit="pixel", truth="exact")


class Scm(Protocol):
    """Structural equations over parents of which the first two are digit and thickness."""

    graph: CausalGraph

    def draw(self, digit: Tensor, rng: torch.Generator, training: bool) -> Tensor:
        """Return parents [B, 3] of source digits of these classes [B], float32, distributed as in the split."""

    def draw_independent(self, digit: Tensor, rng: torch.Generator) -> Tensor:
        """Return parents [B, 3], float32, that are independent of each other and cover their support."""

    def act(self, pa: Tensor, do: Mapping[str, Tensor]) -> Tensor:
        """Return the response of pa [B, 3] to ``do``: an effect keeps its noise, and its value if its cause does."""


class ThicknessIntensity:
    """t = 0.5 + Gamma(10, rate 5) and i = 64 + 191 sigmoid(2 (t - 2.5) + eps / 2), eps standard normal.

    Pawlowski, Castro and Glocker 2020, https://arxiv.org/abs/2006.06485.

    Args:
        invert: thicker is darker instead, i = 64 + 191 sigmoid(-2 (t - 2) + eps / 2).
    """

    graph = CausalGraph(
        (
            _DIGIT,
            _THICKNESS,
            Variable(
                "intensity", "continuous", low=INTENSITY[0], high=INTENSITY[1], unit="grey level",
                parents=("thickness",), truth="exact",
            ),
        ),
        (1, 28, 28),
    )  # fmt: skip

    def __init__(self, invert: bool = False) -> None:
        self.invert = invert

    def draw(self, digit: Tensor, rng: torch.Generator, training: bool) -> Tensor:
        t = self._thickness(digit, rng, training)
        eps = torch.randn(len(digit), generator=rng, dtype=torch.float64)
        fraction = torch.sigmoid(self._location(t) + 0.5 * eps)
        return torch.stack([digit.double(), t, INTENSITY[0] + 191 * fraction], dim=1).float()

    def draw_independent(self, digit: Tensor, rng: torch.Generator) -> Tensor:
        t = even_thickness(len(digit), rng)
        i = uniform(len(digit), INTENSITY, rng)
        return torch.stack([digit.double(), t, i], dim=1).float()

    def act(self, pa: Tensor, do: Mapping[str, Tensor]) -> Tensor:
        new = self.graph.set(pa, do)
        if "thickness" in do and "intensity" not in do:
            old, t, i = pa[:, 1].double(), new[:, 1].double(), pa[:, 2].double()
            fraction = ((i - INTENSITY[0]) / 191).clamp(0, 1)
            other = INTENSITY[0] + 191 * torch.sigmoid(torch.logit(fraction) + self._location(t) - self._location(old))
            new[:, 2] = torch.where(t == old, i, other).to(new.dtype)
        return new

    def _thickness(self, digit: Tensor, rng: torch.Generator, training: bool) -> Tensor:
        return gamma_thickness(len(digit), rng)

    def _location(self, t: Tensor) -> Tensor:
        return -2 * (t - 2) if self.invert else 2 * (t - 2.5)


class ConfoundedThickness(ThicknessIntensity):
    """Thickness is correlated with the digit in training and independent of it in testing; neither causes the other.

    In training t = 1.5 + 0.45 digit + 0.5 eps, but uniform between 1.5 and 6 for one image in twenty; in testing it
    is always the latter. After Monteiro et al. 2023 (https://arxiv.org/abs/2303.01274), whose images are coloured.
    """

    def _thickness(self, digit: Tensor, rng: torch.Generator, training: bool) -> Tensor:
        outlier = uniform(len(digit), (1.5, 6.0), rng)
        t = 1.5 + 0.45 * digit.double() + 0.5 * torch.randn(len(digit), generator=rng, dtype=torch.float64)
        if not training:
            return outlier
        return torch.where(torch.rand(len(digit), generator=rng) < 0.05, outlier, t.clamp(*THICKNESS))


class ThicknessSlant:
    """t = 0.5 + Gamma(10, rate 5), and a slant of 20 (t - 2.5) + eps degrees to the right, eps standard normal.

    A variant of DeepSCM's scripts, of which no files were published. The thickest digits lean out of the frame.
    """

    graph = CausalGraph(
        (
            _DIGIT,
            _THICKNESS,
            Variable(
                "slant", "continuous", low=SLANT[0], high=SLANT[1], unit="degrees",
                parents=("thickness",), truth="exact",
            ),
        ),
        (1, 28, 28),
    )  # fmt: skip

    def draw(self, digit: Tensor, rng: torch.Generator, training: bool) -> Tensor:
        t = gamma_thickness(len(digit), rng)
        eps = torch.randn(len(digit), generator=rng, dtype=torch.float64)
        return torch.stack([digit.double(), t, 20 * (t - 2.5) + eps], dim=1).float()

    def draw_independent(self, digit: Tensor, rng: torch.Generator) -> Tensor:
        t = even_thickness(len(digit), rng)
        slant = 20 * (even_thickness(len(digit), rng) - 2.5)
        return torch.stack([digit.double(), t, slant], dim=1).float()

    def act(self, pa: Tensor, do: Mapping[str, Tensor]) -> Tensor:
        new = self.graph.set(pa, do)
        if "thickness" in do and "slant" not in do:
            moved = pa[:, 2].double() + 20 * (new[:, 1].double() - pa[:, 1].double())
            new[:, 2] = torch.where(new[:, 1] == pa[:, 1], pa[:, 2], moved.to(new.dtype))
        return new


def even_thickness(count: int, rng: torch.Generator) -> Tensor:
    """Return thicknesses that cover their support: half as `gamma_thickness`, half uniform."""
    even = torch.rand(count, generator=rng) < 0.5
    return torch.where(even, uniform(count, THICKNESS, rng), gamma_thickness(count, rng))


def uniform(count: int, span: tuple[float, float], rng: torch.Generator) -> Tensor:
    """Return uniform draws from ``span``, float64."""
    return span[0] + (span[1] - span[0]) * torch.rand(count, generator=rng, dtype=torch.float64)
