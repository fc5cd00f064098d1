"""Judges of the toy data that need no training: they fit the generating model to each image."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["OracleJudges", "measure"]

POSITIONS = torch.arange(5)
"""Columns where the first of two bars may be; the second is three further."""
SHARP = 20.0
FEATURES, CODES = 12, 6


def _fit(x: Tensor, kind: int) -> Tensor:
    """The images [B, 1, 8, 8] of two bars of a kind on an even background that are nearest to x [B, 1, 8, 8]."""
    upright = x.double() if kind == 0 else x.double().mT
    columns = upright[:, 0, 1:7].mean(1)  # [B, 8]
    pairs = (columns[:, POSITIONS] + columns[:, POSITIONS + 3]) / 2  # [B, 5]
    level, position = pairs.max(1)
    mask = torch.zeros(len(x), 1, 8, 8, dtype=torch.float64)
    for first in (position, position + 3):
        mask[torch.arange(len(x)), 0, 1:7, first] = 1.0
    background = (upright * (1 - mask)).flatten(1).sum(1) / 52
    fitted = mask * level[:, None, None, None] + (1 - mask) * background[:, None, None, None]
    return fitted if kind == 0 else fitted.mT


def _squared_distances(x: Tensor) -> Tensor:
    """Squared distance of x [B, 1, 8, 8] to the nearest image of each kind: [B, 2]."""
    return torch.stack([(x.double() - _fit(x, k)).square().flatten(1).sum(1) for k in (0, 1)], 1)


def _nearest(x: Tensor) -> Tensor:
    """The nearest image [B, 1, 8, 8] of the kind that is nearer to each of x."""
    both = torch.stack([_fit(x, k) for k in (0, 1)], 1)
    return both[torch.arange(len(x)), _squared_distances(x).argmin(1)]


def measure(x: Tensor) -> Mapping[str, Tensor]:
    """``level`` of the bars and ``ground``, the grey level of the background [B], of images [B, 1, 8, 8]."""
    nearest = _nearest(x).flatten(1).float()
    return {"level": nearest.amax(1), "ground": nearest.amin(1)}


class OracleJudges:
    """A `JudgePanel` of the toy data: the nearest image of each kind, and fixed projections."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.weights = torch.randn(64, FEATURES + 2 * CODES, generator=rng, dtype=torch.float64) / 8

    def _code(self, x: Tensor) -> Tensor:
        # Products and sums image by image, so that the batch does not change the rounding.
        return ((x.double().flatten(1) - 0.25)[:, :, None] * self.weights).sum(1)

    def read(self, x: Tensor) -> Mapping[str, Tensor]:
        """Class probabilities [B, 2] of ``kind``, and ``level`` and ``ground`` [B]."""
        return {"kind": (-SHARP * _squared_distances(x)).softmax(1).float(), **measure(x)}

    def features(self, x: Tensor) -> Tensor:
        """Fixed projections [B, F], non-negative."""
        return self._code(x)[:, :FEATURES].relu().float()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, Z]."""
        code = self._code(x)[:, FEATURES:]
        return code[:, :CODES].float(), (0.1 + 0.1 * code[:, CODES:].sigmoid()).float()

    def reconstruct(self, x: Tensor, variable: str, value: Tensor | None = None) -> Tensor:
        """The nearest image of each row's kind ``value`` [B], or of the nearer kind: [B, 1, 8, 8]."""
        if value is not None and variable != "kind":
            raise ValueError(f"{variable} has no classes with an auto-encoder each")
        if value is None:
            return _nearest(x).float()
        return torch.stack([_fit(x, k) for k in (0, 1)], 1)[torch.arange(len(x)), value.long()].float()
