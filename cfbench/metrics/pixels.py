"""Distances between images in grey levels, one number an image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GREY", "grey", "l1", "mean_square"]

GREY = "grey levels"
"""The unit of every pixel distance: float64 levels on the scale 0 to 255, never rounded."""


def grey(images: Tensor) -> Tensor:
    """Grey levels, float64, of images in [0, 1], or of uint8 images, whose differences would otherwise wrap around."""
    return images.double() if images.dtype == torch.uint8 else images.double() * 255


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of images a, b [N, C, H, W]: float64 [N], grey levels; NaN where a pixel is NaN."""
    return (grey(a) - grey(b)).abs().flatten(1).mean(1)


def mean_square(z: Tensor) -> Tensor:
    """Mean over the pixels of z² of z [N, C, H, W]: [N]."""
    return z.square().flatten(1).mean(1)
