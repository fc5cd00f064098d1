"""Kernel distance of two sets of features (KID on any feature net)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Pairs", "kernel", "mean_kernel", "within"]

BLOCK = 512
"""Rows of third moments at a time."""
PAIRS = 2**20
"""Pairs whose kernels are in memory at once."""
MANY = 10_000
"""Number of images above which sums of kernels are computed from third moments, at a cost linear in the images."""


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(aᵀb / F + 1)³ of features a [N, F] and b [M, F], float64: [N, M]."""
    base = (a.double() @ b.double().T).div_(a.shape[1]).add_(1)
    return base * base * base


def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """The mean over the rows of b [M, F] of k(a_i, b_j), for each row of a [N, F]: float64 [N]."""
    means = a.new_empty(len(a), dtype=torch.float64)
    if not _by_moments(b):
        size = max(PAIRS // max(len(b), 1), 1)
        for start in range(0, len(a), size):
            means[start : start + size] = kernel(a[start : start + size], b).mean(1)
        return means
    sums, products = _third(_products(b)), _products(a)
    for start in range(0, len(a), BLOCK):
        some = products[start : start + BLOCK]
        pairs, twice = _pair_products(some)
        means[start : start + BLOCK] = ((pairs * twice) @ sums * some).sum(1) / len(b)
    return means


def _by_moments(features: Tensor) -> bool:
    """Whether third moments are the shorter way to sums over so many images."""
    wide = features.shape[1] + 1
    return len(features) > max(MANY, wide * (wide + 1) // 2)


def _products(features: Tensor) -> Tensor:
    """(a / √F, 1) of features [N, F], whose products are k(a_i, b_j) once cubed: [N, F + 1], float64."""
    ones = features.new_ones(len(features), 1, dtype=torch.float64)
    return torch.cat([features.double() / features.shape[1] ** 0.5, ones], 1)


def _pair_products(a: Tensor) -> tuple[Tensor, Tensor]:
    """a_j a_k [N, P] of the columns j <= k of a, and how often each pair occurs in the square of all: [P]."""
    j, k = torch.triu_indices(a.shape[1], a.shape[1])
    return a[:, j] * a[:, k], 1.0 + (j != k).double()


def _third(a: Tensor) -> Tensor:
    """Σ_i a_ij a_ik a_il of a [N, F + 1], pairs j <= k: [P, F + 1]."""
    width = a.shape[1]
    total = a.new_zeros(width * (width + 1) // 2, width)
    for some in a.split(BLOCK):
        total += _pair_products(some)[0].T @ some
    return total


@dataclass(frozen=True)
class Pairs:
    """The images of a set and what each has in common with all others.

    sides: features [N, F], or those of the two images of each pair; others: Σ_{j≠i} h(i, j) of each i, float64 [N],
    with h(i, j) = k(a_i, a_j), or of pairs k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(a_j, b_i).
    """

    sides: tuple[Tensor, ...]
    others: Tensor

    @classmethod
    def of(cls, *sides: Tensor) -> Pairs:
        """The sums of a set of images, or of a set of pairs.

        Raises:
            ValueError: fewer than two rows.
        """
        return cls(sides, _others(*sides))

    def mean(self, rows: Tensor | None = None) -> Tensor:
        """The mean of h(i, j) over i ≠ j of some rows [S], by default all: 0-d, float64.

        Of pairs it is the unbiased squared MMD of Gretton et al. 2012 (JMLR 13), equation 4, exactly 0 where both
        images of each pair are the same. Where few rows are missing, what they had in common is taken from the sum of
        all.

        Raises:
            ValueError: fewer than two rows.
        """
        rows = torch.arange(len(self.others)) if rows is None else rows
        missing = torch.ones(len(self.others), dtype=torch.bool)
        missing[rows] = False
        out = missing.nonzero()[:, 0]
        # Copies among the rows are counted as pairs, like other images.
        if len(out) > len(rows) or len(out) + len(rows) > len(missing):
            return _others(*(side[rows] for side in self.sides)).sum() / (len(rows) * (len(rows) - 1))
        total = self.others.sum() - 2 * self.others[out].sum()
        if len(out) > 1:
            total = total + _others(*(side[out] for side in self.sides)).sum()
        _enough(len(rows))
        return total / (len(rows) * (len(rows) - 1))


def _enough(rows: int) -> None:
    if rows < 2:
        raise ValueError(f"a kernel distance needs at least 2 images on each side, found {rows}")


def _others(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Σ_{j≠i} h(i, j) of each row of features, or pairs of features, as in `Pairs`: [N]; exactly 0 where a is b."""
    _enough(len(a))
    own = len(a) * mean_kernel(a, a) - _diagonal(a, a)
    if b is None:
        return own
    cross = len(a) * (mean_kernel(a, b) + mean_kernel(b, a)) - 2 * _diagonal(a, b)
    return own + (len(b) * mean_kernel(b, b) - _diagonal(b, b)) - cross


def _diagonal(a: Tensor, b: Tensor) -> Tensor:
    """k(a_i, b_i) of features [N, F]: [N], float64."""
    return ((a.double() * b.double()).sum(1) / a.shape[1] + 1) ** 3


def within(features: Tensor) -> Tensor:
    """The mean of k(a, b) over pairs of different images of a set [N, F]: 0-d, float64.

    Raises:
        ValueError: fewer than two rows.
    """
    return Pairs.of(features).mean()
