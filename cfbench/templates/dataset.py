"""A toy data set whose structural causal model is known, so that answers are compared with the truth.

To try it:

    cfbench check mine.py
    cfbench run --datasets mine --methods deepscm --plugin mine.py --preset tiny
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cfbench.contract import Dataset, Split
from cfbench.graph import CausalGraph, Variable

SIDE = 16  # pixels
SIZES = {"train": 4000, "valid": 1000, "test": 1000}


def draw(pa: Tensor, place: Tensor) -> Tensor:
    """Images uint8 [N, 1, 16, 16] of discs (shape 0) and squares (shape 1) with parents pa [N, 2] at places [N, 2]."""
    pixel = torch.arange(SIDE) + 0.5
    dx = (pixel - place[:, :1]).abs()[:, None, :]  # [N, 1, 16]
    dy = (pixel - place[:, 1:]).abs()[:, :, None]  # [N, 16, 1]
    distance = torch.where(pa[:, 0, None, None] == 0, (dx**2 + dy**2).sqrt(), torch.maximum(dx, dy))
    inside = (pa[:, 1, None, None] - distance + 0.5).clamp(0, 1)  # a soft edge shows fractions of a pixel
    return (255 * inside).round().byte()[:, None]


class Mine(Dataset):
    """Bright discs and squares on black, 16x16; the shape causes the radius, chance the place.

    shape ~ Bernoulli(1/2), radius = 2.5 + shape + u with u ~ U(0, 2) in pixels, centre ~ U(6, 10)^2.
    """

    # What it is asked for as: --datasets mine. Without this line: the class's name in lower case.
    name = "mine"

    # Variables in the order of the columns of `pa`. A categorical one holds 0 .. size - 1, a continuous one raw units
    # between low and high. `parents` are the edges. `truth` says what the oracle's answer to do(variable) is worth:
    # exact, convention (one choice among several that the data allow) or none. Then the image's (C, H, W).
    graph = CausalGraph(
        (
            Variable("shape", "categorical", size=2, truth="exact"),
            Variable("radius", "continuous", low=2.5, high=5.5, unit="pixels", parents=("shape",), truth="exact"),
        ),
        (1, SIDE, SIDE),
    )

    # `root` is the data root, where files would lie. If yours must be fetched, set `network = True` and fetch them in
    # `prepare(self, root)`; `fingerprint(self, root)` then returns a checksum, so that other data get other cells.

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """Images uint8 [N, C, H, W], parents float32 [N, D] and numbers of rows [N], which no other split has."""
        first = sum(n for other, n in SIZES.items() if list(SIZES).index(other) < list(SIZES).index(name))
        return self._rows[first : first + SIZES[name]]

    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """How parents pa [B, D] respond to do(variable = values [B]): u keeps, so the radius follows the shape.

        Without this method the harness fits mechanisms to the training data (unless no variable has a parent).
        """
        new = self.graph.set(pa, do)
        if "radius" not in do:
            new[:, 1] += new[:, 0] - pa[:, 0]
        return new

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        """The true counterfactuals [B, C, H, W] in [0, 1] of rows `index`: other parents, the same exogenous noise.

        Under the row's own parents this must be its image, to the last bit. Leave the method out where nobody knows.
        """
        return draw(cf_pa, self._noise[1][index]).float() / 255

    @cached_property
    def _noise(self) -> tuple[Tensor, Tensor]:
        """What chance decides for all rows, always the same: parents [N, 2] and places [N, 2]."""
        rng, n = torch.Generator().manual_seed(0), sum(SIZES.values())
        shape = torch.randint(2, (n,), generator=rng).float()
        radius = 2.5 + shape + 2 * torch.rand(n, generator=rng)
        return torch.stack([shape, radius], 1), 6 + 4 * torch.rand(n, 2, generator=rng)

    @cached_property
    def _rows(self) -> Split:
        pa, place = self._noise
        return Split(draw(pa, place), pa, torch.arange(len(pa)))
