"""Draws MNIST's digits under other parents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfbench.digest import source_digest

from . import crew, morphofiles, morphology
from .gallery import Gallery

__all__ = ["Studio"]

CHUNK = 1_000
"""Digits between two reports: what takes seconds."""
Report = Callable[[int, int], None]


class Studio:
    """The source digits under a data root, redrawn under parents (digit, thickness, and intensity or slant).

    Args:
        root: the data root, with raw MNIST.
        slanted: whether the third parent is slant, in degrees; else it is intensity, in grey levels.

    Raises:
        UserError: raw MNIST is absent or spoilt.
    """

    def __init__(self, root: Path, slanted: bool) -> None:
        found = morphofiles.sources(root)
        self.digits, self.labels, self.slanted = found["images"].numpy(), found["labels"], slanted
        name = f"morphomnist-truths-{source_digest(morphology.redraw)}"
        self._gallery = Gallery(root, name, self.digits)

    def draw(self, rows: Tensor, parents: Tensor, report: Report = lambda done, total: None) -> Tensor:
        """Digits ``rows`` [B] of the 70,000 under parents [B, 3]: uint8 [B, 28, 28]."""
        wanted, images = self._shapes(parents).double().numpy(), [np.empty((0, 28, 28), dtype=np.uint8)]
        for first in range(0, len(rows), CHUNK):
            report(first, len(rows))
            part = slice(first, first + CHUNK)
            digits = self.digits[rows[part].numpy()]
            images.append(crew.redraw(digits, np.full(len(digits), np.nan), wanted[part])[1])
        report(len(rows), len(rows))
        return self._finish(torch.from_numpy(np.concatenate(images)), parents)

    def recall(self, rows: Tensor, parents: Tensor, report: Report = lambda done, total: None) -> Tensor:
        """The same, from disk where they were asked for before."""
        return self._finish(self._gallery(rows, self._shapes(parents), report), parents)

    def _shapes(self, parents: Tensor) -> Tensor:
        """What of parents [B, 3] decides the shape of a digit."""
        return parents[:, 1:] if self.slanted else parents[:, 1:2]

    def _finish(self, shapes: Tensor, parents: Tensor) -> Tensor:
        """Shapes uint8 [B, 28, 28] at the intensities in parents [B, 3], where intensity is one of them."""
        if self.slanted:
            return shapes
        pairs = zip(shapes.numpy(), parents[:, 2].tolist(), strict=True)
        return torch.from_numpy(np.stack([morphology.brighten(image, level) for image, level in pairs]))
