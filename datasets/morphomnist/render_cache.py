"""Source digits in other shapes, each rendered once and kept on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfbench.plugins.digest import key_of

from ..common import cache
from . import worker_pool

__all__ = ["RenderCache"]

CHUNK = 1_000
Key = tuple[int, ...]
Bytes = NDArray[np.uint8]


class _CorruptFile(Exception):
    pass


class RenderCache:
    """Source digits in other shapes (`morphology.redraw`), kept as files of up to `CHUNK` images.

    Args:
        root: the data root.
        name: of the folder under it.
        digits: source images uint8 [N, 28, 28].
    """

    def __init__(self, root: Path, name: str, digits: Bytes) -> None:
        self.root, self.name, self.digits = root, name, digits
        self._images: dict[Key, Tensor] = {}
        self._measured: dict[int, float] = {}
        self._files: set[str] = set()

    def __call__(
        self, rows: Tensor, shape: Tensor, report: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor:
        """Return source digits ``rows`` [B] in the shapes [B, K] (float32): uint8 [B, 28, 28].

        ``report(done, total)`` is called with how many of the missing ones are rendered.
        """
        # The bits of a float32 are its key: equal keys mean equal values, NaN and zero included.
        bits = shape.float().contiguous().view(torch.int32)
        keys = [(n, *values) for n, values in zip(rows.tolist(), bits.tolist(), strict=True)]
        wanted = dict.fromkeys(keys)
        if any(k not in self._images for k in wanted):
            self._read()
        missing = [k for k in wanted if k not in self._images]
        for first in range(0, len(missing), CHUNK):
            report(first, len(missing))
            part = missing[first : first + CHUNK]
            self._add(f"{key_of(part)}.safetensors", partial(self._render, part))
        return torch.stack([self._images[k] for k in keys]) if keys else torch.empty(0, 28, 28, dtype=torch.uint8)

    def _read(self) -> None:
        """Read files that have appeared since the last call; what a corrupt one held is rendered again."""

        def corrupt() -> dict[str, Tensor]:
            raise _CorruptFile

        for path in sorted((self.root / self.name).glob("*.safetensors")):
            if path.name not in self._files:
                with contextlib.suppress(_CorruptFile):
                    self._add(path.name, corrupt)

    def _add(self, file: str, render: Callable[[], dict[str, Tensor]]) -> None:
        table = cache.load(self.root, f"{self.name}/{file}", render)
        self._files.add(file)
        for key, measured, image in zip(table["keys"].tolist(), table["measured"], table["images"], strict=True):
            self._images[tuple(key)] = image
            self._measured[key[0]] = float(measured)

    def _render(self, keys: list[Key]) -> dict[str, Tensor]:
        table = torch.tensor(keys, dtype=torch.int32)
        shapes = table[:, 1:].contiguous().view(torch.float32).double().numpy()
        known = np.array([self._measured.get(n, np.nan) for n, *_ in keys])
        measured, images = worker_pool.redraw(self.digits[table[:, 0].numpy()], known, shapes)
        return {"keys": table, "measured": torch.from_numpy(measured), "images": torch.from_numpy(images)}
