"""Mean thickness of a stroke by its medial axis, in the form and to the last bit of Morpho-MNIST.

Measures after Castro et al. 2019 (https://arxiv.org/abs/1809.10780), whose medial axis is that of scikit-image:
pixels are taken off in the order of their distance to the background, where the 3x3 neighbourhood allows it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["axis_distance", "box", "column_distances", "medial_axis", "square_distance"]

Mask = NDArray[np.bool_]
_FAR = np.int32(1 << 14)


def box(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of ``mask`` [H, W] that hold all it has, and ``margin`` more where there are any."""
    spans = []
    for axis, size in enumerate(mask.shape):
        found = np.flatnonzero(mask.any(1 - axis))
        spans.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, size)))
    return spans[0], spans[1]


def column_distances(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """How far up and down in its column each pixel of ``mask`` [H, W] finds a True; large where there is none."""
    rows = np.arange(len(mask), dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -_FAR), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, _FAR)[::-1], axis=0)[::-1]
    return np.minimum(rows - above, _FAR), np.minimum(below - rows, _FAR)


def square_distance(mask: Mask) -> NDArray[np.int32]:
    """Squared Euclidean distance of each pixel of ``mask`` [H, W] to the nearest False."""
    column = np.minimum(*column_distances(~mask)) ** 2
    nearest = column.copy()
    for k in range(1, mask.shape[1]):
        if k * k >= nearest.max():
            break
        shifted = column + k * k
        np.minimum(nearest[:, k:], shifted[:, :-k], out=nearest[:, k:])
        np.minimum(nearest[:, :-k], shifted[:, k:], out=nearest[:, :-k])
    return nearest


def medial_axis(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Flat places in ``mask`` [H, W] of its medial axis, and their distances to the background.

    Pixels of equal distance and as many neighbours are taken in the order that ``RandomState(0)`` gives them.
    """
    padded = np.pad(mask, 1)
    place = np.flatnonzero(padded)
    squared = np.pad(square_distance(mask), 1).ravel()[place]
    kept = _thin(padded, place, _order(padded, place, squared))
    row, column = np.divmod(place[kept], padded.shape[1])
    return (row - 1) * mask.shape[1] + column - 1, np.sqrt(squared[kept].astype(np.float64))


def axis_distance(mask: Mask) -> float:
    """Mean distance to the background over the medial axis of ``mask`` [H, W]; NaN where all or nothing is True."""
    if not mask.any() or mask.all():
        return float("nan")
    return float(np.mean(medial_axis(mask[box(mask, 1)])[1]))


def _order(padded: Mask, place: NDArray[np.intp], squared: NDArray[np.int32]) -> NDArray[np.int64]:
    """At which turn each pixel is looked at: the nearer to the background the earlier, then the less of a corner."""
    ones = padded.astype(np.uint8)
    ones[1:-1] = ones[:-2] + ones[1:-1] + ones[2:]
    ones[:, 1:-1] = ones[:, :-2] + ones[:, 1:-1] + ones[:, 2:]
    corner = 9 - ones.ravel()[place].astype(np.int64)
    tie = np.random.RandomState(0).permutation(len(place))
    turn = np.empty(len(place), dtype=np.int64)
    turn[np.argsort((squared.astype(np.int64) * 16 + corner) * len(place) + tie)] = np.arange(len(place))
    return turn


def _thin(padded: Mask, place: NDArray[np.intp], turn: NDArray[np.int64]) -> Mask:
    """Which pixels stay when each is taken off at its turn unless that would change the shape [len(place)].

    A pixel's fate depends on those of its earlier neighbours alone, so that any consistent set of fates is the
    outcome of the sequence. It is found from the guess that all go, by looking again at what a change concerns.
    """
    steps = [row * padded.shape[1] + column for row in (-1, 0, 1) for column in (-1, 0, 1)]
    turns = np.full(padded.size, -1)
    turns[place] = turn
    later, earlier = (np.zeros(padded.size, dtype=np.int16) for _ in range(2))
    for bit, step in enumerate(steps):
        other = turns[place + step]
        later[place] |= (other >= turn).astype(np.int16) << bit
        earlier[place] |= ((other >= 0) & (other < turn)).astype(np.int16) << bit
    stays = np.zeros(padded.size, dtype=np.int16)
    stays[place] = _table()[later[place]]
    changed, seen = place[stays[place] > 0], np.zeros(padded.size, dtype=np.intp)
    while len(changed):
        near = [changed - step for step in steps]
        again = np.concatenate([p[(earlier[p] >> bit & 1) > 0] for bit, p in enumerate(near)])
        seen[again] = np.arange(len(again))
        again = again[seen[again] == np.arange(len(again))]
        code = sum(stays[again + step] << bit for bit, step in enumerate(steps)) & earlier[again] | later[again]
        fate = _table()[code]
        changed = again[fate != stays[again]]
        stays[again] = fate
    return stays[place] > 0


@cache
def _table() -> NDArray[np.int16]:
    """Whether the middle of a 3x3 neighbourhood stays [512]: as an end, or where taking it off splits or fills."""
    around = (np.arange(512)[:, None] >> np.arange(9) & 1).reshape(-1, 3, 3)
    around[:, 1, 1] = 0
    parts = np.array([ndimage.label(p, np.ones((3, 3)))[1] for p in around])
    return ((parts != 1) | (around.sum((1, 2)) < 2)).astype(np.int16)
