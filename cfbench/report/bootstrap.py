"""Scores of methods in a column, and intervals of many of them at once from the shared resamples."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..contract import Column
from ..evaluation.resamples import Resamples

__all__ = [
    "LEVEL",
    "NUMBERS",
    "Estimate",
    "Sample",
    "estimate",
    "estimates",
    "finite_mean",
    "interval",
    "intervals",
    "is_resampled",
    "loss",
    "seed_points",
    "surely_below",
]


LEVEL = 0.95


@dataclass(frozen=True)
class Sample:
    """One method's scores in one column, seed by seed; NaN where there is none.

    points [S] are the scores of all questions; values are one score a question [S, Q] ("image"), replicates
    [S, R] on the shared resamples ("set") or absent ("cell"). A method that has only one seed by nature has S = 1.
    """

    kind: str
    points: np.ndarray
    values: np.ndarray | None = None
    factual: np.ndarray | None = None
    finite: int = 0
    asked: int = 0

    @property
    def coverage(self) -> float:
        return self.finite / self.asked if self.asked else 0.0


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % percentile interval (NaN where none can be given) and its replicates [R].

    ``training`` says whether the interval holds the variance between trainings: false with one seed.
    """

    value: float
    low: float
    high: float
    replicates: np.ndarray
    training: bool


def finite_mean(x: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the finite entries, NaN where there is none."""
    ok = np.isfinite(x)
    if x.size and ok.all():
        return np.asarray(x.mean(axis))
    count = ok.sum(axis)
    total = np.where(ok, x, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval; NaN where fewer than half of the replicates are finite."""
    ok = replicates[np.isfinite(replicates)]
    if len(ok) < 2 or 2 * len(ok) < len(replicates):
        return np.nan, np.nan
    low, high = np.percentile(ok, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def seed_points(s: Sample) -> np.ndarray:
    """The score of each seed [S]."""
    return finite_mean(s.values, 1) if s.kind == "image" and s.values is not None else s.points


def is_resampled(s: Sample) -> bool:
    """Whether there is anything to resample: several seeds, questions or replicates."""
    return len(s.points) > 1 or (s.kind != "cell" and s.values is not None and s.values.shape[1] > 1)


def loss(x: np.ndarray, about: Column) -> np.ndarray:
    """Turn scores so that lower is better: with a target, the distance of the mean score from it."""
    if about.direction == "target":
        return np.abs(x - (about.target or 0.0))
    return -x if about.direction == "higher" else x


Items = TypeVar("Items", list[int], np.ndarray)


NUMBERS = 2**17
"""Numbers that are computed at once: what caches hold."""
KERNEL = 24
"""Rows of a matrix product come in multiples of this, as a remainder would be rounded in another way."""
SPLIT = 8
"""Blocks of rows that a block is split into."""


def estimate(s: Sample, resamples: Resamples, about: Column | None = None) -> Estimate:
    """The mean over seeds with an interval from factuals and seeds, both resampled.

    Per-image scores are weighted by how often their factual was drawn (all questions about a factual together);
    those that are NaN have no weight. With S seeds the spread between trainings is understated by about
    sqrt((S - 1) / S), as with every bootstrap of few units. The interval is clipped to the column's range.
    """
    return estimates([s], resamples, about)[0]


def estimates(samples: Sequence[Sample], resamples: Resamples, about: Column | None = None) -> list[Estimate]:
    """`estimate` of each sample, samples of the same shape together."""
    found: list[Estimate | None] = [None] * len(samples)
    groups: dict[Hashable, list[int]] = {}
    for i, s in enumerate(samples):
        groups.setdefault(_shape(s), []).append(i)
    for members in groups.values():
        each = len(resamples.seeds) * (len(samples[members[0]].points) + 1)
        for some in _split(members, max(NUMBERS // each, 1)):
            for i, e in zip(some, _estimates([samples[i] for i in some], resamples, about), strict=True):
                found[i] = e
    return [e for e in found if e is not None]


def _shape(s: Sample) -> Hashable:
    """What samples that are computed together have in common."""
    if s.values is None:
        return s.kind, len(s.points)
    # The order in memory is the order of summation, on which the last digits depend.
    return s.kind, s.values.shape, s.values.flags.c_contiguous, id(s.factual)


def _split(items: Items, size: int) -> Iterator[Items]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _estimates(samples: list[Sample], resamples: Resamples, about: Column | None) -> list[Estimate]:
    first, every = samples[0], _points(samples)
    values, training = finite_mean(every, 1).tolist(), len(first.points) > 1
    if not is_resampled(first):
        none = np.full(len(resamples.seeds), np.nan)
        return [Estimate(value, np.nan, np.nan, none, training) for value in values]
    replicates = _replicates(_by_seed(samples, every, resamples), resamples, training)
    clipped = [_clip(*ends, value, about) for ends, value in zip(intervals(replicates), values, strict=True)]
    return [Estimate(v, *ends, r, training) for v, ends, r in zip(values, clipped, replicates, strict=True)]


def _points(samples: list[Sample]) -> np.ndarray:
    """The score of each seed [K, S]."""
    first = samples[0]
    if first.kind != "image" or first.values is None:
        return np.stack([s.points for s in samples])
    if first.values.flags.c_contiguous:
        return finite_mean(np.stack([s.values for s in samples if s.values is not None]), 2)
    return finite_mean(np.stack([s.values.T for s in samples if s.values is not None]), 1)


def _by_seed(samples: list[Sample], every: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Replicates of each seed [K, S, R], training held fixed."""
    first = samples[0]
    if first.kind == "image" and first.values is not None and first.factual is not None:
        values = np.stack([s.values for s in samples if s.values is not None])  # [K, S, Q]
        return _weighted(values, first.factual, resamples.counts)
    if first.kind == "set" and first.values is not None and first.values.shape[1] > 1:
        values = np.stack([s.values for s in samples if s.values is not None])  # [K, S, R]
        # Rows that occur twice shrink a resample's spread, so FID and KID of a resample are too high by about
        # the same amount in each: the replicates tell how far the score varies, not where it lies.
        return values - finite_mean(values, 2)[:, :, None] + every[:, :, None]
    return np.repeat(every[:, :, None], len(resamples.seeds), axis=2)


def _weighted(values: np.ndarray, factual: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means [K, S, R] of values [K, S, Q], each as often as its factual was drawn."""
    ok = np.isfinite(values)
    scored, known = (values, ok[:1, :1]) if ok.all() else (np.where(ok, values, 0.0), ok)
    number, questions = values.shape[0] * values.shape[1], values.shape[2]
    rows = np.concatenate([scored.reshape(-1, questions), known.reshape(-1, questions)])
    cells = np.zeros((-len(rows) // KERNEL * -KERNEL, counts.shape[1]))
    cells[: len(rows)] = _by_factual(rows, factual, counts.shape[1])
    total, weight, _ = np.split(cells @ counts.T, [number, len(rows)])
    total, weight = total.reshape(*values.shape[:2], -1), weight.reshape(*known.shape[:2], -1)
    return total / weight if (weight > 0).all() else np.where(weight > 0, total / np.maximum(weight, 1), np.nan)


def _by_factual(x: np.ndarray, factual: np.ndarray, factuals: int) -> np.ndarray:
    """The sums of x [..., Q] over the questions about each factual: [..., N]."""
    cells = np.zeros((*x.shape[:-1], factuals))
    if len(factual) == len(np.unique(factual)):
        cells[..., factual] = x
        return cells
    for row, scores in zip(cells.reshape(-1, factuals), x.reshape(-1, x.shape[-1]), strict=True):
        row += np.bincount(factual, scores, minlength=factuals)
    return cells


def _replicates(by_seed: np.ndarray, resamples: Resamples, training: bool) -> np.ndarray:
    """The means [K, R] over the seeds that each replicate draws, of [K, S, R]."""
    if not training:
        return np.where(np.isfinite(by_seed[:, 0]), by_seed[:, 0], np.nan)
    number, _, replicates = by_seed.shape
    index = resamples.seeds[:replicates].T * replicates + np.arange(replicates)  # [S, R]
    return finite_mean(by_seed.reshape(number, -1).take(index, axis=1), 1)


def intervals(replicates: np.ndarray, level: float = LEVEL) -> list[tuple[float, float]]:
    """`interval` of each row of [K, R]."""
    ok = np.isfinite(replicates)
    if ok.all() and replicates.shape[1] > 1:
        low, high = np.percentile(replicates, [50 * (1 - level), 50 * (1 + level)], axis=1)
        return list(zip(low.tolist(), high.tolist(), strict=True))
    count, ends = ok.sum(1), np.full((2, len(replicates)), np.nan)
    for number in np.unique(count[(count > 1) & (2 * count >= replicates.shape[1])]):
        rows = (count == number).nonzero()[0]
        known = replicates[rows][ok[rows]].reshape(len(rows), number)
        ends[:, rows] = np.percentile(known, [50 * (1 - level), 50 * (1 + level)], axis=1)
    return list(zip(*ends.tolist(), strict=True))


def _clip(low: float, high: float, value: float, about: Column | None) -> tuple[float, float]:
    if about is not None and about.low is not None:
        low = max(low, min(about.low, value))
    if about is not None and about.high is not None:
        high = min(high, max(about.high, value))
    return low, high


def surely_below(losses: np.ndarray, negligible: float, level: float) -> np.ndarray:
    """Whether the interval of the difference of losses [K, R] lies below -negligible, for each pair of rows: [K, K]."""
    ok = np.isfinite(losses)
    if ok.all():
        return _sure(losses, losses, negligible, level)
    better = np.zeros((len(losses), len(losses)), dtype=bool)
    # Methods that have a score in the same resamples are compared together.
    _, kinds, kind = np.unique(np.packbits(ok, axis=1), axis=0, return_index=True, return_inverse=True)
    kind = kind.reshape(-1)
    for first, a in enumerate(ok[kinds]):
        for second, b in enumerate(ok[kinds]):
            rows, others, both = (kind == first).nonzero()[0], (kind == second).nonzero()[0], a & b
            if 2 * both.sum() >= len(both):
                better[np.ix_(rows, others)] = _sure(losses[rows][:, both], losses[others][:, both], negligible, level)
    return better


def _sure(losses: np.ndarray, others: np.ndarray, negligible: float, level: float) -> np.ndarray:
    """`surely_below` of losses [K, R] against others [L, R], all finite: blocks of similar rows first, then the rest.

    If even the highest loss of some rows in each replicate is surely below the lowest of others, then all of these
    are better than all of those; if not even the lowest is below the highest, none is.
    """
    width = losses.shape[1]
    if width < 2:
        return np.zeros((len(losses), len(others)), dtype=bool)
    # The upper end lies at or above the order statistic k, so k + 1 replicates or more must lie below; k + 2 suffice.
    k = int((width - 1) * (50 * (1 + level) / 100))
    part = min(4 * (width - k), width)
    rows, depth = losses.mean(1).argsort(), _depth(max(len(losses), len(others)))
    rivals = rows if others is losses else others.mean(1).argsort()
    a = _levels(losses[rows], depth)
    b = a if others is losses else _levels(others[rivals], depth)
    better = np.zeros((1, 1), dtype=bool)
    unknown = ~better
    for (low, high), (least, most) in zip(reversed(a), reversed(b), strict=True):
        better, unknown = (_refined(x, len(low), len(least)) for x in (better, unknown))
        i, j = unknown.nonzero()
        # Most pairs of which none is better miss too often in the first replicates already.
        possible = part - _below(low[:, :part], most[:, :part], i, j, negligible) < width - k
        unknown[i, j] = possible
        i, j = i[possible], j[possible]
        often = _below(high, least, i, j, negligible)
        most_often = often if low is high else _below(low, most, i, j, negligible)
        better[i, j] = often > k + 1
        unknown[i, j] = (often <= k + 1) & (most_often > k)
    i, j = unknown.nonzero()
    better[i, j] = _ends(a[0][0], b[0][0], i, j, level) < -negligible
    found = np.empty_like(better)
    found[np.ix_(rows, rivals)] = better
    return found


def _depth(number: int) -> int:
    """How often a block of so many rows is split until it holds one."""
    return next(depth for depth in range(64) if SPLIT**depth >= number)


def _levels(x: np.ndarray, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The lowest and the highest row of blocks of 1, SPLIT, SPLIT², ... rows of x [K, R]."""
    levels = [(x, x)]
    for _ in range(depth):
        low, high = levels[-1]
        starts = np.arange(0, len(low), SPLIT)
        levels.append((np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)))
    return levels


def _refined(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """What is known of blocks, for the smaller ones in them."""
    return np.repeat(np.repeat(x, SPLIT, axis=0)[:rows], SPLIT, axis=1)[:, :columns]


def _below(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray, negligible: float) -> np.ndarray:
    """In how many replicates row i of a [K, R] is clearly below row j of b [L, R], for each of some pairs."""
    found = np.zeros(len(i), dtype=np.int64)
    for some in _split(np.arange(len(i)), max(NUMBERS // a.shape[1], 1)):
        less = a[i[some]] - b[j[some]] < -negligible
        found[some] = less.view(np.uint8).sum(1, dtype=np.uint32)
    return found


def _ends(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray, level: float) -> np.ndarray:
    """The upper end of the interval of row i of a less row j of b, for each of some pairs."""
    found = np.zeros(len(i))
    for some in _split(np.arange(len(i)), max(NUMBERS // a.shape[1], 1)):
        found[some] = [high for _, high in intervals(a[i[some]] - b[j[some]], level)]
    return found
