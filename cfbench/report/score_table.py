"""The scores of all cells of a data set by column, as samples of methods, and why some are missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..contract import Column
from ..runs.chain import Status
from ..runs.reader import CellState, Results, Score
from .columns import MEAN, Key
from .statistics.samples import ColumnScores
from .summary.headline import JUDGED

__all__ = ["PooledStatus", "ScoreStatus", "ScoreTable", "weak"]


def weak(results: Results, judge: str = "") -> set[str]:
    """Variables that a judge reads badly on real images; by default any but those that measure."""
    bad = (row for row in results.card if row.get("good") is False)
    return {str(row.get("variable", "")) for row in bad if (row.get("judge") == "measured") == (judge == "measured")}


@dataclass(frozen=True)
class ScoreStatus:
    """Why a cell has no score: its status and the reason; for one that is ok, whether it has a score in the column."""

    status: Status
    reason: str = ""
    scored: bool = True

    @property
    def ok(self) -> bool:
        """Whether there is a score."""
        return self.status is Status.OK and self.scored

    @property
    def word(self) -> str:
        """The status alone: ``ok``, ``no score``, ``failed`` ..."""
        return str(self.status) if self.scored else "no score"

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.reason else self.word


@dataclass(frozen=True)
class PooledStatus:
    """The statuses of a method's seeds, by seed."""

    seeds: Mapping[int, ScoreStatus]

    @property
    def ok(self) -> bool:
        """Whether every seed has a score."""
        return self._common is not None and self._common.ok

    @property
    def word(self) -> str:
        """The status without reasons: that of all seeds where they agree, else how many are ok."""
        if common := self._common:
            return common.word
        return f"{sum(status.ok for status in self.seeds.values())} of {len(self.seeds)} seeds ok"

    @property
    def _common(self) -> ScoreStatus | None:
        different = set(self.seeds.values())
        return different.pop() if len(different) == 1 else None

    def __str__(self) -> str:
        if common := self._common:
            return str(common)
        bad = (f"seed {seed} {status}" for seed, status in self.seeds.items() if not status.ok)
        return f"{self.word}; {'; '.join(bad)}"


def _key(score: Score) -> Key:
    do = {"do": score.do, "null": "none", "cell": ""}[score.scope]
    return Key(score.metric, score.column, score.variable, do)


def _means(scores: Mapping[Key, Mapping[tuple[str, int], Score]]) -> Iterator[Score]:
    """The means over the interventions of each cell's scores in columns that have one, where there are several."""
    columns: dict[Key, list[Mapping[tuple[str, int], Score]]] = {}
    for key, cells in scores.items():
        if key.do not in ("none", "") and all(s.about.averaged and s.kind == "set" for s in cells.values()):
            columns.setdefault(replace(key, do=MEAN), []).append(cells)
    for several in columns.values():
        for cell in dict.fromkeys(cell for cells in several for cell in cells) if len(several) > 1 else ():
            own = [cells[cell] for cells in several if cell in cells]
            width = min(len(s.values) for s in own)
            yield replace(
                own[0],
                do=MEAN,
                value=float(np.mean([s.value for s in own])) if len(own) == len(several) else math.nan,
                values=np.mean([s.values[:width] for s in own], axis=0),
                asked=sum(s.asked for s in own),
                finite=sum(s.finite for s in own),
            )


class ScoreTable:
    """The scores of one data set by column and by (method, seed)."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.scores: dict[Key, dict[tuple[str, int], Score]] = {}
        for s in results.scores:
            self.scores.setdefault(_key(s), {})[s.method, s.seed] = s
        for mean in list(_means(self.scores)):
            self.scores.setdefault(_key(mean), {})[mean.method, mean.seed] = mean
        self.cells = {(c.method, c.seed): c for c in results.cells}
        self._controls = frozenset(results.controls)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Rows of the table, controls last."""
        r = self.results
        asked = [*r.methods, *(c.method for c in r.cells), *r.controls]
        return tuple(sorted(dict.fromkeys(asked), key=lambda m: m in r.controls))

    @cached_property
    def columns(self) -> dict[Key, Score]:
        """Every column that any cell has a score in, with one of its scores, a finite one where there is one.

        A metric that could not score a cell names no variables: its score without one is left out where others have.
        """
        named = {replace(k, variable="") for k in self.scores if k.variable}
        order = {m: i for i, m in enumerate(dict.fromkeys(k.metric for k in self.scores))}
        dos = {d: i for i, d in enumerate([MEAN, *self.results.variables, "none", ""])}
        keys = sorted(
            (k for k in self.scores if k.variable or k not in named),
            key=lambda k: (dos.get(k.do, len(dos)), order[k.metric], dos.get(k.variable, -1)),
        )
        return {k: max(self.scores[k].values(), key=lambda s: np.isfinite(s.value)) for k in keys}

    def about(self, key: Key) -> Column:
        return self.columns[key].about

    def is_doubtful(self, key: Key) -> bool:
        """Whether a judge that is not good enough reads this column's variable, so that no row is ranked by it."""
        if not key.variable or not (key.metric in JUDGED or self.about(key).role == "effectiveness"):
            return False
        return key.variable in self._weak[JUDGED.get(key.metric, "")]

    @cached_property
    def _weak(self) -> dict[str, set[str]]:
        return {judge: weak(self.results, judge) for judge in JUDGED.values()}

    def is_control(self, method: str) -> bool:
        return method in self._controls

    def seeds(self, method: str) -> tuple[int, ...]:
        """The seeds of a method's cells: one for what is not trained, else those of the run."""
        own = self._own.get(method, frozenset())
        return tuple(own) if len(own) == 1 else tuple(self.results.seeds)

    @cached_property
    def _own(self) -> dict[str, frozenset[int]]:
        own: dict[str, set[int]] = {}
        for c in self.results.cells:
            own.setdefault(c.method, set()).add(c.seed)
        return {method: frozenset(seeds) for method, seeds in own.items()}

    @cached_property
    def lines(self) -> tuple[tuple[str, int], ...]:
        """The method and seed of each line of a stack."""
        return tuple((m, seed) for m in self.methods for seed in self.seeds(m))

    @cached_property
    def pooled(self) -> dict[str, slice]:
        """The lines of each method."""
        ends = np.cumsum([0, *(len(self.seeds(m)) for m in self.methods)]).tolist()
        return dict(zip(self.methods, map(slice, ends, ends[1:]), strict=True))

    def asked(self, key: Key) -> int:
        """How many questions a column was asked about."""
        return self._asked[key]

    @cached_property
    def _asked(self) -> dict[Key, int]:
        return {key: max(s.asked for s in scores.values()) for key, scores in self.scores.items()}

    def stack(self, key: Key, rows: np.ndarray | None = None) -> ColumnScores:
        """A column's scores, a line for each of ``lines``; ``rows`` [Q] picks questions.

        Raises:
            ValueError: scores and questions differ in number.
        """
        kind, asked = self.columns[key].kind, self._asked[key]
        scores = [self.scores[key].get(line) for line in self.lines]
        points = np.array([np.nan if s is None else s.value for s in scores], dtype=np.float64)
        finite = [0 if s is None else s.finite for s in scores]
        counted = [asked if s is None else s.asked for s in scores]
        stack = ColumnScores(kind, points, finite, counted)
        if kind == "image":
            return self._questions(stack, scores, key, rows)
        return _sets(stack, scores) if kind == "set" else stack

    def _questions(
        self, stack: ColumnScores, scores: list[Score | None], key: Key, rows: np.ndarray | None
    ) -> ColumnScores:
        factual = self._factuals[key.do]
        values = np.full((len(scores), len(factual)), np.nan)
        for line, s in zip(values, scores, strict=True):
            if s is not None and len(s.values) != len(factual):
                raise ValueError(f"{key.name} of {s.method}: {len(s.values)} scores for {len(factual)} questions")
            if s is not None:
                line[:] = s.values
        if rows is None:
            return replace(stack, values=values, factual=factual)
        # The questions that a metric was asked about: all, or for a subset those that any method has a score for.
        mask = rows if self._asked[key] >= len(factual) else rows & np.isfinite(values).any(0)
        values = np.compress(rows, values, axis=1)
        asked, finite = [int(mask.sum())] * len(scores), np.isfinite(values).sum(1).tolist()
        return replace(stack, values=values, factual=factual[rows], finite=finite, asked=asked)

    @cached_property
    def _factuals(self) -> dict[str, np.ndarray]:
        every, known = np.arange(self.results.factuals), self.results.factual
        return {key.do: np.asarray(known.get(key.do, every), np.int64) for key in self.columns}

    def status(self, method: str, seed: int, key: Key | None = None) -> ScoreStatus:
        """Whether a cell is ok, or has a score in a column, and why not."""
        cell = self.cells.get((method, seed), CellState(method, seed, Status.PENDING))
        score = None if key is None else self.scores[key].get((method, seed))
        if cell.status is not Status.OK:
            return ScoreStatus(cell.status, cell.reason)
        return ScoreStatus(cell.status, scored=key is None or (score is not None and bool(np.isfinite(score.value))))

    def pooled_status(self, method: str, key: Key | None = None) -> PooledStatus:
        """The statuses of a method's seeds."""
        return PooledStatus({seed: self.status(method, seed, key) for seed in self.seeds(method)})

    def residual(self, method: str) -> str:
        """A method's policy of residuals; empty where no cell records it."""
        return self._residuals.get(method, "")

    @cached_property
    def _residuals(self) -> dict[str, str]:
        return {c.method: c.residual for c in reversed(self.results.cells) if c.residual}


def _sets(stack: ColumnScores, scores: list[Score | None]) -> ColumnScores:
    known = [None if s is None or s.kind != "set" else s.values for s in scores]
    values = np.full((len(known), max((len(v) for v in known if v is not None), default=0)), np.nan)
    for line, v in zip(values, known, strict=True):
        if v is not None:
            line[: len(v)] = v
    return replace(stack, values=values)
