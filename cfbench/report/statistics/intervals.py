"""Confidence intervals of mean scores: skewness-corrected Student's t, Clopper-Pearson, and the seeds' variance."""

from __future__ import annotations

import numpy as np
from scipy import special

from ...contract import Column
from .samples import Rows

__all__ = ["LEVEL", "critical", "intervals", "quantile", "studentised", "tail"]

LEVEL = 0.95
GROWN = 0.5
"""Share of the correction for skewness that shortens an interval's side: with all of it, heavy tails would not be
covered, with none of it, skewed scores more often than asked. tests/test_intervals.py holds 94 to 96 %."""
NEWTON = 12
"""Steps that solve the corrected statistic for Student's quantile; the function is a cubic without turning points."""


def tail(t: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """The two-sided p-value of Student's t with some degrees of freedom."""
    return np.asarray(2 * special.stdtr(freedom, -np.abs(t)))


def quantile(alpha: float | np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """What |t| exceeds with probability ``alpha``."""
    return np.asarray(-special.stdtrit(freedom, np.asarray(alpha) / 2))


def _correction(t: np.ndarray, skewness: np.ndarray, n: np.ndarray) -> np.ndarray:
    """What Hall's transformation adds to t >= 0 (Journal of the Royal Statistical Society B 54, 1992)."""
    g, root = skewness * (1 + 6 / n), np.sqrt(n)
    return np.asarray(g * t**2 / (3 * root) + g**2 * t**3 / (27 * n) + g / (6 * root))


def studentised(t: np.ndarray, skewness: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Student's t of a mean of n units, corrected for their skewness, for tests against Student's distribution.

    Hall's transformation removes the first effect of skewness. Here it is applied where it makes the statistic
    smaller, so that a test is never the worse for an estimated skewness.
    """
    side = np.where(t < 0, -1.0, 1.0)
    t, change = np.abs(t), _correction(np.abs(t), side * skewness, n)
    return np.asarray(side * np.maximum(t + np.minimum(change, 0.0), 0.0))


def critical(q: np.ndarray, skewness: np.ndarray, n: np.ndarray, share: float = 0.0) -> np.ndarray:
    """The t >= 0 whose corrected value is q > 0.

    Args:
        q: quantiles of Student's distribution.
        skewness: of the units.
        n: number of units; their skewness is taken 1 + 6 / n times, as its estimate is too small for skewed data.
        share: of the correction that is applied where it makes the statistic larger; 0 as in `studentised`.
    """
    q, g, root = np.broadcast_to(q, np.shape(skewness)), skewness * (1 + 6 / n), np.sqrt(n)
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = 3 * root / g * (np.cbrt(1 + g / root * (q - g / (6 * root))) - 1)
    whole = np.where(np.abs(g) > 1e-9, whole, q)
    t = np.maximum(q, 0.0)
    for _ in range(NEWTON if share else 0):
        slope = 1 + share * (2 * g * t / (3 * root) + g**2 * t**2 / (9 * n))
        t = t - (t + share * _correction(t, skewness, n) - q) / slope
    return np.where(whole >= q, whole, np.maximum(t, 0.0))


def intervals(
    rows: Rows, about: Column | None = None, binary: bool = False, of_set: bool = False, level: float = LEVEL
) -> np.ndarray:
    """Both ends [2, K] of the interval of each row's mean; NaN where none can be given.

    The choice of factuals gives one interval: Clopper & Pearson's (Biometrika 26, 1934) where all scores are 0 or 1,
    with the effective number of factuals of Korn & Graubard (Survey Methodology 24, 1998), and where a share of a set
    is 0 or 1 without any spread; else that of the skewness-corrected t. The spread over seeds gives another,
    Student's with a degree of freedom fewer than seeds. Their half widths are added in quadrature on each side (Zou &
    Donner, Statistics in Medicine 27, 2008).

    Args:
        rows: the means.
        about: the column, to whose range the interval is clipped.
        binary: whether all scores are 0 or 1.
        of_set: whether the units are pseudo-values of a set's score. Such a score that has no spread and is not the
            best possible one has no interval: that every group of answers left it as it is bounds nothing.
        level: of confidence.
    """
    alpha = 1 - level
    below, above = _clopper_pearson(rows, alpha) if binary else _corrected(rows, alpha)
    if about is not None and (about.low, about.high) == (0.0, 1.0) and not binary:
        same, unseen = ~rows.influence.any(1) & (rows.units > 1), 1 - (alpha / 2) ** (1 / np.maximum(rows.units, 1))
        below = np.where(same & (rows.value == 1), unseen, below)
        above = np.where(same & (rows.value == 0), unseen, above)
    elif of_set:
        unknown = ~rows.influence.any(1) & (rows.value != _best(about))
        below, above = (np.where(unknown, np.nan, half) for half in (below, above))
    trained = quantile(alpha, np.maximum(rows.seeds - 1, 1)) * np.sqrt(rows.between)
    ends = rows.value + np.stack([-np.hypot(below, trained), np.hypot(above, trained)])
    return _clipped(ends, rows.value, about)


def _corrected(rows: Rows, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Half widths [K] below and above of the skewness-corrected t interval."""
    if not rows.influence.shape[1]:  # costs, which have only seeds
        none = np.where(rows.seeds > 1, 0.0, np.nan)
        return none, none
    n, g, error = np.maximum(rows.units, 2), rows.skewness, np.sqrt(rows.variance)
    q = quantile(alpha, n - 1)
    return error * critical(q, g, n, GROWN), error * critical(q, -g, n, GROWN)


def _clopper_pearson(rows: Rows, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Half widths [K] below and above of a share's interval."""
    p, n = np.clip(rows.value, 0.0, 1.0), rows.units.astype(np.float64)
    spread = np.square(rows.influence).sum(1)
    n = np.where((spread > 0) & (p > 0) & (p < 1), p * (1 - p) / np.where(spread > 0, spread, 1.0), n)
    n = np.where(rows.units > 1, n, np.nan)
    x = p * n
    low = np.where(x > 0, special.betaincinv(np.maximum(x, 1e-300), n - x + 1, alpha / 2), 0.0)
    high = np.where(x < n, special.betaincinv(x + 1, np.maximum(n - x, 1e-300), 1 - alpha / 2), 1.0)
    low, high = (np.where(np.isfinite(n), end, np.nan) for end in (low, high))
    return np.maximum(p - low, 0.0), np.maximum(high - p, 0.0)


def _best(about: Column | None) -> float:
    """The best possible score of a column, NaN where there is none."""
    best = {"lower": about.low, "higher": about.high, "target": about.target}.get(about.direction) if about else None
    return np.nan if best is None else best


def _clipped(ends: np.ndarray, value: np.ndarray, about: Column | None) -> np.ndarray:
    low, high = ends
    if about is not None and about.low is not None:
        low = np.maximum(low, np.minimum(about.low, value))
    if about is not None and about.high is not None:
        high = np.minimum(high, np.maximum(about.high, value))
    return np.stack([low, high])
