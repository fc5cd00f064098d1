"""Rows of one method at several budgets: what they show, as a table, and where more training made a method worse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import Any

import numpy as np
import pandas as pd

from ..plugins.budgets import spell_budget
from ..plugins.spec import Spec
from .board import Board
from .columns import MEAN, Key, where
from .format import column_name, number
from .statistics.intervals import LEVEL
from .statistics.ranking import Comparison, Family, holm
from .summary.headline import COMPOSITION, EFFECTIVENESS, ERROR, FITS, IMAGES, LIKELIHOOD, SKILL, clocks

__all__ = ["Curve", "budget_table", "budget_warnings", "curves", "fit_cost", "followed", "seen"]


@dataclass(frozen=True)
class Curve:
    """A method's rows by their budgets in training images, smallest first."""

    name: str
    rows: Mapping[int, str]


def curves(board: Board) -> list[Curve]:
    """The methods that have rows at several budgets, each with one row a budget.

    Controls, and rows whose weights or answers were made elsewhere, have no budget.
    """
    usual = board.results.notes.get("budget", {}).get("images")
    order = {method: i for i, method in enumerate(board.methods)}
    groups: dict[str, dict[int, tuple[str, Spec]]] = {}
    for c in sorted(board.results.cells, key=lambda c: order[c.method]):
        images = c.spec.images or usual if c.spec else None
        if c.spec and images and c.fit and not c.notes.get("weights") and not board.is_control(c.method):
            plain = replace(c.spec, images=None).label
            groups.setdefault(plain, {}).setdefault(int(images), (c.method, c.spec))
    return [
        Curve(_name(plain, [spec for _, spec in rows.values()]), {n: rows[n][0] for n in sorted(rows)})
        for plain, rows in groups.items()
        if len(rows) > 1
    ]


def _name(plain: str, specs: Iterable[Spec]) -> str:
    """What the user called all rows of a curve, or else their label without the budget."""
    names = {spec.alias.removesuffix(spec.mark) for spec in specs}
    return next(iter(names)) if len(names) == 1 and all(names) else plain


def followed(board: Board) -> list[Key]:
    """The columns that a curve is drawn of: skill or error, effectiveness, composition, bits per dimension."""
    scored = [k for k in board.columns if any(math.isfinite(board.estimates[m, k].value) for m in board.methods)]
    own = [k for k in scored if k.variable == k.do]
    candidates: list[list[Key]] = [
        sorted((k for k in scored if k.path == SKILL), key=lambda k: k.do != MEAN)
        or [k for k in scored if k.path == ERROR],
        [k for k in own if k.path == EFFECTIVENESS[0]]
        or [k for k in own if k.metric == "measured" and board.about(k).direction != "none"]
        or [k for k in own if k.path in EFFECTIVENESS],
        [k for k in scored if k.path == COMPOSITION],
        [k for k in scored if k.path == LIKELIHOOD],
    ]
    return [keys[0] for keys in candidates if keys]


def seen(board: Board) -> Key | None:
    """The column of the training images that fits have seen."""
    return next((k for k in board.columns if k.path == IMAGES), None)


def fit_cost(board: Board) -> Key | None:
    """The column of a fit's seconds: of the processor where these are known."""
    known = {k.path: k for k in board.columns if any(math.isfinite(board.estimates[m, k].value) for m in board.methods)}
    return next((known[path] for path in clocks(known.keys()) if path in FITS), None)


def budget_table(board: Board) -> pd.DataFrame:
    """A line for each row of each curve: its budget, what its fit saw and took, and the `followed` columns."""
    single = [k for k in (seen(board), fit_cost(board)) if k is not None]
    lines: list[dict[str, Any]] = []
    for curve in curves(board):
        for images, row in curve.rows.items():
            line: dict[str, Any] = {"method": curve.name, "row": row, "budget": images}
            line |= {key.column: board.estimates[row, key].value for key in single}
            for key in followed(board):
                e = board.estimates[row, key]
                line |= {key.name: e.value, f"{key.name} low": e.low, f"{key.name} high": e.high}
            lines.append(line)
    return pd.DataFrame(lines)


def budget_warnings(board: Board) -> Iterator[str]:
    """A sentence for each method that is surely worse at a larger budget than at a smaller one.

    Looked at are the skill of every intervention and its mean, or the error to the truth. The p-values of paired
    differences are corrected over all of a method's pairs of budgets and all these columns (Holm).
    """
    found = curves(board)
    watched = next((keys for path in (SKILL, ERROR) if (keys := [k for k in board.columns if k.path == path])), [])
    pairs = {key: _pairs(board, key, found) for key in watched if found}
    for curve in found:
        rows = {row: images for images, row in curve.rows.items()}
        own = [(key, c) for key, each in pairs.items() for c in each if c.first in rows]
        worse = [pair for pair, p in zip(own, holm(np.array([c.p for _, c in own])), strict=True) if p <= 1 - LEVEL]
        if parts := list(_differences(board, rows, [pair for pair in worse if _is_worse(board, *pair)])):
            yield f"{curve.name} is surely worse at a larger budget ({worse[0][1].holds_for}): {'; '.join(parts)}."


def _pairs(board: Board, key: Key, found: Sequence[Curve]) -> list[Comparison]:
    """The comparisons in a column of each row with those of its curve at smaller budgets, which come second.

    Where only a set has a score, one whose rows answered less at the smaller budget is left out.
    """
    at = {row: k for k, row in enumerate(board.whole.methods)}
    each = [(at[large], at[small]) for c in found for small, large in combinations(c.rows.values(), 2)]
    first, second = np.array(each, dtype=np.int64).T
    family = Family(board.whole.stack(key), board.whole.pooled, board.about(key), (first, second))
    share = dict(zip(family.names, family.coverage, strict=True))
    is_set = family.scores.kind == "set"
    return [c for c in family.comparisons() if not is_set or share[c.second] >= share[c.first]]


def _is_worse(board: Board, key: Key, c: Comparison) -> bool:
    """Whether the first row of a comparison is worse than the second."""
    return c.difference < 0 if board.about(key).direction == "higher" else c.difference > 0


def _differences(board: Board, rows: Mapping[str, int], worse: Sequence[tuple[Key, Comparison]]) -> Iterator[str]:
    """Of each column the pair of budgets that differ most, with both values."""
    for key, each in groupby(worse, key=lambda pair: pair[0]):
        c = max((c for _, c in each), key=lambda c: abs(c.difference))
        before, after = (f"{_value(board, m, key)} at {spell_budget(rows[m])}" for m in (c.second, c.first))
        yield f"{column_name(board, key)}, {where(key.do)}, from {before} to {after} images"


def _value(board: Board, method: str, key: Key) -> str:
    e = board.estimates[method, key]
    return number(e.value, e.low, e.high)(e.value)
