"""The leaderboard as Markdown, HTML and for the terminal, and all its files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..names import file_stem
from ..runs.reader import Results
from ..storage.temporary import atomic_write
from .board import Board
from .budgets import budget_table, curves, fit_cost, followed, seen
from .columns import Key, Section, where
from .format import CAVEAT, FLAG, Entry, heading, headings, residual_and_status, title
from .judge_card import card_line, card_table
from .latex import latex, latex_appendix
from .markup import md, md_table
from .notes import detail_notes, numbered
from .spreadsheet import csv
from .summary.rows import of_board
from .summary.tables import (
    RULED,
    html_summary,
    markdown_summary,
    summary_notes,
    terminal_summary,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["csv", "html", "markdown", "render", "write_tables"]


STYLE = """<style>
.cfbench div {overflow-x: auto}
.cfbench table {border-collapse: collapse; margin: .3em 0 1em}
.cfbench th, .cfbench td {text-align: right; padding: .15em .6em; white-space: nowrap}
.cfbench th:first-child, .cfbench td:first-child {text-align: left}
.cfbench tr.control td {font-style: italic; opacity: .75}
.cfbench tr.first td {border-top: 1px solid #999}
.cfbench small {opacity: .7; font-weight: normal}
.cfbench ol {font-size: smaller; max-width: 70em}
</style>"""


def html(board: Board) -> str:
    """The summary and, folded up, the detail tables as an HTML fragment, in which all text is escaped."""
    summary = of_board(board)
    tables = "\n".join(_html_table(board, s) for s in board.sections)
    more = f"<details><summary>all metrics</summary>{tables}\n{_html_notes(_details_notes(board))}</details>"
    first = f"{html_summary(summary)}\n{_html_notes(summary_notes(board, summary))}"
    return f'<div class="cfbench">{STYLE}\n{first}\n{more}</div>'


def _html_notes(notes: list[str]) -> str:
    return f"<ol>{''.join(f'<li>{escape(n)}</li>' for n in notes)}</ol>"


def _details_notes(board: Board) -> list[str]:
    """The notes below the detail tables, the judges' errors among them."""
    return [*detail_notes(board), *([f"Judges' errors: {card_line(board.results)}."] if board.results.card else [])]


def _html_table(board: Board, s: Section) -> str:
    heads = [("method", ""), *headings(board, s), *([] if s.do else [("residual", ""), ("status", "")])]
    head = "".join(f"<th>{escape(name)}<br><small>{escape(unit)}</small></th>" for name, unit in heads)
    name = f"{board.results.dataset}, {title(board, s)}"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{_html_rows(board, s)}</tbody></table>"
    return f"<b>{escape(name)}</b><div>{table}</div>"


def _html_rows(board: Board, s: Section) -> str:
    own = sum(not board.is_control(m) for m in board.methods)
    kinds = ["control" * board.is_control(m) + " first" * (0 < i == own) for i, m in enumerate(board.methods)]
    return "".join(
        f'<tr class="{k}">{_html_cells(_html_row(board, s, m))}</tr>' for k, m in zip(kinds, board.methods, strict=True)
    )


def _html_row(board: Board, s: Section, method: str) -> Iterable[str]:
    yield escape(board.marked(method))
    for key in s.keys:
        yield _html_score(Entry.of(board, method, key))
    yield from map(escape, residual_and_status(board, s, method))


def _html_cells(texts: Iterable[str]) -> str:
    return "".join(f"<td>{text}</td>" for text in texts)


def _html_score(cell: Entry) -> str:
    value = f"<b>{escape(cell.value)}</b>" if cell.best else escape(cell.value)
    rest = " ".join(filter(None, (cell.interval, cell.coverage)))
    return f"{value} <small>{escape(rest)}</small>" if rest else value


def _md_cell(cell: Entry) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return " ".join(part for part in (value, cell.interval, cell.coverage) if part)


def markdown(board: Board) -> str:
    """The summary, the detail tables, the judge card and the notes as Markdown."""
    summary = of_board(board)
    parts = [f"# {md(board.results.dataset)}\n", f"## Summary\n\n{markdown_summary(summary)}"]
    parts += [_md_notes(summary_notes(board, summary))]
    if curves(board):
        parts.append(f"## Budgets\n\n{_md_budgets(board)}")
    for s in board.sections:
        heads = [" ".join(filter(None, (name, unit and f"[{unit}]"))) for name, unit in headings(board, s)]
        head = ["method", *map(md, heads), *([] if s.do else ["residual", "status"])]
        rows = [
            [
                _md_name(board, m),
                *(_md_cell(Entry.of(board, m, k)) for k in s.keys),
                *map(md, residual_and_status(board, s, m)),
            ]
            for m in board.methods
        ]
        parts.append(f"## {md(title(board, s))}\n\n{md_table(head, rows)}")
    if board.matrix:
        parts.append(f"## Each variable as judged, after each intervention\n\n{_md_matrix(board)}")
    if board.results.card:
        card = card_table(board.results)
        parts.append(f"## Judge card\n\n{md_table(list(card.columns), [list(map(md, r)) for r in card.values])}")
    parts.append(f"## Notes\n\n{_md_notes(detail_notes(board))}")
    return "\n".join(parts)


def _md_budgets(board: Board) -> str:
    """A line for each row that its method has at another budget too."""
    keys = [k for k in (fit_cost(board), *followed(board)) if k is not None]
    rows = [
        [md(curve.name), f"{images:,}", _images(board, row), *(_md_cell(Entry.of(board, row, k)) for k in keys)]
        for curve in curves(board)
        for images, row in curve.rows.items()
    ]
    return md_table(["method", "budget", "images seen", *map(md, (_budget_head(board, k) for k in keys))], rows)


def _images(board: Board, row: str) -> str:
    """How many training images the fit of a row has seen; a dash where that is unknown."""
    value = board.estimates[row, key].value if (key := seen(board)) else math.nan
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def _budget_head(board: Board, key: Key) -> str:
    name, unit = heading(board, key)
    return " ".join(filter(None, (where(key.do) if key.do else "", name, unit and f"[{unit}]")))


def _md_notes(notes: list[str]) -> str:
    return "".join(f"{number}. {md(note)}\n" for number, note in enumerate(notes, 1))


def _md_name(board: Board, method: str) -> str:
    shown = md(board.marked(method))
    return f"*{shown}*" if board.is_control(method) else shown


def _md_matrix(board: Board) -> str:
    keys = {(k.do, k.metric, k.column, k.variable): k for k in board.matrix}
    columns = {(k.metric, k.column, k.variable): heading(board, k)[0].rstrip(FLAG + CAVEAT) for k in board.matrix}
    rows = [
        [_md_name(board, m), f"do({do})"]
        + [_md_cell(Entry.of(board, m, keys[do, *c])) if (do, *c) in keys else "" for c in columns]
        for m in board.methods
        for do in dict.fromkeys(k.do for k in board.matrix)
    ]
    return md_table(["method", "intervention", *map(md, columns.values())], rows)


def render(results: Results | Board, width: int = 120, *, details: bool = False) -> Group:
    """The summary for a terminal of ``width`` columns, with its notes, and on demand the detail tables with theirs."""
    from rich.console import Group
    from rich.text import Text

    board = results if isinstance(results, Board) else Board(results)
    summary = of_board(board)
    shown = terminal_summary(summary, width)
    tables = [t for s in board.sections for t in _terminal(board, s, width)] if details else []
    more = [Text(n, style="dim") for n in numbered(_details_notes(board))] if details else []
    first = [Text(n, style="dim") for n in numbered(summary_notes(board, summary))]
    return Group(*shown, *first, *([Text("")] if details else []), *tables, *more)


def _terminal(board: Board, s: Section, width: int) -> list[Group]:
    from rich.text import Text

    names = [
        Text("method\n"),
        *(Text(board.marked(m), style="dim" if board.is_control(m) else "") for m in board.methods),
    ]
    columns = [
        [Text("\n".join(head)), *(_short(Entry.of(board, m, key)) for m in board.methods)]
        for head, key in zip(headings(board, s), s.keys, strict=True)
    ]
    extra = [] if s.do else [["residual\n", "status\n"], *(residual_and_status(board, s, m) for m in board.methods)]
    columns += [list(map(Text, column)) for column in zip(*extra, strict=True)]
    name = f"{board.results.dataset}, {title(board, s)}"
    own = sum(not board.is_control(m) for m in board.methods)
    parts = _split(columns, width - _width(names))
    return [_rich(name + (", continued" if i else ""), [names, *p], own) for i, p in enumerate(parts)]


def _split(columns: list[list[Text]], width: int) -> list[list[list[Text]]]:
    """Columns in as few parts as fit into ``width``, of about the same number."""
    for count in range(1, len(columns) + 1):
        size = math.ceil(len(columns) / count)
        parts = [columns[i : i + size] for i in range(0, len(columns), size)]
        if all(sum(map(_width, part)) <= width for part in parts):
            break
    return parts if columns else [[]]


def _short(cell: Entry) -> Text:
    from rich.text import Text

    text = Text(cell.value, style="bold" if cell.best else "")
    rest = " ".join(filter(None, (f"±{cell.half}" if cell.half else "", cell.coverage)))
    return text.append(f" {rest}", style="not bold dim") if rest else text


def _width(column: list[Text]) -> int:
    return 2 + max(line.cell_len for text in column for line in text.split("\n"))


def _rich(name: str, columns: list[list[Text]], own: int) -> Group:
    from rich.box import Box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=Box(RULED), pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for i, (head, *_) in enumerate(columns):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for i, row in enumerate(zip(*(column[1:] for column in columns), strict=True)):
        table.add_row(*row, end_section=i == own - 1)
    return Group(Text(name, style="bold"), table)


def write_tables(results: Results | Board, folder: Path) -> dict[str, Path]:
    """Write ``DATASET.csv``, ``DATASET-wide.csv``, ``DATASET-pairs.csv``, ``DATASET.md``, ``DATASET.tex`` and
    ``DATASET-appendix.tex``, and where a method has rows at several budgets ``DATASET-budgets.csv``, atomically.

    Returns:
        the files by kind: csv, wide, pairs, md, tex, appendix, budgets.
    """
    board = results if isinstance(results, Board) else Board(results)
    folder.mkdir(parents=True, exist_ok=True)
    stem = board.results.stem or file_stem(board.results.dataset)
    texts = {
        "csv": (f"{stem}.csv", csv(board.tidy)),
        "wide": (f"{stem}-wide.csv", csv(board.wide)),
        "pairs": (f"{stem}-pairs.csv", csv(board.pairs)),
        "md": (f"{stem}.md", markdown(board)),
        "tex": (f"{stem}.tex", latex(board)),
        "appendix": (f"{stem}-appendix.tex", latex_appendix(board)),
    }
    if curves(board):
        texts["budgets"] = f"{stem}-budgets.csv", csv(budget_table(board))
    for name, text in texts.values():
        with atomic_write(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
    return {kind: folder / name for kind, (name, _) in texts.items()}
