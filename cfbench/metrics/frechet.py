"""Fréchet distance of two sets of features (FID on any feature net)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Moments", "frechet", "moments", "reference"]


class Moments(NamedTuple):
    """Mean [F] and unbiased covariance [F, F], or a factor R with RᵀR in its place; float64."""

    mean: Tensor
    spread: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features [N, F].

    Raises:
        ValueError: fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 images on each side, found {len(features)}")
    features = features.double()
    mean = features.mean(0)
    centred = features - mean
    return Moments(mean, centred.T @ centred / (len(features) - 1))


def reference(features: Tensor) -> Moments:
    """The moments of features [N, F], the covariance C as its symmetric root, for use against many sets."""
    mean, covariance = moments(features)
    values, vectors = torch.linalg.eigh(covariance)
    return Moments(mean, vectors * values.clamp(min=0).sqrt() @ vectors.T)


def frechet(features: Tensor, real: Moments) -> Tensor:
    """‖μ_r - μ_g‖² + tr(C_r + C_g - 2 (C_r C_g)^½) of features [N, F] and a `reference`: 0-d, float64.

    C_r C_g has the eigenvalues of the symmetric C_r^½ C_g C_r^½. Heusel et al. 2017, arXiv 1706.08500, equation 6.
    Biased upwards at small N: compare only sets of the same size.
    """
    mean, covariance = moments(features)
    root = real.spread
    values = torch.linalg.eigvalsh(root @ covariance @ root)
    trace = covariance.trace() + root.square().sum() - 2 * values.clamp(min=0).sqrt().sum()
    return ((real.mean - mean).square().sum() + trace).clamp(min=0)
