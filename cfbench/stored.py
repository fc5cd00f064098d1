"""What the stages of a run hold for its tables, checked: the plan's questions, scores, and the judges' card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import store
from .contract import Column
from .plan import Plan
from .wellformed import Wrong, each, flag, mapping, matching, number, one_of, optional, printable, text, whole_number

__all__ = ["card_rows", "checked_plan", "key", "read_scores"]

MOST = 10**5
"""Replicates of a set's score: hundreds are drawn."""

key = matching(re.compile(r"(?:[0-9a-f]{8,64})?"), "key")
"""A key, or none."""
_count = whole_number(0, 2**53)
_COLUMN: dict[str, Callable[[Any], Any]] = {
    "direction": one_of("lower", "higher", "target", "none"),
    "low": optional(number),
    "high": optional(number),
    "target": optional(number),
    "privileged": flag,
    "subset": flag,
}


def checked_plan(plan: Plan, variables: Sequence[str]) -> Plan:
    """A plan whose questions are about factuals that it has and variables that the data set has.

    Raises:
        Wrong: it is not so.
    """
    n, d = len(plan), len(variables)
    _shaped("rows", plan.rows, (n,), whole=True)
    _shaped("index", plan.index, (n,), whole=True)
    _shaped("pa", plan.pa, (n, d))
    for v, asked in plan.asked.items():
        if v not in variables:
            raise Wrong(f"the plan asks about {printable(v, 40)}, which is no variable of the data set")
        q = len(asked)
        _shaped(f"factual/{v}", asked.factual, (q,), whole=True)
        _shaped(f"value/{v}", asked.value, (q,))
        _shaped(f"cf_pa/{v}", asked.cf_pa, (q, d))
        _shaped(f"supported/{v}", asked.supported, (q,))
        if asked.supported.dtype != torch.bool or bool(((asked.factual < 0) | (asked.factual >= n)).any()):
            raise Wrong(f"the plan's questions about {v} are about no factuals of its own")
    return plan


def _shaped(name: str, x: Tensor, shape: tuple[int, ...], *, whole: bool = False) -> None:
    if tuple(x.shape) != shape or (whole and x.dtype != torch.int64):
        raise Wrong(f"the plan's {printable(name, 60)} is {x.dtype} {list(x.shape)[:8]}, not {list(shape)}")


def read_scores(stage: Path, plan: Plan) -> Iterator[tuple[dict[str, Any], Column, np.ndarray]]:
    """Each row of a stage of scores (do, column, variable, kind, value, asked, finite), its column and raw scores.

    What this version does not know of rows and columns is passed over.

    Raises:
        Wrong: scores and questions do not fit.
    """
    said, arrays = store.read_sealed(stage, "scores.json", "scores.safetensors", 2**30)
    # The stages of a metric describe the same columns, a thousand times where there are a thousand cells.
    columns, rows = _columns(json.dumps(mapping(said)["columns"])), each(_row)(said["rows"])
    for row in rows:
        values = arrays[f"{row['do']}|{row['column']}|{row['variable']}"]
        if not _fits(values, row, plan):
            raise Wrong(f"{stage.name} has {list(values.shape)[:8]} scores of {row['column']}, do({row['do']})")
        yield row, columns[row["column"]], values.astype(np.float64, copy=False)


def _fits(values: np.ndarray, row: Mapping[str, Any], plan: Plan) -> bool:
    """Whether raw scores are one a question, or as many as replicates may be."""
    if values.ndim != 1 or values.dtype.kind != "f":
        return False
    if row["kind"] != "image":
        return len(values) <= MOST
    return len(values) == (len(plan) if row["do"] == "null" else len(plan.asked[row["do"]]))


@lru_cache(64)
def _columns(said: str) -> Mapping[str, Column]:
    return MappingProxyType(mapping(json.loads(said), _column))


def _column(value: Any) -> Column:
    said = mapping(value)
    checks = {f.name: _COLUMN.get(f.name, printable) for f in fields(Column) if f.name in said}
    return Column(**{"text": "", **{name: check(said[name]) for name, check in checks.items()}})


def _row(value: Any) -> dict[str, Any]:
    said = mapping(value)
    return {name: check(said[name]) for name, check in _ROW.items()}


def _real(value: Any) -> float:
    """A number, which may be NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Wrong(f"{printable(repr(value), 60)} is no number")
    return float(value)


_ROW: dict[str, Callable[[Any], Any]] = {
    "do": text,
    "column": text,
    "variable": text,
    "kind": one_of("image", "set", "cell"),
    "value": _real,
    "asked": _count,
    "finite": _count,
}


def card_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a card that tells what judges or mechanisms are worth; none where there is no card."""
    return each(_card_row)(store.read_json(path)) if path.exists() else []


def _card_row(value: Any) -> dict[str, Any]:
    known = {"error": _real, "n": _count, "good": optional(flag)}
    return {name: known.get(name, printable)(v) for name, v in mapping(value).items()}
