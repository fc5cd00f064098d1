"""Scores of a method in a column, and how far the bootstrap says that they may lie from the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .contract import Column

__all__ = ["LEVEL", "Estimate", "Resamples", "Sample", "interval", "loss", "mean", "points", "varies"]

LEVEL = 0.95


@dataclass(frozen=True)
class Resamples:
    """How often each factual is drawn in each replicate, counts [R, N], and which seeds are, [R, S]."""

    counts: np.ndarray
    seeds: np.ndarray


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


def mean(x: np.ndarray, axis: int | None = None) -> np.ndarray:
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


def points(s: Sample) -> np.ndarray:
    """The score of each seed [S]."""
    return mean(s.values, 1) if s.kind == "image" and s.values is not None else s.points


def varies(s: Sample) -> bool:
    """Whether there is anything to resample: several seeds, questions or replicates."""
    return len(s.points) > 1 or (s.kind != "cell" and s.values is not None and s.values.shape[1] > 1)


def loss(x: np.ndarray, about: Column) -> np.ndarray:
    """Turn scores so that lower is better: with a target, the distance of the mean score from it."""
    if about.direction == "target":
        return np.abs(x - (about.target or 0.0))
    return -x if about.direction == "higher" else x
