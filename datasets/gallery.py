"""Source digits in other shapes, each rendered once and kept on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfbench.digest import key_of
from cfbench.environment import cores

from . import cache

__all__ = ["Gallery", "in_parallel"]

CHUNK = 1_000
Key = tuple[int, ...]
Bytes = NDArray[np.uint8]


class _Spoilt(Exception):
    pass


class Gallery:
    """Images uint8 [28, 28] of source digits under shape parameters, kept as files of up to `CHUNK` images.

    Args:
        root: the data root.
        name: of the folder under it.
        digits: source images uint8 [N, 28, 28].
        draw: of a source digit, its own measured thickness if known, and shape parameters [K], makes the thickness
            and the image.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        digits: Bytes,
        draw: Callable[[Bytes, float | None, Sequence[float]], tuple[float, Bytes]],
    ) -> None:
        self.root, self.name, self.digits, self.draw = root, name, digits, draw
        self._images: dict[Key, Tensor] = {}
        self._measured: dict[int, float] = {}
        self._files: set[str] = set()

    def __call__(self, rows: Tensor, shape: Tensor) -> Tensor:
        """Source digits ``rows`` [B] in the shapes [B, K] (float32): uint8 [B, 28, 28]."""
        # The bits of a float32 are its key: equal keys mean equal values, NaN and zero included.
        bits = shape.float().contiguous().view(torch.int32)
        keys = [(n, *values) for n, values in zip(rows.tolist(), bits.tolist(), strict=True)]
        wanted = dict.fromkeys(keys)
        if any(k not in self._images for k in wanted):
            self._read()
        missing = [k for k in wanted if k not in self._images]
        for first in range(0, len(missing), CHUNK):
            part = missing[first : first + CHUNK]
            self._add(f"{key_of(part)}.safetensors", partial(self._render, part))
        return torch.stack([self._images[k] for k in keys]) if keys else torch.empty(0, 28, 28, dtype=torch.uint8)

    def _read(self) -> None:
        """Take in files that were not there at the last look; one that is spoilt is left to be drawn again."""

        def refuse() -> dict[str, Tensor]:
            raise _Spoilt

        for path in sorted((self.root / self.name).glob("*.safetensors")):
            if path.name not in self._files:
                with contextlib.suppress(_Spoilt):
                    self._add(path.name, refuse)

    def _add(self, file: str, draw: Callable[[], dict[str, Tensor]]) -> None:
        table = cache.load(self.root, f"{self.name}/{file}", draw)
        self._files.add(file)
        for key, measured, image in zip(table["keys"].tolist(), table["measured"], table["images"], strict=True):
            self._images[tuple(key)] = image
            self._measured[key[0]] = float(measured)

    def _render(self, keys: list[Key]) -> dict[str, Tensor]:
        table = torch.tensor(keys, dtype=torch.int32)
        shapes = table[:, 1:].contiguous().view(torch.float32).tolist()

        def one(key: Key, shape: list[float]) -> tuple[float, Bytes]:
            return self.draw(self.digits[key[0]], self._measured.get(key[0]), shape)

        made = in_parallel(one, keys, shapes)
        images = torch.from_numpy(np.stack([image for _, image in made]))
        measured = torch.tensor([value for value, _ in made], dtype=torch.float64)
        return {"keys": table, "measured": measured, "images": images}


def in_parallel(function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """``function`` of each row of the arguments, by as many threads as there are cores."""
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(function, *arguments))
