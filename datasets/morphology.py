"""Set the thickness and the intensity of a digit exactly as Morpho-MNIST and DeepSCM published it, only faster.

A digit [28, 28] is scaled up, cut at half its range, dilated or eroded, scaled down and brightened. The published
scripts (https://github.com/dccastro/Morpho-MNIST, https://github.com/biomedia-mira/deepscm) ran on scikit-image of
2020. Scaling and smoothing are linear up to a clipping, hence matrix products here; `resampling` does an image
again in the published order of summation wherever that could decide a pixel.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from . import morphometry, resampling
from .resampling import SIZE

__all__ = ["SCALE", "brighten", "footprint", "grey_level", "outline", "render", "set_thickness", "shrink", "thickness"]

SCALE = 16
_UNSURE = 1e-9

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Array = NDArray[np.float64]


def render(digit: Bytes, measured: float, thickness: float, intensity: float) -> Bytes:
    """The digit uint8 [28, 28], whose own thickness is ``measured``, with another thickness and intensity."""
    return brighten(set_thickness(digit, measured, thickness), intensity)


def thickness(image: Bytes, scale: int = SCALE) -> float:
    """Mean thickness in pixels of the stroke in an image uint8 [28, 28]; NaN where there is none."""
    return 2 * morphometry.axis_distance(outline(image, scale)) / scale


def set_thickness(digit: Bytes, measured: float, thickness: float) -> Bytes:
    """The digit uint8 [28, 28] with another thickness and full intensity."""
    return shrink(thicken(outline(digit), float(np.float32(thickness) - np.float32(measured))))


def brighten(image: Bytes, intensity: float) -> Bytes:
    """The image uint8 [28, 28] scaled to a median ``intensity`` of its bright pixels."""
    level = grey_level(image)
    return np.clip(image * (float(np.float32(intensity)) / level), 0, 255).astype(np.uint8) if level else image


def grey_level(image: Bytes | Array) -> float:
    """The median of the pixels that reach half the range of an image [28, 28]."""
    low, high = float(image.min()), float(image.max())
    return float(np.median(image[image >= low + (high - low) * 0.5]))


def outline(image: Bytes, scale: int = SCALE) -> Mask:
    """Where an image uint8 [28, 28], scaled up and smoothed, reaches half its range [28 scale, 28 scale]."""
    mask = np.zeros((SIZE * scale, SIZE * scale), dtype=bool)
    if not image.any():
        return ~mask
    rows, columns = (_times(scale, s) for s in morphometry.box(image > 0, 1))
    smooth = _enlarge(image, scale, rows, columns)
    whole = smooth.shape == mask.shape
    high = smooth.max()
    high = resampling.full(scale) if high > 255 - _UNSURE else high
    cut = np.ceil(np.floor(high) * 0.5)
    if (whole and smooth.min() > _UNSURE) or _doubtful(high) or (np.abs(smooth - cut) < _UNSURE).any():
        levels = np.floor(255 * resampling.expand(image, scale))
        return levels >= levels.min() + (levels.max() - levels.min()) * 0.5
    mask[rows, columns] = smooth >= cut
    return mask


def thicken(mask: Mask, delta: float) -> Mask:
    """The outline [448, 448] made thicker by ``delta`` pixels of the small image, or thinner where negative."""
    half = footprint(int(SCALE * abs(delta) / 2))
    out = mask.copy()
    if mask.any():
        part = morphometry.box(mask, len(half) // 2 if delta >= 0 else 1)
        out[part] = _dilate(mask[part], half) if delta >= 0 else ~_dilate(~mask[part], half)
    return out


@cache
def footprint(radius: int) -> NDArray[np.int64]:
    """How far up and down each column of the structuring element of a radius reaches [2 radius + 1, 2].

    The published element is a disk of radius 16 r, smoothed and scaled down 16 times, where that is not zero: each
    pixel sees the two nearest of the large disk along each axis, and these see 21 pixels to every side. A pixel
    that falls upon one of the large disk sees that alone, but for a rounding error of scikit-image, which the
    published images hold (radius 19): below and to the left of the middle it sees the next one inwards as well.
    """
    place = np.arange(-radius, radius + 1)
    wide, size = 32 * radius + 1, 2 * radius + 1
    floor, rest = np.divmod(np.abs(place) * wide, size)  # of the distance from the middle of the large disk
    squares = [
        np.maximum(floor - ((rest == 0) & inwards) - resampling.reach(SCALE), 0) ** 2
        for inwards in (place > 0, place < 0)
    ]
    fits = squares[0][:, None] + squares[1] <= (SCALE * radius) ** 2
    return np.stack([fits[: radius + 1].sum(0), fits[radius:].sum(0)], axis=1) - 1


def _dilate(mask: Mask, reach: NDArray[np.int64]) -> Mask:
    """The mask [H, W] where the structuring element, whose columns reach so far up and down, meets it."""
    above, below = (np.minimum(d, 255).astype(np.uint8) for d in morphometry.column_distances(mask))
    radius = len(reach) // 2
    out = np.zeros_like(mask)
    for k in range(-min(radius, mask.shape[1] - 1), min(radius, mask.shape[1] - 1) + 1):
        up, down = reach[radius + k]
        within = (above <= up) | (below <= down)
        here, there = slice(max(-k, 0), min(-k, 0) or None), slice(max(k, 0), min(k, 0) or None)
        out[:, here] |= within[:, there]
    return out


def shrink(mask: Mask) -> Bytes:
    """An outline [448, 448], scaled down to an image uint8 [28, 28]."""
    down, large = _down(), mask.astype(np.float64)
    small = 255 * (down @ large @ down.T)
    top = _top(small, large)
    sure = np.minimum(small, top)
    sure[small > 255 - _UNSURE] = resampling.full_shrunk(SCALE)
    if mask[: SCALE + 8, : SCALE + 8].any() or _doubtful(sure).any():
        sure = 255 * resampling.shrink(large, SCALE)
    return np.maximum(sure, 0).astype(np.uint8)


def _top(small: Array, large: Array) -> float:
    """The greatest grey level of the smoothed image [448, 448], to which the small one [28, 28] is clipped."""
    peak, smoother = small.max(), _gaussian(SCALE)
    row, column = (slice(SCALE * k + 6, SCALE * k + 10) for k in np.unravel_index(small.argmax(), small.shape))
    beside = 255 * (smoother[row] @ large @ smoother[column].T).max()
    if peak <= beside or np.floor(peak) == np.floor(beside):
        return peak
    return 255 * float((smoother @ large @ smoother.T).max())


def _doubtful(levels: Array | float) -> NDArray[np.bool_]:
    """Where a level above zero lies so near a whole number that rounding errors decide which one it is cut to."""
    nearest = np.rint(levels)
    return (np.abs(levels - nearest) < _UNSURE) & (nearest > 0) & (levels != nearest)


def _enlarge(image: Bytes, scale: int, rows: slice, columns: slice) -> Array:
    """Rows and columns of the image, scaled up and smoothed, in grey levels."""
    cubic, smoother = _cubic(scale), _gaussian(scale)
    tall, wide = (_times(scale, s) for s in morphometry.box(image > 0, 2))
    up = (cubic[tall] @ image.astype(np.float64)) @ cubic[wide].T
    np.clip(up, image.min(), image.max(), out=up)
    return _band(_band(up, smoother[rows, tall]).T, smoother[columns, wide]).T


def _band(x: Array, matrix: Array, block: int = 64) -> Array:
    """The product of a matrix whose entries lie near a diagonal with x."""
    out = np.empty((len(matrix), x.shape[1]))
    for first in range(0, len(matrix), block):
        part = matrix[first : first + block]
        used = np.flatnonzero(part.any(0))
        inside = slice(used[0], used[-1] + 1)
        np.matmul(part[:, inside], x[inside], out=out[first : first + block])
    return out


def _times(scale: int, part: slice) -> slice:
    return slice(scale * part.start, scale * part.stop)


@cache
def _cubic(scale: int) -> Array:
    """Cubic interpolation of 28 pixels at 28 scale places."""
    return resampling.cubic(np.eye(SIZE), SIZE * scale, axis=0)


@cache
def _gaussian(scale: int) -> Array:
    return resampling.smooth(np.eye(SIZE * scale), scale, axes=(0,))


@cache
def _down() -> Array:
    return resampling.cubic(_gaussian(SCALE), SIZE, axis=0)
