"""The leaderboard as LaTeX for a paper: the summary for its text, all other tables and notes for its appendix."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .board import Board
from .columns import Section
from .format import Entry, headings, residual_and_status, title
from .markup import TEX_PACKAGES, tex, tex_environment, tex_number, tex_prose
from .notes import detail_notes, numbered
from .summary.rows import of_board, short_names
from .summary.tables import latex_summary, legend, summary_notes

__all__ = ["latex", "latex_appendix"]

NAME = 18
"""Characters of a name."""


def latex(board: Board) -> str:
    r"""The summary and its notes for ``\input``; it needs the packages booktabs and graphicx."""
    summary = of_board(board)
    return f"{TEX_PACKAGES}{latex_summary(summary)}\n{_notes(summary_notes(board, summary))}"


def latex_appendix(board: Board) -> str:
    r"""The summary's intervals, the detail tables and their notes for ``\input`` in an appendix."""
    tables = "\n".join(_table(board, s) for s in board.sections)
    return f"{TEX_PACKAGES}{latex_summary(of_board(board), intervals=True)}\n{tables}\n{_notes(detail_notes(board))}"


def _notes(notes: Iterable[str]) -> str:
    text = "\n\n".join(tex_prose(n) for n in numbered(notes))
    return f"{{\\footnotesize\\sloppy\\setlength{{\\parindent}}{{0pt}}\n{text}\n\\par}}\n"


def _table(board: Board, s: Section) -> str:
    extra = [] if s.do else ["residual", "status"]
    heads = headings(board, s)
    names = ["method", *(tex(n) for n, _ in heads), *extra]
    units = ["", *(rf"{{\tiny {tex(u)}}}" if u else "" for _, u in heads), *[""] * len(extra)]
    short = short_names(board.methods, NAME)
    rows = [_rows(board, s, m, board.marked(m, short[m])) for m in board.methods]
    own = sum(not board.is_control(m) for m in board.methods)
    body = "".join(rows[:own]) + ("\\midrule\n" if 0 < own < len(rows) else "") + "".join(rows[own:])
    label = re.sub(r"[^a-z0-9]+", "-", f"{board.results.dataset}-{s.do or 'cost'}".lower())
    tabular = (
        f"\\begin{{tabular}}{{l{'r' * len(heads)}{'l' * len(extra)}}}\n\\toprule\n"
        f"{' & '.join(names)} \\\\\n{' & '.join(units)} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}"
    )
    caption = f"{tex_prose(board.results.dataset)}: {tex_prose(title(board, s))}. {tex_prose(legend(short))}".strip()
    return tex_environment("table*", "footnotesize", caption, label, tabular)


def _rows(board: Board, s: Section, method: str, short: str) -> str:
    """A line of values and a smaller one of intervals."""
    cells = [Entry.of(board, method, k) for k in s.keys]
    name = rf"\textit{{{tex(short)}}}" if board.is_control(method) else tex(short)
    values = [rf"\textbf{{{tex_number(c.value)}}}" if c.best else tex_number(c.value) for c in cells]
    below = [" ".join(filter(None, (c.interval, c.coverage))) for c in cells]
    extra = list(map(tex, residual_and_status(board, s, method)))
    lines = [" & ".join([name, *values, *extra])]
    if any(below):
        small = [rf"{{\tiny {tex_number(b)}}}" if b else "" for b in below]
        lines.append(" & ".join(["", *small, *[""] * len(extra)]))
    return " \\\\\n".join(lines) + " \\\\\n"
