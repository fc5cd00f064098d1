"""The summary of all data sets whose tables lie in a folder: ``summary.csv`` and ``summary.md``."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import reason_of
from ...names import SUMMARY
from ...storage.plain import read_plain
from ..board import TIDY
from ..markup import md
from ..spreadsheet import csv
from .headline import FITS
from .rows import ANSWER, Summary, of_frames
from .tables import markdown_summary

__all__ = ["READING", "rows_of", "summaries_in", "summary_texts"]

LARGEST = 2**30
"""Bytes of a table that is read."""
WIDE = ("method", "role", "seeds", "residual", "status")
READING = """
Skill: the share of the factual's own error to the truth that an answer removes; 1 is the truth, 0 no change.
±: half of the 95 % interval. Bold: no other method is surely better; #: the ranks that a method may hold.
Composition is in grey levels and stands with the residual's policy; fit is in seconds (of the processor or by the
clock), answer in milliseconds an image. The notes of each data set's own tables say what was asked and on which device.
"""


def summary_texts(folder: Path) -> dict[str, str]:
    """The texts of both files by name; none where no data set's tables lie in the folder."""
    found = list(summaries_in(folder))
    if not found:
        return {}
    rows = [row for _, summary, _, wide in found for row in rows_of(summary, wide)]
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(name for row in rows for name in row)))
    parts = [f"## [{md(s.dataset)}]({file.stem}.md)\n\n{markdown_summary(s)}" for file, s, _, _ in found]
    return {f"{SUMMARY}.csv": csv(table), f"{SUMMARY}.md": "\n".join(["# Summary\n", *parts, READING.strip(), ""])}


def summaries_in(folder: Path) -> Iterator[tuple[Path, Summary, pd.DataFrame, pd.DataFrame]]:
    """The path of the tidy table, the summary, and both tables of each data set; what cannot be read is left out.

    Of two tables of a data set the first counts: an earlier version gave ``folder[path=a]`` another name.
    """
    seen = set[str]()
    for wide_file in sorted(folder.glob("*-wide.csv")):
        file = wide_file.with_name(f"{wide_file.name.removesuffix('-wide.csv')}.csv")
        try:
            tidy, wide = _read(file), _read(wide_file)
            if set(TIDY) <= set(tidy) and set(WIDE) <= set(wide) and len(tidy):
                summary = of_frames(tidy, wide)
                if summary.dataset not in seen:
                    seen.add(summary.dataset)
                    yield file, summary, tidy, wide
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"cfbench: {file} is left out of the summary: {reason_of(error)}", file=sys.stderr)


def _read(file: Path) -> pd.DataFrame:
    """A table whose texts are texts, also where they are empty."""
    table = pd.read_csv(io.BytesIO(read_plain(file, LARGEST)), dtype=str, keep_default_na=False)
    for name in set(table) & {"value", "low", "high", "coverage", "rank_low", "rank_high"}:
        table[name] = pd.to_numeric(table[name])
    return table


def rows_of(s: Summary, wide: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A line for each method, in the order of the summary."""
    about = {str(row["method"]): row for row in wide.to_dict("records")}
    for method in s.methods:
        row: dict[str, Any] = {"dataset": s.dataset} | {name: about[method][name] for name in WIDE}
        for key in s.keys:
            cell, name = s.cells[method, key], key.name
            row[name] = cell.value
            if key != ANSWER and key.path not in FITS:
                low, high = cell.ranks or (None, None)
                row |= {f"{name} low": cell.low, f"{name} high": cell.high}
                row |= {f"{name} rank_low": low, f"{name} rank_high": high}
        yield row
