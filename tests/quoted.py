"""The figures of ours that docs/published.md quotes, as the published tables have them.

    python tests/quoted.py    # writes them into the page again, after tables were published anew

A table of the page whose first heading is ours, `DATASET` has a row of that data set's table in each line; a heading
names the column of the CSV, the variable that is read and the intervention.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

import pandas as pd

from cfbench.report.format import number

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "published.md"
TABLES = ROOT / "leaderboard" / "quick-cpu"
FIRST = re.compile(r"ours, `(\w+)`")
COLUMN = re.compile(r"`([\w.]+)`(?: of (\w+))?(?:<br>do\((\w+)\))?")
KEPT = {"nearest to"}
"""Headings of cells that are written by hand."""


def quoted(text: str) -> str:
    """The page with every figure of ours taken from the tables."""
    lines, head = text.splitlines(keepends=True), []
    for i, line in enumerate(lines):
        cells = _cells(line)
        if not cells:
            head = []
        elif not head:
            head = cells
        elif (ours := FIRST.fullmatch(head[0])) and not set(line) <= set("|-: \n"):
            shown = (_shown(ours[1], cells[0].strip("`"), h, c) for h, c in zip(head[1:], cells[1:], strict=True))
            lines[i] = f"| {' | '.join([cells[0], *shown])} |\n"
    return "".join(lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


def _shown(dataset: str, row: str, heading: str, cell: str) -> str:
    if heading in KEPT:
        return cell
    if heading == "residual":
        return _only(_table(f"{dataset}-wide"), method=row)["residual"]
    found = COLUMN.fullmatch(heading)
    if not found:
        raise ValueError(f"docs/published.md: heading {heading!r} names no column")
    metric, variable, do = found.groups("")
    key = {"method": row, "metric": metric, "variable": variable, "do": do or "none"}
    score = _only(_table(dataset), **key, seed="all", questions="all")
    value, low, high = (float(score[name] or "nan") for name in ("value", "low", "high"))
    if not math.isfinite(value):
        return "–"
    write = number(value, low, high)
    return f"{write(value)} [{write(low)}, {write(high)}]" if low < high else write(value)


@cache
def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"{name}.csv", dtype=str, keep_default_na=False)


def _only(table: pd.DataFrame, **key: str) -> pd.Series:
    found = table[(table[list(key)] == pd.Series(key)).all(axis=1)]
    if len(found) != 1:
        raise ValueError(f"docs/published.md quotes {key}, which has {len(found)} rows in the table")
    return found.iloc[0]


if __name__ == "__main__":
    PAGE.write_text(quoted(PAGE.read_text()))
