"""The texts of the leaderboard's tables: numbers with fitting digits, headings and marks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .board import Board
from .columns import Key, Section
from .score_table import weak

__all__ = [
    "CAVEAT",
    "FLAG",
    "MARKS",
    "WEAK",
    "Entry",
    "column_name",
    "heading",
    "headings",
    "marks_of",
    "marks_of_do",
    "number",
    "plain",
    "residual_and_status",
    "title",
]


MARKS = {"convention": "*", "none": "°", "exact": ""}
FLAG = "‡"
CAVEAT = "†"
WEAK = "§"


ARROWS = {"lower": "↓", "higher": "↑", "target": "→", "none": ""}
UNITS = {"share of images": "", "variable's unit": "own unit", "evaluations": "", "parameters": ""}
"""How headings write units: counts and shares are named by the heading itself."""


def number(x: float, low: float = math.nan, high: float = math.nan) -> Callable[[float], str]:
    """How to write a score and its interval: two digits of the half width, or four of ``x`` if that is 0."""
    half = (high - low) / 2
    scale = half / 10 if half > 1e-9 * abs(x) else abs(x) / (100 if math.isnan(half) else 1000)
    if 0 < max(abs(x), scale) < 1e-3:
        return lambda v: f"{v:.1e}".replace("e-0", "e-")
    decimals = 0 if not scale or abs(x) >= 1e4 else min(max(-math.floor(math.log10(scale)), 0), 4)
    return lambda v: plain(v, decimals)


def plain(v: float, decimals: int) -> str:
    """A number with so many decimals, large ones with k, M or G."""
    for least, unit, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(v) >= least:
            return f"{float(f'{v / unit:.3g}'):.12g}{suffix}" if abs(v) < 1e3 * unit else f"{v / unit:.0f}{suffix}"
    text = f"{v:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


@dataclass(frozen=True)
class Entry:
    """An entry of a printed table: a score with its interval, or why there is none."""

    value: str
    low: str = ""
    high: str = ""
    half: str = ""
    coverage: str = ""
    best: bool = False
    rank: str = ""

    @classmethod
    def of(cls, board: Board, method: str, key: Key) -> Entry:
        e = board.estimates[method, key]
        if not math.isfinite(e.value):
            word = board.pooled_status(method, key).word
            return cls("–" if word == "no score" else word)
        finite, asked = board.coverage[method, key]
        write = number(e.value, e.low, e.high)
        coverage = "" if finite == asked else f"({min(100 * finite / max(asked, 1), 99):.0f}%)"
        best = method in board.best[key]
        rank = "–".join(map(str, dict.fromkeys(board.ranks[key].get(method, ())))) if board.best[key] else ""
        if not math.isfinite(e.low):
            return cls(write(e.value), coverage=coverage, best=best)
        return cls(write(e.value), write(e.low), write(e.high), write((e.high - e.low) / 2), coverage, best, rank)

    @property
    def interval(self) -> str:
        """The interval and the ranks that the method may hold."""
        if not self.low:
            return ""
        return f"[{self.low}, {self.high}]" + (f" #{self.rank}" if self.rank else "")


def column_name(board: Board, key: Key) -> str:
    """The heading that a metric gives its column; by default the column's name, without a unit at its end."""
    about, words = board.about(key), key.column.split("_")
    if len(words) > 1 and words[-1] == about.unit.lower():
        words.pop()
    return about.heading or " ".join(words)


def heading(board: Board, key: Key, section: Section | None = None) -> tuple[str, str]:
    """A column's name with arrow and mark, and its unit with the number of questions where only some were asked."""
    about, name = board.about(key), column_name(board, key)
    own = section is not None and key.do in (section.do, "none") and key.variable in ("", section.do)
    if key.variable and not own:
        name = f"{name} of {key.variable}"
    arrow = f"→{about.target:g}" if about.target is not None else ARROWS[about.direction]
    counted = f"n={board.asked(key)}" if about.subset else ""
    unit = ", ".join(part for part in (UNITS.get(about.unit, about.unit), counted) if part)
    return f"{name} {arrow}".strip() + marks_of(board, key), unit


def marks_of(board: Board, key: Key) -> str:
    """The marks of a column: beyond the truth, to be read with caution, by a judge that is not good enough."""
    caution = bool(board.about(key).caveat) or key in board.dominated
    return FLAG * (key in board.flagged) + CAVEAT * caution + WEAK * board.is_doubtful(key)


def title(board: Board, section: Section) -> str:
    """A printed table's title, with marks for how reliable its truth and its judges are."""
    if section.do not in board.results.variables:
        return section.title
    truth = board.results.truth.get(section.do, "none")
    kind = {"exact": "exact truth", "convention": "truth by convention", "none": "no truth"}[truth]
    return f"{section.title}{marks_of_do(board, section.do)}, {kind}"


def marks_of_do(board: Board, do: str) -> str:
    """The marks of an intervention: how reliable its truth is, and whether a judge of its variable is too weak."""
    if do not in board.results.variables:
        return ""
    return MARKS[board.results.truth.get(do, "none")] + WEAK * (do in weak(board.results))


def residual_and_status(board: Board, section: Section, method: str) -> list[str]:
    """A method's residual policy and status, in the last table only."""
    if section.do:
        return []
    return [board.residual(method) or "-", board.pooled_status(method).word]


def headings(board: Board, s: Section) -> list[tuple[str, str]]:
    """The headings of a printed table's columns."""
    return [heading(board, k, s) for k in s.keys]
