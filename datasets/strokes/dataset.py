"""Digits written by a procedural pen under a fully known SCM, so that every question has a true answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cfbench.contract import Dataset, Split
from cfbench.errors import UserError
from cfbench.plugins.digest import key_of, source_digest
from cfbench.rng import derive

from ..common import cache
from ..common.threads import one_torch_thread
from . import measure, pen, scm

__all__ = ["Strokes"]

CHUNK = 10_000
"""Fresh rows that are drawn from a stream of their own."""


class Strokes(Dataset):
    """28x28 grey digits drawn from stroke templates; digit, thickness, intensity and slant cause the image.

    ``digit`` is uniform; ``thickness`` t = 0.5 + Gamma(10, rate 5), drawn as a stroke 0.7 + 0.8 t pixels wide;
    ``intensity`` i = 64 + 191 sigmoid(2 (t - 2.5) + eps / 2) is the stroke's grey level; ``slant`` is
    6 + 2 (digit - 4.5) + 7 eps degrees to the right. The handwriting style (aspect, wobble, bend, offset) is
    Gaussian and independent of all four. Thickness is drawn again outside [0.8, 6.5], Gaussian noise of the slant
    outside four standard deviations: two and six of 100,000 draws. The equations of t and i are those of
    Morpho-MNIST (https://arxiv.org/abs/2006.06485).

    Read `scm`, then `pen` and `measure`.

    Args:
        train, valid, test: rows of each split.
        seed: of the generator.
        fresh: further training rows, for budgets that would see the others many times. Nothing else changes with
            them, and more of them begin with the same ones.

    Raises:
        UserError: a split is empty, or ``fresh`` negative.
    """

    graph = scm.GRAPH

    def __init__(
        self, train: int = 20_000, valid: int = 2_000, test: int = 2_000, seed: int = 0, fresh: int = 0
    ) -> None:
        self.sizes = {"train": train, "valid": valid, "test": test}
        for name, size in self.sizes.items():
            if size < 1:
                raise UserError(f"strokes: {name}={size} rows; a split needs at least one")
        if fresh < 0:
            raise UserError(f"strokes: fresh={fresh} rows; give 0 or more")
        self.seed, self.fresh = seed, fresh
        self._tables: dict[tuple[Path, str], dict[str, Tensor]] = {}

    def prepare(self, root: Path) -> None:
        """Draw the images and keep them under ``root``, or in memory where ``root`` cannot be written.

        Raises:
            UserError: ``root`` is missing and cannot be created.
        """
        for part in ("factual", "judge", *(["train"] if self.fresh else [])):
            self._table(Path(root), part)

    def fingerprint(self, root: Path) -> str:
        """Return the key of the generator: its code, sizes and seed."""
        return key_of(self._key(), self.fresh) if self.fresh else self._key()

    def _key(self) -> str:
        return key_of(source_digest(Strokes), self.sizes, self.seed)

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """Return the named split; rows are numbered through train, valid, test and what is fresh."""
        if name == "train" and self.fresh:
            table = self._table(Path(root), "train")
            return Split(table["images"], table["parents"], table["index"])
        return self._rows(root, "factual", name)

    def judge_split(self, root: Path, name: Literal["train", "valid"]) -> Split:
        """Return as many images of independent parents, which cover the support, so that no parent predicts another."""
        return self._rows(root, "judge", name)

    @one_torch_thread()
    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator | None = None) -> Tensor:
        """Return the response of pa [B, 4] to ``do``, exact: intensity and slant keep the noise of the factual.

        Raises:
            ValueError: a factual intensity lies outside [64, 255], where the SCM has no noise for it.
        """
        return scm.act(pa, do)

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        """Return the rows ``index`` of the data set [B], drawn in their own style under cf_pa [B, 4]: [B, 1, 28, 28].

        Grey levels are those of uint8, divided by 255, as in the factual images.
        """
        style = self._table(Path(root), "factual")["style"]
        if self.fresh:
            style = torch.cat([style, self._table(Path(root), "train")["style"][self.sizes["train"] :]])
        return pen.render(cf_pa, style[index.cpu()]).float().to(cf_pa.device) / 255

    def measure(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return thickness, intensity and slant [B] by `measure.measure`; the digit is left to a judge."""
        return {name: value.to(images.device) for name, value in measure.measure(images).items()}

    def _rows(self, root: Path, part: str, name: str) -> Split:
        names = list(self.sizes)
        first = sum(self.sizes[n] for n in names[: names.index(name)])
        rows = slice(first, first + self.sizes[name])
        table = self._table(Path(root), part)
        return Split(table["images"][rows], table["parents"][rows], torch.arange(rows.start, rows.stop))

    def _table(self, root: Path, part: str) -> dict[str, Tensor]:
        if (root, part) not in self._tables:
            self._tables[root, part] = self._joined(root) if part == "train" else self._kept(root, part)
        return self._tables[root, part]

    def _kept(self, root: Path, part: str) -> dict[str, Tensor]:
        draw = self._draw_fresh if part.startswith("fresh") else partial(self._draw, part)
        return cache.load(root, f"strokes-{self._key()}/{part}.safetensors", draw)

    def _joined(self, root: Path) -> dict[str, Tensor]:
        """The training rows and what is fresh; the latter alone is not kept in memory."""
        first, last = self.sizes["train"], sum(self.sizes.values())
        table = {name: value[:first] for name, value in self._table(root, "factual").items()}
        more = self._kept(root, f"fresh-{self.fresh}")
        table = {name: torch.cat([value, more.pop(name)]) for name, value in table.items()}
        return table | {"index": torch.cat([torch.arange(first), torch.arange(last, last + self.fresh)])}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}}

    @one_torch_thread()
    def _draw(self, part: str) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(derive("strokes", part, self.seed))
        count = sum(self.sizes.values()) if part == "factual" else self.sizes["train"] + self.sizes["valid"]
        parents = (scm.sample if part == "factual" else scm.sample_independent)(count, rng)
        style = torch.randn(count, pen.STYLE, generator=rng)
        return {"images": pen.render(parents, style), "parents": parents, "style": style}

    @one_torch_thread()
    def _draw_fresh(self) -> dict[str, Tensor]:
        parts = list[dict[str, Tensor]]()
        for number, done in enumerate(range(0, self.fresh, CHUNK)):
            self.progress("drawing fresh digits", done, self.fresh)
            rng = torch.Generator().manual_seed(derive("strokes", "fresh", number, self.seed))
            parents, style = scm.sample(CHUNK, rng), torch.randn(CHUNK, pen.STYLE, generator=rng)
            rows = slice(min(CHUNK, self.fresh - done))
            images = pen.render(parents[rows], style[rows])
            parts.append({"images": images, "parents": parents[rows], "style": style[rows]})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
