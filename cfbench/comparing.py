"""Paired comparisons of methods in a column, many pairs at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from .batches import NUMBERS, estimates, intervals
from .contract import Column
from .samples import Estimate, Resamples, Sample, loss

__all__ = ["Comparison", "compare", "holm"]

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
    """Pairs of methods in one column (all, if not said which), with Holm's correction over those that have a p."""
    asked = list(combinations(samples, 2) if which is None else which)
    common, size = _Common(samples, resamples), max(NUMBERS // len(resamples.seeds), 1)
    pairs: list[Comparison] = []
    for start in range(0, len(asked), size):
        some = asked[start : start + size]
        pairs += _compared(some, common.estimates(some), about)
    told = [i for i, c in enumerate(pairs) if np.isfinite(c.p)]
    for i, p in zip(told, holm(np.array([pairs[i].p for i in told])), strict=True):
        pairs[i] = replace(pairs[i], holm=float(p))
    return tuple(pairs)


class _Common:
    """Estimates of samples on the questions that both of a pair have a score for."""

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
        told = dict(zip(missing, estimates(list(missing.values()), self.resamples), strict=True))
        # What is left of a pair's own questions is of no use to others.
        self.known |= {name: e for name, e in told.items() if len(name) < 3}
        told = self.known | told
        return [(told[self._name(a, b)], told[self._name(b, a)]) for a, b in pairs]

    def _name(self, a: str, b: str) -> tuple[object, ...]:
        """What an estimate of a beside b depends on."""
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
    pairs: Sequence[tuple[str, str]], told: Sequence[tuple[Estimate, Estimate]], about: Column
) -> list[Comparison]:
    found: dict[int, Comparison] = {}
    rows = [min(len(a.replicates), len(b.replicates)) for a, b in told]
    for number in set(rows):
        members = [i for i, n in enumerate(rows) if n == number]
        some = _differing([pairs[i] for i in members], [told[i] for i in members], number, about)
        found |= zip(members, some, strict=True)
    return [found[i] for i in range(len(pairs))]


def _differing(
    pairs: Sequence[tuple[str, str]], told: Sequence[tuple[Estimate, Estimate]], rows: int, about: Column
) -> list[Comparison]:
    """Comparisons of pairs that share so many replicates."""
    sign = -1.0 if about.direction == "higher" else 1.0
    a, b = (np.array([both[side].value for both in told]) for side in (0, 1))
    values = sign * (loss(a, about) - loss(b, about))
    a, b = (np.stack([both[side].replicates[:rows] for both in told]) for side in (0, 1))
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
