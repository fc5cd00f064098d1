"""The bootstrap resamples that all methods and metrics share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..rng import derive

__all__ = ["REPLICATES", "Resamples", "draw_resamples", "resample_size"]


@dataclass(frozen=True)
class Resamples:
    """Counts [R, N] of each factual in each replicate, and the drawn seeds [R, S]."""

    counts: np.ndarray
    seeds: np.ndarray


REPLICATES = 1000


def _counts(key: str, factuals: int, r: int) -> np.ndarray:
    rng = np.random.default_rng(derive(key, "factuals", r))
    return np.bincount(rng.integers(factuals, size=factuals), minlength=factuals)


def resample_size(factuals: int) -> int:
    """How many factuals a resample draws: all of them."""
    return factuals


def draw_resamples(key: str, factuals: int, seeds: int, replicates: int = REPLICATES) -> Resamples:
    """The resamples of a plan: the same for every method; replicate r does not depend on ``replicates``."""
    counts = np.empty((replicates, factuals))
    for r in range(replicates):
        counts[r] = _counts(key, factuals, r)
    rng = np.random.default_rng(derive(key, "seeds"))
    return Resamples(counts, rng.integers(seeds, size=(replicates, seeds)))
