"""The notes below the tables: short sentences in the order of importance, for the columns that are printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..runs.findings import BROKEN
from ..runs.reader import Results
from .board import Board
from .columns import Key, where
from .format import CAVEAT, FLAG, MARKS, WEAK, column_name
from .score_table import weak

__all__ = [
    "detail_notes",
    "devices",
    "failures",
    "health_notes",
    "mark_notes",
    "names_note",
    "numbered",
    "plan_note",
    "settings_note",
    "training_note",
]


def numbered(notes: Iterable[str]) -> list[str]:
    """Notes with their numbers."""
    return [f"{number}. {note}" for number, note in enumerate(notes, 1)]


def detail_notes(board: Board) -> list[str]:
    """The notes below the detail tables, for the columns that these print."""
    r = board.results
    keys = [*(k for s in board.sections for k in s.keys), *board.matrix]
    return [
        *failures(board),
        *health_notes(board),
        *_reading(board),
        *names_note(r),
        training_note(r),
        *mark_notes(board, keys, titled=True),
        *_dominated(board, keys),
        *_noted(board),
        *_foreign(board),
        *_chosen(board),
        *_remarks(board),
        _asked(r),
        f"{settings_note(r)}; device: {devices(board) or 'unknown'}.",
    ]


def names_note(results: Results) -> Iterable[str]:
    """What the rows are that users gave a name."""
    if results.aliases:
        yield f"Names: {'; '.join(f'{title} is {label}' for title, label in results.aliases.items())}."


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def _reading(board: Board) -> Iterable[str]:
    """How a number, its interval and its rank are read."""
    of = "" if len(board.results.seeds) > 1 else " of these trainings"
    yield f"± is half of the 95 % interval over {_plural(board.results.factuals, 'factual')}."
    yield (
        f"Bold: no other method{of} is surely better. #: the ranks that a method may hold. Surely better: p <= .05 of "
        "the paired difference after Holm's correction over all pairs of a column. Controls, last, are not ranked."
    )
    if any(finite < asked for finite, asked in board.coverage.values()):
        yield "(n%): the share of questions with a score; in comparisons the others count as the worst score seen."


def training_note(results: Results) -> str:
    """What intervals and comparisons say about other trainings."""
    seeds = ", ".join(map(str, results.seeds))
    if len(results.seeds) > 1:
        return f"Training seeds {seeds}: intervals and comparisons hold the choice of factuals and of trainings."
    return f"One training seed ({seeds}): intervals and comparisons say nothing about other trainings."


def plan_note(results: Results) -> str:
    """Which questions were asked, and by whose judges the answers are read where these are a bundle's."""
    if bundle := results.notes.get("bundle"):
        named = f"bundle {bundle['name']}, version {bundle['version']}, sha256 {bundle['digest']}"
        return f"Questions and judges: {named} (plan {results.plan_key[:12]})"
    return f"Questions: plan {results.plan_key[:12]}"


def _asked(results: Results) -> str:
    """How many questions, and how many of them in the support of the training data."""
    asked = ", ".join(f"{len(v)} on {k}" for k, v in results.factual.items())
    inside = ", ".join(f"{int(v.sum())} of {len(v)} on {k}" for k, v in results.supported.items())
    return f"{plan_note(results)}: {asked}" + (
        f"; inside the support of the training data: {inside}." if inside else "."
    )


def settings_note(results: Results) -> str:
    """The preset and the settings in words; of a mapping its numbers, as a budget has them."""
    parts = [f"Preset {results.preset}"]
    for k, v in results.notes.items():
        if isinstance(v, Mapping) and k != "bundle":
            parts.append(f"{k}: {', '.join(_numbers(v))}")
        elif isinstance(v, str | int | float) and k != "bundle":
            parts.append(f"{k}: {v}")
    return "; ".join(parts)


def _numbers(values: Mapping[str, Any]) -> Iterable[str]:
    return (f"{n} {x:,}" for n, x in values.items() if isinstance(x, int | float) and not isinstance(x, bool))


def devices(board: Board) -> str:
    """The devices that the cells were computed on."""
    own = [board.results.notes.get("device"), *(c.notes.get("device") for c in board.results.cells)]
    return ", ".join(dict.fromkeys(str(d) for d in own if d))


def _seed(board: Board, method: str, seed: int) -> str:
    return f" (seed {seed})" if len(board.seeds(method)) > 1 else ""


def _chosen(board: Board) -> Iterable[str]:
    """What methods chose on the validation split, where they chose anything."""
    for c in board.results.cells:
        if chosen := c.notes.get("chosen"):
            values = ", ".join(f"{k}={_value(v)}" for k, v in chosen.items())
            yield f"{c.method}{_seed(board, c.method, c.seed)} chose {values} on validation data."


def _value(v: object) -> str:
    return f"{v:.4g}" if isinstance(v, float) else str(v)


def _remarks(board: Board) -> Iterable[str]:
    """What methods recorded about their own fits for the reader of the table."""
    for c in board.results.cells:
        yield from (f"{c.method}{_seed(board, c.method, c.seed)}: {text}." for text in c.notes.get("remarks", ()))


def _foreign(board: Board) -> Iterable[str]:
    """Rows whose weights or answers were made elsewhere, or by other code."""
    for c in board.results.cells:
        if given := c.notes.get("weights"):
            yield f"{c.method} (seed {c.seed}): no fit, weights from {given}."
        if keys := c.notes.get("kept"):
            yield f"{c.method} (seed {c.seed}): fit made by other code: key {keys[0]}, of the present code {keys[1]}."
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


LISTED = 12
"""Means that a note lists."""


def _dominated(board: Board, keys: Sequence[Key]) -> Iterable[str]:
    """The means that a single answer makes, with the medians beside them."""
    found = [
        f"{key.path}, {where(key.do)}, {method} ({mean:.4g}, median {median:.4g})"
        for key, rows in board.dominated.items()
        for method, (mean, median) in rows.items()
        if key in keys
    ]
    if found:
        more = f"; and {len(found) - LISTED} more" if len(found) > LISTED else ""
        yield f"{CAVEAT} A single answer makes more than nine tenths of the mean: {'; '.join(found[:LISTED])}{more}."


def mark_notes(board: Board, keys: Sequence[Key], *, titled: bool = False) -> Iterable[str]:
    """What the marks of some columns mean, and those of the titles of tables of their interventions."""
    r, truths, dos = board.results, board.results.truth, {k.do for k in keys}
    if doubtful := sorted(
        {k.variable for k in keys if board.is_doubtful(k)} - weak(r, "measured") | weak(r) & (dos if titled else set())
    ):
        yield (
            f"{WEAK} The judges of {', '.join(doubtful)} are not good enough to tell methods apart by them: "
            "no bold and no rank."
        )
    if measured := sorted(weak(r, "measured") & {k.variable for k in keys if k.metric.startswith("measured")}):
        yield f"What is measured of {', '.join(measured)} explains too little of it on real images; see the judge card."
    if conventions := [v for v in r.variables if v in dos and truths.get(v) == "convention"]:
        of = f"do({', '.join(conventions)})"
        yield f"{MARKS['convention']} The truth of {of} is a convention: data do not determine it."
    if without := [v for v in r.variables if v in dos and truths.get(v, "none") == "none"]:
        yield f"{MARKS['none']} do({', '.join(without)}) has no known truth, and no score that compares with it."
    if won := _won(board, keys):
        columns = "; ".join(f"{name} ({', '.join(rows)})" for name, rows in won.items())
        yield f"{FLAG} Beyond the truth: the oracle does not win these (in brackets a row that surely does): {columns}."
    caveats: dict[str, list[str]] = {}
    for key in dict.fromkeys(k for k in keys if board.about(k).caveat):
        if (name := column_name(board, key)) not in (names := caveats.setdefault(board.about(key).caveat, [])):
            names.append(name)
    if caveats:
        parts = (f"{', '.join(names)}: {caveat}" for caveat, names in caveats.items())
        yield f"{CAVEAT} {'; '.join(parts)}."


def _won(board: Board, keys: Sequence[Key]) -> dict[str, list[str]]:
    """The columns in which a row is surely better than the truth, with one such row under each intervention."""
    won: dict[str, list[str]] = {}
    for key, winner in board.flagged.items():
        if key in keys:
            name = "/".join(filter(None, (key.path, key.variable)))
            won.setdefault(name, []).append(f"{where(key.do)} {winner}")
    return won


def failures(board: Board) -> Iterable[str]:
    """The rows that are not whole, with the reason."""
    for m in board.methods:
        if not (status := board.pooled_status(m)).ok:
            yield f"{m}: {' '.join(str(status).split())}"


def health_notes(board: Board) -> Iterable[str]:
    """What was found wrong with fits: a sentence for each, with all rows that answer by it."""
    rows: dict[tuple[str, int, str], list[str]] = {}
    for c in board.results.cells:
        for finding in c.notes.get("health", ()):
            key = c.fit or c.method, c.seed, finding.sentence
            rows.setdefault(key, []).append(c.method)
    for (_, seed, sentence), methods in rows.items():
        yield f"{BROKEN} {', '.join(dict.fromkeys(methods))} seed {seed}: {sentence}."
