"""Intervals of many samples of a column at once, and which of them are surely better than which."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from .contract import Column
from .samples import LEVEL, Estimate, Resamples, Sample, interval, mean, varies

__all__ = ["estimate", "estimates", "sure"]

NUMBERS = 2**17
"""Numbers of replicates that are worked on at once: what caches hold."""


def estimate(s: Sample, resamples: Resamples, about: Column | None = None) -> Estimate:
    """The mean over seeds with an interval from factuals and seeds, both resampled.

    Per-image scores are weighted by how often their factual was drawn (all questions about a factual together);
    what is NaN leaves with its weight. With S seeds the spread between trainings is understated by about
    sqrt((S - 1) / S), as with every bootstrap of few units. The interval is cut to the column's range.
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
            for i, told in zip(some, _estimates([samples[i] for i in some], resamples, about), strict=True):
                found[i] = told
    return [e for e in found if e is not None]


def _shape(s: Sample) -> Hashable:
    """What samples that are worked on together have in common."""
    if s.values is None:
        return s.kind, len(s.points)
    # The order in memory is the order of summation, on which the last digits depend.
    return s.kind, s.values.shape, s.values.flags.c_contiguous, id(s.factual)


def _split(items: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _estimates(samples: list[Sample], resamples: Resamples, about: Column | None) -> list[Estimate]:
    first, every = samples[0], _points(samples)
    values, training = mean(every, 1).tolist(), len(first.points) > 1
    if not varies(first):
        none = np.full(len(resamples.seeds), np.nan)
        return [Estimate(value, np.nan, np.nan, none, training) for value in values]
    replicates = _replicates(_by_seed(samples, every, resamples), resamples, training)
    cut = [_cut(*ends, value, about) for ends, value in zip(_intervals(replicates), values, strict=True)]
    return [Estimate(v, *ends, r, training) for v, ends, r in zip(values, cut, replicates, strict=True)]


def _points(samples: list[Sample]) -> np.ndarray:
    """The score of each seed [K, S]."""
    first = samples[0]
    if first.kind != "image" or first.values is None:
        return np.stack([s.points for s in samples])
    if first.values.flags.c_contiguous:
        return mean(np.stack([s.values for s in samples if s.values is not None]), 2)
    return mean(np.stack([s.values.T for s in samples if s.values is not None]), 1)


def _by_seed(samples: list[Sample], every: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Replicates of each seed [K, S, R], training held fixed."""
    first = samples[0]
    if first.kind == "image" and first.values is not None and first.factual is not None:
        values = np.stack([s.values for s in samples if s.values is not None])  # [K, S, Q]
        ok, counts = np.isfinite(values), resamples.counts
        cells = _by_factual(np.stack([np.where(ok, values, 0.0), ok]), first.factual, counts.shape[1])
        # One product of two dimensions, whatever the number of samples: another kernel would round in another way.
        total, weight = (cells.reshape(-1, counts.shape[1]) @ counts.T).reshape(*cells.shape[:3], -1)
        return np.where(weight > 0, total / np.maximum(weight, 1), np.nan)
    if first.kind == "set" and first.values is not None and first.values.shape[1] > 1:
        values = np.stack([s.values for s in samples if s.values is not None])  # [K, S, R]
        # Rows that occur twice shrink a resample's spread, so FID and KID of a resample are too high by about
        # the same amount in each: the replicates tell how far the score varies, not where it lies.
        return values - mean(values, 2)[:, :, None] + every[:, :, None]
    return np.repeat(every[:, :, None], len(resamples.seeds), axis=2)


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
    drawn = resamples.seeds[: by_seed.shape[2]]  # [R, S]
    return mean(np.ascontiguousarray(by_seed[:, drawn, np.arange(len(drawn))[:, None]]), 2)


def _intervals(replicates: np.ndarray, level: float = LEVEL) -> list[tuple[float, float]]:
    """`interval` of each row of [K, R]."""
    ok = np.isfinite(replicates)
    count, ends = ok.sum(1), np.full((2, len(replicates)), np.nan)
    for number in np.unique(count[(count > 1) & (2 * count >= replicates.shape[1])]):
        rows = (count == number).nonzero()[0]
        known = replicates[rows][ok[rows]].reshape(len(rows), number)
        ends[:, rows] = np.percentile(known, [50 * (1 - level), 50 * (1 + level)], axis=1)
    return list(zip(*ends.tolist(), strict=True))


def _cut(low: float, high: float, value: float, about: Column | None) -> tuple[float, float]:
    if about is not None and about.low is not None:
        low = max(low, min(about.low, value))
    if about is not None and about.high is not None:
        high = min(high, max(about.high, value))
    return low, high


def sure(losses: np.ndarray, negligible: float, level: float) -> np.ndarray:
    """Whether the interval of the difference of losses [K, R] lies below -negligible, for each pair of rows: [K, K]."""
    ok = np.isfinite(losses)
    if ok.all():
        return _sure(losses, losses, negligible, level)
    better = np.zeros((len(losses), len(losses)), dtype=bool)
    # Where resamples leave both without a score, the rest is told as a whole.
    kinds, kind = np.unique(ok, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    for first, a in enumerate(kinds):
        for second, b in enumerate(kinds):
            rows, others, both = (kind == first).nonzero()[0], (kind == second).nonzero()[0], a & b
            if both.sum() > 1 and 2 * both.sum() >= len(both):
                better[np.ix_(rows, others)] = _sure(losses[rows][:, both], losses[others][:, both], negligible, level)
    return better


def _below(difference: np.ndarray, negligible: float, level: float) -> bool:
    return interval(difference, level)[1] < -negligible


def _sure(losses: np.ndarray, others: np.ndarray, negligible: float, level: float) -> np.ndarray:
    """`sure` of losses [K, R] against others [L, R], all finite; most pairs are told by their order statistics."""
    width = losses.shape[1]
    if width < 2:
        return np.zeros((len(losses), len(others)), dtype=bool)
    # The upper end lies at or above the order statistic k, so k + 1 replicates or more must lie below; k + 2 suffice.
    k = int((width - 1) * (50 * (1 + level) / 100))
    slack, ranked, rivals = width - k - 1, np.sort(losses, axis=1), np.sort(others, axis=1)
    better = np.subtract.outer(ranked[:, -1], rivals[:, 0]) < -negligible
    unknown = ~better
    for place in np.linspace(slack, width - 1, 33).astype(int):
        unknown &= np.subtract.outer(ranked[:, place - slack], rivals[:, place]) < -negligible
    for i in unknown.any(1).nonzero()[0]:
        against = unknown[i].nonzero()[0]
        below = np.count_nonzero(losses[i] - others[against] < -negligible, axis=1)
        better[i, against] = below >= k + 2
        for j in against[below == k + 1]:
            better[i, j] = _below(losses[i] - others[j], negligible, level)
    return better
