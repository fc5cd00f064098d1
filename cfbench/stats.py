"""Intervals, comparisons and ranks from one bootstrap that all methods share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from .contract import Column
from .rng import derive

__all__ = [
    "REPLICATES",
    "Comparison",
    "Estimate",
    "Resamples",
    "Sample",
    "compare",
    "draw",
    "drawn",
    "estimate",
    "holm",
    "ranks",
    "resample_rows",
    "surely_better",
]

REPLICATES = 1000
LEVEL = 0.95
DETECTABLE = 1.95996 + 0.84162
"""Standard errors in the smallest difference that a two-sided 5 % test finds with 80 % power."""


MANY, FEWER = 10_000, 4096
"""Factuals from which on a resample for a set score draws fewer, and how many."""


def _counts(plan_key: str, factuals: int, r: int, size: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(derive(plan_key, "factuals", r))
    return np.bincount(rng.integers(factuals, size=size or factuals), minlength=factuals)


def drawn(factuals: int) -> int:
    """How many factuals a resample for a set score draws: all, of more than 10,000 only 4,096."""
    return factuals if factuals <= MANY else FEWER


@dataclass(frozen=True)
class Resamples:
    """How often each factual is drawn in each replicate, counts [R, N], and which seeds are, [R, S]."""

    counts: np.ndarray
    seeds: np.ndarray


def draw(plan_key: str, factuals: int, seeds: int, replicates: int = REPLICATES) -> Resamples:
    """The resamples of a plan: the same for every method, and replicate r the same whatever ``replicates`` is."""
    counts = np.empty((replicates, factuals))
    for r in range(replicates):
        counts[r] = _counts(plan_key, factuals, r)
    rng = np.random.default_rng(derive(plan_key, "seeds"))
    return Resamples(counts, rng.integers(seeds, size=(replicates, seeds)))


def resample_rows(plan_key: str, factual_ids: np.ndarray, r: int, *, factuals: int) -> np.ndarray:
    """The rows of replicate r, int64: each question [Q] as often as its factual (0..N-1) was drawn among ``factuals``.

    As many are drawn as `drawn` says. Questions that were left out (no finite answer) are simply absent from
    ``factual_ids``.
    """
    ids = np.asarray(factual_ids, dtype=np.int64)
    return np.repeat(np.arange(len(ids)), _counts(plan_key, factuals, r, drawn(factuals))[ids])


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


def _mean(x: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the finite entries, NaN where there is none."""
    ok = np.isfinite(x)
    count = ok.sum(axis)
    total = np.where(ok, x, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    ok = replicates[np.isfinite(replicates)]
    if len(ok) < 2 or 2 * len(ok) < len(replicates):
        return np.nan, np.nan
    low, high = np.percentile(ok, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _by_seed(s: Sample, resamples: Resamples) -> np.ndarray:
    """Replicates of each seed [R, S], training held fixed."""
    if s.kind == "image" and s.values is not None and s.factual is not None:
        ok = np.isfinite(s.values)
        cells = np.zeros((2 * len(s.values), resamples.counts.shape[1]))
        for row, x in zip(cells, np.concatenate([np.where(ok, s.values, 0.0), ok]), strict=True):
            row += np.bincount(s.factual, x, minlength=len(row))
        total, weight = np.split(resamples.counts @ cells.T, 2, axis=1)
        return np.where(weight > 0, total / np.maximum(weight, 1), np.nan)
    if s.kind == "set" and s.values is not None and s.values.shape[1] > 1:
        # Rows that occur twice shrink a resample's spread, so FID and KID of a resample are too high by about
        # the same amount in each: the replicates tell how far the score varies, not where it lies.
        return (s.values - _mean(s.values, 1)[:, None] + s.points[:, None]).T
    return np.broadcast_to(s.points, (len(resamples.seeds), len(s.points)))


def _points(s: Sample) -> np.ndarray:
    return _mean(s.values, 1) if s.kind == "image" and s.values is not None else s.points


def _varies(s: Sample) -> bool:
    return len(s.points) > 1 or (s.kind != "cell" and s.values is not None and s.values.shape[1] > 1)


def estimate(s: Sample, resamples: Resamples, about: Column | None = None) -> Estimate:
    """The mean over seeds with an interval from factuals and seeds, both resampled.

    Per-image scores are weighted by how often their factual was drawn (all questions about a factual together);
    what is NaN leaves with its weight. With S seeds the spread between trainings is understated by about
    sqrt((S - 1) / S), as with every bootstrap of few units. The interval is cut to the column's range.
    """
    training = len(s.points) > 1
    value = float(_mean(_points(s)))
    if not _varies(s):
        return Estimate(value, np.nan, np.nan, np.full(len(resamples.seeds), np.nan), training)
    by_seed = _by_seed(s, resamples)
    seeds = resamples.seeds[: len(by_seed)] if training else np.zeros((len(by_seed), 1), dtype=np.int64)
    replicates = _mean(np.take_along_axis(by_seed, seeds, axis=1), 1)
    low, high = _interval(replicates)
    if about is not None and about.low is not None:
        low = max(low, min(about.low, value))
    if about is not None and about.high is not None:
        high = min(high, max(about.high, value))
    return Estimate(value, low, high, replicates, training)


def _loss(x: np.ndarray, about: Column) -> np.ndarray:
    """Turn scores so that lower is better: with a target, the distance of the mean score from it."""
    if about.direction == "target":
        return np.abs(x - (about.target or 0.0))
    return -x if about.direction == "higher" else x


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same resamples and on the questions that both have a score for.

    ``difference`` is first minus second (of the distances to the target, where the column has one) with its 95 %
    interval; ``p`` is two-sided and no smaller than 2 / (R + 1); ``holm`` is p corrected over all pairs;
    ``detectable`` is the smallest difference that 80 % of such comparisons would find. ``better`` is empty in a
    tie: when the interval of the difference holds 0.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    holm: float
    detectable: float
    better: str

    @property
    def tie(self) -> bool:
        return not self.better


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [K] after Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def _common(a: Sample, b: Sample) -> tuple[Sample, Sample]:
    if a.kind != "image" or a.values is None or b.values is None:
        return a, b
    both = np.isfinite(a.values) & np.isfinite(b.values)
    return (
        replace(a, values=np.where(both, a.values, np.nan), points=np.broadcast_to(a.points, len(both))),
        replace(b, values=np.where(both, b.values, np.nan), points=np.broadcast_to(b.points, len(both))),
    )


def _pair(first: str, second: str, samples: Mapping[str, Sample], resamples: Resamples, about: Column) -> Comparison:
    a, b = (estimate(s, resamples) for s in _common(samples[first], samples[second]))
    rows = min(len(a.replicates), len(b.replicates))
    sign = -1.0 if about.direction == "higher" else 1.0
    value = sign * float(_loss(np.array(a.value), about) - _loss(np.array(b.value), about))
    spread = sign * (_loss(a.replicates[:rows], about) - _loss(b.replicates[:rows], about))
    spread = spread[np.isfinite(spread)]
    low, high = _interval(spread)
    tail = min((spread <= 0).sum(), (spread >= 0).sum())
    p = min(1.0, 2 * float(tail + 1) / (len(spread) + 1)) if len(spread) else np.nan
    ahead = "" if not (low > 0 or high < 0) or about.direction == "none" else (first if sign * value < 0 else second)
    detectable = DETECTABLE * float(np.std(spread)) if len(spread) else np.nan
    return Comparison(first, second, value, low, high, p, p, detectable, ahead)


def compare(
    samples: Mapping[str, Sample],
    resamples: Resamples,
    about: Column,
    which: Iterable[tuple[str, str]] | None = None,
) -> tuple[Comparison, ...]:
    """Pairs of methods in one column (all, if not said which), with Holm's correction over those that have a p."""
    asked = combinations(samples, 2) if which is None else which
    pairs = [_pair(a, b, samples, resamples, about) for a, b in asked]
    told = [i for i, c in enumerate(pairs) if np.isfinite(c.p)]
    for i, p in zip(told, holm(np.array([pairs[i].p for i in told])), strict=True):
        pairs[i] = replace(pairs[i], holm=float(p))
    return tuple(pairs)


def _charged(samples: Mapping[str, Sample], about: Column) -> dict[str, Sample]:
    """Samples in which each missing answer to a question that another method answered counts as the worst seen.

    So a method gains nothing by leaving out what it cannot do. With a target, the worst lies on the side of the
    target on which the method already is.
    """
    stacks = [s.values for s in samples.values() if s.kind == "image" and s.values is not None]
    if not stacks or not np.isfinite(np.concatenate(stacks)).any():
        return dict(samples)
    everything = np.concatenate(stacks)
    scored = np.isfinite(everything).any(0)
    top, bottom = float(np.nanmax(everything)), float(np.nanmin(everything))

    def charge(s: Sample) -> Sample:
        if s.values is None or not np.isfinite(s.values).any():
            return s
        worst = top if about.direction == "lower" else bottom
        if about.direction == "target":
            target = about.target or 0.0
            worst = max(top, target) if float(_mean(_points(s))) >= target else min(bottom, target)
        return replace(s, values=np.where(~np.isfinite(s.values) & scored, worst, s.values))

    return {name: charge(s) for name, s in samples.items()}


def surely_better(
    samples: Mapping[str, Sample], resamples: Resamples, about: Column, level: float = LEVEL
) -> set[tuple[str, str]]:
    """The pairs (better, worse) whose paired interval excludes 0.

    Unanswered questions count as the worst score seen; where only the set has a score, a method that answered
    less is never surely better. Differences below a millionth of the column's scale are none.
    """
    told = {k: estimate(s, resamples) for k, s in _charged(samples, about).items()}
    told = {k: e for k, e in told.items() if np.isfinite(e.value) and np.isfinite(e.low)}
    if about.direction == "none" or not told:
        return set()
    negligible = 1e-6 * max(abs(e.value) for e in told.values())
    if about.low is not None and about.high is not None:
        negligible = max(negligible, 1e-6 * (about.high - about.low))
    rows = min(len(e.replicates) for e in told.values())
    losses = {k: _loss(e.replicates[:rows], about) for k, e in told.items()}
    found = set()
    for a, b in combinations(told, 2):
        low, high = _interval(losses[a] - losses[b], level)
        ahead = (a, b) if high < -negligible else (b, a) if low > negligible else None
        if ahead and (samples[a].kind != "set" or samples[ahead[0]].coverage >= samples[ahead[1]].coverage):
            found.add(ahead)
    return found


def ranks(samples: Mapping[str, Sample], resamples: Resamples, about: Column) -> dict[str, tuple[int, int]]:
    """The first and last rank that each method may hold: 1 + those surely better .. all - those surely worse.

    Methods without an interval have no rank; a column without a direction ranks nobody.
    """
    better = surely_better(samples, resamples, about)
    if about.direction == "none":
        return {}
    told = [k for k, s in samples.items() if np.isfinite(estimate(s, resamples).low)]
    return {
        k: (1 + sum(worse == k for _, worse in better), len(told) - sum(ahead == k for ahead, _ in better))
        for k in told
    }
