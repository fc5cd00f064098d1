"""Files of stages, validated as they are read: whoever wrote a run or a bundle is not trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from .. import storage
from ..contract import Column, Role
from ..errors import UserError, one_line
from ..evaluation.plan import Plan
from ..storage.schema import (
    SchemaError,
    boolean,
    each,
    mapping,
    matching,
    number,
    one_of,
    optional,
    printable,
    text,
    whole_number,
)

__all__ = [
    "check_plan_tensors",
    "optional_key",
    "raw_scores",
    "read_card",
    "read_scores",
    "reading",
    "reading_run",
    "score_tensor",
]


@contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Context manager that reports files which are not as cfbench writes them in one line.

    Args:
        what: is read, as the line names it.
        remedy: what to do about it.

    Raises:
        UserError: in place of any exception that damaged or invented contents lead to.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        found = (
            one_line(error, 200)
            if isinstance(error, SchemaError)
            else f"{type(error).__name__}: {one_line(error, 160)}"
        )
        raise UserError(f"{what} is damaged, or cfbench did not write it ({found}); {remedy}") from error


@contextmanager
def reading_run(folder: Path) -> Iterator[None]:
    """Context manager that reports damaged files of a run in one line.

    Raises:
        UserError: a file is not as cfbench writes it.
    """
    remedy = "`cfbench verify` names the stages that changed, --debug shows where it was met"
    with reading(str(folder), remedy):
        yield


Tensors = TypeVar("Tensors", Tensor, np.ndarray)

MAX_PSEUDO_VALUES = 10**5
"""Of a set's score: there are a few hundred groups at most."""

optional_key = matching(re.compile(r"(?:[0-9a-f]{8,64})?"), "key")
"""A key, or the empty string."""
_count = whole_number(0, 2**53)
_COLUMN: dict[str, Callable[[Any], Any]] = {
    "direction": one_of("lower", "higher", "target", "none"),
    "low": optional(number),
    "high": optional(number),
    "target": optional(number),
    "privileged": boolean,
    "subset": boolean,
    "printed": optional(boolean),
    "averaged": boolean,
    "order": number,
    "role": one_of(*get_args(Role)),
}


def check_plan_tensors(plan: Plan, variables: Sequence[str]) -> Plan:
    """Return a plan whose tensors have the right shapes, and ask about its own factuals and known variables.

    Raises:
        SchemaError: they do not.
    """
    n, d = len(plan), len(variables)
    _check_tensor("rows", plan.rows, (n,), whole=True)
    _check_tensor("index", plan.index, (n,), whole=True)
    _check_tensor("pa", plan.pa, (n, d))
    for v, asked in plan.asked.items():
        if v not in variables:
            raise SchemaError(f"the plan asks about {printable(v, 40)}, which is no variable of the data set")
        q = len(asked)
        _check_tensor(f"factual/{v}", asked.factual, (q,), whole=True)
        _check_tensor(f"value/{v}", asked.value, (q,))
        _check_tensor(f"cf_pa/{v}", asked.cf_pa, (q, d))
        _check_tensor(f"supported/{v}", asked.supported, (q,))
        if asked.supported.dtype != torch.bool or bool(((asked.factual < 0) | (asked.factual >= n)).any()):
            raise SchemaError(f"the plan's questions about {v} are about no factuals of its own")
    return plan


def _check_tensor(name: str, x: Tensor, shape: tuple[int, ...], *, whole: bool = False) -> None:
    if tuple(x.shape) != shape or (whole and x.dtype != torch.int64):
        raise SchemaError(f"the plan's {printable(name, 60)} is {x.dtype} {list(x.shape)[:8]}, not {list(shape)}")


def score_tensor(row: Mapping[str, Any]) -> str:
    """The name of the tensor of a row's raw scores, ``do|column|variable``, of a set with ``|jackknife``."""
    name = f"{row['do']}|{row['column']}|{row['variable']}"
    return f"{name}|jackknife" if row["kind"] == "set" else name


def raw_scores(row: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> Tensors:
    """The raw scores of a row among a stage's tensors (or arrays).

    A set's score that was stored with bootstrap replicates, under the name without ``|jackknife``, has none: [0].

    Raises:
        KeyError: there is neither.
    """
    name = score_tensor(row)
    if name in tensors or row["kind"] != "set":
        return tensors[name]
    return tensors[name.removesuffix("|jackknife")][:0]


def read_scores(stage: Path, plan: Plan) -> Iterator[tuple[dict[str, Any], Column, np.ndarray]]:
    """Each row of a stage of scores (do, column, variable, kind, value, asked, finite,
    scope), its column and raw scores.

    Fields of rows and columns that this version does not know are ignored.

    Raises:
        SchemaError: scores and questions do not match.
    """
    table, arrays = storage.read_verified(stage, "scores.json", "scores.safetensors", 2**30)
    # A thousand cells have a thousand stages that describe the same columns: each description is parsed once.
    columns, rows = _columns(json.dumps(mapping(table)["columns"])), each(_score_row)(table["rows"])
    for row in rows:
        values = raw_scores(row, arrays)
        if not _has_shape(values, row, plan):
            raise SchemaError(f"{stage.name} has {list(values.shape)[:8]} scores of {row['column']}, do({row['do']})")
        yield row, columns[row["column"]], values.astype(np.float64, copy=False)


def _has_shape(values: np.ndarray, row: Mapping[str, Any], plan: Plan) -> bool:
    """Whether raw scores are one a question [Q], or pseudo-values [G]."""
    if values.ndim != 1 or values.dtype.kind != "f":
        return False
    if row["kind"] != "image":
        return len(values) <= MAX_PSEUDO_VALUES
    return len(values) == (len(plan.asked[row["do"]]) if row["scope"] == "do" else len(plan))


@lru_cache(64)
def _columns(described: str) -> Mapping[str, Column]:
    return MappingProxyType(mapping(json.loads(described), _column))


def _column(value: Any) -> Column:
    column = mapping(value)
    checks = {f.name: _COLUMN.get(f.name, printable) for f in fields(Column) if f.name in column}
    return Column(**{"text": "", **{name: check(column[name]) for name, check in checks.items()}})


def _score_row(value: Any) -> dict[str, Any]:
    row = mapping(value)
    known = {name: check(row[name]) for name, check in _ROW.items()}
    return known | {"scope": _SCOPE(row.get("scope", {"null": "null", "cell": "cell"}.get(known["do"], "do")))}


def _real(value: Any) -> float:
    """A number, which may be NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SchemaError(f"{printable(repr(value), 60)} is no number")
    return float(value)


_SCOPE = one_of("do", "null", "cell")
"""In stages without scopes, which older versions wrote, ``do`` is one where it is no variable."""
_ROW: dict[str, Callable[[Any], Any]] = {
    "do": text,
    "column": text,
    "variable": text,
    "kind": one_of("image", "set", "cell"),
    "value": _real,
    "asked": _count,
    "finite": _count,
}


def read_card(path: Path) -> list[dict[str, Any]]:
    """The rows of a card with the errors of judges or mechanisms; none where there is no card."""
    return each(_card_row)(storage.read_json(path)) if path.exists() else []


def _card_row(value: Any) -> dict[str, Any]:
    known = {"error": _real, "n": _count, "good": optional(boolean)}
    return {name: known.get(name, printable)(v) for name, v in mapping(value).items()}
