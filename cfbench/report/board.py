"""The leaderboard of a data set: estimates, ranks and comparisons of all methods, and the data frames of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations, product
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.resamples import Resamples, draw_resamples
from ..runs.chain import Status
from ..runs.reader import Results
from .bootstrap import Estimate, estimates
from .columns import Key, Section, matrix, sections
from .ranking import Comparison, compare, ranks, surely_better
from .score_table import ColumnScores, ScoreTable

__all__ = ["TIDY", "Board", "TidyRows", "tidy", "wide"]


TIDY = [
    *("dataset", "method", "seed", "metric", "variable", "do", "questions", "value", "low", "high", "n", "coverage"),
    *("direction", "unit", "status", "keys", "rank_low", "rank_high"),
]


class TidyRows:
    """Makes rows: one for each method, all seeds, and one for each of its seeds where there are several."""

    def __init__(self, scored: ScoreTable, resamples: Resamples) -> None:
        self.scored = scored
        self.resamples = resamples
        self._parts: list[dict[str, list[Any]]] = []
        self._texts: dict[str, list[str]] = {}

    @cached_property
    def rows(self) -> list[tuple[str, slice]]:
        """The method and the lines of a stack behind each row."""
        return [
            (m, row)
            for m, lines in self.scored.pooled.items()
            for row in (lines, *(_seeds(lines) if lines.stop - lines.start > 1 else ()))
        ]

    def add(
        self,
        key: Key,
        questions: str,
        stack: ColumnScores,
        pooled: Mapping[str, Estimate],
        ranks: Mapping[str, tuple[int, int]],
    ) -> None:
        """Add the rows of a column.

        Args:
            key: the column.
            questions: all, or supported.
            stack: its scores.
            pooled: the estimate of each method over all its seeds.
            ranks: the first and the last rank of each method.
        """
        about = self.scored.about(key)
        whole = [row == self.scored.pooled[m] for m, row in self.rows]
        samples = [stack.sample(row) for _, row in self.rows]
        of_seeds = iter(estimates([s for s, w in zip(samples, whole, strict=True) if not w], self.resamples, about))
        found = [pooled[m] if w else next(of_seeds) for (m, _), w in zip(self.rows, whole, strict=True)]
        ranked = [ranks.get(m, UNRANKED) if w else UNRANKED for (m, _), w in zip(self.rows, whole, strict=True)]
        direction = about.direction if about.target is None else f"target {about.target:g}"
        common = {"dataset": self.scored.results.dataset, "metric": key.path, "variable": key.variable, "do": key.do}
        common |= {"questions": questions, "direction": direction, "unit": about.unit}
        self._parts.append({name: [value] * len(self.rows) for name, value in common.items()})
        self._parts[-1] |= {
            "method": [m for m, _ in self.rows],
            "seed": self._seed_names,
            "value": [e.value for e in found],
            "low": [e.low for e in found],
            "high": [e.high for e in found],
            "n": [s.finite for s in samples],
            "coverage": [s.coverage for s in samples],
            "status": self._status(key, stack),
            "keys": self._keys(key.metric),
            "rank_low": [low for low, _ in ranked],
            "rank_high": [high for _, high in ranked],
        }

    def table(self) -> pd.DataFrame:
        """All rows that were added; where there are none, one for each method with its status."""
        if self._parts:
            return pd.DataFrame({name: list(chain.from_iterable(p[name] for p in self._parts)) for name in TIDY})
        blank = dict.fromkeys(TIDY, "") | dict.fromkeys(("value", "low", "high", "rank_low", "rank_high"), np.nan)
        blank |= {"dataset": self.scored.results.dataset, "seed": "all", "questions": "all", "n": 0, "coverage": 0.0}
        rows = [blank | {"method": m, "status": str(self.scored.pooled_status(m))} for m in self.scored.methods]
        return pd.DataFrame(rows, columns=TIDY)

    @cached_property
    def _seed_names(self) -> list[str]:
        return ["all" if row == self.scored.pooled[m] else str(self.scored.lines[row.start][1]) for m, row in self.rows]

    @cached_property
    def _ok(self) -> np.ndarray:
        cells = (self.scored.cells.get(line) for line in self.scored.lines)
        return np.array([cell is not None and cell.status is Status.OK for cell in cells], dtype=bool)

    def _status(self, key: Key, stack: ColumnScores) -> list[str]:
        ok = (self._ok & np.isfinite(stack.points)).tolist()
        return ["ok" if all(ok[row]) else self._failure(m, row, key) for m, row in self.rows]

    def _failure(self, method: str, row: slice, key: Key) -> str:
        if row == self.scored.pooled[method]:
            return str(self.scored.pooled_status(method, key))
        _, seed = self.scored.lines[row.start]
        return str(self.scored.status(method, seed, key))

    def _keys(self, metric: str) -> list[str]:
        """The keys of answers and scores behind each row, cut short."""
        if metric not in self._texts:
            each = [self._keys_of(line, metric) for line in self.scored.lines]
            self._texts[metric] = ["; ".join(filter(None, each[row])) for _, row in self.rows]
        return self._texts[metric]

    def _keys_of(self, line: tuple[str, int], metric: str) -> str:
        cell = self.scored.cells.get(line)
        keys = {} if cell is None else cell.keys
        score = keys.get(f"score-{metric}", keys.get(metric, keys.get("score", "")))
        named = {"images": keys.get("images", ""), "score": score}
        return " ".join(f"{k}={v[:8]}" for k, v in named.items() if v)


UNRANKED = (np.nan, np.nan)


def _seeds(lines: slice) -> Iterable[slice]:
    return (slice(i, i + 1) for i in range(lines.start, lines.stop))


@dataclass(frozen=True)
class Standing:
    """Each method in a column: its score, without replicates, how many questions it scored and was asked, its ranks."""

    estimates: Mapping[str, Estimate]
    coverage: Mapping[str, tuple[int, int]]
    ranks: Mapping[str, tuple[int, int]]


class Board(ScoreTable):
    """The leaderboard of one data set, every interval and rank from the same resamples.

    ``replicates`` counts them; fewer are faster and coarser.
    """

    def __init__(self, results: Results, replicates: int = 1000) -> None:
        super().__init__(results)
        self.resamples: Resamples = draw_resamples(
            results.resample_key, results.factuals, max(len(results.seeds), 1), replicates
        )
        self._standings: dict[Key, Standing] = {}

    def standing(self, key: Key) -> Standing:
        """Each method in a column, on all questions."""
        if key not in self._standings:
            self._standings[key] = self._standing(key, self.stack(key))
        return self._standings[key]

    def _standing(self, key: Key, stack: ColumnScores) -> Standing:
        about = self.about(key)
        samples = {m: stack.sample(lines) for m, lines in self.pooled.items()}
        found = dict(zip(samples, estimates(list(samples.values()), self.resamples, about), strict=True))
        own = {m: s for m, s in samples.items() if not self.is_control(m)}
        coverage = {m: (s.finite, s.asked) for m, s in samples.items()}
        without = {m: replace(e, replicates=np.empty(0)) for m, e in found.items()}
        return Standing(without, coverage, ranks(own, self.resamples, about, found))

    @cached_property
    def flagged(self) -> dict[Key, str]:
        """Columns in which a row is surely better than the truth, with that row; costs are left out.

        The level is Bonferroni's over the truth's rivals, for a flag accuses the metric.
        """
        truth = next((c.method for c in self.results.cells if c.is_truth), None)
        level = 1 - 0.05 / max(len(self.methods) - 1, 1)
        found = {}
        for key, score in self.columns.items():
            if score.kind == "cell" or truth is None:
                continue
            pairs = surely_better(self.samples(key), self.resamples, score.about, level)
            if winners := [a for a, b in pairs if b == truth]:
                found[key] = min(winners, key=self.methods.index)
        return found

    @cached_property
    def tidy(self) -> pd.DataFrame:
        """One row for each method, column and intervention, whether or not there is a score."""
        rows, supported = TidyRows(self, self.resamples), self.results.supported
        for key, score in self.columns.items():
            standing = self.standing(key)
            rows.add(key, "all", self.stack(key), standing.estimates, standing.ranks)
            if score.kind == "image" and score.do != "null" and score.do in supported:
                stack = self.stack(key, np.asarray(supported[score.do], dtype=bool))
                standing = self._standing(key, stack)
                rows.add(key, "supported", stack, standing.estimates, standing.ranks)
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
    def ranks(self) -> dict[Key, Mapping[str, tuple[int, int]]]:
        """First and last rank of each method (controls are not ranked) in each column."""
        return {key: self.standing(key).ranks for key in self.columns}

    @cached_property
    def best(self) -> dict[Key, frozenset[str]]:
        """In each column the methods that none is surely better than and that answered as much as any: bold."""
        found = {}
        for key, ranked in self.ranks.items():
            share = {m: finite / max(asked, 1) for m in ranked for finite, asked in [self.coverage[m, key]]}
            most = max(share.values(), default=0.0)
            first = [m for m, (low, _) in ranked.items() if low == 1 and share[m] >= most]
            found[key] = frozenset(first if len(ranked) > 1 else ())
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
                compared = compare(samples, self.resamples, score.about, which)
                rows += [about | vars(c) for c in compared if np.isfinite(c.difference)]
        fields = ("dataset", "metric", "variable", "do", *Comparison.__annotations__)
        return pd.DataFrame(rows, columns=list(fields))

    @cached_property
    def wide(self) -> pd.DataFrame:
        """A row for each method: value, low and high of every column on all questions."""
        table: dict[str, list[Any]] = {
            "method": list(self.methods),
            "role": ["control" if self.is_control(m) else "method" for m in self.methods],
            "seeds": [sum(self.status(m, s).ok for s in self.seeds(m)) for m in self.methods],
            "residual": [self.residual(m) for m in self.methods],
            "status": [str(self.pooled_status(m)) for m in self.methods],
        }
        for key in self.columns:
            found = [self.estimates[m, key] for m in self.methods]
            table |= {key.name: [e.value for e in found]}
            table |= {f"{key.name} low": [e.low for e in found], f"{key.name} high": [e.high for e in found]}
        return pd.DataFrame(table)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """What is printed: a table for each intervened variable, then soundness and cost.

        Columns in which no method has a score (no truth, no class) are left to the CSV.
        """
        scored = [k for k in self.columns if any(np.isfinite(self.estimates[m, k].value) for m in self.methods)]
        return sections(scored, self.about)

    @cached_property
    def matrix(self) -> tuple[Key, ...]:
        """The effectiveness of each variable under each intervention, where more than one is intervened on."""
        return matrix(self.columns, self.about)


def tidy(results: Results) -> pd.DataFrame:
    """The leaderboard as one row for each score (columns ``TIDY``)."""
    return Board(results).tidy


def wide(results: Results) -> pd.DataFrame:
    """The leaderboard as one row for each method, controls last."""
    return Board(results).wide
