"""Kernel distance of two sets of features (KID on any feature net)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["kernel", "paired_mmd", "within"]

CHUNK = 128


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(aᵀb / F + 1)³ of features a [N, F] and b [M, F], float64: [N, M]."""
    base = (a.double() @ b.double().T).div_(a.shape[1]).add_(1)
    return base * base * base


def _counts(row: Tensor) -> tuple[Tensor, Tensor]:
    """A place of each distinct row number in ``row`` [N], and how often it occurs: [U], [U] float64."""
    _, which, counts = row.unique(return_inverse=True, return_counts=True)
    first = torch.empty_like(counts)
    first[which] = torch.arange(len(row), device=row.device)
    return first, counts.double()


def _pairs(weights: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The weighted mean of k(a_i, b_j) over i ≠ j of a, b [U, F]: 0-d; NaN where U is 1."""
    # Products of features (a / √F, 1) times w^⅓ are w_i w_j k(a_i, b_j) once cubed: few passes over few rows at a time.
    third = weights.pow(1 / 3)[:, None]
    a, b = (torch.cat([f.double() / f.shape[1] ** 0.5, torch.ones_like(third)], 1) * third for f in (a, b))
    total = weights.new_zeros(())
    for some in a.split(CHUNK):
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
    return _pairs(weights, features[first], features[first])


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
