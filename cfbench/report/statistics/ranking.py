"""Which rows of a column are surely better than which: paired tests of all pairs, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import special

from ...contract import Column
from .intervals import LEVEL, critical, intervals, quantile, studentised, tail
from .samples import ColumnScores, is_binary, penalised, pooled, skewness_of

__all__ = ["Comparison", "Family", "holm", "negligible", "restricted"]

DETECTABLE = 1.95996 + 0.84162
"""Standard errors in the smallest difference that a two-sided 5 % test finds with 80 % power."""
CANCELLED = 1e-10
"""Variance of a difference, as a share of those of its terms, below which it is computed from the differences."""
TRAININGS = {True: "any training", False: "these trainings"}
STEPS = 40
"""Bisections of the logarithm of a p-value."""
LEAST = -300.0
"""The natural logarithm of the least p-value that bisection finds."""


@dataclass(frozen=True)
class Comparison:
    """Two rows of a column on the same questions, a missing answer counted as the worst score seen.

    ``difference`` is first minus second (of the distances to the target, where the column has one) with its 95 %
    interval; ``p`` is two-sided; ``holm`` is p corrected over all pairs of the column; ``detectable`` is the smallest
    difference that 80 % of such comparisons would find; ``better`` names a row where holm is at most .05. ``holds_for``
    says whether the claim is about ``any training`` of learned rows or about ``these trainings`` only.
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
    holds_for: str


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [P] after Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    steps = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def negligible(a: np.ndarray, b: np.ndarray, about: Column) -> np.ndarray:
    """The differences [P] of scores a and b [P] that are none: a millionth of the larger one, or of the range."""
    scale = np.maximum(np.abs(a), np.abs(b))
    if about.low is not None and about.high is not None:
        scale = np.maximum(scale, about.high - about.low)
    return np.asarray(1e-6 * scale)


@dataclass(frozen=True)
class _Differences:
    """Differences [P] of signed means, with the estimates of their errors."""

    value: np.ndarray
    error: np.ndarray
    skewness: np.ndarray
    units: np.ndarray
    trained: np.ndarray
    freedom: np.ndarray

    @property
    def detectable(self) -> np.ndarray:
        """The smallest differences [P] that 80 % of such comparisons would find."""
        return np.asarray(DETECTABLE * np.sqrt(self.error**2 + self.trained))

    def halves(self, alpha: float | np.ndarray, side: np.ndarray) -> np.ndarray:
        """The half width [P] of the intervals on one side: below the value where ``side`` is positive, else above."""
        chosen = np.zeros(len(self.value))
        if (self.units > 1).any():
            n = np.maximum(self.units, 2)
            chosen = self.error * critical(quantile(alpha, n - 1), side * self.skewness, n)
        return np.asarray(np.hypot(chosen, quantile(alpha, self.freedom) * np.sqrt(self.trained)))

    def p(self, slack: np.ndarray) -> np.ndarray:
        """The two-sided p-values [P] of a difference beyond ``slack``."""
        n, side, beyond = self._beyond(slack)
        p = np.where(self.error > 0, tail(self._t(beyond, side), n - 1), self._constant)
        if (several := self.trained > 0).any():
            p[several] = self.take(several)._p_by_bisection(beyond[several], side[several])
        return np.where(beyond > 0, np.minimum(p, 1.0), 1.0)

    def surpass(self, slack: np.ndarray, alpha: float) -> np.ndarray:
        """Whether these p-values are at most ``alpha``, without computing them."""
        n, side, beyond = self._beyond(slack)
        each, which = np.unique(n, return_inverse=True)
        q = quantile(alpha, each - 1)[which]
        found = np.where(self.error > 0, np.abs(self._t(beyond, side)) >= q, self._constant <= alpha)
        if (several := self.trained > 0).any():
            found[several] = self.take(several).halves(alpha, side[several]) <= beyond[several]
        return found & (beyond > 0)

    def _beyond(self, slack: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.maximum(self.units, 2), np.where(self.value < 0, -1.0, 1.0), np.abs(self.value) - slack

    def _t(self, beyond: np.ndarray, side: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return studentised(beyond / self.error, side * self.skewness, np.maximum(self.units, 2))

    @property
    def _constant(self) -> np.ndarray:
        """The p-values of units that all differ by the same: of the sign test; costs that no seed changes are known."""
        return np.where(self.units > 1, 2.0 ** (1.0 - self.units), 0.0)

    def _p_by_bisection(self, beyond: np.ndarray, side: np.ndarray) -> np.ndarray:
        """The level at which the interval of the factuals' and the trainings' errors just holds 0."""
        low, high = np.full(len(beyond), LEAST), np.zeros(len(beyond))
        for _ in range(STEPS):
            middle = (low + high) / 2
            outside = self.halves(np.exp(middle), side) < beyond
            low, high = np.where(outside, low, middle), np.where(outside, middle, high)
        return np.exp(high)

    def take(self, which: np.ndarray) -> _Differences:
        """Some of the differences, by their numbers or a mask."""
        return _Differences(**{name: value[which] for name, value in vars(self).items()})


class Family:
    """All pairs of rows of a column that are compared, and which row of a pair is surely better.

    Scores are compared question by question. One rule for tables and pairs: the p-value of the paired difference, with
    Holm's correction over the pairs, is at most .05. It is that of the skewness-corrected paired t test; where all
    scores are 0 or 1, of the exact test of McNemar (Psychometrika 12, 1947) on the factuals on which the rows differ;
    with several seeds, of the interval that holds the variance between trainings too (Welch's t). With a target, the
    row whose mean is nearer to it is better if it is so on both sides. Where only the set has a score, a row that
    answered less than another is not better.

    Args:
        scores: of the column.
        rows: the lines of each row, seeds of one method.
        about: the column.
        pairs: numbers of the rows to compare [P], [P].
        level: of the family: 1 - .95 is the chance that any row is wrongly called better.
    """

    def __init__(
        self,
        scores: ColumnScores,
        rows: Mapping[str, slice],
        about: Column,
        pairs: tuple[np.ndarray, np.ndarray],
        level: float = LEVEL,
    ) -> None:
        self.names, self.about, self.level = list(rows), about, level
        self.seeded = np.array([row.stop - row.start > 1 for row in rows.values()], dtype=bool)
        slices = list(rows.values())
        self.scores = penalised(scores, slices, about)
        self.coverage = np.array([scores.coverage(row) for row in slices])
        self.binary = is_binary(self.scores, about)
        self.rows = pooled(self.scores, slices)
        known = self.rows.known & (about.direction != "none")
        keep = known[pairs[0]] & known[pairs[1]]
        self.first, self.second = pairs[0][keep], pairs[1][keep]

    def _slack(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Differences of some pairs up to which there is none [P]."""
        return negligible(self.rows.value[i], self.rows.value[j], self.about)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the units of a b and of a² b, for the influences of each pair of rows: [K, K] each."""
        x = self.rows.influence
        return x @ x.T, np.square(x) @ x.T

    def _differences(self, i: np.ndarray, j: np.ndarray, of: np.ndarray, less: np.ndarray) -> _Differences:
        """The differences of · mean_i - less · mean_j, of signs [P] and rows [P]; means count from the target."""
        rows, (two, three) = self.rows, self._moments
        centre = (self.about.target or 0.0) if self.about.direction == "target" else 0.0
        value = of * (rows.value[i] - centre) - less * (rows.value[j] - centre)
        at, flat = i * len(two) + j, two.ravel()
        own, cube = two.diagonal(), three.diagonal()
        second = own[i] + own[j] - 2 * of * less * flat[at]
        third = of * cube[i] - less * cube[j] - 3 * less * three.ravel()[at] + 3 * of * three.ravel()[j * len(two) + i]
        if (close := second < CANCELLED * (own[i] + own[j])).any():
            apart = of[close, None] * rows.influence[i[close]] - less[close, None] * rows.influence[j[close]]
            second[close], third[close] = np.square(apart).sum(1), (apart**3).sum(1)
        n = np.maximum(rows.units[i], rows.units[j])
        error = np.sqrt(second * n / np.maximum(n - 1, 1))
        skewness = skewness_of(second, third, n)
        a, b = rows.between[i], rows.between[j]
        parts = a**2 / np.maximum(rows.seeds[i] - 1, 1) + b**2 / np.maximum(rows.seeds[j] - 1, 1)
        freedom = np.where(parts > 0, (a + b) ** 2 / np.where(parts > 0, parts, 1.0), 1.0)
        return _Differences(value, error, skewness, n, a + b, freedom)

    @cached_property
    def _losses(self) -> np.ndarray:
        """What each row loses [K]: lower is better."""
        value = self.rows.value
        if self.about.direction == "target":
            return np.abs(value - (self.about.target or 0.0))
        return -value if self.about.direction == "higher" else value

    @cached_property
    def _tested(self) -> list[_Differences]:
        """What is tested of each pair: its difference; with a target, two differences of which both must be below 0.

        These are the nearer row's distance to the target less the other's, on either side that it may lie on.
        """
        i, j, one = self.first, self.second, np.ones(len(self.first))
        if self.about.direction != "target":
            return [self._differences(i, j, one, one)]
        swap = self._losses[i] > self._losses[j]
        near, far = np.where(swap, j, i), np.where(swap, i, j)
        side = np.where(self.rows.value[far] < (self.about.target or 0.0), -1.0, 1.0)
        return [self._differences(near, far, sign * one, side) for sign in (1.0, -1.0)]

    @cached_property
    def p(self) -> np.ndarray:
        """The p-value of each pair [P]."""
        return self._p(np.arange(len(self.first)))

    def _p(self, which: np.ndarray) -> np.ndarray:
        """The p-values of some pairs, by their numbers."""
        i, j = self.first[which], self.second[which]
        tested = [d.take(which) for d in self._tested]
        if len(tested) > 1:
            return np.maximum(*(np.where(d.value < 0, d.p(self._slack(i, j)), 1.0) for d in tested))
        p = tested[0].p(self._slack(i, j))
        if not self.binary:
            return p
        exact, simple = self._mcnemar(i, j)
        return np.where(simple, exact, np.maximum(p, exact))

    def _surpass(self, alpha: float) -> np.ndarray:
        """Whether the p-value of each pair is at most ``alpha`` [P], computed where that is no detour."""
        if self.binary:
            return self.p <= alpha
        slack = self._slack(self.first, self.second)
        if len(self._tested) == 1:
            return self._tested[0].surpass(slack, alpha)
        return np.logical_and(*((d.value < 0) & d.surpass(slack, alpha) for d in self._tested))

    def _mcnemar(self, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Exact p-values [P] of the signs of the factuals' differences, and whether these have one size only [P]."""
        means = self.rows.influence + (self.rows.value / np.maximum(self.rows.units, 1))[:, None]
        p, simple = np.ones(len(i)), np.zeros(len(i), dtype=bool)
        for start in range(0, len(i), 4096):
            some = slice(start, start + 4096)
            apart = means[i[some]] - means[j[some]]
            size = np.abs(apart)
            apart = np.where(size > 1e-12, apart, 0.0)
            more, less = (apart > 0).sum(1), (apart < 0).sum(1)
            p[some] = np.minimum(1.0, 2 * special.bdtr(np.minimum(more, less), np.maximum(more + less, 1), 0.5))
            largest = size.max(1, initial=0.0)
            simple[some] = ((size < 1e-12) | (size > largest[:, None] * (1 - 1e-9))).all(1)
        return p, simple & (self.rows.between[i] == 0) & (self.rows.between[j] == 0)

    @cached_property
    def corrected(self) -> np.ndarray:
        """The p-values after Holm's correction [P]."""
        return holm(self.p)

    @cached_property
    def _significant(self) -> np.ndarray:
        """Whether Holm's procedure rejects that the rows of each pair are equal [P].

        Most pairs are decided by the least and the greatest level that it may test them at; the rest need a p-value.
        """
        alpha, number = 1 - self.level, len(self.first)
        found = self._surpass(alpha / max(number, 1))
        doubtful = (self._surpass(alpha) & ~found).nonzero()[0]
        p = self._p(doubtful)
        order = np.argsort(p, kind="stable")
        levels = alpha / (number - found.sum() - np.arange(len(order)))
        found[doubtful[order[np.logical_and.accumulate(p[order] <= levels)]]] = True
        return found

    @cached_property
    def better(self) -> np.ndarray:
        """The number of the better row of each pair, -1 in a tie [P]."""
        loss = self._losses[self.first] - self._losses[self.second]
        winner = np.where(loss < 0, self.first, self.second)
        loser = np.where(loss < 0, self.second, self.first)
        sure = self._significant & (np.abs(loss) > self._slack(self.first, self.second))
        if self.scores.kind == "set":
            sure &= self.coverage[winner] >= self.coverage[loser]
        return np.where(sure, winner, -1)

    @cached_property
    def surely_better(self) -> set[tuple[str, str]]:
        """The pairs (better, worse)."""
        other = self.first + self.second - self.better
        return {(self.names[a], self.names[b]) for a, b in zip(self.better, other, strict=True) if a >= 0}

    def ranks(self, among: np.ndarray) -> dict[str, tuple[int, int]]:
        """The first and the last rank that each row may hold: 1 + those surely better .. all - those surely worse.

        Args:
            among: the numbers of the rows that are ranked; of them those without an interval have no rank.
        """
        if self.about.direction == "none":
            return {}
        ranked = among[self.rows.known[among]]
        inside = np.isin(self.first, ranked) & np.isin(self.second, ranked) & (self.better >= 0)
        winner = self.better[inside]
        loser = (self.first + self.second)[inside] - winner
        ahead, behind = (np.bincount(x, minlength=len(self.names)) for x in (loser, winner))
        return {self.names[k]: (1 + int(ahead[k]), len(ranked) - int(behind[k])) for k in ranked}

    def comparisons(self) -> list[Comparison]:
        """Every pair in words and numbers."""
        sign = -1.0 if self.about.direction == "higher" else 1.0
        value = sign * (self._losses[self.first] - self._losses[self.second])
        low, high, detectable = self._ends(value)
        names, seeded = self.names, self.seeded[self.first] | self.seeded[self.second]
        found = zip(self.first, self.second, self.better, seeded, strict=True)
        fields = ("difference", "low", "high", "p", "holm", "detectable")
        columns = (value, low, high, self.p, self.corrected, detectable)
        numbers = [dict(zip(fields, each, strict=True)) for each in np.stack(columns, axis=1).tolist()]
        return [
            Comparison(names[i], names[j], better=names[k] if k >= 0 else "", holds_for=TRAININGS[bool(s)], **each)
            for (i, j, k, s), each in zip(found, numbers, strict=True)
        ]

    def _ends(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The interval of each difference, and the difference that could be found: [P] each."""
        alpha, one = 1 - self.level, np.ones(len(value))
        if self.about.direction == "target":
            return self._ends_of_distances(alpha)
        (d,) = self._tested
        if self.binary:
            return *self._ends_of_shares(value), d.detectable
        return value - d.halves(alpha, one), value + d.halves(alpha, -one), d.detectable

    def _ends_of_distances(self, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The hull of the intervals on both sides of the target that each row may lie on."""
        one, target = np.ones(len(self.first)), self.about.target or 0.0
        a, b = (np.where(self.rows.value[k] < target, -1.0, 1.0) for k in (self.first, self.second))
        nearer = self._losses[self.first] <= self._losses[self.second]
        tried = [(a, b), (np.where(nearer, -a, a), np.where(nearer, b, -b))]
        found = [self._differences(self.first, self.second, *signs) for signs in tried]
        low = np.minimum(*(d.value - d.halves(alpha, one) for d in found))
        high = np.maximum(*(d.value + d.halves(alpha, -one) for d in found))
        return low, high, found[0].detectable

    def _ends_of_shares(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Newcombe's interval of paired shares from those of both rows (Statistics in Medicine 17, 1998, method 10)."""
        i, j = self.first, self.second
        low, high = intervals(self.rows, self.about, binary=True, level=self.level)
        two, p = self._moments[0], self.rows.value
        spread = np.sqrt(two[i, i] * two[j, j])
        r = np.where(spread > 0, two[i, j] / np.where(spread > 0, spread, 1.0), 0.0)

        def half(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.sqrt(np.maximum(a**2 + b**2 - 2 * r * a * b, 0.0))

        return value - half((p - low)[i], (high - p)[j]), value + half((high - p)[i], (p - low)[j])


def restricted(scores: ColumnScores, lines: slice) -> ColumnScores:
    """The scores of the questions that some lines have a score for."""
    if scores.kind != "image" or scores.values is None:
        return scores
    known = np.isfinite(scores.values[lines]).all(0)
    return replace(scores, values=np.where(known, scores.values, np.nan))
