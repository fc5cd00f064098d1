"""What the leaderboard's tables say: numbers with fitting digits, headings, marks and footnotes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from .footnotes import FLAG, MARKS, WEAK, footnotes, weak
from .leaderboard import Board, Key, Section
from .results import Results

__all__ = [
    "FLAG",
    "WEAK",
    "Cell",
    "card_line",
    "card_table",
    "footnotes",
    "heading",
    "headings",
    "number",
    "policy",
    "title",
]

ARROWS = {"lower": "↓", "higher": "↑", "target": "→", "none": ""}
NAMES = {"fid": "FID", "kid": "KID", "cld": "CLD", "im1": "IM1", "im2": "IM2", "l1": "L1", "tea": "TEA"}
UNITS = {"share of images": "", "variable's unit": "own unit", "evaluations": "", "parameters": ""}


def number(x: float, low: float = math.nan, high: float = math.nan) -> Callable[[float], str]:
    """How to write a score and its interval: two digits of the half width, or four of ``x`` if that is 0."""
    half = (high - low) / 2
    scale = half / 10 if half > 1e-9 * abs(x) else abs(x) / (100 if math.isnan(half) else 1000)
    if 0 < max(abs(x), scale) < 1e-3:
        return lambda v: f"{v:.1e}".replace("e-0", "e-")
    decimals = 0 if not scale or abs(x) >= 1e4 else min(max(-math.floor(math.log10(scale)), 0), 4)
    return lambda v: _plain(v, decimals)


def _plain(v: float, decimals: int) -> str:
    for least, unit, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(v) >= least:
            return f"{float(f'{v / unit:.3g}'):.12g}{suffix}" if abs(v) < 1e3 * unit else f"{v / unit:.0f}{suffix}"
    text = f"{v:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a printed table: a score with its interval, or why there is none."""

    value: str
    low: str = ""
    high: str = ""
    half: str = ""
    coverage: str = ""
    best: bool = False
    rank: str = ""

    @classmethod
    def of(cls, board: Board, method: str, key: Key) -> Cell:
        e = board.estimates[method, key]
        if not math.isfinite(e.value):
            word = board.pooled_status(method, key).partition(":")[0]
            return cls("–" if word == "no score" else word.partition(";")[0])
        finite, asked = board.coverage[method, key]
        write = number(e.value, e.low, e.high)
        coverage = "" if finite == asked else f"({min(100 * finite / max(asked, 1), 99):.0f}%)"
        best = method in board.best[key]
        rank = "–".join(map(str, dict.fromkeys(board.places[key].get(method, ())))) if board.best[key] else ""
        if not math.isfinite(e.low):
            return cls(write(e.value), coverage=coverage, best=best)
        return cls(write(e.value), write(e.low), write(e.high), write((e.high - e.low) / 2), coverage, best, rank)

    @property
    def interval(self) -> str:
        """The interval and the ranks that the method may hold."""
        if not self.low:
            return ""
        return f"[{self.low}, {self.high}]" + (f" #{self.rank}" if self.rank else "")


def heading(board: Board, key: Key, section: Section | None = None) -> tuple[str, str]:
    """A column's name with arrow and mark, and its unit with the number of questions where only some were asked."""
    about = board.about(key)
    words = [NAMES.get(w, w) for w in key.column.split("_")]
    if words[-1] in ("ms", "s", "mb") and about.unit.lower() == words[-1]:
        words.pop()
    if section is not None and key.do in (section.do, "none") and key.variable in ("", section.do):
        name = " ".join(words)
    else:
        name = " ".join([*words, *([f"of {key.variable}"] if key.variable else [])])
    arrow = f"→{about.target:g}" if about.target is not None else ARROWS[about.direction]
    counted = f"n={board.asked(key)}" if about.subset else ""
    unit = ", ".join(part for part in (UNITS.get(about.unit, about.unit), counted) if part)
    return f"{name} {arrow}".strip() + (FLAG if key in board.flagged else ""), unit


def title(board: Board, section: Section) -> str:
    """A printed table's title, with what its truth and its judges are worth."""
    if not section.do:
        return section.title
    truth = board.results.truth.get(section.do, "none")
    says = {"exact": "exact truth", "convention": "truth by convention", "none": "no truth"}[truth]
    mark = WEAK if section.do in weak(board.results) else ""
    return f"{section.title}{MARKS[truth]}{mark}, {says}"


def policy(board: Board, section: Section, method: str) -> list[str]:
    """A method's residual policy and status, in the last table only."""
    if section.do:
        return []
    return [board.residual(method) or "-", board.pooled_status(method).partition(":")[0].partition(";")[0]]


def card_table(results: Results) -> pd.DataFrame:
    """The judge card as text."""
    rows = [{**row, "good": _good(row.get("good"))} for row in results.card]
    card = pd.DataFrame(rows)
    if "error" in card:
        card["error"] = [number(float(e))(float(e)) for e in card["error"]]
    return card


def _good(flag: bool | None) -> str:
    return "" if flag is None else "yes" if flag else "NO"


def card_line(results: Results) -> str:
    """The judge card in a line: each judge's errors, one a kind of data."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in card_table(results).to_dict("records"):
        judge = " ".join(filter(None, (str(row.get("judge", "")), str(row.get("variable", "")))))
        error = f"{row.get('data', '')} {row['error']} (n={row.get('n', '')})"
        told.setdefault((judge, str(row.get("unit", ""))), []).append(error)
    return "; ".join(f"{judge} [{unit or 'own unit'}]: {', '.join(e)}" for (judge, unit), e in told.items())


def headings(board: Board, s: Section) -> list[tuple[str, str]]:
    """The headings of a printed table's columns."""
    return [heading(board, k, s) for k in s.keys]
