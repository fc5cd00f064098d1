"""The leaderboard of a data set: estimates, ranks and comparisons of all methods, and the tables made from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from .batches import estimates
from .results import Results
from .samples import Estimate, Resamples
from .scored import Scored, Stack
from .sections import Key, Section, matrix, sections
from .stats import Comparison, compare, draw, ranks, surely_better
from .tidying import TIDY, Tidying

__all__ = ["TIDY", "Board", "Key", "Section", "tidy", "wide"]


@dataclass(frozen=True)
class Standing:
    """Each method in a column: its score, without replicates, how many questions it scored and was asked, its ranks."""

    estimates: Mapping[str, Estimate]
    coverage: Mapping[str, tuple[int, int]]
    places: Mapping[str, tuple[int, int]]


class Board(Scored):
    """The leaderboard of one data set, every interval and rank from the same resamples.

    ``replicates`` counts them; fewer are faster and coarser.
    """

    def __init__(self, results: Results, replicates: int = 1000) -> None:
        super().__init__(results)
        self.resamples: Resamples = draw(results.resample_key, results.factuals, max(len(results.seeds), 1), replicates)
        self._standings: dict[Key, Standing] = {}

    def standing(self, key: Key) -> Standing:
        """Each method in a column, on all questions."""
        if key not in self._standings:
            self._standings[key] = self._standing(key, self.stack(key))
        return self._standings[key]

    def _standing(self, key: Key, stack: Stack) -> Standing:
        about = self.about(key)
        samples = {m: stack.sample(lines) for m, lines in self.pooled.items()}
        told = dict(zip(samples, estimates(list(samples.values()), self.resamples, about), strict=True))
        own = {m: s for m, s in samples.items() if not self.is_control(m)}
        places = ranks(own, self.resamples, about, told)
        coverage = {m: (s.finite, s.asked) for m, s in samples.items()}
        return Standing({m: replace(e, replicates=np.empty(0)) for m, e in told.items()}, coverage, places)

    @cached_property
    def flagged(self) -> dict[Key, str]:
        """Columns that the oracle does not win, with a row that is surely better; costs are not asked.

        The level is Bonferroni's over the oracle's rivals, for a flag accuses the metric.
        """
        oracle = next((m for m in self.methods if re.split(r"[:\[]", m)[0] == "oracle"), None)
        level = 1 - 0.05 / max(len(self.methods) - 1, 1)
        found = {}
        for key, score in self.columns.items():
            if score.kind == "cell" or oracle is None:
                continue
            told = surely_better(self.samples(key), self.resamples, score.about, level)
            if winners := [a for a, b in told if b == oracle]:
                found[key] = min(winners, key=self.methods.index)
        return found

    @cached_property
    def tidy(self) -> pd.DataFrame:
        """One row for each method, column and intervention, whether or not there is a score."""
        rows, supported = Tidying(self, self.resamples), self.results.supported
        for key, score in self.columns.items():
            told = self.standing(key)
            rows.add(key, "all", self.stack(key), told.estimates, told.places)
            if score.kind == "image" and score.do != "null" and score.do in supported:
                stack = self.stack(key, np.asarray(supported[score.do], dtype=bool))
                told = self._standing(key, stack)
                rows.add(key, "supported", stack, told.estimates, told.places)
        return rows.table()

    @cached_property
    def estimates(self) -> dict[tuple[str, Key], Estimate]:
        """The pooled score of each method in each column, on all questions, without its replicates."""
        return {(m, key): e for key in self.columns for m, e in self.standing(key).estimates.items()}

    @cached_property
    def coverage(self) -> dict[tuple[str, Key], tuple[int, int]]:
        """How many questions were scored, and asked, over all seeds."""
        return {(m, key): share for key in self.columns for m, share in self.standing(key).coverage.items()}

    @cached_property
    def places(self) -> dict[Key, Mapping[str, tuple[int, int]]]:
        """First and last rank of each method (controls are not ranked) in each column."""
        return {key: self.standing(key).places for key in self.columns}

    @cached_property
    def best(self) -> dict[Key, frozenset[str]]:
        """In each column the methods that none is surely better than and that answered as much as any: bold."""
        found = {}
        for key, place in self.places.items():
            share = {m: finite / max(asked, 1) for m in place for finite, asked in [self.coverage[m, key]]}
            most = max(share.values(), default=0.0)
            first = [m for m, (low, _) in place.items() if low == 1 and share[m] >= most]
            found[key] = frozenset(first if len(place) > 1 else ())
        return found

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Methods against each other, and against controls: paired differences on all questions, a row each.

        Holm's correction runs over the pairs of a column, controls apart.
        """
        own = [m for m in self.methods if not self.is_control(m)]
        others = [m for m in self.methods if self.is_control(m)]
        rows: list[dict[str, Any]] = []
        for key, score in self.columns.items():
            if score.about.direction == "none":
                continue
            about = {"dataset": self.results.dataset, "metric": key.path, "variable": key.variable, "do": key.do}
            samples = self.samples(key)
            for which in (combinations(own, 2), product(own, others)):
                told = compare(samples, self.resamples, score.about, which)
                rows += [about | vars(c) for c in told if np.isfinite(c.difference)]
        fields = ("dataset", "metric", "variable", "do", *Comparison.__annotations__)
        return pd.DataFrame(rows, columns=list(fields))

    @cached_property
    def wide(self) -> pd.DataFrame:
        """A row for each method: value, low and high of every column on all questions."""
        table: dict[str, list[Any]] = {
            "method": list(self.methods),
            "role": ["control" if self.is_control(m) else "method" for m in self.methods],
            "seeds": [sum(self.status(m, s) == "ok" for s in self.seeds(m)) for m in self.methods],
            "residual": [self.residual(m) for m in self.methods],
            "status": [self.pooled_status(m) for m in self.methods],
        }
        for key in self.columns:
            told = [self.estimates[m, key] for m in self.methods]
            table |= {key.name: [e.value for e in told]}
            table |= {f"{key.name} low": [e.low for e in told], f"{key.name} high": [e.high for e in told]}
        return pd.DataFrame(table)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """What is printed: a table for each intervened variable, then soundness and cost.

        Columns that apply to nobody (no truth, no class) are left to the CSV.
        """
        alive = [k for k in self.columns if any(np.isfinite(self.estimates[m, k].value) for m in self.methods)]
        return sections(alive, self.about)

    @cached_property
    def matrix(self) -> tuple[Key, ...]:
        """Judged scores of each variable under each intervention, where more than one is intervened on."""
        return matrix(self.columns)


def tidy(results: Results) -> pd.DataFrame:
    """The leaderboard as one row for each score (columns ``TIDY``)."""
    return Board(results).tidy


def wide(results: Results) -> pd.DataFrame:
    """The leaderboard as one row for each method, controls last."""
    return Board(results).wide
