"""Paired comparisons of methods in a column, and the ranks that each may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ..contract import Column
from ..evaluation.resamples import Resamples
from .bootstrap import (
    LEVEL,
    NUMBERS,
    Estimate,
    Sample,
    estimates,
    finite_mean,
    intervals,
    loss,
    seed_points,
    surely_below,
)

__all__ = ["Comparison", "compare", "holm", "ranks", "surely_better"]


DETECTABLE = 1.95996 + 0.84162
"""Standard errors in the smallest difference that a two-sided 5 % test finds with 80 % power."""


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


def compare(
    samples: Mapping[str, Sample],
    resamples: Resamples,
    about: Column,
    which: Iterable[tuple[str, str]] | None = None,
) -> tuple[Comparison, ...]:
    """Pairs of methods in one column (by default all), with Holm's correction over those that have a p."""
    asked = list(combinations(samples, 2) if which is None else which)
    common, size = _PairEstimates(samples, resamples), max(NUMBERS // len(resamples.seeds), 1)
    pairs: list[Comparison] = []
    for start in range(0, len(asked), size):
        some = asked[start : start + size]
        pairs += _compared(some, common.estimates(some), about)
    tested = [i for i, c in enumerate(pairs) if np.isfinite(c.p)]
    for i, p in zip(tested, holm(np.array([pairs[i].p for i in tested])), strict=True):
        pairs[i] = replace(pairs[i], holm=float(p))
    return tuple(pairs)


class _PairEstimates:
    """Estimates of samples on the questions that both methods of a pair have a score for."""

    def __init__(self, samples: Mapping[str, Sample], resamples: Resamples) -> None:
        self.samples, self.resamples = samples, resamples
        images = {k: s.values for k, s in samples.items() if s.kind == "image" and s.values is not None}
        self.scored = {k: np.isfinite(values) for k, values in images.items()}
        self.full = {k for k, ok in self.scored.items() if ok.all()}
        self.known: dict[tuple[object, ...], Estimate] = {}

    def estimates(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Estimate, Estimate]]:
        """The estimates of the first and the second of each pair."""
        wanted = {self._name(a, b): (a, b) for pair in pairs for a, b in (pair, pair[::-1])}
        missing = {name: self._sample(*of) for name, of in wanted.items() if name not in self.known}
        estimated = dict(zip(missing, estimates(list(missing.values()), self.resamples), strict=True))
        # An estimate on the questions that one pair shares serves no other pair.
        self.known |= {name: e for name, e in estimated.items() if len(name) < 3}
        estimated = self.known | estimated
        return [(estimated[self._name(a, b)], estimated[self._name(b, a)]) for a, b in pairs]

    def _name(self, a: str, b: str) -> tuple[object, ...]:
        """What the estimate of a in a pair with b depends on."""
        if a not in self.scored or b not in self.scored:
            return (a,)
        if a in self.full and b in self.full:
            return a, max(len(self.scored[a]), len(self.scored[b]))
        both = self.scored[a] & self.scored[b]
        return a, len(both), both.tobytes()

    def _sample(self, a: str, b: str) -> Sample:
        s = self.samples[a]
        if s.values is None or a not in self.scored or b not in self.scored:
            return s
        both = self.scored[a] & self.scored[b]
        points = np.broadcast_to(s.points, len(both))
        return replace(s, values=np.where(both, s.values, np.nan), points=points)


def _compared(
    pairs: Sequence[tuple[str, str]], estimated: Sequence[tuple[Estimate, Estimate]], about: Column
) -> list[Comparison]:
    found: dict[int, Comparison] = {}
    rows = [min(len(a.replicates), len(b.replicates)) for a, b in estimated]
    for number in set(rows):
        members = [i for i, n in enumerate(rows) if n == number]
        some = _comparisons([pairs[i] for i in members], [estimated[i] for i in members], number, about)
        found |= zip(members, some, strict=True)
    return [found[i] for i in range(len(pairs))]


def _comparisons(
    pairs: Sequence[tuple[str, str]], estimated: Sequence[tuple[Estimate, Estimate]], rows: int, about: Column
) -> list[Comparison]:
    """Comparisons of pairs whose estimates have at least ``rows`` replicates."""
    sign = -1.0 if about.direction == "higher" else 1.0
    a, b = (np.array([both[side].value for both in estimated]) for side in (0, 1))
    values = sign * (loss(a, about) - loss(b, about))
    a, b = (np.stack([both[side].replicates[:rows] for both in estimated]) for side in (0, 1))
    spread = sign * (loss(a, about) - loss(b, about))
    spread = np.where(np.isfinite(spread), spread, np.nan)  # [P, R]
    tails = np.minimum((spread <= 0).sum(1), (spread >= 0).sum(1))
    found = zip(pairs, values.tolist(), intervals(spread), tails.tolist(), spread, strict=True)
    return [_comparison(*pair, sign, about, value, ends, tail, x) for pair, value, ends, tail, x in found]


def _comparison(
    first: str,
    second: str,
    sign: float,
    about: Column,
    value: float,
    ends: tuple[float, float],
    tail: int,
    spread: np.ndarray,
) -> Comparison:
    low, high = ends
    spread = spread[np.isfinite(spread)]
    p = min(1.0, 2 * float(tail + 1) / (len(spread) + 1)) if len(spread) else np.nan
    ahead = "" if not (low > 0 or high < 0) or about.direction == "none" else (first if sign * value < 0 else second)
    detectable = DETECTABLE * float(np.std(spread)) if len(spread) else np.nan
    return Comparison(first, second, value, low, high, p, p, detectable, ahead)


def _penalised(samples: Mapping[str, Sample], about: Column) -> dict[str, Sample]:
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

    def penalise(s: Sample) -> Sample:
        missing = None if s.values is None else ~np.isfinite(s.values)
        if s.values is None or missing is None or missing.all() or not (missing & scored).any():
            return s
        worst = top if about.direction == "lower" else bottom
        if about.direction == "target":
            target = about.target or 0.0
            worst = max(top, target) if float(finite_mean(seed_points(s))) >= target else min(bottom, target)
        return replace(s, values=np.where(missing & scored, worst, s.values))

    return {name: penalise(s) for name, s in samples.items()}


def surely_better(
    samples: Mapping[str, Sample], resamples: Resamples, about: Column, level: float = LEVEL
) -> set[tuple[str, str]]:
    """The pairs (better, worse) whose paired interval excludes 0.

    Unanswered questions count as the worst score seen; where only the set has a score, a method that answered
    less is never surely better. Differences below a millionth of the column's scale are none.
    """
    estimated = dict(zip(samples, estimates(list(samples.values()), resamples), strict=True))
    names, better = _better(samples, estimated, resamples, about, level)
    return {(names[i], names[j]) for i, j in zip(*better.nonzero(), strict=True)}


def _better(
    samples: Mapping[str, Sample],
    known: Mapping[str, Estimate],
    resamples: Resamples,
    about: Column,
    level: float = LEVEL,
) -> tuple[list[str], np.ndarray]:
    """The methods that have an interval, and whether each is surely better than each: [K, K]."""
    penalised = {name: s for name, s in _penalised(samples, about).items() if s is not samples[name]}
    estimated = {name: known[name] for name in samples}
    estimated |= zip(penalised, estimates(list(penalised.values()), resamples), strict=True)
    estimated = {k: e for k, e in estimated.items() if np.isfinite(e.value) and np.isfinite(e.low)}
    names = list(estimated)
    if about.direction == "none" or not estimated:
        return names, np.zeros((len(estimated), len(estimated)), dtype=bool)
    negligible = 1e-6 * max(abs(e.value) for e in estimated.values())
    if about.low is not None and about.high is not None:
        negligible = max(negligible, 1e-6 * (about.high - about.low))
    rows = min(len(e.replicates) for e in estimated.values())
    better = surely_below(loss(np.stack([e.replicates[:rows] for e in estimated.values()]), about), negligible, level)
    coverage = np.array([samples[k].coverage for k in names])
    sets = np.array([samples[k].kind == "set" for k in names])
    return names, better & (~(sets[:, None] | sets) | np.greater_equal.outer(coverage, coverage))


def ranks(
    samples: Mapping[str, Sample],
    resamples: Resamples,
    about: Column,
    known: Mapping[str, Estimate] | None = None,
) -> dict[str, tuple[int, int]]:
    """The first and last rank that each method may hold: 1 + those surely better .. all - those surely worse.

    Methods without an interval have no rank, nor has any in a column without a direction. Estimates of the samples
    that are ``known`` are not computed again.
    """
    if about.direction == "none":
        return {}
    if known is None:
        known = dict(zip(samples, estimates(list(samples.values()), resamples), strict=True))
    names, better = _better(samples, known, resamples, about)
    ahead, behind = (dict(zip(names, better.sum(axis).tolist(), strict=True)) for axis in (0, 1))
    ranked = [k for k in samples if np.isfinite(known[k].low)]
    return {k: (1 + ahead.get(k, 0), len(ranked) - behind.get(k, 0)) for k in ranked}
