"""Colour pictures of a sun over a hill, under a known structural causal model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cfbench.contract import Dataset, Split
from cfbench.graph import CausalGraph, Variable
from cfbench.rng import derive

__all__ = ["Skies", "paint"]

SIDE = 16
SIZES = {"train": 4000, "valid": 500, "test": 500}
BLUE, WHITE, YELLOW = (0.25, 0.5, 0.9), (0.9, 0.9, 0.9), (1.0, 0.85, 0.2)
GROUND = ((0.8, 0.85, 0.95), (0.2, 0.5, 0.2))
"""Snow in winter, grass in summer."""


def paint(pa: Tensor, noise: Tensor) -> Tensor:
    """Images uint8 [N, 3, 16, 16] with parents pa [N, 3] and noise [N, 2]: the sun's column, the hill's phase."""
    row, column = torch.arange(SIDE)[:, None] + 0.5, torch.arange(SIDE)[None] + 0.5
    season, height, haze, sun, phase = torch.cat([pa, noise], 1).T[..., None, None]  # each [N, 1, 1]
    radius = ((column - sun) ** 2 + (SIDE - row - height) ** 2).sqrt()  # [N, 16, 16]
    hill = (row - (SIDE - 3 + (column / 3 + phase).sin())).clamp(0, 1)
    x = _blend(_colour(BLUE), _colour(WHITE), haze.expand(-1, SIDE, SIDE))
    x = _blend(x, _colour(YELLOW), (3 - radius).clamp(0, 1))
    ground = torch.tensor(GROUND)[season.flatten().long()][..., None, None]
    return (255 * _blend(x, ground, hill)).round().byte()


def _colour(rgb: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rgb)[None, :, None, None]


def _blend(below: Tensor, above: Tensor, share: Tensor) -> Tensor:
    return below + (above - below) * share[:, None]


class Skies(Dataset):
    """A sun over a hill, 16x16 in colour; 4000 images to train, 500 to validate, 500 to test.

    season ~ Bernoulli(1/2) (winter, summer), height = 5 + 3 season + 4 u1 pixels, haze = 0.7 - 0.04 height + 0.4 u2,
    with u uniform in [0, 1). The sun's column and the hill are exogenous.
    """

    graph = CausalGraph(
        (
            Variable("season", "categorical", size=2, truth="exact"),
            Variable("height", "continuous", low=5, high=12, unit="pixels", parents=("season",), truth="exact"),
            Variable("haze", "continuous", low=0.2, high=0.9, parents=("height",), truth="exact"),
        ),
        (3, SIDE, SIDE),
    )

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """The named split; rows are numbered train, valid, test."""
        first = sum(n for other, n in SIZES.items() if list(SIZES).index(other) < list(SIZES).index(name))
        return self._rows[first : first + SIZES[name]]

    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """Height follows season and haze follows height, each with its own noise as it was."""
        new = self.graph.set(pa, do)
        if "height" not in do:
            new[:, 1] += 3 * (new[:, 0] - pa[:, 0])
        if "haze" not in do:
            new[:, 2] -= 0.04 * (new[:, 1] - pa[:, 1])
        return new

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        """The same column of the sun and the same hill under other parents."""
        return paint(cf_pa, self._tables[1][index]).float() / 255

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """Parents [N, 3] and noise [N, 2] of all rows."""
        rng, n = torch.Generator().manual_seed(derive("skies")), sum(SIZES.values())
        season, u = torch.randint(2, (n,), generator=rng).float(), torch.rand(n, 4, generator=rng)
        height = 5 + 3 * season + 4 * u[:, 0]
        haze = 0.7 - 0.04 * height + 0.4 * u[:, 1]
        return torch.stack([season, height, haze], 1), torch.stack([4 + 8 * u[:, 2], 6 * u[:, 3]], 1)

    @cached_property
    def _rows(self) -> Split:
        pa, noise = self._tables
        return Split(paint(pa, noise), pa, torch.arange(len(pa)))
