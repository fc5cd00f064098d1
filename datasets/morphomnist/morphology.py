"""Set the thickness and the intensity of a digit exactly as Morpho-MNIST and DeepSCM did, only faster.

A digit [28, 28] is scaled up, cut at half its range, dilated or eroded, scaled down and brightened. The published
scripts (https://github.com/dccastro/Morpho-MNIST, https://github.com/biomedia-mira/deepscm) ran on scikit-image of
2020. Scaling and smoothing are linear up to a clipping, hence matrix products here; `resampling` repeats an image
in the published order of summation wherever that could decide a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..common.threads import one_blas_thread
from . import morphometry, resampling
from .resampling import SIZE

__all__ = [
    "SCALE", "brighten", "footprint", "grey_level", "outline", "redraw", "render", "set_slant", "shrink", "slant",
    "thicken", "thickness",
]  # fmt: skip

SCALE = 16
_TOLERANCE = 1e-9
"""Grey levels by which matrix products may differ from sums in the published order."""

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Array = NDArray[np.float64]


def render(digit: Bytes, thickness: float, intensity: float) -> Bytes:
    """Return the digit uint8 [28, 28] with another thickness in pixels and intensity in grey levels."""
    return brighten(redraw(digit, float("nan"), [thickness])[1], intensity)


def redraw(digit: Bytes, measured: float, shape: Sequence[float]) -> tuple[float, Bytes]:
    """Return a digit's own thickness, and the digit uint8 [28, 28] of another one and, where given, another slant.

    An image without a stroke stays as it is, its thickness NaN.

    Args:
        digit: uint8 [28, 28].
        measured: its thickness in pixels, NaN where unknown.
        shape: the thickness wanted in pixels, and the slant wanted in degrees to the right.
    """
    with one_blas_thread():
        mask = outline(digit)
        measured = thickness(mask) if np.isnan(measured) else measured
        if np.isnan(measured):
            return measured, digit
        thick = thicken(mask, float(np.float32(shape[0]) - np.float32(measured)))
        return measured, shrink(set_slant(thick, shape[1]) if len(shape) > 1 else thick)


def thickness(mask: Mask) -> float:
    """Return the mean thickness of the stroke in an outline [28 scale, 28 scale], in small pixels; NaN without one."""
    return 2 * morphometry.axis_distance(mask) / (len(mask) // SIZE)


def slant(image: Bytes | Array) -> float:
    """Return how many degrees the stroke in an image [28, 28] leans to the right, by the shear of its grey levels."""
    levels = np.floor(255 * resampling.expand(image, 4))
    if not levels.any():
        return float("nan")
    return float(-np.rad2deg(np.arctan(morphometry.shear(levels)[2])))


def brighten(image: Bytes, intensity: float) -> Bytes:
    """Return the image uint8 [28, 28] scaled to a median ``intensity`` of its bright pixels."""
    level = grey_level(image)
    return np.clip(image * (float(np.float32(intensity)) / level), 0, 255).astype(np.uint8) if level else image


def grey_level(image: Bytes | Array) -> float:
    """Return the median of the pixels that reach half the range of an image [28, 28]."""
    low, high = float(image.min()), float(image.max())
    return float(np.median(image[image >= low + (high - low) * 0.5]))


def outline(image: Bytes | Array, scale: int = SCALE) -> Mask:
    """Return where an image [28, 28], scaled up and smoothed, reaches half its range [28 scale, 28 scale]."""
    mask = np.zeros((SIZE * scale, SIZE * scale), dtype=bool)
    if not image.any():
        return ~mask
    rows, columns = (_times(scale, s) for s in morphometry.box(image > 0, 1))
    smooth = _enlarge(image, scale, rows, columns)
    high, full = smooth.max(), smooth.max() > 255 - _TOLERANCE
    cut = np.ceil(np.floor(resampling.full(scale) if full else high) * 0.5)
    dark = smooth.shape != mask.shape or smooth.min() < _TOLERANCE
    if not dark or (_ambiguous(high) and not full) or (np.abs(smooth - cut) < _TOLERANCE).any():
        levels = np.floor(255 * resampling.expand(image, scale))
        return levels >= levels.min() + (levels.max() - levels.min()) * 0.5
    mask[rows, columns] = smooth >= cut
    return mask


def set_slant(mask: Mask, degrees: float) -> Array:
    """Return the outline [H, W] in [0, 1], sheared about its centre to lean ``degrees`` to the right."""
    if not mask.any():
        return mask.astype(np.float64)
    row, _, shear = morphometry.shear(mask.astype(np.float64))
    shift = (np.tan(np.deg2rad(degrees)) + shear) * (np.arange(len(mask)) - row)
    positions = np.arange(mask.shape[1]) + shift[:, None]
    first = np.floor(positions)
    part, padded = positions - first, np.pad(mask.astype(np.float64), ((0, 0), (0, 2)))
    inside = (positions >= 0) & (positions <= mask.shape[1] - 1)
    columns = np.where(inside, first, mask.shape[1]).astype(np.int64)
    rows = np.arange(len(mask))[:, None]
    return (1 - part) * padded[rows, columns] + part * padded[rows, columns + 1]


def thicken(mask: Mask, delta: float) -> Mask:
    """Return the outline [448, 448] made thicker by ``delta`` pixels of the small image, or thinner where negative."""
    reach = footprint(int(SCALE * abs(delta) / 2))
    out = mask.copy()
    if mask.any():
        part = morphometry.box(mask, len(reach) // 2 if delta >= 0 else 1)
        out[part] = _dilate(mask[part], reach) if delta >= 0 else ~_dilate(~mask[part], reach)
    return out


@cache
def footprint(radius: int) -> NDArray[np.int64]:
    """Return how far up and down each column of the structuring element of a radius reaches [2 radius + 1, 2].

    The published element is a disk of radius 16 r, smoothed and scaled down 16 times, where that is not zero: each
    pixel depends on the two nearest of the large disk along each axis, and these on 21 pixels to every side. A pixel
    that falls upon one of the large disk depends on that alone, but for a rounding error of scikit-image, which the
    published images contain (radius 19): below and to the left of the middle it depends on the next one inwards too.
    """
    offset = np.arange(-radius, radius + 1)
    wide, size = 32 * radius + 1, 2 * radius + 1
    floor, rest = np.divmod(np.abs(offset) * wide, size)  # of the distance from the middle of the large disk
    squares = [
        np.maximum(floor - ((rest == 0) & inwards) - resampling.reach(SCALE), 0) ** 2
        for inwards in (offset > 0, offset < 0)
    ]
    fits = squares[0][:, None] + squares[1] <= (SCALE * radius) ** 2
    return np.stack([fits[: radius + 1].sum(0), fits[radius:].sum(0)], axis=1) - 1


def _dilate(mask: Mask, reach: NDArray[np.int64]) -> Mask:
    """Return where the structuring element, whose columns reach so far up and down, meets the mask [H, W]."""
    radius = len(reach) // 2
    far, dtype = (255, np.uint8) if radius < 255 else (int(morphometry.FAR), np.int16)
    above, below = (np.minimum(d, far).astype(dtype) for d in morphometry.column_distances(mask))
    either, extents = np.minimum(above, below), reach.tolist()
    out = np.zeros_like(mask)
    for k in range(-min(radius, mask.shape[1] - 1), min(radius, mask.shape[1] - 1) + 1):
        up, down = extents[radius + k]
        within = either <= up if up == down else (above <= up) | (below <= down)
        here, there = slice(max(-k, 0), min(-k, 0) or None), slice(max(k, 0), min(k, 0) or None)
        out[:, here] |= within[:, there]
    return out


def shrink(mask: Mask | Array) -> Bytes:
    """Return an outline [448, 448] in [0, 1], scaled down to an image uint8 [28, 28]."""
    if not mask.any():
        return np.zeros((SIZE, SIZE), dtype=np.uint8)
    down, (rows, columns) = _down(), morphometry.box(mask)
    small = 255 * (down[:, rows] @ mask[rows, columns].astype(np.float64) @ down[:, columns].T)
    full = small > 255 - _TOLERANCE
    small = np.minimum(small, _maximum(small, mask))
    if mask[: SCALE + 8, : SCALE + 8].any() or (_ambiguous(small) & ~full).any():
        small = 255 * resampling.shrink(mask.astype(np.float64), SCALE)
    else:
        small[full] = resampling.full_shrunk(SCALE)
    return np.maximum(small, 0).astype(np.uint8)


def _maximum(small: Array, mask: Mask | Array) -> float:
    """Return the greatest grey level of the smoothed outline [448, 448], which bounds the small image [28, 28]."""
    peak, smoother, reach = float(small.max()), _gaussian(SCALE), resampling.reach(SCALE)
    middle = [SCALE * int(k) + 6 for k in np.unravel_index(small.argmax(), small.shape)]
    row, column = (slice(k, k + 4) for k in middle)
    tall, wide = (slice(max(k - reach, 0), k + 4 + reach) for k in middle)
    around = 255 * (smoother[row, tall] @ mask[tall, wide] @ smoother[column, wide].T).max()
    if peak <= around or np.floor(peak) == np.floor(around):
        return peak
    part = morphometry.box(mask, reach)
    return 255 * float(_smooth(mask[part].astype(np.float64), SCALE, part, part).max())


def _ambiguous(levels: Array | float) -> NDArray[np.bool_]:
    """Return where a level above zero is so near a whole number that rounding errors decide which one it is cut to."""
    nearest = np.rint(levels)
    return (np.abs(levels - nearest) < _TOLERANCE) & (nearest > 0)


def _enlarge(image: Bytes | Array, scale: int, rows: slice, columns: slice) -> Array:
    """Return rows and columns of the image, scaled up and smoothed, in grey levels."""
    cubic = _cubic(scale)
    tall, wide = (_times(scale, s) for s in morphometry.box(image > 0, 2))
    up = (cubic[tall] @ image.astype(np.float64)) @ cubic[wide].T
    np.clip(up, image.min(), image.max(), out=up)
    return _smooth(up, scale, (tall, wide), (rows, columns))


def _smooth(x: Array, scale: int, given: tuple[slice, slice], wanted: tuple[slice, slice]) -> Array:
    """Return the wanted part of an image, smoothed, where x is the part given, outside which the image is zero."""
    for part, rows in zip(given, wanted, strict=True):
        x = _smooth_rows(x, scale, part.start, rows).T
    return x


def _smooth_rows(x: Array, scale: int, start: int, rows: slice, block: int = 64) -> Array:
    out, smoother, reach = np.empty((rows.stop - rows.start, x.shape[1])), _gaussian(scale), resampling.reach(scale)
    for first in range(rows.start, rows.stop, block):
        last = min(first + block, rows.stop)
        used = slice(max(first - reach, start), min(last + reach, start + len(x)))
        part = x[used.start - start : used.stop - start]
        np.matmul(smoother[first:last, used], part, out=out[first - rows.start : last - rows.start])
    return out


def _times(scale: int, part: slice) -> slice:
    return slice(scale * part.start, scale * part.stop)


@cache
def _cubic(scale: int) -> Array:
    """Return the matrix of cubic interpolation from 28 pixels to 28 scale positions."""
    return resampling.cubic(np.eye(SIZE), SIZE * scale, axis=0)


@cache
def _gaussian(scale: int) -> Array:
    return resampling.smooth(np.eye(SIZE * scale), scale, axes=(0,))


@cache
def _down() -> Array:
    return resampling.cubic(_gaussian(SCALE), SIZE, axis=0)
