"""Mean thickness of a stroke by its medial axis, in the form and to the last bit of Morpho-MNIST.

Measures after Castro et al. 2019 (https://arxiv.org/abs/1809.10780), whose medial axis is that of scikit-image:
pixels are taken off in the order of their distance to the background, where the 3x3 neighbourhood allows it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["FAR", "axis_distance", "box", "column_distances", "medial_axis", "shear", "square_distance"]

Mask = NDArray[np.bool_]
FAR = np.int16(1 << 13)
"""More than the distance between any two pixels of an image."""
_SHORT = 181  # twice its square fits into 16 bits


def shear(image: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the centre (row, column) of an image [H, W], and by how much each row is shifted against the last."""
    rows, columns = (np.arange(n, dtype=np.float64) for n in image.shape)
    total = image.sum()
    row, column = rows @ image.sum(1) / total, columns @ image.sum(0) / total
    mixed = (rows - row) @ image @ (columns - column)
    return float(row), float(column), float(mixed / ((rows - row) ** 2 @ image.sum(1)))


def box(mask: NDArray[Any], margin: int = 0) -> tuple[slice, slice]:
    """Return the rows and columns of the bounding box of ``mask`` [H, W], ``margin`` wider as far as there are any."""
    spans = []
    for axis, size in enumerate(mask.shape):
        found = np.flatnonzero(mask.any(1 - axis))
        spans.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, size)))
    return spans[0], spans[1]


def column_distances(mask: Mask) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return how far above and below each pixel of ``mask`` [H, W] the nearest True is; `FAR` where there is none."""
    rows = np.arange(len(mask), dtype=np.int16)[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -FAR), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, FAR)[::-1], axis=0)[::-1]
    return np.minimum(rows - above, FAR), np.minimum(below - rows, FAR)


def square_distance(mask: Mask) -> NDArray[np.int64]:
    """Return the squared Euclidean distance of each pixel of ``mask`` [H, W] to the nearest False."""
    column = np.minimum(*column_distances(~mask))
    nearest = _lower_envelope(np.minimum(column, _SHORT).astype(np.uint16) ** 2)
    if nearest.max() >= _SHORT**2:
        nearest = _lower_envelope(column.astype(np.int32) ** 2)
    return nearest.astype(np.int64)


def _lower_envelope(column: NDArray[Any]) -> NDArray[Any]:
    """Return the minimum over each row of ``column`` [H, W] plus the squared distance along the row."""
    nearest, shifted = column.copy(), np.empty_like(column)
    bound = int(nearest.max())
    for k in range(1, column.shape[1]):
        if k * k >= bound:
            break
        np.add(column, column.dtype.type(k * k), out=shifted)
        np.minimum(nearest[:, k:], shifted[:, :-k], out=nearest[:, k:])
        np.minimum(nearest[:, :-k], shifted[:, k:], out=nearest[:, :-k])
        if k % 4 == 0:
            bound = int(nearest.max())
    return nearest


def medial_axis(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return flat indices into ``mask`` [H, W] of its medial axis, and their distances to the background.

    Pixels of equal distance and as many neighbours are taken in the order that ``RandomState(0)`` gives them.
    """
    padded = np.pad(mask, 1)
    index = np.flatnonzero(padded)
    squared = np.pad(square_distance(mask), 1).ravel()[index]
    kept = _thin(padded, index, _order(padded, index, squared))
    row, column = np.divmod(index[kept], padded.shape[1])
    return (row - 1) * mask.shape[1] + column - 1, np.sqrt(squared[kept].astype(np.float64))


def axis_distance(mask: Mask) -> float:
    """Return the mean distance to the background over the medial axis of ``mask`` [H, W]; NaN if it is uniform."""
    if not mask.any() or mask.all():
        return float("nan")
    return float(np.mean(medial_axis(mask[box(mask, 1)])[1]))


def _order(padded: Mask, index: NDArray[np.intp], squared: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the pixels in the order of thinning: nearest to the background first, then those with most neighbours."""
    ones = padded.astype(np.uint8)
    ones[1:-1] = ones[:-2] + ones[1:-1] + ones[2:]
    ones[:, 1:-1] = ones[:, :-2] + ones[:, 1:-1] + ones[:, 2:]
    key = squared * 10 + 9 - ones.ravel()[index]
    key = key.astype(np.uint16) if key.max() < 1 << 16 else key  # which numpy sorts in linear time
    shuffled = np.empty(len(index), dtype=np.intp)
    shuffled[np.random.RandomState(0).permutation(len(index))] = np.arange(len(index))
    return shuffled[np.argsort(key[shuffled], kind="stable")]


def _thin(padded: Mask, index: NDArray[np.intp], order: NDArray[np.intp]) -> Mask:
    """Return which pixels stay when each is removed in order unless that would change the shape [len(index)].

    Whether a pixel stays depends on its earlier neighbours alone, so that any consistent assignment is the outcome
    of the sequence. It is found from the guess that none stays, by updating the later neighbours of what changed.
    """
    steps = [down * padded.shape[1] + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
    turns = np.full(padded.size, -1, dtype=np.int32)
    own = np.empty(len(index), dtype=np.int32)
    own[order] = np.arange(len(index), dtype=np.int32)
    turns[index] = own
    later, earlier, stays = (np.zeros(padded.size, dtype=np.int16) for _ in range(3))
    seen = np.zeros(padded.size, dtype=np.int32)
    others = [turns[index + step] for step in steps]
    later[index] = sum((other >= own).astype(np.int16) << bit for bit, other in enumerate(others))
    present = sum((other >= 0).astype(np.int16) << bit for bit, other in enumerate(others))
    earlier[index] = present & ~later[index]
    stays[index] = _table()[later[index]]
    changed = index[stays[index] > 0]
    while len(changed):
        near = [changed - step for step in steps]
        again = np.concatenate([p[(earlier[p] >> bit & 1) > 0] for bit, p in enumerate(near)])
        seen[again] = np.arange(len(again), dtype=np.int32)
        again = again[seen[again] == np.arange(len(again))]
        code = sum(stays[again + step] << bit for bit, step in enumerate(steps)) & earlier[again] | later[again]
        updated = _table()[code]
        changed = again[updated != stays[again]]
        stays[again] = updated
    return stays[index] > 0


@cache
def _table() -> NDArray[np.int16]:
    """Return whether the middle of a 3x3 neighbourhood stays [512]: as an end, or where removing it splits or fills."""
    around = (np.arange(512)[:, None] >> np.arange(9) & 1).reshape(-1, 3, 3)
    around[:, 1, 1] = 0
    parts = np.array([ndimage.label(p, np.ones((3, 3)))[1] for p in around])
    return ((parts != 1) | (around.sum((1, 2)) < 2)).astype(np.int16)
