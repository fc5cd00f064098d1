"""Kernel distance of two sets of features (KID on any feature net)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["kernel", "mean_kernel", "paired_mmd", "within"]

CHUNK, BLOCK = 128, 512
"""Rows at a time, of kernels and of third moments."""
PAIRS = 2**24
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
    ones = b.new_ones(len(b), 1, dtype=torch.float64)
    sums = _third(_products(b, ones), ones)
    products = _products(a, a.new_ones(len(a), 1, dtype=torch.float64))
    for start in range(0, len(a), BLOCK):
        some = products[start : start + BLOCK]
        pairs, twice = _pair_products(some)
        means[start : start + BLOCK] = ((pairs * twice) @ sums * some).sum(1) / len(b)
    return means


def _by_moments(features: Tensor) -> bool:
    """Whether third moments are the shorter way to sums over so many images."""
    wide = features.shape[1] + 1
    return len(features) > max(MANY, wide * (wide + 1) // 2)


def _products(features: Tensor, third: Tensor) -> Tensor:
    """(a / √F, 1) w^⅓ of features [N, F] and w^⅓ [N, 1], whose products are w_i w_j k(a_i, b_j) once cubed."""
    return torch.cat([features.double() / features.shape[1] ** 0.5, torch.ones_like(third)], 1) * third


def _pair_products(a: Tensor) -> tuple[Tensor, Tensor]:
    """a_j a_k [N, P] of the columns j <= k of a, and how often each pair occurs in the square of all: [P]."""
    j, k = torch.triu_indices(a.shape[1], a.shape[1])
    return a[:, j] * a[:, k], 1.0 + (j != k).double()


def _third(a: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i a_ij a_ik a_il of a [N, F + 1], weights [N, 1], pairs j <= k: [P, F + 1]."""
    width = a.shape[1]
    total = a.new_zeros(width * (width + 1) // 2, width)
    for some, w in zip(a.split(BLOCK), weights.split(BLOCK), strict=True):
        total += _pair_products(some)[0].T @ (some * w)
    return total


def _summed(a: Tensor, b: Tensor) -> Tensor:
    """Σ_ij (a_i·b_j)³ of a, b [N, F + 1]: 0-d, float64, by third moments."""
    ones = a.new_ones(len(a), 1)
    first = _third(a, ones)
    second = first if b is a else _third(b, ones)
    twice = _pair_products(a[:1])[1]
    return (first * second).sum(1) @ twice


def _counts(row: Tensor) -> tuple[Tensor, Tensor]:
    """A position of each distinct row number in ``row`` [N], and how often it occurs: [U], [U] float64."""
    _, which, counts = row.unique(return_inverse=True, return_counts=True)
    first = torch.empty_like(counts)
    first[which] = torch.arange(len(row), device=row.device)
    return first, counts.double()


def _pairs(weights: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The weighted mean of k(a_i, b_j) over i ≠ j of a, b [U, F]: 0-d; NaN where U is 1."""
    # Few passes over few rows at a time, or over none of the pairs.
    many, same, third = _by_moments(a), b is a, weights.pow(1 / 3)[:, None]
    a = _products(a, third)
    b = a if same else _products(b, third)
    total = _summed(a, b) if many else weights.new_zeros(())
    for some in () if many else a.split(CHUNK):
        product = (some @ b.T).flatten()
        total += product.square() @ product
    return (total - (a * b).sum(1).pow(3).sum()) / (weights.sum().square() - weights.square().sum())


def _enough(*features: Tensor) -> None:
    for f in features:
        if len(f) < 2:
            raise ValueError(f"a kernel distance needs at least 2 images on each side, found {len(f)}")


def within(features: Tensor, row: Tensor | None = None) -> Tensor:
    """The mean of k(a, b) over pairs of different images of a set [N, F]: 0-d, float64.

    ``row`` [N] numbers the images: on a resample with replacement, copies of one image are no pair, and so
    bring no bias.

    Raises:
        ValueError: fewer than two rows.
    """
    _enough(features)
    first, weights = _counts(torch.arange(len(features), device=features.device) if row is None else row)
    some = features[first]
    return _pairs(weights, some, some)


def paired_mmd(a: Tensor, b: Tensor, row: Tensor | None = None) -> Tensor:
    """Unbiased squared MMD of features a, b [N, F] that come in pairs: 0-d, float64, exactly 0 where a is b.

    The mean over i ≠ j of k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(a_j, b_i): Gretton et al. 2012 (JMLR 13),
    equation 4. Copies of one pair, as ``row`` numbers them, count as i = j.

    Raises:
        ValueError: fewer than two rows.
    """
    _enough(a, b)
    first, weights = _counts(torch.arange(len(a), device=a.device) if row is None else row)
    a, b = a[first], b[first]
    return _pairs(weights, a, a) + _pairs(weights, b, b) - 2 * _pairs(weights, a, b)
