"""Intervals, comparisons and ranks from one bootstrap that all methods share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .batches import estimate, estimates, sure
from .comparing import Comparison, compare, holm
from .contract import Column
from .rng import derive
from .samples import LEVEL, Estimate, Resamples, Sample, loss, mean, points

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
MANY, FEWER = 10_000, 4096
"""Factuals from which on a resample for a set score draws fewer, and how many."""


def _counts(key: str, factuals: int, r: int, size: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(derive(key, "factuals", r))
    return np.bincount(rng.integers(factuals, size=size or factuals), minlength=factuals)


def drawn(factuals: int) -> int:
    """How many factuals a resample for a set score draws: all, of more than 10,000 only 4,096."""
    return factuals if factuals <= MANY else FEWER


def draw(key: str, factuals: int, seeds: int, replicates: int = REPLICATES) -> Resamples:
    """The resamples of a plan: the same for every method, and replicate r the same whatever ``replicates`` is."""
    counts = np.empty((replicates, factuals))
    for r in range(replicates):
        counts[r] = _counts(key, factuals, r)
    rng = np.random.default_rng(derive(key, "seeds"))
    return Resamples(counts, rng.integers(seeds, size=(replicates, seeds)))


def resample_rows(key: str, factual_ids: np.ndarray, r: int, *, factuals: int) -> np.ndarray:
    """The rows of replicate r, int64: each question [Q] as often as its factual (0..N-1) was drawn among ``factuals``.

    As many are drawn as `drawn` says. Questions that were left out (no finite answer) are simply absent from
    ``factual_ids``.
    """
    ids = np.asarray(factual_ids, dtype=np.int64)
    return np.repeat(np.arange(len(ids)), _counts(key, factuals, r, drawn(factuals))[ids])


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
        missing = None if s.values is None else ~np.isfinite(s.values)
        if s.values is None or missing is None or missing.all() or not (missing & scored).any():
            return s
        worst = top if about.direction == "lower" else bottom
        if about.direction == "target":
            target = about.target or 0.0
            worst = max(top, target) if float(mean(points(s))) >= target else min(bottom, target)
        return replace(s, values=np.where(missing & scored, worst, s.values))

    return {name: charge(s) for name, s in samples.items()}


def surely_better(
    samples: Mapping[str, Sample], resamples: Resamples, about: Column, level: float = LEVEL
) -> set[tuple[str, str]]:
    """The pairs (better, worse) whose paired interval excludes 0.

    Unanswered questions count as the worst score seen; where only the set has a score, a method that answered
    less is never surely better. Differences below a millionth of the column's scale are none.
    """
    told = dict(zip(samples, estimates(list(samples.values()), resamples), strict=True))
    names, better = _better(samples, told, resamples, about, level)
    return {(names[i], names[j]) for i, j in zip(*better.nonzero(), strict=True)}


def _better(
    samples: Mapping[str, Sample],
    known: Mapping[str, Estimate],
    resamples: Resamples,
    about: Column,
    level: float = LEVEL,
) -> tuple[list[str], np.ndarray]:
    """The methods that have an interval, and whether each is surely better than each: [K, K]."""
    charged = {name: s for name, s in _charged(samples, about).items() if s is not samples[name]}
    told = {name: known[name] for name in samples}
    told |= zip(charged, estimates(list(charged.values()), resamples), strict=True)
    told = {k: e for k, e in told.items() if np.isfinite(e.value) and np.isfinite(e.low)}
    names = list(told)
    if about.direction == "none" or not told:
        return names, np.zeros((len(told), len(told)), dtype=bool)
    negligible = 1e-6 * max(abs(e.value) for e in told.values())
    if about.low is not None and about.high is not None:
        negligible = max(negligible, 1e-6 * (about.high - about.low))
    rows = min(len(e.replicates) for e in told.values())
    better = sure(loss(np.stack([e.replicates[:rows] for e in told.values()]), about), negligible, level)
    coverage = np.array([samples[k].coverage for k in names])
    sets = np.array([samples[k].kind == "set" for k in names])
    return names, better & (~(sets[:, None] | sets) | np.greater_equal.outer(coverage, coverage))


def ranks(
    samples: Mapping[str, Sample],
    resamples: Resamples,
    about: Column,
    told: Mapping[str, Estimate] | None = None,
) -> dict[str, tuple[int, int]]:
    """The first and last rank that each method may hold: 1 + those surely better .. all - those surely worse.

    Methods without an interval have no rank; a column without a direction ranks nobody. Estimates that were ``told``
    of the samples before are not made again.
    """
    if about.direction == "none":
        return {}
    if told is None:
        told = dict(zip(samples, estimates(list(samples.values()), resamples), strict=True))
    names, better = _better(samples, told, resamples, about)
    ahead, behind = (dict(zip(names, better.sum(axis).tolist(), strict=True)) for axis in (0, 1))
    ranked = [k for k in samples if np.isfinite(told[k].low)]
    return {k: (1 + ahead.get(k, 0), len(ranked) - behind.get(k, 0)) for k in ranked}
