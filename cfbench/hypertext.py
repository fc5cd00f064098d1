"""The leaderboard's printed tables as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .leaderboard import Board, Section
from .wording import Cell, card_line, footnotes, headings, policy, title

__all__ = ["hypertext"]

STYLE = """<style>
.cfbench div {overflow-x: auto}
.cfbench table {border-collapse: collapse; margin: .3em 0 1em}
.cfbench th, .cfbench td {text-align: right; padding: .15em .6em; white-space: nowrap}
.cfbench th:first-child, .cfbench td:first-child {text-align: left}
.cfbench tr.control td {font-style: italic; opacity: .75}
.cfbench tr.first td {border-top: 1px solid #999}
.cfbench small {opacity: .7; font-weight: normal}
.cfbench ul {font-size: smaller; max-width: 70em}
</style>"""


def hypertext(board: Board) -> str:
    """The printed tables and the footnotes as an HTML fragment, in which all text of others is escaped."""
    tables = "\n".join(_table(board, s) for s in board.sections)
    notes = [*footnotes(board), *([f"Judges' errors: {card_line(board.results)}."] if board.results.card else [])]
    items = "".join(f"<li>{escape(n)}</li>" for n in notes)
    return f'<div class="cfbench">{STYLE}\n{tables}\n<ul>{items}</ul></div>'


def _table(board: Board, s: Section) -> str:
    heads = [("method", ""), *headings(board, s), *([] if s.do else [("residual", ""), ("status", "")])]
    head = "".join(f"<th>{escape(name)}<br><small>{escape(unit)}</small></th>" for name, unit in heads)
    name = f"{board.results.dataset}, {title(board, s)}"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{_rows(board, s)}</tbody></table>"
    return f"<b>{escape(name)}</b><div>{table}</div>"


def _rows(board: Board, s: Section) -> str:
    own = sum(not board.is_control(m) for m in board.methods)
    kinds = ["control" * board.is_control(m) + " first" * (0 < i == own) for i, m in enumerate(board.methods)]
    return "".join(
        f'<tr class="{k}">{_cells(_row(board, s, m))}</tr>' for k, m in zip(kinds, board.methods, strict=True)
    )


def _row(board: Board, s: Section, method: str) -> Iterable[str]:
    yield escape(method)
    for key in s.keys:
        yield _score(Cell.of(board, method, key))
    yield from map(escape, policy(board, s, method))


def _cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{text}</td>" for text in texts)


def _score(cell: Cell) -> str:
    value = f"<b>{escape(cell.value)}</b>" if cell.best else escape(cell.value)
    rest = " ".join(filter(None, (cell.interval, cell.coverage)))
    return f"{value} <small>{escape(rest)}</small>" if rest else value
