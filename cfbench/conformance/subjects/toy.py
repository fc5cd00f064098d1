"""What plugins are checked on: a data set with a known SCM, questions about it, and a method that knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...contract import Dataset, Method, Split
from ...graph import CausalGraph, Variable
from ...rng import Streams, derive

__all__ = ["BARS", "ROOT", "SIZES", "Asked", "Bars", "Painter", "asked", "draw"]

ROOT = Path()
"""The toy keeps nothing on disk."""
SIZES = {"train": 512, "valid": 128, "test": 128}


def draw(pa: Tensor, hand: Tensor) -> Tensor:
    """Two upright bars (kind 0) or lying ones (kind 1) of a grey level, at the hand's place on its background.

    Images [B, 1, 8, 8] in whole grey levels / 255 of pa [B, 2] (kind, level) and hand [B, 2] (place, background).
    """
    image = hand[:, 1, None, None, None].expand(-1, 1, 8, 8).clone()
    for i, ((kind, level), place) in enumerate(zip(pa.tolist(), hand[:, 0].tolist(), strict=True)):
        rows = image[i, 0] if kind == 0 else image[i, 0].T
        rows[1:7, int(place)] = rows[1:7, int(place) + 3] = level
    return (image.clamp(0, 1) * 255).round() / 255


class Bars(Dataset):
    """8x8 images of two bars: exact truth, no file on disk; ``level`` is caused by ``kind``."""

    graph = CausalGraph(
        (
            Variable("kind", "categorical", size=2, truth="exact"),
            Variable("level", "continuous", low=0.2, high=1.0, parents=("kind",), truth="exact"),
        ),
        (1, 8, 8),
    )

    def table(self) -> tuple[Tensor, Tensor]:
        """Parents [N, 2] and hands [N, 2] of all rows."""
        rng = torch.Generator().manual_seed(derive("bars"))
        n = sum(SIZES.values())
        kind = torch.randint(2, (n,), generator=rng).float()
        level = 0.4 + 0.2 * kind + 0.2 * torch.rand(n, generator=rng)
        place, background = torch.randint(5, (n,), generator=rng), 0.15 * torch.rand(n, generator=rng)
        return torch.stack([kind, level], 1), torch.stack([place.float(), background], 1)

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        first = sum(list(SIZES.values())[: list(SIZES).index(name)])
        pa, hand = (t[first : first + SIZES[name]] for t in self.table())
        return Split((draw(pa, hand) * 255).byte(), pa, torch.arange(first, first + SIZES[name]))

    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        new = self.graph.set(pa, do)
        if "level" not in do:
            new[:, 1] += 0.2 * (new[:, 0] - pa[:, 0])
        return new

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        return draw(cf_pa, self.table()[1][index])


BARS = Bars()
"""The data set that methods are checked on."""


class Painter(Method):
    """Draws bars at a place of the stream's choosing; what a derived row is checked through."""

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        return rng.uniform()

    def predict(self, u: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        place = (5 * u).floor()
        return draw(pa, torch.stack([place, torch.full_like(place, 0.1)], 1))

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        return self.predict(rng.uniform(), pa, rng)


@dataclass(frozen=True)
class Asked:
    """Questions about test images: x [B, 1, 8, 8], pa, row numbers [B], counterfactual parents, a seed each."""

    x: Tensor
    pa: Tensor
    index: Tensor
    cf_pa: Tensor
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: list[int]) -> Asked:
        seeds = tuple(self.seeds[i] for i in rows)
        return Asked(self.x[rows], self.pa[rows], self.index[rows], self.cf_pa[rows], seeds)

    def copy(self) -> Asked:
        """The same questions in tensors of their own."""
        return self[list(range(len(self)))]


def asked(n: int = 8, first: int = 0) -> Asked:
    """What had ``kind`` been the other one, asked about test images from the ``first`` on."""
    split = BARS.split(ROOT, "test")[first : first + n]
    cf_pa = BARS.act(split.parents, {"kind": 1 - split.parents[:, 0]}, torch.Generator())
    return Asked(split.x, split.parents.clone(), split.index, cf_pa, tuple(range(first, first + n)))
