"""The summary of a data set: one small table of skill, effectiveness, composition and cost, best method first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...plugins.budgets import MARK
from ...runs.findings import marked
from ..board import Board, Estimate
from ..columns import MEAN, Key
from ..format import MARKS, marks_of, plain
from .headline import (
    COMPOSITION,
    EFFECTIVENESS,
    ERROR,
    FITS,
    QUANTITIES,
    SKILL,
    WITHOUT_TRUTH,
    clocks,
)

__all__ = ["ANSWER", "Cell", "Summary", "chosen", "of_board", "of_frames", "short_names"]

ANSWER = Key("cost", "answer_ms", "", "")
"""The column that holds the sum of the times of an answer."""
MOST = 8
"""Columns beside the name, of which fit and answer share the last."""


def chosen(keys: Sequence[Key]) -> tuple[Key, ...]:
    """The columns of a summary, out of those in which a method has a score.

    These are the skill of each intervention, their mean first (or the error to the truth where skill is not there),
    effectiveness of those without a truth (or of one of those with a truth), what `WITHOUT_TRUTH` names where no
    intervention has a truth, composition, and the costs.
    """
    truth = next((found for path in (SKILL, ERROR) if (found := [k for k in keys if k.path == path])), [])
    null = [k for k in keys if k.path == COMPOSITION][:1]
    times = clocks({k.path for k in keys})
    cost = [k for k in keys if k.path in times]
    room = MOST - len(null) - bool(cost)
    effects = [k for k in keys if k.path in EFFECTIVENESS and k.variable == k.do and k.do not in {t.do for t in truth}]
    if truth and not effects:
        effects = [k for path in EFFECTIVENESS for k in keys if k.path == path and k.variable == k.do][:1]
    head = truth[: room - bool(effects)]
    head += effects[: room - len(head)]
    if not truth:
        found = next((f for path in WITHOUT_TRUTH if (f := [k for k in keys if k.path == path])), [])
        head += found[: room - len(head)]
    answer = [ANSWER] if any(k.path not in FITS for k in cost) else []
    return (*head, *null, *(k for k in cost if k.path in FITS), *answer)


@dataclass(frozen=True)
class Cell:
    """An entry: a score with its interval and ranks, or in a word why there is none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    ranks: tuple[int, int] | None = None
    best: bool = False
    coverage: float = 1.0
    word: str = "–"

    @property
    def _decimals(self) -> int:
        """So many that half of the interval has 3 to 30 units of the last digit; 2 at most."""
        half = (self.high - self.low) / 2
        if not half > 0:
            return 0 if abs(self.value) >= 100 else 1 if abs(self.value) >= 10 else 2
        return min(max(math.ceil(-math.log10(half / 3)), 0), 2)

    @property
    def known(self) -> bool:
        """Whether there is a score."""
        return math.isfinite(self.value)

    @property
    def number(self) -> str:
        """The score, without a zero before the point."""
        return _bare(plain(self.value, self._decimals)) if self.known else self.word

    @property
    def half(self) -> str:
        """± half of the interval; empty where that is 0 in the digits shown."""
        half = (self.high - self.low) / 2
        text = _bare(plain(half, self._decimals)) if math.isfinite(half) else "0"
        return "" if text == "0" else f"±{text}"

    @property
    def interval(self) -> str:
        """Both ends of the interval."""
        if not math.isfinite(self.low):
            return ""
        decimals = self._decimals
        return f"[{_bare(plain(self.low, decimals))}, {_bare(plain(self.high, decimals))}]"

    @property
    def rank(self) -> str:
        """The ranks that the method may hold, and the share of questions with a score where not all have one."""
        ranks = "" if self.ranks is None else "#" + "–".join(map(str, dict.fromkeys(self.ranks)))
        share = "" if self.coverage >= 1 or not self.known else f"({min(100 * self.coverage, 99):.0f}%)"
        return " ".join(filter(None, (ranks, share)))


def _bare(number: str) -> str:
    """A number without a zero before the point; 0 where all its digits are 0."""
    if re.fullmatch(r"-?0(\.0*)?", number):
        return "0"
    return re.sub(r"^(-?)0\.", r"\1.", number)


@dataclass(frozen=True)
class Summary:
    """The rows and columns of a summary.

    Args:
        dataset: its name.
        keys: the columns.
        methods: the rows, controls last.
        controls: those that are no methods.
        residuals: the residual policy of each row.
        cells: the entries by row and column.
        marks: of each column, and of each intervention.
        broken: the rows in whose fits something was found wrong.
    """

    dataset: str
    keys: tuple[Key, ...]
    methods: tuple[str, ...]
    controls: frozenset[str]
    residuals: Mapping[str, str]
    cells: Mapping[tuple[str, Key], Cell]
    arrows: Mapping[Key, str]
    marks: Mapping[Key, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()

    def marked(self, method: str, name: str = "") -> str:
        """The name of a row, or a shortened one, as tables show it."""
        return marked(name or method, method in self.broken)

    @property
    def scored(self) -> tuple[Key, ...]:
        """The columns that are no costs."""
        return tuple(k for k in self.keys if k.do)

    @property
    def is_empty(self) -> bool:
        """Whether no row has a score or a cost, so that there is nothing to show but why."""
        return not self.keys

    @property
    def fit(self) -> Key | None:
        """The column of a fit's seconds."""
        return next((k for k in self.keys if k.path in FITS), None)

    @property
    def answer(self) -> Key | None:
        """The column of an answer's milliseconds."""
        return next((k for k in self.keys if k == ANSWER), None)

    @property
    def is_cpu(self) -> bool:
        """Whether seconds of a fit are those of the processor."""
        return self.fit is not None and self.fit.path == FITS[0]

    @property
    def own(self) -> int:
        """The number of rows that are no controls."""
        return len(self.methods) - len(self.controls & set(self.methods))

    def names(self, width: int) -> dict[str, str]:
        """The rows' names in at most ``width`` characters."""
        return short_names(self.methods, width)

    def head(self, key: Key) -> tuple[str, str]:
        """A column's quantity with arrow and marks, and what it is about."""
        quantity = QUANTITIES.get(key.path, key.column.replace("_", " "))
        arrow = f"{quantity} {self.arrows.get(key, '')}".strip()
        place = "mean" if key.do == MEAN else "" if key.do == "none" else key.do + self.about.get(key.do, "")
        return arrow + self.marks.get(key, ""), place

    def residual(self, method: str, key: Key) -> str:
        """What the residual of a row is, behind its composition."""
        policy = self.residuals.get(method, "") if key.path == COMPOSITION else ""
        return "" if policy == "-" else policy.partition("-")[0][:8]

    def costs(self, method: str) -> tuple[str, str]:
        """The seconds of the fit and the milliseconds of an answer, each with its unit; empty for controls."""
        if method in self.controls:
            return "", ""
        found = [(k, self.cells[method, k], unit) for k, unit in ((self.fit, "s"), (self.answer, "ms")) if k]
        texts = [f"{_cost(cell.value)} {unit}" if cell.known else cell.word for _, cell, unit in found]
        return texts[0] if self.fit else "", texts[-1] if self.answer else ""


def _cost(value: float) -> str:
    """A time in two digits, or in whole numbers."""
    return _bare(f"{value:.2g}") if 0.01 <= value < 10 else plain(value, 0)


def short_names(methods: Iterable[str], width: int) -> dict[str, str]:
    """Names in at most ``width`` characters: those that are longer get numbers, ``diffscm…(1)`` or ``diff…(2)@32k``."""
    short: dict[str, str] = {}
    for method in methods:
        if len(method) <= width:
            short[method] = method
            continue
        own = re.search(rf"{MARK}\w+$", method)
        end = f"…({len([m for m, s in short.items() if m != s]) + 1}){own[0] if own else ''}"
        base = re.split(rf"[\[:{MARK}]", method)[0]
        short[method] = base[: max(width - len(end), 1)] + end
    return short


def _scored(board: Board) -> list[Key]:
    """The columns that a method has a score in; those of controls where there are only these."""
    own = [m for m in board.methods if not board.is_control(m)] or board.methods
    return [k for k in board.columns if any(math.isfinite(board.estimates[m, k].value) for m in own)]


def of_board(board: Board) -> Summary:
    """The summary of a leaderboard."""
    keys = chosen(_scored(board))
    times = [k for k in _scored(board) if k.path in clocks({c.path for c in _scored(board)}) and k.path not in FITS]
    cells = {
        (m, k): _answer(board, m, times) if k == ANSWER else _cell(board, m, k) for m in board.methods for k in keys
    }
    asked = {k.do for k in keys if k.do}
    truths = {v: board.results.truth.get(v, "none") for v in board.results.variables}
    return Summary(
        board.results.dataset,
        keys,
        _sorted(board.methods, frozenset(board.results.controls), keys, cells),
        frozenset(m for m in board.methods if board.is_control(m)),
        {m: board.residual(m) for m in board.methods},
        cells,
        {k: _ARROWS[board.about(k).direction] for k in keys if k != ANSWER},
        {k: marks_of(board, k) for k in keys if k.do},
        {v: MARKS[kind] for v, kind in truths.items() if v in asked},
        board.broken,
    )


_ARROWS = {"lower": "↓", "higher": "↑"} | dict.fromkeys(("target", "none"), "")


def _cell(board: Board, method: str, key: Key) -> Cell:
    e, (finite, asked) = board.estimates[method, key], board.coverage[method, key]
    status = board.pooled_status(method, key)
    word = "–" if status.word in ("no score", "ok") else status.word
    ranks = board.ranks[key].get(method) if key.do and board.best[key] else None
    return Cell(e.value, e.low, e.high, ranks, method in board.best[key], finite / max(asked, 1), word)


def _answer(board: Board, method: str, times: Iterable[Key]) -> Cell:
    found = [board.estimates[method, k] for k in times]
    return Cell(_total(found), word=board.pooled_status(method).word)


def _total(found: Iterable[Estimate]) -> float:
    return math.fsum(e.value for e in found)


def _sorted(
    methods: Iterable[str], controls: frozenset[str], keys: Sequence[Key], cells: Mapping[tuple[str, Key], Cell]
) -> tuple[str, ...]:
    """Methods by the first column where that compares with the truth, else as they are; then the controls."""
    methods = list(methods)
    own = [m for m in methods if m not in controls]
    if keys and keys[0].path in (SKILL, ERROR):
        sign = -1 if keys[0].path == SKILL else 1
        value = {m: cells[m, keys[0]].value for m in own}
        own.sort(key=lambda m: sign * value[m] if math.isfinite(value[m]) else math.inf)
    return (*own, *(m for m in methods if m in controls))


def of_frames(tidy: pd.DataFrame, wide: pd.DataFrame) -> Summary:
    """The summary from the tables ``DATASET.csv`` and ``DATASET-wide.csv``, without marks.

    Raises:
        KeyError: a column is missing.
    """
    pooled = tidy[(tidy["seed"] == "all") & (tidy["questions"] == "all")]
    records = [{str(name): value for name, value in row.items()} for row in pooled.to_dict("records")]
    rows = {(str(r["method"]), _key(r)): r for r in records}
    methods, roles = [str(m) for m in wide["method"]], list(wide["role"])
    controls = frozenset(m for m, role in zip(methods, roles, strict=True) if role == "control")
    own = [m for m in methods if m not in controls] or methods
    keys = dict.fromkeys(_key(r) for r in records)
    scored = [k for k in keys if any((m, k) in rows and math.isfinite(rows[m, k]["value"]) for m in own)]
    shown = chosen(scored)
    cells: dict[tuple[str, Key], Cell] = {}
    for k in shown:
        found = _cells({m: rows[m, k] for m in methods if (m, k) in rows})
        cells |= {(m, k): found.get(m, Cell()) for m in methods}
    times = set(clocks({k.path for k in scored})) - set(FITS)
    for m in methods:
        costs = [rows[m, k]["value"] for k in keys if k.path in times and (m, k) in rows]
        cells[m, ANSWER] = Cell(math.fsum(costs) if costs else math.nan)
    arrows = {_key(r): _ARROWS.get(str(r["direction"]), "") for r in records}
    residuals = dict(zip(methods, map(str, wide["residual"]), strict=True))
    dataset = str(tidy["dataset"].iloc[0])
    return Summary(dataset, shown, _sorted(methods, controls, shown, cells), controls, residuals, cells, arrows)


def _cells(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Cell]:
    """The entries of a column from its rows in the tidy table."""
    ranked = {m: float(r["coverage"]) for m, r in rows.items() if math.isfinite(r["rank_low"])}
    most, several = max(ranked.values(), default=0.0), len(ranked) > 1
    found = {}
    for m, r in rows.items():
        ranks = (int(r["rank_low"]), int(r["rank_high"])) if several and m in ranked and str(r["do"]) else None
        best = several and m in ranked and r["rank_low"] == 1 and ranked[m] >= most
        word = str(r["status"]).partition(":")[0]
        word = "–" if word in ("ok", "no score") else word
        found[m] = Cell(r["value"], r["low"], r["high"], ranks, best, r["coverage"], word)
    return found


def _key(row: Mapping[str, Any]) -> Key:
    metric, _, column = str(row["metric"]).rpartition(".")
    return Key(metric, column, str(row["variable"]), str(row["do"]))
