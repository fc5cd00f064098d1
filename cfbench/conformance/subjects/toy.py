"""The toy data set with a known SCM that plugins are checked on, questions about it, and a method."""

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

__all__ = ["BARS", "ROOT", "SIZES", "Bars", "BarsMethod", "ToyQuestions", "draw", "questions"]

ROOT = Path()
"""The data root of the toy data set, which reads no files."""
SIZES = {"train": 512, "valid": 128, "test": 128}


def draw(pa: Tensor, u: Tensor) -> Tensor:
    """Draw two vertical (kind 0) or horizontal (kind 1) bars of a grey level.

    Images [B, 1, 8, 8] in whole grey levels / 255 of pa [B, 2] (kind, level) and noise u [B, 2] (position, background).
    """
    image = u[:, 1, None, None, None].expand(-1, 1, 8, 8).clone()
    for i, ((kind, level), position) in enumerate(zip(pa.tolist(), u[:, 0].tolist(), strict=True)):
        rows = image[i, 0] if kind == 0 else image[i, 0].T
        rows[1:7, int(position)] = rows[1:7, int(position) + 3] = level
    return (image.clamp(0, 1) * 255).round() / 255


class Bars(Dataset):
    """8x8 images of two bars with exact counterfactuals and no files; ``kind`` causes ``level``."""

    graph = CausalGraph(
        (
            Variable("kind", "categorical", size=2, truth="exact"),
            Variable("level", "continuous", low=0.2, high=1.0, parents=("kind",), truth="exact"),
        ),
        (1, 8, 8),
    )

    def table(self) -> tuple[Tensor, Tensor]:
        """Parents [N, 2] and noise [N, 2] of all rows."""
        rng = torch.Generator().manual_seed(derive("bars"))
        n = sum(SIZES.values())
        kind = torch.randint(2, (n,), generator=rng).float()
        level = 0.4 + 0.2 * kind + 0.2 * torch.rand(n, generator=rng)
        position, background = torch.randint(5, (n,), generator=rng), 0.15 * torch.rand(n, generator=rng)
        return torch.stack([kind, level], 1), torch.stack([position.float(), background], 1)

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        first = sum(list(SIZES.values())[: list(SIZES).index(name)])
        pa, u = (t[first : first + SIZES[name]] for t in self.table())
        return Split((draw(pa, u) * 255).byte(), pa, torch.arange(first, first + SIZES[name]))

    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        new = self.graph.set(pa, do)
        if "level" not in do:
            new[:, 1] += 0.2 * (new[:, 0] - pa[:, 0])
        return new

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        return draw(cf_pa, self.table()[1][index])


BARS = Bars()
"""The data set that methods are checked on."""


class BarsMethod(Method):
    """Draws bars at a random position; derived rows are checked with it as their method."""

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        return rng.uniform()

    def predict(self, u: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        position = (5 * u).floor()
        return draw(pa, torch.stack([position, torch.full_like(position, 0.1)], 1))

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        return self.predict(rng.uniform(), pa, rng)


@dataclass(frozen=True)
class ToyQuestions:
    """Questions about test images: x [B, 1, 8, 8], pa [B, 2], row numbers [B], counterfactual parents [B, 2], seeds."""

    x: Tensor
    pa: Tensor
    index: Tensor
    cf_pa: Tensor
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: list[int]) -> ToyQuestions:
        seeds = tuple(self.seeds[i] for i in rows)
        return ToyQuestions(self.x[rows], self.pa[rows], self.index[rows], self.cf_pa[rows], seeds)

    def copy(self) -> ToyQuestions:
        """The same questions with copied tensors."""
        return self[list(range(len(self)))]


def questions(data: Dataset, n: int, first: int = 0) -> ToyQuestions:
    """Questions under do(first variable = another value) about n test images from row ``first`` on."""
    split, variable = data.split(ROOT, "test")[first : first + n], data.graph.variables[0]
    own = split.parents[:, 0]
    other = (own + 1) % variable.size if variable.categorical else own.roll(1)
    cf_pa = data.act(split.parents, {variable.name: other}, torch.Generator())
    assert cf_pa is not None
    return ToyQuestions(split.x, split.parents.clone(), split.index, cf_pa, tuple(range(first, first + n)))
