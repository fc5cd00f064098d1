"""The texts of the leaderboard's tables: numbers with fitting digits, headings, marks and footnotes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..runs.reader import Results
from .board import Board
from .columns import Key, Section, where

__all__ = [
    "CAVEAT",
    "FLAG",
    "MARKS",
    "WEAK",
    "Entry",
    "column_name",
    "footnotes",
    "heading",
    "headings",
    "number",
    "residual_and_status",
    "title",
    "weak",
]


MARKS = {"convention": "*", "none": "°", "exact": ""}
FLAG = "‡"
CAVEAT = "†"
WEAK = "§"


def weak(results: Results, judge: str = "") -> set[str]:
    """Variables that a judge reads badly on real images; by default any but those that measure."""
    bad = (row for row in results.card if row.get("good") is False)
    return {str(row.get("variable", "")) for row in bad if (row.get("judge") == "measured") == (judge == "measured")}


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def footnotes(board: Board) -> list[str]:
    """The notes below the tables, one or two sentences each."""
    r = board.results
    settings = {name: value for name, value in r.notes.items() if name != "bundle"}
    notes = [f"Preset {r.preset}; {_settings_text(settings)}; device: {_devices(board) or 'unknown'}."]
    seeds = ", ".join(map(str, r.seeds))
    asked = ", ".join(f"{len(v)} on {k}" for k, v in r.factual.items())
    inside = ", ".join(f"{int(v.sum())} of {len(v)} on {k}" for k, v in r.supported.items())
    notes += [
        _training(seeds, len(r.seeds)),
        f"95 % intervals over {_plural(r.factuals, 'factual')}; ± is half of the interval's width. "
        f"n: questions {asked}" + (f"; inside the support of the training data: {inside}." if inside else "."),
        _bold(board),
        _asked(r),
    ]
    return [
        *notes,
        *_marks(board),
        *_failures(board),
        *_chosen(board),
        *_remarks(board),
        *_foreign(board),
        *_noted(board),
        *_dominated(board),
    ]


def _training(seeds: str, number: int) -> str:
    """What intervals and comparisons say about other trainings."""
    if number > 1:
        return f"Training seeds {seeds}: intervals and comparisons hold the choice of factuals and of trainings."
    return (
        f"One training seed ({seeds}): intervals and comparisons of learned rows hold for these trainings. Others "
        "differ: where it was measured, their scores spread by 0.2 to 1.1 times the error due to the choice of "
        "factuals (docs/statistics.md)."
    )


def _bold(board: Board) -> str:
    """What bold and ranks mean."""
    of = "" if len(board.results.seeds) > 1 else " of these trainings"
    return (
        f"Bold: no other method{of} is surely better. #: the ranks that a method may hold; controls, last, are not "
        "ranked. Surely better: the paired difference has p <= .05 after Holm's correction over all pairs of a column, "
        "controls included, so that of 20 columns without any difference at most one names a winner. (n%): the share "
        "of questions with a score, where not all have one; in comparisons the others count as the worst score seen."
    )


def _asked(results: Results) -> str:
    """Where the questions come from, and the judges with them where that is a bundle."""
    if bundle := results.notes.get("bundle"):
        named = f"bundle {bundle['name']}, version {bundle['version']}, sha256 {bundle['digest']}"
        return f"Questions and judges: {named} (plan {results.plan_key[:12]})."
    return f"Questions: plan {results.plan_key[:12]}."


def _settings_text(notes: Mapping[str, Any]) -> str:
    """Settings in words; of a mapping its numbers, as a budget has them."""
    parts = []
    for k, v in notes.items():
        if isinstance(v, Mapping):
            inner = (f"{n} {x:,}" for n, x in v.items() if isinstance(x, int | float) and not isinstance(x, bool))
            parts.append(f"{k}: {', '.join(inner)}")
        elif isinstance(v, str | int | float):
            parts.append(f"{k}: {v}")
    return "; ".join(parts)


def _devices(board: Board) -> str:
    own = [board.results.notes.get("device"), *(c.notes.get("device") for c in board.results.cells)]
    return ", ".join(dict.fromkeys(str(d) for d in own if d))


def _chosen(board: Board) -> Iterable[str]:
    """What methods chose on the validation split, where they chose anything."""
    for c in board.results.cells:
        if chosen := c.notes.get("chosen"):
            seed = f" (seed {c.seed})" if len(board.seeds(c.method)) > 1 else ""
            values = ", ".join(f"{k}={_value(v)}" for k, v in chosen.items())
            yield f"{c.method}{seed} chose {values} on validation data."


def _remarks(board: Board) -> Iterable[str]:
    """What methods recorded about their own fits for the reader of the table."""
    for c in board.results.cells:
        seed = f" (seed {c.seed})" if len(board.seeds(c.method)) > 1 else ""
        yield from (f"{c.method}{seed}: {remark}." for remark in c.notes.get("remarks", ()))


def _foreign(board: Board) -> Iterable[str]:
    """Rows whose weights or answers were made elsewhere."""
    for c in board.results.cells:
        if given := c.notes.get("weights"):
            yield f"{c.method} (seed {c.seed}): no fit, weights from {given}."
        if c.notes.get("external"):
            yield f"{c.method}: answers made elsewhere, at unknown cost."


def _noted(board: Board) -> Iterable[str]:
    """The footnotes of columns that have one, with the methods whose score is above 0, and their greatest."""
    for path in dict.fromkeys(key.path for key in board.columns if board.about(key).footnote):
        greatest: dict[str, float] = {}
        footnote = ""
        for s in board.results.scores:
            if f"{s.metric}.{s.column}" == path and s.value > 0 and not board.is_control(s.method):
                greatest[s.method], footnote = max(greatest.get(s.method, 0.0), s.value), s.about.footnote
        if greatest:
            rows = ", ".join(f"{method} (up to {value:.4g})" for method, value in greatest.items())
            yield f"{footnote.rstrip('.')}: {rows}."


def _dominated(board: Board) -> Iterable[str]:
    """The means that a single answer makes, with the medians beside them."""
    found = [
        f"{key.path}, {where(key.do)}, {method} ({mean:.4g}, median {median:.4g})"
        for key, rows in board.dominated.items()
        for method, (mean, median) in rows.items()
    ]
    if found:
        more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
        yield f"{CAVEAT} A single answer makes more than nine tenths of the mean: {'; '.join(found[:LISTED])}{more}."


LISTED = 12
"""Means that a note lists."""


def _value(v: object) -> str:
    return f"{v:.4g}" if isinstance(v, float) else str(v)


def _marks(board: Board) -> Iterable[str]:
    r, truths = board.results, board.results.truth
    if conventions := [v for v in r.variables if truths.get(v) == "convention"]:
        of = f"do({', '.join(conventions)})"
        yield f"{MARKS['convention']} The truth of {of} is a convention: data do not determine it."
    if without := [v for v in r.variables if truths.get(v, "none") == "none"]:
        yield f"{MARKS['none']} do({', '.join(without)}) has no known truth, and no score that compares with it."
    if doubtful := sorted(weak(r)):
        yield f"{WEAK} The judges of {', '.join(doubtful)} are not good enough to tell methods apart by them."
    if measured := sorted(weak(r, "measured")):
        yield f"What is measured of {', '.join(measured)} explains too little of it on real images; see the judge card."
    if board.flagged:
        won: dict[str, list[str]] = {}
        for key, winner in board.flagged.items():
            name = "/".join(filter(None, (key.path, key.variable)))
            won.setdefault(name, []).append(f"{where(key.do)} {winner}")
        columns = "; ".join(f"{name} ({', '.join(rows)})" for name, rows in won.items())
        yield f"{FLAG} Beyond the truth: the oracle does not win these (in brackets a row that surely does): {columns}."
    caveats: dict[str, list[str]] = {}
    for key in dict.fromkeys(k for s in board.sections for k in s.keys if board.about(k).caveat):
        if (name := column_name(board, key)) not in (names := caveats.setdefault(board.about(key).caveat, [])):
            names.append(name)
    if caveats:
        parts = (f"{', '.join(names)}: {caveat}" for caveat, names in caveats.items())
        yield f"{CAVEAT} {'; '.join(parts)}."


def _failures(board: Board) -> Iterable[str]:
    for m in board.methods:
        if not (status := board.pooled_status(m)).ok:
            yield f"{m}: {' '.join(str(status).split())}"


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
    return lambda v: _plain(v, decimals)


def _plain(v: float, decimals: int) -> str:
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
    marks = FLAG * (key in board.flagged) + CAVEAT * (bool(about.caveat) or key in board.dominated)
    return f"{name} {arrow}".strip() + marks, unit


def title(board: Board, section: Section) -> str:
    """A printed table's title, with marks for how reliable its truth and its judges are."""
    if section.do not in board.results.variables:
        return section.title
    truth = board.results.truth.get(section.do, "none")
    kind = {"exact": "exact truth", "convention": "truth by convention", "none": "no truth"}[truth]
    mark = WEAK if section.do in weak(board.results) else ""
    return f"{section.title}{MARKS[truth]}{mark}, {kind}"


def residual_and_status(board: Board, section: Section, method: str) -> list[str]:
    """A method's residual policy and status, in the last table only."""
    if section.do:
        return []
    return [board.residual(method) or "-", board.pooled_status(method).word]


def headings(board: Board, s: Section) -> list[tuple[str, str]]:
    """The headings of a printed table's columns."""
    return [heading(board, k, s) for k in s.keys]
