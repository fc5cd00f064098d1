"""Images that are read when they are looked at: rows of what lies in memory or in a file, nothing else copied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["ImageRows", "Images", "ScatteredImages", "Uint8Images", "block_rows"]


BLOCK = 2**22
"""Numbers in a block of images that is worked on at once: 16 MiB in float32."""
KEPT = 2**23
"""Numbers in images that stay in memory once they were read."""
MULTIPLE = 256
"""What the rows of a block are a multiple of, as far as they fit: judges look at so many images at once."""


class Images(Protocol):
    """Images [N, C, H, W] that give those of some rows; a tensor is one."""

    @property
    def shape(self) -> Any: ...

    def __getitem__(self, rows: Any, /) -> Tensor: ...


def block_rows(shape: tuple[int, ...]) -> int:
    """How many images of a shape (C, H, W) are worked on at once."""
    return max(BLOCK // math.prod(shape) // MULTIPLE, 1) * MULTIPLE


@dataclass(frozen=True, eq=False)
class Uint8Images:
    """Images uint8 [N, C, H, W] as float32 in [0, 1]."""

    images: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.images.shape

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.images[rows].float() / 255


@dataclass(frozen=True, eq=False)
class ScatteredImages:
    """Images of the rows that a mask [N] marks, in their order, among all rows; NaN elsewhere."""

    some: Images
    mask: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.mask), *self.some.shape[1:]))

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        place = (self.mask.cumsum(0) - 1)[rows]
        known = self.mask[rows]
        full = torch.full((len(place), *self.shape[1:]), torch.nan)
        if known.any():
            full[known] = self.some[place[known]]
        return full


class ImageRows:
    """Some rows of images: cheap to choose from again, and read when they are asked for.

    Args:
        source: the images.
        rows: their numbers [N], all where left out; rows may repeat.
    """

    def __init__(self, source: Images, rows: Tensor | None = None) -> None:
        self.source = source
        self.rows = torch.arange(source.shape[0]) if rows is None else rows
        self.kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.source.shape[1:]))

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self.source[self.rows[rows]] if self.kept is None else self.kept[rows]

    def take(self, rows: Tensor) -> ImageRows:
        """The rows of these rows; nothing is read."""
        return ImageRows(self.source, self.rows[rows]) if self.kept is None else ImageRows(self.kept, rows)

    def load(self) -> Tensor:
        """The images [N, C, H, W], kept where they are few."""
        if self.kept is not None:
            return self.kept
        images = self.source[self.rows]
        if images.numel() <= KEPT:
            self.kept = images
        return images
