"""Set the thickness and the intensity of a digit exactly as Morpho-MNIST and DeepSCM published it, only faster.

A digit [28, 28] is scaled up, cut at half its range, dilated or eroded, scaled down and brightened. The published
scripts (https://github.com/dccastro/Morpho-MNIST, https://github.com/biomedia-mira/deepscm) ran on scikit-image of
2020. Scaling and smoothing are linear up to a clipping, hence matrix products here; `resampling` does an image
again in the published order of summation wherever that could decide a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from . import morphometry, resampling
from .resampling import SIZE
from .threads import one_blas_thread

__all__ = [
    "SCALE", "brighten", "footprint", "grey_level", "outline", "redraw", "render", "set_slant", "shrink", "slant",
    "thicken", "thickness",
]  # fmt: skip

SCALE = 16
_UNSURE = 1e-9

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Array = NDArray[np.float64]


def render(digit: Bytes, thickness: float, intensity: float) -> Bytes:
    """The digit uint8 [28, 28] with another thickness in pixels and intensity in grey levels."""
    return brighten(redraw(digit, float("nan"), [thickness])[1], intensity)


def redraw(digit: Bytes, measured: float, shape: Sequence[float]) -> tuple[float, Bytes]:
    """A digit's own thickness, and the digit uint8 [28, 28] of another one and, where given, another slant.

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
    """Mean thickness of the stroke with this outline [28 scale, 28 scale], in small pixels; NaN where there is none."""
    return 2 * morphometry.axis_distance(mask) / (len(mask) // SIZE)


def slant(image: Bytes) -> float:
    """How many degrees the stroke in an image uint8 [28, 28] leans to the right, by the shear of its grey levels."""
    levels = np.floor(255 * resampling.expand(image, 4))
    if not levels.any():
        return float("nan")
    return float(-np.rad2deg(np.arctan(morphometry.shear(levels)[2])))


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
    high, full = smooth.max(), smooth.max() > 255 - _UNSURE
    cut = np.ceil(np.floor(resampling.full(scale) if full else high) * 0.5)
    dark = smooth.shape != mask.shape or smooth.min() < _UNSURE
    if not dark or (_doubtful(high) and not full) or (np.abs(smooth - cut) < _UNSURE).any():
        levels = np.floor(255 * resampling.expand(image, scale))
        return levels >= levels.min() + (levels.max() - levels.min()) * 0.5
    mask[rows, columns] = smooth >= cut
    return mask


def set_slant(mask: Mask, degrees: float) -> Array:
    """The outline [H, W] sheared about its centre to lean ``degrees`` to the right, in [0, 1]; cut at the frame."""
    if not mask.any():
        return mask.astype(np.float64)
    row, _, shear = morphometry.shear(mask.astype(np.float64))
    shift = (np.tan(np.deg2rad(degrees)) + shear) * (np.arange(len(mask)) - row)
    places = np.arange(mask.shape[1]) + shift[:, None]
    first = np.floor(places)
    part, padded = places - first, np.pad(mask.astype(np.float64), ((0, 0), (0, 2)))
    inside = (places >= 0) & (places <= mask.shape[1] - 1)
    place = np.where(inside, first, mask.shape[1]).astype(np.int64)
    lines = np.arange(len(mask))[:, None]
    return (1 - part) * padded[lines, place] + part * padded[lines, place + 1]


def thicken(mask: Mask, delta: float) -> Mask:
    """The outline [448, 448] made thicker by ``delta`` pixels of the small image, or thinner where negative."""
    reach = footprint(int(SCALE * abs(delta) / 2))
    out = mask.copy()
    if mask.any():
        part = morphometry.box(mask, len(reach) // 2 if delta >= 0 else 1)
        out[part] = _dilate(mask[part], reach) if delta >= 0 else ~_dilate(~mask[part], reach)
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
    radius = len(reach) // 2
    far, kind = (255, np.uint8) if radius < 255 else (int(morphometry.FAR), np.int16)
    above, below = (np.minimum(d, far).astype(kind) for d in morphometry.column_distances(mask))
    either, extents = np.minimum(above, below), reach.tolist()
    out = np.zeros_like(mask)
    for k in range(-min(radius, mask.shape[1] - 1), min(radius, mask.shape[1] - 1) + 1):
        up, down = extents[radius + k]
        within = either <= up if up == down else (above <= up) | (below <= down)
        here, there = slice(max(-k, 0), min(-k, 0) or None), slice(max(k, 0), min(k, 0) or None)
        out[:, here] |= within[:, there]
    return out


def shrink(mask: Mask | Array) -> Bytes:
    """An outline [448, 448] in [0, 1], scaled down to an image uint8 [28, 28]."""
    if not mask.any():
        return np.zeros((SIZE, SIZE), dtype=np.uint8)
    down, (rows, columns) = _down(), morphometry.box(mask)
    small = 255 * (down[:, rows] @ mask[rows, columns].astype(np.float64) @ down[:, columns].T)
    full = small > 255 - _UNSURE
    small = np.minimum(small, _top(small, mask))
    if mask[: SCALE + 8, : SCALE + 8].any() or (_doubtful(small) & ~full).any():
        small = 255 * resampling.shrink(mask.astype(np.float64), SCALE)
    else:
        small[full] = resampling.full_shrunk(SCALE)
    return np.maximum(small, 0).astype(np.uint8)


def _top(small: Array, mask: Mask | Array) -> float:
    """The greatest grey level of the smoothed outline [448, 448], to which the small image [28, 28] is clipped."""
    peak, smoother, reach = float(small.max()), _gaussian(SCALE), resampling.reach(SCALE)
    middle = [SCALE * int(k) + 6 for k in np.unravel_index(small.argmax(), small.shape)]
    row, column = (slice(k, k + 4) for k in middle)
    tall, wide = (slice(max(k - reach, 0), k + 4 + reach) for k in middle)
    beside = 255 * (smoother[row, tall] @ mask[tall, wide] @ smoother[column, wide].T).max()
    if peak <= beside or np.floor(peak) == np.floor(beside):
        return peak
    part = morphometry.box(mask, reach)
    return 255 * float(_smooth(mask[part].astype(np.float64), SCALE, part, part).max())


def _doubtful(levels: Array | float) -> NDArray[np.bool_]:
    """Where a level above zero lies so near a whole number that rounding errors decide which one it is cut to."""
    nearest = np.rint(levels)
    return (np.abs(levels - nearest) < _UNSURE) & (nearest > 0)


def _enlarge(image: Bytes, scale: int, rows: slice, columns: slice) -> Array:
    """Rows and columns of the image, scaled up and smoothed, in grey levels."""
    cubic = _cubic(scale)
    tall, wide = (_times(scale, s) for s in morphometry.box(image > 0, 2))
    up = (cubic[tall] @ image.astype(np.float64)) @ cubic[wide].T
    np.clip(up, image.min(), image.max(), out=up)
    return _smooth(up, scale, (tall, wide), (rows, columns))


def _smooth(x: Array, scale: int, held: tuple[slice, slice], wanted: tuple[slice, slice]) -> Array:
    """A part of an image, smoothed, of which x is the part that holds all that is not zero."""
    for part, rows in zip(held, wanted, strict=True):
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
    """Cubic interpolation of 28 pixels at 28 scale places."""
    return resampling.cubic(np.eye(SIZE), SIZE * scale, axis=0)


@cache
def _gaussian(scale: int) -> Array:
    return resampling.smooth(np.eye(SIZE * scale), scale, axes=(0,))


@cache
def _down() -> Array:
    return resampling.cubic(_gaussian(SCALE), SIZE, axis=0)
