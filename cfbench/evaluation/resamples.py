"""The bootstrap resamples that all methods and metrics share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..rng import derive

__all__ = ["REPLICATES", "Resamples", "draw_resamples", "resample_rows", "resample_size"]


@dataclass(frozen=True)
class Resamples:
    """Counts [R, N] of each factual in each replicate, and the drawn seeds [R, S]."""

    counts: np.ndarray
    seeds: np.ndarray


REPLICATES = 1000
MANY, FEWER = 10_000, 4096
"""Number of factuals above which a resample for a set score draws fewer, and how many it draws."""


def _counts(key: str, factuals: int, r: int, size: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(derive(key, "factuals", r))
    return np.bincount(rng.integers(factuals, size=size or factuals), minlength=factuals)


def resample_size(factuals: int) -> int:
    """How many factuals a resample for a set score draws: all, of more than 10,000 only 4,096."""
    return factuals if factuals <= MANY else FEWER


def draw_resamples(key: str, factuals: int, seeds: int, replicates: int = REPLICATES) -> Resamples:
    """The resamples of a plan: the same for every method; replicate r does not depend on ``replicates``."""
    counts = np.empty((replicates, factuals))
    for r in range(replicates):
        counts[r] = _counts(key, factuals, r)
    rng = np.random.default_rng(derive(key, "seeds"))
    return Resamples(counts, rng.integers(seeds, size=(replicates, seeds)))


def resample_rows(key: str, factual_ids: np.ndarray, r: int, *, factuals: int) -> np.ndarray:
    """The rows of replicate r, int64: each question [Q] as often as its factual (0..N-1) was drawn among ``factuals``.

    `resample_size` gives the number of draws. Questions without a finite answer are absent from ``factual_ids``.
    """
    ids = np.asarray(factual_ids, dtype=np.int64)
    return np.repeat(np.arange(len(ids)), _counts(key, factuals, r, resample_size(factuals))[ids])
