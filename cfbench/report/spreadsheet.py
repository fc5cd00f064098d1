"""Tables as CSV that neither spreadsheets nor readers take for something else."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from ..names import is_missing

__all__ = ["csv"]

# Spreadsheets run what begins with these.
_FORMULA = re.compile(r"^[=+\-@\t\r]")
# R reads a column of nothing else, and of empty cells, as truth values.
_LOGICAL = {"T", "F"}


def _safe(value: Any) -> Any:
    if not isinstance(value, str) or value == "-":
        return value
    return f"'{value}" if _FORMULA.match(value) or is_missing(value) else value


def csv(table: pd.DataFrame) -> str:
    """CSV text in which no text begins as a formula or is one that readers take for a missing or a truth value.

    Such text gets an apostrophe before it.
    """
    safe = table.copy()
    for name in table.select_dtypes(exclude="number").columns:
        safe[name] = table[name].map(_safe)
        found = set(safe[name]) - {""}
        if found and found <= _LOGICAL:
            safe[name] = [text and f"'{text}" for text in safe[name]]
    safe.columns = pd.Index([_safe(c) for c in table.columns])
    return safe.to_csv(index=False, lineterminator="\n")
