"""The leaderboard of a data set: estimates, ranks and comparisons of all methods, and the data frames of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from ..contract import Column
from ..runs.chain import Status
from ..runs.findings import marked
from ..runs.reader import Results
from .columns import Key, Section, matrix, sections
from .score_table import ScoreTable
from .statistics.intervals import intervals
from .statistics.ranking import Comparison, Family, restricted
from .statistics.samples import ColumnScores, is_binary, pooled

__all__ = ["TIDY", "Board", "Estimate", "TidyRows", "tidy", "wide"]


TIDY = [
    *("dataset", "method", "seed", "metric", "variable", "do", "questions", "value", "low", "high", "n", "coverage"),
    *("direction", "unit", "status", "keys", "rank_low", "rank_high"),
]


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % interval, NaN where none can be given."""

    value: float
    low: float
    high: float


class TidyRows:
    """Makes rows: one for each method, all seeds, and one for each of its seeds where there are several."""

    def __init__(self, scored: ScoreTable) -> None:
        self.scored = scored
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
        apart = [row for (_, row), w in zip(self.rows, whole, strict=True) if not w]
        of_seeds = iter(_estimated(stack, apart, about) if apart else ())
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
            "n": [sum(stack.finite[row]) for _, row in self.rows],
            "coverage": [stack.coverage(row) for _, row in self.rows],
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
        named = {"images": keys.get("images", ""), "score": keys.get(f"score-{metric}", "")}
        return " ".join(f"{k}={v[:8]}" for k, v in named.items() if v)


DOMINANT, MANY = 0.9, 20
"""The share of a mean from which on one answer dominates it, and how many answers that takes."""
UNRANKED = (np.nan, np.nan)


def _seeds(lines: slice) -> Iterable[slice]:
    return (slice(i, i + 1) for i in range(lines.start, lines.stop))


def _estimated(scores: ColumnScores, rows: Sequence[slice], about: Column) -> list[Estimate]:
    """The mean of each row over its lines, with its interval."""
    means = pooled(scores, rows)
    ends = intervals(means, about, is_binary(scores, about), of_set=scores.kind == "set")
    return [Estimate(*map(float, each)) for each in zip(means.value, *ends, strict=True)]


@dataclass(frozen=True)
class Standing:
    """Each method in a column: its score, how many questions it scored and was asked, and its ranks."""

    estimates: Mapping[str, Estimate]
    coverage: Mapping[str, tuple[int, int]]
    ranks: Mapping[str, tuple[int, int]]


class Board(ScoreTable):
    """The leaderboard of one data set: every interval, rank and comparison of it.

    Args:
        results: of its rows.
        whole: the leaderboard of more rows that these are some of, from which estimates and p-values are taken; by
            default these are all.
    """

    def __init__(self, results: Results, whole: Board | None = None) -> None:
        super().__init__(results)
        self.whole = whole or self
        self._standings: dict[Key, Standing] = {}

    def showing(self, rows: Collection[str]) -> Board:
        """The leaderboard of some rows: scores, intervals and p-values are those among all rows, ranks among these."""
        if set(self.methods) <= set(rows):
            return self
        r = self.results
        some = replace(
            r,
            methods=tuple(m for m in r.methods if m in rows),
            controls=tuple(m for m in r.controls if m in rows),
            cells=tuple(c for c in r.cells if c.method in rows),
            scores=tuple(s for s in r.scores if s.method in rows),
            specs={m: spec for m, spec in r.specs.items() if m in rows},
        )
        return Board(some, self.whole)

    def standing(self, key: Key) -> Standing:
        """Each method in a column, on all questions."""
        if key not in self._standings:
            self._standings[key] = self._standing(key, self.whole.stack(key))
        return self._standings[key]

    def _standing(self, key: Key, stack: ColumnScores) -> Standing:
        lines = self.whole.pooled
        found = dict(zip(lines, _estimated(stack, list(lines.values()), self.about(key)), strict=True))
        coverage = {m: (sum(stack.finite[lines[m]]), sum(stack.asked[lines[m]])) for m in self.methods}
        ranks = {} if self.is_doubtful(key) else self.family(key, stack).ranks(self._own_rows)
        return Standing({m: found[m] for m in self.methods}, coverage, ranks)

    def family(self, key: Key, stack: ColumnScores | None = None) -> Family:
        """The comparisons of a column: of all methods with each other and with the controls."""
        stack = self.whole.stack(key) if stack is None else stack
        return Family(stack, self.whole.pooled, self.about(key), self._compared)

    @cached_property
    def _own_rows(self) -> np.ndarray:
        """The numbers of the rows that are no controls, among all rows."""
        return np.array([k for k, m in self._numbers.items() if not self.is_control(m)], dtype=np.int64)

    @cached_property
    def _numbers(self) -> dict[int, str]:
        """The rows by their numbers among all rows."""
        return {k: m for k, m in enumerate(self.whole.methods) if m in self.methods}

    @cached_property
    def _compared(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the rows of each pair: methods first, then each method with each control."""
        own, every = self._own_rows, np.array(list(self._numbers), dtype=np.int64)
        others = np.setdiff1d(every, own)
        first, second = (own[x] for x in np.triu_indices(len(own), 1))
        crossed = np.repeat(own, len(others)), np.tile(others, len(own))
        return np.concatenate([first, crossed[0]]), np.concatenate([second, crossed[1]])

    @cached_property
    def broken(self) -> frozenset[str]:
        """The rows in whose fits something was found wrong."""
        return frozenset(c.method for c in self.results.cells if c.notes.get("health"))

    def marked(self, method: str, name: str = "") -> str:
        """The name of a row, or a shortened one, as tables show it."""
        return marked(name or method, method in self.broken)

    @cached_property
    def flagged(self) -> dict[Key, str]:
        """Columns in which a row is surely better than the truth, with that row; costs are left out.

        Rows are compared on the questions that the truth has a score for, with Holm's correction over its rivals.
        """
        every = self.whole.methods
        truth = next((every.index(c.method) for c in self.results.cells if c.is_truth), None)
        found: dict[Key, str] = {}
        if truth is None:
            return found
        rivals = np.setdiff1d(list(self._numbers), [truth])
        pairs = rivals, np.full(len(rivals), truth)
        for key, score in self.columns.items():
            if score.kind == "cell":
                continue
            stack = restricted(self.whole.stack(key), self.whole.pooled[every[truth]])
            family = Family(stack, self.whole.pooled, score.about, pairs)
            if winners := [a for a in family.better.tolist() if a not in (-1, truth)]:
                found[key] = every[min(winners)]
        return found

    @cached_property
    def dominated(self) -> dict[Key, dict[str, tuple[float, float]]]:
        """Columns in which a single answer makes up most of a row's mean, with mean and median of each such row.

        Sparse scores, of which half and more are 0, are left out: their means always come from few answers.
        """
        found: dict[Key, dict[str, tuple[float, float]]] = {}
        for key, score in self.columns.items():
            if (score.kind, score.about.direction, score.about.low) != ("image", "lower", 0.0):
                continue
            for method, rows in self.pooled.items():
                own = [self.scores[key][line].values for line in self.lines[rows] if line in self.scores[key]]
                values = np.concatenate(own) if own else np.zeros(0)
                values = values[np.isfinite(values)]
                if len(values) < MANY or values.max() <= DOMINANT * values.sum() or np.median(values) <= 0:
                    continue
                found.setdefault(key, {})[method] = float(values.mean()), float(np.median(values))
        return found

    @cached_property
    def tidy(self) -> pd.DataFrame:
        """One row for each method, column and intervention, whether or not there is a score."""
        rows, supported = TidyRows(self), self.results.supported
        for key, score in self.columns.items():
            standing = self.standing(key)
            rows.add(key, "all", self.stack(key), standing.estimates, standing.ranks)
            if score.kind == "image" and score.scope == "do" and score.do in supported:
                stack = self.whole.stack(key, np.asarray(supported[score.do], dtype=bool))
                standing = self._standing(key, stack)
                rows.add(key, "supported", stack, standing.estimates, standing.ranks)
        return rows.table()

    @cached_property
    def estimates(self) -> dict[tuple[str, Key], Estimate]:
        """The pooled score of each method in each column, on all questions."""
        return {(m, key): e for key in self.columns for m, e in self.standing(key).estimates.items()}

    @cached_property
    def coverage(self) -> dict[tuple[str, Key], tuple[int, int]]:
        """How many questions were scored, and asked, over all seeds."""
        return {(m, key): share for key in self.columns for m, share in self.standing(key).coverage.items()}

    @cached_property
    def ranks(self) -> dict[Key, Mapping[str, tuple[int, int]]]:
        """First and last rank of each method in each column: none of controls, and none by a judge that is too weak."""
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
        """Methods against each other, and against controls: paired differences on all questions, a row each."""
        rows: list[dict[str, Any]] = []
        for key in self.columns:
            about = {"dataset": self.results.dataset, "metric": key.path, "variable": key.variable, "do": key.do}
            rows += [about | vars(c) for c in self.family(key).comparisons()]
        fields = ("dataset", "metric", "variable", "do", *Comparison.__annotations__)
        return pd.DataFrame(rows, columns=list(fields))

    @cached_property
    def wide(self) -> pd.DataFrame:
        """A row for each method: value, low and high of every column on all questions.

        Where users gave rows a name, the column ``spec`` says what each is; where a fit broke, ``health`` which.
        """
        specs = [self.results.specs.get(m, m) for m in self.methods]
        table: dict[str, list[Any]] = {
            "method": list(self.methods),
            **({"spec": specs} if self.results.aliases else {}),
            "role": ["control" if self.is_control(m) else "method" for m in self.methods],
            "seeds": [sum(self.status(m, s).ok for s in self.seeds(m)) for m in self.methods],
            "residual": [self.residual(m) for m in self.methods],
            "status": [str(self.pooled_status(m)) for m in self.methods],
            **({"health": [self._findings(m) for m in self.methods]} if self.broken else {}),
        }
        for key in self.columns:
            found = [self.estimates[m, key] for m in self.methods]
            table |= {key.name: [e.value for e in found]}
            table |= {f"{key.name} low": [e.low for e in found], f"{key.name} high": [e.high for e in found]}
        return pd.DataFrame(table)

    def _findings(self, method: str) -> str:
        """The kinds of what was found wrong with a row's fits, with their seeds; ``ok`` where nothing was."""
        own = [c for c in self.results.cells if c.method == method]
        found = [f"{f.kind} (seed {c.seed})" for c in own for f in c.notes.get("health", ())]
        return "; ".join(dict.fromkeys(found)) or "ok"

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
