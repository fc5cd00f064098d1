"""The scores in a column as arrays, and what intervals and comparisons need of them: means and influences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...contract import Column

__all__ = ["ColumnScores", "Rows", "finite_mean", "is_binary", "penalised", "pooled", "skewness_of"]


@dataclass(frozen=True)
class ColumnScores:
    """A column's scores, a line for each cell, NaN where there is none.

    Attributes:
        kind: image (one score a question), set (jackknife pseudo-values of groups of factuals) or cell (no more).
        points: the score of each cell over all questions [M].
        finite, asked: numbers of scores and of questions [M].
        values: [M, Q] scores of questions, or [M, G] pseudo-values; absent for costs.
        factual: the factual of each question [Q], 0..N-1; absent for sets, whose groups are the units.
    """

    kind: str
    points: np.ndarray
    finite: Sequence[int]
    asked: Sequence[int]
    values: np.ndarray | None = None
    factual: np.ndarray | None = None

    def coverage(self, lines: slice) -> float:
        """The share of the questions of some lines that have a score."""
        asked = sum(self.asked[lines])
        return sum(self.finite[lines]) / asked if asked else 0.0


@dataclass(frozen=True)
class Rows:
    """Mean scores of rows, each over its seeds, and what their errors are estimated from.

    Attributes:
        value: the mean over the seeds [K]; NaN where there is none.
        influence: what each unit (a factual, or a group of them) adds to the mean beyond its share [K, N]; its sum
            is 0, and the sum of its squares is the variance of the mean, but for the factor n / (n - 1).
        units: how many units have a score [K].
        between: the variance of the mean between trainings, from its spread over the seeds [K]; 0 with one seed.
        seeds: how many seeds have a score [K].
    """

    value: np.ndarray
    influence: np.ndarray
    units: np.ndarray
    between: np.ndarray
    seeds: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    @property
    def variance(self) -> np.ndarray:
        """The variance of each mean due to the choice of factuals [K]; NaN with fewer than two units."""
        n = np.where(self.units > 1, self.units, np.nan)
        return np.asarray(n / (n - 1) * np.square(self.influence).sum(1))

    @property
    def known(self) -> np.ndarray:
        """Whether each row has a score whose error can be estimated [K]: from several units or several seeds."""
        return np.isfinite(self.value) & ((self.units > 1) | (self.seeds > 1))

    @property
    def skewness(self) -> np.ndarray:
        """The skewness of each row's units [K], 0 where they do not vary."""
        return skewness_of(np.square(self.influence).sum(1), (self.influence**3).sum(1), self.units)


def skewness_of(second: np.ndarray, third: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The skewness of units from the sums of their squared and cubed influences, 0 where they do not vary."""
    return np.asarray(np.sqrt(units) * third / np.where(second > 0, second, np.inf) ** 1.5)


def finite_mean(x: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the finite entries, NaN where there is none."""
    ok = np.isfinite(x)
    if x.size and ok.all():
        return np.asarray(x.mean(axis))
    count = ok.sum(axis)
    total = np.where(ok, x, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def pooled(scores: ColumnScores, rows: Sequence[slice]) -> Rows:
    """The mean of each row over its lines, seeds of one method.

    The score of a seed is the mean over its questions, a ratio where questions or answers are missing: its influences
    are those of the linearised ratio (Särndal, Swensson & Wretman 1992, Model Assisted Survey Sampling).
    """
    points, influence, known = _lines(scores)
    scored = np.isfinite(points)
    if all(row.stop - row.start == 1 for row in rows):
        lines = np.array([row.start for row in rows], dtype=np.int64)
        units = known[lines].sum(1)
        none = np.zeros(len(rows))
        return Rows(points[lines], influence[lines], units, none, scored[lines].astype(np.int64))
    value, between, seeds = np.full(len(rows), np.nan), np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    mean, units = np.zeros((len(rows), influence.shape[1])), np.zeros(len(rows), dtype=np.int64)
    for k, row in enumerate(rows):
        mask = scored[row]
        seeds[k] = mask.sum()
        if seeds[k]:
            own = points[row][mask]
            value[k], mean[k], units[k] = own.mean(), influence[row][mask].mean(0), known[row][mask].any(0).sum()
            between[k] = own.var(ddof=1) / len(own) if len(own) > 1 else 0.0
    return Rows(value, mean, units, between, seeds)


def _lines(scores: ColumnScores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The score of each line [M], the influences of its units [M, N], and whether these have a score [M, N]."""
    points, values = np.asarray(scores.points, dtype=np.float64), scores.values
    if values is None:
        return points, np.zeros((len(points), 0)), np.zeros((len(points), 0), dtype=bool)
    ok = np.isfinite(values)
    means = finite_mean(values, 1)
    influence = np.where(ok, values - means[:, None], 0.0) / np.maximum(ok.sum(1), 1)[:, None]
    if scores.factual is None:
        return points, influence, ok
    return means, _by_factual(influence, scores.factual), _by_factual(ok, scores.factual) > 0


def _by_factual(x: np.ndarray, factual: np.ndarray) -> np.ndarray:
    """The sums of x [M, Q] over the questions about each factual: [M, N]."""
    units = int(factual.max(initial=-1)) + 1
    sums = np.zeros((len(x), units))
    if len(np.unique(factual)) == len(factual):
        sums[:, factual] = x
        return sums
    for row, line in zip(sums, x, strict=True):
        row += np.bincount(factual, line, minlength=units)
    return sums


def is_binary(scores: ColumnScores, about: Column) -> bool:
    """Whether all scores of a column of images are 0 or 1, its least and its greatest possible value."""
    if scores.kind != "image" or scores.values is None or (about.low, about.high) != (0.0, 1.0):
        return False
    values = scores.values[np.isfinite(scores.values)]
    return bool(((values == 0) | (values == 1)).all())


def penalised(scores: ColumnScores, rows: Sequence[slice], about: Column) -> ColumnScores:
    """The scores in which each missing answer to a question that another cell answered counts as the worst seen.

    So a method gains nothing by leaving out what it cannot do. With a target, the worst lies on the side of the
    target on which the row already is. Lines without any score are left as they are.
    """
    values = scores.values
    if scores.kind != "image" or values is None or not np.isfinite(values).any():
        return scores
    ok = np.isfinite(values)
    missing = ~ok & ok.any(0) & ok.any(1)[:, None]
    if not missing.any():
        return scores
    top, bottom = float(values[ok].max()), float(values[ok].min())
    worst = np.full(len(values), top if about.direction == "lower" else bottom)
    if about.direction == "target":
        target, means = about.target or 0.0, finite_mean(values, 1)
        for row in rows:
            above = float(finite_mean(means[row])) >= target
            worst[row] = max(top, target) if above else min(bottom, target)
    return replace(scores, values=np.where(missing, worst[:, None], values))
