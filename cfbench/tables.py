"""The leaderboard as CSV, Markdown and for the terminal, and all its files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .latex import latex
from .leaderboard import Board, Section
from .results import Results
from .store import replacing
from .wording import FLAG, Cell, card_line, card_table, footnotes, heading, headings, policy, title

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["csv", "markdown", "render", "write"]

# Spreadsheets run what begins with these.
_FORMULA = re.compile(r"^[=+\-@\t\r]")


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value != "-" and _FORMULA.match(value) else value


def csv(table: pd.DataFrame) -> str:
    """CSV text in which no cell begins as a formula would: such text gets an apostrophe before it."""
    safe = table.copy()
    for name in table.select_dtypes(exclude="number").columns:
        safe[name] = table[name].map(_safe)
    safe.columns = pd.Index([_safe(c) for c in table.columns])
    return safe.to_csv(index=False, lineterminator="\n")


def _md(text: object) -> str:
    return re.sub(r"([|*_<>`\\]|(?<=\])\()", r"\\\1", " ".join(str(text).split()))


def _md_table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _md_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return " ".join(part for part in (value, cell.interval, cell.coverage) if part)


def markdown(board: Board) -> str:
    """The printed tables, the judge card and the footnotes as Markdown."""
    parts = [f"# {_md(board.results.dataset)}\n"]
    for s in board.sections:
        heads = [" ".join(filter(None, (name, unit and f"[{unit}]"))) for name, unit in headings(board, s)]
        head = ["method", *map(_md, heads), *([] if s.do else ["residual", "status"])]
        rows = [
            [_md_name(board, m), *(_md_cell(Cell.of(board, m, k)) for k in s.keys), *map(_md, policy(board, s, m))]
            for m in board.methods
        ]
        parts.append(f"## {_md(title(board, s))}\n\n{_md_table(head, rows)}")
    if board.matrix:
        parts.append(f"## Each variable as judged, after each intervention\n\n{_md_matrix(board)}")
    if board.results.card:
        card = card_table(board.results)
        parts.append(f"## Judge card\n\n{_md_table(list(card.columns), [list(map(_md, r)) for r in card.values])}")
    parts.append("## Notes\n\n" + "".join(f"- {_md(n)}\n" for n in footnotes(board)))
    return "\n".join(parts)


def _md_name(board: Board, method: str) -> str:
    return f"*{_md(method)}*" if board.is_control(method) else _md(method)


def _md_matrix(board: Board) -> str:
    place = {(k.do, k.metric, k.column, k.variable): k for k in board.matrix}
    columns = {(k.metric, k.column, k.variable): heading(board, k)[0].rstrip(FLAG) for k in board.matrix}
    rows = [
        [_md_name(board, m), f"do({do})"]
        + [_md_cell(Cell.of(board, m, place[do, *c])) if (do, *c) in place else "" for c in columns]
        for m in board.methods
        for do in dict.fromkeys(k.do for k in board.matrix)
    ]
    return _md_table(["method", "intervention", *map(_md, columns.values())], rows)


def render(results: Results | Board, width: int = 120) -> Group:
    """The printed tables for a terminal of ``width`` columns, with footnotes; wide ones are continued below."""
    from rich.console import Group
    from rich.text import Text

    board = results if isinstance(results, Board) else Board(results)
    tables = [t for s in board.sections for t in _terminal(board, s, width)]
    notes = [*footnotes(board), *([f"Judges' errors: {card_line(board.results)}."] if board.results.card else [])]
    return Group(*tables, *(Text(n, style="dim") for n in notes))


def _terminal(board: Board, s: Section, width: int) -> list[Group]:
    from rich.text import Text

    names = [Text("method\n"), *(Text(m, style="dim" if board.is_control(m) else "") for m in board.methods)]
    columns = [
        [Text("\n".join(head)), *(_short(Cell.of(board, m, key)) for m in board.methods)]
        for head, key in zip(headings(board, s), s.keys, strict=True)
    ]
    extra = [] if s.do else [["residual\n", "status\n"], *(policy(board, s, m) for m in board.methods)]
    columns += [list(map(Text, column)) for column in zip(*extra, strict=True)]
    name = f"{board.results.dataset}, {title(board, s)}"
    own = sum(not board.is_control(m) for m in board.methods)
    parts = _split(columns, width - _width(names))
    return [_rich(name + (", continued" if i else ""), [names, *p], own) for i, p in enumerate(parts)]


def _split(columns: list[list[Text]], room: int) -> list[list[list[Text]]]:
    """Columns in as few parts as fit into ``room``, of about the same number."""
    for count in range(1, len(columns) + 1):
        size = math.ceil(len(columns) / count)
        parts = [columns[i : i + size] for i in range(0, len(columns), size)]
        if all(sum(map(_width, part)) <= room for part in parts):
            break
    return parts if columns else [[]]


def _short(cell: Cell) -> Text:
    from rich.text import Text

    text = Text(cell.value, style="bold" if cell.best else "")
    rest = " ".join(filter(None, (f"±{cell.half}" if cell.half else "", cell.coverage)))
    return text.append(f" {rest}", style="not bold dim") if rest else text


def _width(column: list[Text]) -> int:
    return 2 + max(line.cell_len for text in column for line in text.split("\n"))


def _rich(name: str, columns: list[list[Text]], own: int) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for i, (head, *_) in enumerate(columns):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for i, row in enumerate(zip(*(column[1:] for column in columns), strict=True)):
        table.add_row(*row, end_section=i == own - 1)
    return Group(Text(name, style="bold"), table)


def write(results: Results | Board, folder: Path) -> dict[str, Path]:
    """Write ``DATASET.csv``, ``DATASET-wide.csv``, ``DATASET-pairs.csv``, ``DATASET.md``, ``DATASET.tex``, atomically.

    Returns:
        the files by kind: csv, wide, pairs, md, tex.
    """
    board = results if isinstance(results, Board) else Board(results)
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.\-]+", "_", board.results.dataset)
    texts = {
        "csv": (f"{stem}.csv", csv(board.tidy)),
        "wide": (f"{stem}-wide.csv", csv(board.wide)),
        "pairs": (f"{stem}-pairs.csv", csv(board.pairs)),
        "md": (f"{stem}.md", markdown(board)),
        "tex": (f"{stem}.tex", latex(board)),
    }
    for name, text in texts.values():
        with replacing(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")
    return {kind: folder / name for kind, (name, _) in texts.items()}
