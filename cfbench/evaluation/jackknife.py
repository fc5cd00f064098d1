"""The delete-a-group jackknife over factuals, from which set scores have their intervals."""

from __future__ import annotations

import numpy as np

__all__ = ["GROUPS", "group_count", "group_of", "pseudo_values"]


GROUPS = 200
"""Maximum number of groups: the standard error of a score is then itself uncertain by 5 %."""


def group_count(factuals: int) -> int:
    """How many groups the factuals of a plan are divided into: one each, at most 200."""
    return min(factuals, GROUPS)


def group_of(factual: np.ndarray, factuals: int) -> np.ndarray:
    """The group (0..G-1) of each factual number (0..N-1) [Q], int64 [Q]: the same factuals for every method."""
    return np.asarray(factual, dtype=np.int64) % group_count(factuals)


def pseudo_values(whole: float, without: np.ndarray) -> np.ndarray:
    """Tukey's pseudo-values n θ - (n - 1) θ₋g of n groups, float64 [G]; NaN where either score is not finite.

    They stand for independent scores of the groups: of a mean over groups of equal size they are the groups' means.
    Their mean is the score less its bias of order 1 / N, and their standard deviation over √n its standard error
    (Efron & Stein 1981, Annals of Statistics 9; Shao & Tu 1995, The Jackknife and Bootstrap).

    Args:
        whole: the score θ of all rows.
        without: the score θ₋g of the rows outside each group [G]; NaN for the groups that have no row, which are not
            among the n.
    """
    known = np.isfinite(without) & np.isfinite(whole)
    n = int(known.sum())
    if n < 2:
        return np.full(len(without), np.nan)
    return np.where(known, n * whole - (n - 1) * without, np.nan)
