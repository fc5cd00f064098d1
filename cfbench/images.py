"""Lazy arrays of images: rows of a tensor or of a file that are read when they are indexed."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["ImageRows", "Images", "block_rows"]

BLOCK = 2**22
"""Pixel values in a block of images that is processed at once: 16 MiB in float32."""
CACHED = 2**23
"""Pixel values up to which loaded images stay in memory."""
MULTIPLE = 256
"""The number of rows in a block is a multiple of this: the batch size of the judges."""


class Images(Protocol):
    """An array of images [N, C, H, W] that can be indexed by rows, such as a tensor."""

    @property
    def shape(self) -> Any: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


def block_rows(shape: tuple[int, ...]) -> int:
    """How many images of a shape (C, H, W) are processed at once."""
    return max(BLOCK // math.prod(shape) // MULTIPLE, 1) * MULTIPLE


class ImageRows:
    """Rows of images as float32 in [0, 1], read whenever they are indexed; taking rows of these rows reads nothing.

    Args:
        source: the images, uint8 or float32 in [0, 1]: a tensor in memory or an array of a file.
        rows: row numbers [N], which may repeat; -1 stands for an image of NaN. All rows by default.
    """

    def __init__(self, source: Images, rows: Tensor | None = None) -> None:
        self.source = source
        self.rows = torch.arange(source.shape[0]) if rows is None else rows
        self.cached: Tensor | None = None

    @classmethod
    def scattered(cls, source: Images, mask: Tensor) -> ImageRows:
        """A row for each element of a mask [N]: the source's images in their order where it is true, NaN elsewhere."""
        return cls(source, torch.where(mask, mask.cumsum(0) - 1, -1))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.source.shape[1:]))

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self._read(self.rows[rows]) if self.cached is None else self.cached[rows]

    def take(self, rows: Tensor) -> ImageRows:
        """The rows of these rows."""
        return ImageRows(self.source, self.rows[rows]) if self.cached is None else ImageRows(self.cached, rows)

    def load(self) -> Tensor:
        """All images [N, C, H, W], which stay in memory if they are few."""
        if self.cached is not None:
            return self.cached
        images = self._read(self.rows)
        if images.numel() <= CACHED:
            self.cached = images
        return images

    def _read(self, rows: Tensor) -> Tensor:
        known = rows >= 0
        if known.all():
            images = self.source[rows]
            return images.float() / 255 if images.dtype == torch.uint8 else images
        full = torch.full((len(rows), *self.source.shape[1:]), torch.nan)
        if known.any():
            full[known] = self._read(rows[known])
        return full
