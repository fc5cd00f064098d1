"""What a run's cells hold for one data set, read back from disk: the only input of every table and plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .contract import Column

__all__ = ["CellState", "Results", "Score"]


@dataclass(frozen=True)
class Score:
    """One column of one metric for one cell and one intervention.

    ``values`` depends on ``kind``: "image" holds one score a question [Q] (NaN where there is none), "set" the
    replicates [R] on the shared bootstrap resamples, "cell" nothing. ``value`` is the score of all questions.
    ``asked`` counts the questions (or rows) that the metric was asked about, ``finite`` those that it could score.
    """

    method: str
    seed: int
    metric: str
    column: str
    variable: str
    do: str
    kind: str
    value: float
    asked: int
    finite: int
    about: Column
    values: np.ndarray


@dataclass(frozen=True)
class CellState:
    """Where a cell stands: ok, invalid, failed, crashed, timeout or pending, with the reason and its keys."""

    method: str
    seed: int
    status: str
    reason: str = ""
    residual: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """All cells of one data set in a run.

    ``factual[do]`` [Q] numbers the factual (0..N-1) behind each question of an intervention and ``supported[do]``
    [Q] says whether its counterfactual parents lie in the support of the training data. ``truth[variable]`` is
    exact, convention or none. ``card`` has a row for each judge and kind of data: judge, variable, data, error,
    unit, n, good (bool).
    """

    dataset: str
    preset: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    variables: tuple[str, ...]
    factuals: int
    factual: Mapping[str, np.ndarray]
    supported: Mapping[str, np.ndarray]
    truth: Mapping[str, str]
    plan_key: str
    resample_key: str
    cells: tuple[CellState, ...]
    scores: tuple[Score, ...]
    card: tuple[Mapping[str, Any], ...] = ()
    controls: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
