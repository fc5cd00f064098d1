"""Renders MNIST's digits under other parents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfbench.plugins.digest import source_digest

from . import morphology, published, worker_pool
from .render_cache import RenderCache

__all__ = ["Renderer", "brighten_all"]

CHUNK = 1_000
"""Digits between two reports: some seconds of work."""
Report = Callable[[int, int], None]


class Renderer:
    """The source digits under a data root, rendered under parents (digit, thickness, and intensity or slant).

    Args:
        root: the data root, with raw MNIST.
        slanted: whether the third parent is slant, in degrees; else it is intensity, in grey levels.

    Raises:
        UserError: raw MNIST is absent or corrupt.
    """

    def __init__(self, root: Path, slanted: bool) -> None:
        found = published.read_sources(root)
        self.digits, self.labels, self.slanted = found["images"].numpy(), found["labels"], slanted
        name = f"morphomnist-truths-{source_digest(morphology.redraw)}"
        self._cache = RenderCache(root, name, self.digits)

    def render(self, rows: Tensor, parents: Tensor, report: Report = lambda done, total: None) -> Tensor:
        """Return digits ``rows`` [B] of the 70,000 under parents [B, 3]: uint8 [B, 28, 28]."""
        wanted, images = self._shapes(parents).double().numpy(), [np.empty((0, 28, 28), dtype=np.uint8)]
        for first in range(0, len(rows), CHUNK):
            report(first, len(rows))
            part = slice(first, first + CHUNK)
            digits = self.digits[rows[part].numpy()]
            images.append(worker_pool.redraw(digits, np.full(len(digits), np.nan), wanted[part])[1])
        report(len(rows), len(rows))
        return self._brighten(torch.from_numpy(np.concatenate(images)), parents)

    def render_cached(self, rows: Tensor, parents: Tensor, report: Report = lambda done, total: None) -> Tensor:
        """Return the same, read from disk where it was rendered before and kept there otherwise."""
        return self._brighten(self._cache(rows, self._shapes(parents), report), parents)

    def _shapes(self, parents: Tensor) -> Tensor:
        """Return the columns of parents [B, 3] that decide the shape of a digit."""
        return parents[:, 1:] if self.slanted else parents[:, 1:2]

    def _brighten(self, shapes: Tensor, parents: Tensor) -> Tensor:
        """Return shapes uint8 [B, 28, 28] at the intensities in parents [B, 3], where intensity is one of them."""
        if self.slanted:
            return shapes
        return brighten_all(shapes, parents[:, 2])


def brighten_all(images: Tensor, intensities: Tensor) -> Tensor:
    """Return images uint8 [B, 28, 28] scaled to these intensities [B] in grey levels."""
    pairs = zip(images.numpy(), intensities.tolist(), strict=True)
    return torch.from_numpy(np.stack([morphology.brighten(image, level) for image, level in pairs]))
