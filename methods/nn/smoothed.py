"""The likelihood of 8-bit images by a density of smoothed ones, y = x + k with k of a known law.

With any law P(x | y) of the image given the smoothed one, p(y) P(x | y) is a model of both, and for every x

    log P(x) >= E_k [log p(y) + log P(x | y)] + h(k),

where h(k), the entropy of k, is what the bits of y spend on k itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .discretised import log_prob

__all__ = ["Observation", "entropy"]

POINTS = 20001
BINS = 32
"""Parts of the grey scale that have a scale of their own."""
PRIOR = 100
"""As many values of any grey level count in every part, so that one without values of its own has a scale too."""
SCALES = tuple(math.log(1 / 2048) + i / 4 for i in range(28))
"""Log-scales to choose from, from an eighth of a grey level to half of all of them."""


def entropy(noise: float) -> float:
    """Bits of k = U + ``noise`` N for a uniform U of width 1 and a standard normal N, both in grey levels."""
    if not noise:
        return 0.0
    k = torch.linspace(-1, 1, POINTS, dtype=torch.float64) * (0.5 + 8 * noise)
    near, far = (k.abs() - 0.5) / noise, (k.abs() + 0.5) / noise  # on the side of the smaller tail
    density = torch.special.ndtr(-near) - torch.special.ndtr(-far)
    return -float(torch.trapezoid(torch.xlogy(density, density), k)) / math.log(2)


class Observation:
    """P(x | y) of grey levels given a guess m(y) of each: logistic about m, as wide as the guess's grey level needs.

    Args:
        x: images in [0, 1] that widths are taken from, and ``guess``, what was guessed of them.
    """

    def __init__(self, x: Tensor, guess: Tensor) -> None:
        where, sums = self._bins(guess).flatten(), torch.zeros(len(SCALES), BINS, dtype=torch.float64)
        for sum_, scale in zip(sums, SCALES, strict=True):
            found = _log_prob(x, guess, torch.full_like(x, scale)).flatten().double()
            sum_ += torch.zeros(BINS).to(found).index_add_(0, where, found).cpu() + PRIOR * found.mean().cpu()
        self.log_scale = torch.tensor(SCALES)[sums.argmax(0)].to(x)

    @staticmethod
    def _bins(guess: Tensor) -> Tensor:
        return (guess * BINS).long().clamp(0, BINS - 1)

    def log_prob(self, x: Tensor, guess: Tensor) -> Tensor:
        """log P(x | y) in nats, pixel by pixel."""
        return _log_prob(x, guess, self.log_scale[self._bins(guess)])


def _log_prob(x: Tensor, guess: Tensor, log_scale: Tensor) -> Tensor:
    return log_prob(x, guess, log_scale, "logistic")
