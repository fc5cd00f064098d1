"""The tables of a page from those of the report: the summary and one for each intervention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..report.board import Board
from ..report.columns import Key, Section
from ..report.format import Entry as ReportEntry
from ..report.format import headings, residual_and_status, title
from ..report.judge_card import card_table
from ..report.summary.headline import COMPOSITION
from ..report.summary.rows import Cell, Summary
from ..runs.chain import Status
from .model import Column, Entry, Row, Table

__all__ = ["Filters", "detail_table", "judge_table", "summary_table"]

Filters = Callable[[str], Mapping[str, str]]
"""What a row can be filtered by, from its name."""
COSTS = {"fit": "seconds of a fit", "answer": "milliseconds of an answer, for an image"}


def summary_table(s: Summary, filters: Filters, board: Board | None = None) -> Table:
    """The summary, with the costs in columns of their own; with a board what its columns and failures mean."""
    columns = [_summary_column(s, key, board) for key in s.scored]
    clock = "s of the processor" if s.is_cpu else "s by the clock"
    columns += [Column("fit", clock, COSTS["fit"], last=2)] if s.fit else []
    columns += [Column("answer", "ms", COSTS["answer"], last=2)] if s.answer else []
    return Table("Summary", tuple(columns), tuple(_summary_row(s, m, filters(m), board) for m in s.methods))


def _summary_column(s: Summary, key: Key, board: Board | None) -> Column:
    heading, below = s.head(key)
    about, last = board.about(key).text if board else "", int(key.path == COMPOSITION)
    return Column(heading, below, about, s.arrows.get(key) == "↑", bool(board and board.is_doubtful(key)), last)


def _summary_row(s: Summary, method: str, filters: Mapping[str, str], board: Board | None) -> Row:
    control = method in s.controls
    ranked = len(s.methods) - len(s.controls)
    entries = []
    for key in s.scored:
        cell, reason = s.cells[method, key], str(board.pooled_status(method, key)) if board else ""
        residual = s.residual(method, key)
        said = [cell.interval and f"95 % interval {cell.interval}", _ranks(cell.ranks, ranked), _share(cell)]
        said += [f"residual: {residual}" if residual else ""] if cell.known else [reason or cell.word]
        rank = " ".join(filter(None, ("" if control else cell.rank, residual)))
        about = "; ".join(filter(None, said))
        failed = not cell.known and _is_failure(cell.word)
        entries.append(Entry(cell.number, "" if control else cell.half, rank, about, cell.value, cell.best, failed))
    for cost, text in zip((s.fit, s.answer), s.costs(method), strict=True):
        if cost and text and s.cells[method, cost].known:
            entries.append(Entry(text, value=s.cells[method, cost].value))
        elif cost:
            entries.append(Entry(text or "–", failed=_is_failure(text)))
    return Row(s.marked(method), control, filters, tuple(entries))


def _is_failure(word: str) -> bool:
    """Whether the word in place of a number says that something went wrong."""
    return word not in ("", "–", Status.PENDING)


def _ranks(ranks: tuple[int, int] | None, of: int) -> str:
    if ranks is None:
        return ""
    first, last = ranks
    return f"rank {first} of {of}" if first == last else f"may hold ranks {first} to {last} of {of}"


def _share(cell: Cell) -> str:
    return "" if cell.coverage >= 1 or not cell.known else f"{min(100 * cell.coverage, 99):.0f} % of questions scored"


def detail_table(board: Board, section: Section, filters: Filters) -> Table:
    """The table of an intervention, or that of soundness and cost."""
    columns = [
        Column(name, unit, board.about(k).text, board.about(k).direction == "higher", board.is_doubtful(k))
        for k, (name, unit) in zip(section.keys, headings(board, section), strict=True)
    ]
    columns += [] if section.do else [Column("residual"), Column("status")]
    rows = tuple(_detail_row(board, section, m, filters(m)) for m in board.methods)
    return Table(title(board, section), tuple(columns), rows)


def _detail_row(board: Board, section: Section, method: str, filters: Mapping[str, str]) -> Row:
    entries = [_detail_entry(board, method, key) for key in section.keys]
    texts = residual_and_status(board, section, method)
    entries += [Entry(text, about=str(board.pooled_status(method)) if i else "") for i, text in enumerate(texts)]
    return Row(board.marked(method), board.is_control(method), filters, tuple(entries))


def _detail_entry(board: Board, method: str, key: Key) -> Entry:
    shown, value = ReportEntry.of(board, method, key), board.estimates[method, key].value
    if not math.isfinite(value):
        return Entry(shown.value, about=str(board.pooled_status(method, key)), failed=_is_failure(shown.value))
    ranked = len(board.methods) - len(board.results.controls)
    ranks = board.ranks[key].get(method) if shown.rank else None
    interval = f"95 % interval [{shown.low}, {shown.high}]" if shown.low else ""
    finite, asked = board.coverage[method, key]
    answered = f"{finite} of {asked} questions scored" if shown.coverage else ""
    about = "; ".join(filter(None, (interval, _ranks(ranks, ranked), answered)))
    half = f"±{shown.half}" if shown.half and not board.is_control(method) else ""
    rank = " ".join(filter(None, (shown.rank and f"#{shown.rank}", shown.coverage)))
    return Entry(shown.value, half, rank, about, value, shown.best)


def judge_table(board: Board) -> Table | None:
    """The judge card; None where there is none."""
    if not board.results.card:
        return None
    card = card_table(board.results)
    rows = [Row(str(row[0]), False, {}, tuple(Entry(str(x)) for x in row[1:])) for row in card.values.tolist()]
    return Table("Judges", tuple(Column(str(name)) for name in card.columns[1:]), tuple(rows), str(card.columns[0]))
