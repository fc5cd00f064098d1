"""Digits written by a procedural pen under a fully known SCM, so that every question has a true answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cfbench.contract import Dataset, Split
from cfbench.digest import key_of, source_digest
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.rng import derive

from . import cache, pen, ruler
from .threads import one_torch_thread

__all__ = ["Strokes"]

THICKNESS = (0.8, 6.5)
INTENSITY = (64.0, 255.0)
SLANT = (-31.0, 43.0)
_MEAN, _SLOPE, _NOISE = 6.0, 2.0, 7.0  # of the slant, in degrees
_CUT = 4.0


def slant_mean(digit: Tensor) -> Tensor:
    """The mean slant in degrees of each digit: later digits lean further to the right."""
    return _MEAN + _SLOPE * (digit - 4.5)


def intensity(thickness: Tensor, eps: Tensor) -> Tensor:
    """i = 64 + 191 sigmoid(2 (t - 2.5) + eps / 2), the mechanism of Morpho-MNIST (Pawlowski et al. 2020)."""
    return 64 + 191 * torch.sigmoid(2 * (thickness - 2.5) + 0.5 * eps)


def intensity_noise(thickness: Tensor, intensity: Tensor) -> Tensor:
    """The eps with which `intensity` gives this intensity at this thickness."""
    return 2 * (torch.logit((intensity - 64) / 191) - 2 * (thickness - 2.5))


class Strokes(Dataset):
    """28x28 grey digits drawn from stroke templates; digit, thickness, intensity and slant cause the image.

    ``digit`` is uniform; ``thickness`` t = 0.5 + Gamma(10, rate 5), drawn as a stroke 0.7 + 0.8 t pixels wide;
    ``intensity`` i = 64 + 191 sigmoid(2 (t - 2.5) + eps / 2) is the stroke's grey level; ``slant`` is
    6 + 2 (digit - 4.5) + 7 eps degrees to the right. The hand (aspect, wobble, bend, offset) is Gaussian and
    independent of all four. Thickness is drawn again outside [0.8, 6.5], Gaussian noise of the slant outside
    four standard deviations: two and six of 100,000 draws. The equations of t and i are those of Morpho-MNIST
    (https://arxiv.org/abs/2006.06485).

    Args:
        train, valid, test: rows of each split.
        seed: of the generator.

    Raises:
        UserError: a split is empty.
    """

    graph = CausalGraph(
        (
            Variable("digit", "categorical", size=10, truth="convention"),
            Variable("thickness", "continuous", low=THICKNESS[0], high=THICKNESS[1], truth="exact"),
            Variable(
                "intensity", "continuous", low=INTENSITY[0], high=INTENSITY[1], unit="grey level",
                parents=("thickness",), truth="exact",
            ),
            Variable(
                "slant", "continuous", low=SLANT[0], high=SLANT[1], unit="degrees", parents=("digit",), truth="exact"
            ),
        ),
        (1, pen.SIZE, pen.SIZE),
    )  # fmt: skip

    def __init__(self, train: int = 20_000, valid: int = 2_000, test: int = 2_000, seed: int = 0) -> None:
        self.sizes = {"train": train, "valid": valid, "test": test}
        for name, size in self.sizes.items():
            if size < 1:
                raise UserError(f"strokes: {name}={size} rows; a split needs at least one")
        self.seed = seed
        self._tables: dict[tuple[Path, str], dict[str, Tensor]] = {}

    def prepare(self, root: Path) -> None:
        """Draw the images and keep them under ``root``, or in memory where ``root`` cannot be written.

        Raises:
            UserError: ``root`` is missing and cannot be created.
        """
        for part in ("factual", "judge"):
            self._table(Path(root), part)

    def fingerprint(self, root: Path) -> str:
        """The key of the generator: its code, sizes and seed."""
        return key_of(source_digest(Strokes), self.sizes, self.seed)

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """The named split; rows are numbered through train, valid and test."""
        return self._rows(root, "factual", name)

    def judge_split(self, root: Path, name: Literal["train", "valid"]) -> Split:
        """As many images of independent parents, which cover the support, so that no parent betrays another."""
        return self._rows(root, "judge", name)

    @one_torch_thread()
    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator | None = None) -> Tensor:
        """The response of pa [B, 4] to ``do``, exact: the noise of intensity and slant is the factual's own.

        Raises:
            ValueError: a factual intensity lies outside [64, 255], where the SCM has no noise for it.
        """
        new = self.graph.set(pa, do)
        digit, t, i, slant = pa.double().unbind(1)
        if "thickness" in do and "intensity" not in do:
            if ((i < INTENSITY[0]) | (i > INTENSITY[1])).any():
                raise ValueError("a factual intensity lies outside [64, 255]")
            other = intensity(new[:, 1].double(), intensity_noise(t, i))
            new[:, 2] = torch.where(new[:, 1] == pa[:, 1], i, other).to(new.dtype)
        if "digit" in do and "slant" not in do:
            new[:, 3] = (slant + slant_mean(new[:, 0].double()) - slant_mean(digit)).to(new.dtype)
        return new

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        """The rows ``index`` of the data set [B], drawn by the same hand under cf_pa [B, 4]: [B, 1, 28, 28].

        Grey levels are those of uint8, divided by 255, as in the factual images.
        """
        style = self._table(Path(root), "factual")["style"]
        return pen.render(cf_pa, style[index.cpu()]).float().to(cf_pa.device) / 255

    def measure(self, images: Tensor) -> Mapping[str, Tensor]:
        """Thickness, intensity and slant [B], measured by `ruler.measure`; the digit is left to a judge."""
        return {name: value.to(images.device) for name, value in ruler.measure(images).items()}

    def _rows(self, root: Path, part: str, name: str) -> Split:
        names = list(self.sizes)
        first = sum(self.sizes[n] for n in names[: names.index(name)])
        rows = slice(first, first + self.sizes[name])
        table = self._table(Path(root), part)
        return Split(table["images"][rows], table["parents"][rows], torch.arange(rows.start, rows.stop))

    def _table(self, root: Path, part: str) -> dict[str, Tensor]:
        if (root, part) not in self._tables:
            name = f"strokes-{self.fingerprint(root)}/{part}.safetensors"
            self._tables[root, part] = cache.load(root, name, lambda: self._draw(part))
        return self._tables[root, part]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}}

    @one_torch_thread()
    def _draw(self, part: str) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(derive("strokes", part, self.seed))
        count = sum(self.sizes.values()) if part == "factual" else self.sizes["train"] + self.sizes["valid"]
        parents = (_sample if part == "factual" else _sample_independent)(count, rng)
        style = torch.randn(count, pen.STYLE, generator=rng)
        return {"images": pen.render(parents, style), "parents": parents, "style": style}


def _sample(count: int, rng: torch.Generator) -> Tensor:
    """Parents [count, 4] of the SCM."""
    digit = torch.randint(10, (count,), generator=rng).double()
    t = _thickness(count, rng)
    i = intensity(t, torch.randn(count, generator=rng, dtype=torch.float64))
    slant = slant_mean(digit) + _NOISE * _normal(count, rng)
    return torch.stack([digit, t, i, slant], dim=1).float()


def _sample_independent(count: int, rng: torch.Generator) -> Tensor:
    """Parents [count, 4] independent of each other; half of the thicknesses are uniform over the support."""
    digit = torch.randint(10, (count,), generator=rng).double()
    wide = torch.rand(3, count, generator=rng, dtype=torch.float64)
    even = THICKNESS[0] + (THICKNESS[1] - THICKNESS[0]) * wide[0]
    t = torch.where(torch.rand(count, generator=rng) < 0.5, even, _thickness(count, rng))
    i = INTENSITY[0] + (INTENSITY[1] - INTENSITY[0]) * wide[1]
    slant = SLANT[0] + (SLANT[1] - SLANT[0]) * wide[2]
    return torch.stack([digit, t, i, slant], dim=1).float()


def _thickness(count: int, rng: torch.Generator) -> Tensor:
    """0.5 + Gamma(10, rate 5), as the sum of ten exponential waiting times."""
    parts: list[Tensor] = []
    while sum(map(len, parts)) < count:
        waits = -torch.log1p(-torch.rand(count, 10, generator=rng, dtype=torch.float64))
        t = 0.5 + waits.sum(1) / 5
        parts.append(t[(t >= THICKNESS[0]) & (t <= THICKNESS[1])])
    return torch.cat(parts)[:count]


def _normal(count: int, rng: torch.Generator) -> Tensor:
    """Standard normal noise within `_CUT` standard deviations: the inverse of its distribution function."""
    low = 0.5 * (1 + math.erf(-_CUT / math.sqrt(2)))
    p = low + (1 - 2 * low) * torch.rand(count, generator=rng, dtype=torch.float64)
    return math.sqrt(2) * torch.erfinv(2 * p - 1)
