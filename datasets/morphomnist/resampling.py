"""Scaling an image up and down as scikit-image did it in 2020, in its order of summation."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["SIZE", "cubic", "expand", "full", "full_shrunk", "reach", "shrink", "smooth"]

SIZE = 28

Array = NDArray[np.float64]


def expand(image: NDArray[np.uint8] | Array, scale: int) -> Array:
    """Return grey levels [28, 28] scaled up, clipped to its range and smoothed [28 scale, 28 scale], in [0, 1]."""
    grey = image.astype(np.float64) * (1 / 255)
    up = cubic(cubic(grey, SIZE * scale, axis=1), SIZE * scale, axis=0)
    return smooth(np.clip(up, grey.min(), grey.max()), scale)


def shrink(large: Array, scale: int) -> Array:
    """Return a large image smoothed, scaled down and clipped to the range of the smoothed one."""
    fine = smooth(large, scale)
    rows, columns = (n // scale for n in large.shape)
    return np.clip(cubic(cubic(fine, columns, axis=1), rows, axis=0), fine.min(), fine.max())


def smooth(x: Array, scale: int, axes: tuple[int, ...] = (0, 1)) -> Array:
    """Return x smoothed by a Gaussian of scale / 3 pixels, cut at four standard deviations, with mirrored edges."""
    return ndimage.gaussian_filter(x, scale / 3, mode="reflect", axes=axes)


def reach(scale: int) -> int:
    """Return the radius in pixels of the kernel of `smooth`."""
    return int(4 * scale / 3 + 0.5)


def cubic(x: Array, size: int, axis: int) -> Array:
    """Return x [H, W] at ``size`` evenly spaced positions between the outer edges of an axis, by cubic convolution."""
    x = np.moveaxis(x, axis, 0)
    step = len(x) / size
    position = np.arange(size) * step + (step - 1) / 2
    first = np.floor(position)
    at = (position - first)[:, None]
    padded = np.pad(x, ((2, 2), (0, 0)), mode="reflect")
    a, b, c, d = (padded[first.astype(int) + k] for k in (1, 2, 3, 4))
    slope = c - a + at * (2 * a - 5 * b + 4 * c - d + at * (3 * (b - c) + d - a))
    return np.moveaxis(b + 0.5 * at * slope, 0, axis)


@cache
def full(scale: int) -> float:
    """Return the grey level of the middle of a large white area after smoothing, cut to a whole number."""
    return float(np.floor(255 * smooth(np.ones((8 * scale, 8 * scale)), scale)[4 * scale, 4 * scale]))


@cache
def full_shrunk(scale: int) -> float:
    """Return the grey level of the middle of a large white area after scaling down, cut to a whole number."""
    return float(np.floor(255 * shrink(np.ones((9 * scale, 9 * scale)), scale)[4, 4]))
