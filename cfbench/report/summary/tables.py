"""The summary as a table for a terminal, in Markdown, LaTeX and HTML, and the notes that it needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from ..board import Board
from ..budgets import budget_warnings
from ..columns import Key
from ..markup import md, md_table, tex, tex_environment, tex_number, tex_prose
from ..notes import devices, failures, health_notes, mark_notes, names_note, plan_note
from .headline import COMPOSITION, EFFECTIVENESS, ERROR, SKILL
from .rows import Cell, Summary
from .verdict import verdict

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.text import Text

__all__ = ["RULED", "html_summary", "latex_summary", "legend", "markdown_summary", "summary_notes", "terminal_summary"]

NARROWEST, WIDEST = 8, 40
"""Characters of a name in a terminal."""
NAME = 14
"""Characters of a name in Markdown and LaTeX."""
PART, MD_PART = 7, 9
"""Letters of a heading's word, in a terminal and in Markdown; one that is longer by more than one is broken."""
EMPTY = "no row has a score"
"""What stands in place of a summary without columns."""
RULED = "    \n    \n ── \n    \n ── \n    \n    \n    \n"
"""Lines of a table in a terminal: below its head, and between methods and controls."""
Lines = tuple[str, str]


def _lines(s: Summary, method: str, key: Key) -> Lines:
    """An entry's two lines: the score with ± of a method, then its ranks and the residual of composition."""
    cell, residual = s.cells[method, key], s.residual(method, key)
    if method in s.controls:
        return " ".join(filter(None, (cell.number, residual))), ""
    return cell.number + cell.half, " ".join(filter(None, (cell.rank, residual)))


def _cost_heads(s: Summary) -> Lines:
    """What the column of costs holds."""
    clock = "CPU" if s.is_cpu else "wall"
    return (f"fit {clock}" if s.fit else ""), ("answer" if s.answer else "")


def legend(names: Mapping[str, str]) -> str:
    """The rows whose names are shortened, with their numbers; empty where there are none."""
    found = [f"({short.rpartition('(')[2]} {m}" for m, short in names.items() if short != m]
    return f"Rows: {'; '.join(found)}." if found else ""


def summary_notes(board: Board, s: Summary) -> list[str]:
    """Short sentences on what the summary shows, the most important first."""
    r, paths = board.results, {k.path for k in s.keys}
    notes = [*verdict(board, s), *budget_warnings(board), *(text[:300] for text in failures(board))]
    notes += health_notes(board)
    if s.is_empty:
        return [*notes, f"{plan_note(r)}; preset {r.preset}."]
    if SKILL in paths:
        notes.append("Skill: share of the factual's error to the truth that an answer removes; 1: the truth, 0: none.")
    elif ERROR in paths:
        notes.append("Error: mean absolute difference to the true counterfactual, in grey levels.")
    elif any(kind != "none" for kind in r.truth.values()):
        notes.append("No column compares with the truth: nothing here says which answer is right.")
    else:
        notes.append("No intervention has a known truth: nothing here says which answer is right.")
    notes.append(
        f"±: half of the 95 % interval over {r.factuals:,} factuals and {_trainings(board)}. None: it rounds to 0."
    )
    notes.append("Bold: no method is surely better. #: ranks it may hold (paired tests, Holm). Controls: no ranks.")
    notes += names_note(r)
    notes += _effects(board, s)
    if any(k.path == COMPOSITION for k in s.keys):
        notes.append(
            "Composition: grey levels that a null intervention changes, and the residual: if not none, 0 is no merit."
        )
    notes += mark_notes(board, s.scored)
    notes += _cost_notes(board, s)
    if left := [v for v in r.variables if v not in {k.do for k in s.keys}]:
        notes.append(f"Left out for want of room or scores: do({', '.join(left)}).")
    action = f"; action: {r.notes['action']}" if r.notes.get("action") else ""
    notes.append(f"{plan_note(r)}; preset {r.preset}{action}; {devices(board) or 'unknown device'}.")
    return notes


def _trainings(board: Board) -> str:
    """How many training seeds intervals are over, and what they hold for, in words; rows may differ in that."""
    counts = sorted({len(board.seeds(m)) for m in board.methods if not board.is_control(m)} or {1})
    if counts[-1] == 1:
        return "1 seed, for this training only"
    if counts[0] > 1:
        return f"{' or '.join(map(str, counts))} seeds, for any training"
    several = " or ".join(map(str, counts[1:]))
    return f"{several} seeds, for any training, but for this training only in rows of 1 seed"


def _effects(board: Board, s: Summary) -> Iterable[str]:
    """What effectiveness says, and how far its judges are off."""
    shown = [k for k in s.keys if k.path in EFFECTIVENESS]
    errors = {
        str(row["variable"]): f"{float(row['error']):.3g}"
        for row in board.results.card
        if row.get("judge") == "reader" and row.get("data") == "real"
    }
    for path, says in zip(EFFECTIVENESS, ("share of answers that", "how far answers that"), strict=True):
        if own := [k.variable for k in shown if k.path == path]:
            off = ", ".join(errors[v] for v in own if v in errors)
            judge = f" (judge's own error: {off})" if off else ""
            what = "are read as asked" if path == EFFECTIVENESS[0] else "are read miss the value"
            yield f"{path.rpartition('.')[2].capitalize()}: {says} {what}, do({', '.join(own)}){judge}."


def _cost_notes(board: Board, s: Summary) -> Iterable[str]:
    if not (s.fit or s.answer):
        return
    clock = "of the processor" if s.is_cpu else "by the clock"
    parts = [*([f"fit: seconds {clock}"] if s.fit else []), *([f"answer: ms an image {clock}"] if s.answer else [])]
    others = [x.value for x in board.results.scores if x.about.footnote and x.value > 0 and x.scope == "cell"]
    busy = f"; up to {max(others):.0f} other tasks ran beside" if others else ""
    text = ", ".join(parts) + busy
    yield text[0].upper() + text[1:] + "."


def _broken(word: str, part: int = PART) -> list[str]:
    """A word of a heading in parts of about ``part`` letters."""
    size = math.ceil(len(word) / math.ceil(len(word) / part)) if len(word) > part + 1 else len(word)
    parts = [word[i : i + size] for i in range(0, len(word), size or 1)]
    return [*(f"{p}-" for p in parts[:-1]), *parts[-1:]]


def _head_lines(s: Summary, key: Key) -> list[str]:
    quantity, place = s.head(key)
    return [*_broken(quantity.replace(" ", "")), *_broken(place)]


def terminal_summary(s: Summary, width: int) -> list[RenderableType]:
    """The summary for a terminal; one that is too wide even with short names is continued below."""
    from rich.text import Text

    if s.is_empty:
        return [Text(f"{s.dataset}: {EMPTY}", style="bold"), Text("")]
    columns = [[_head_lines(s, k), *(_lines(s, m, k) for m in s.methods)] for k in s.scored]
    if s.fit or s.answer:
        columns.append([list(filter(None, _cost_heads(s))), *(s.costs(m) for m in s.methods)])
    best = [[False, *(s.cells[m, k].best for m in s.methods)] for k in s.scored]
    widths = [max(len(line) for entry in column for line in entry) + 1 for column in columns]
    name = max(min(width - sum(widths), WIDEST), NARROWEST)
    names = s.names(name - 2 * bool(s.broken))
    first = [Text("method"), *(Text(s.marked(m, names[m]), style="dim" if m in s.controls else "") for m in s.methods)]
    room = width - max(t.cell_len for t in first)
    parts: list[list[list[Text]]] = [[]]
    left = room
    for i, column in enumerate(columns):
        if widths[i] > left and parts[-1]:
            parts, left = [*parts, []], room
        left -= widths[i]
        bold = best[i] if i < len(best) else [False] * len(column)
        parts[-1].append([_entry(entry, b, head=not j) for j, (entry, b) in enumerate(zip(column, bold, strict=True))])
    title = f"{s.dataset}: summary"
    tables = [_grid(title + (", continued" if i else ""), [first, *part], s.own) for i, part in enumerate(parts)]
    text = legend(names)
    return [*tables, *([Text(text, style="dim")] if text else [])]


def _entry(lines: Iterable[str], bold: bool, head: bool) -> Text:
    from rich.text import Text

    if head:
        return Text("\n".join(filter(None, lines)), style="bold")
    first, *rest = lines
    text = Text(first, style="bold" if bold else "")
    for line in filter(None, rest):
        text.append(f"\n{line}", style="not bold dim")
    return text


def _grid(name: str, columns: list[list[Text]], own: int) -> Group:
    from rich.box import Box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=Box(RULED), show_edge=False, padding=0, header_style="bold")
    for i, (head, *_) in enumerate(columns):
        table.add_column(head, justify="right" if i else "left", vertical="top", no_wrap=True)
    for i, row in enumerate(zip(*(column[1:] for column in columns), strict=True)):
        table.add_row(*row, end_section=i == own - 1)
    return Group(Text(name, style="bold"), table, Text(""))


def markdown_summary(s: Summary) -> str:
    """The table as Markdown that GitHub shows in a column of text, with the legend of shortened names."""
    if s.is_empty:
        return f"{EMPTY}\n"
    names, costs = s.names(NAME), bool(s.fit or s.answer)
    words = [[part for word in s.head(k) for part in _broken(word, MD_PART)] for k in s.scored]
    heads = ["<br>".join(map(md, head)) for head in words]
    heads += ["<br>".join(map(md, filter(None, _cost_heads(s))))] if costs else []
    rows = []
    for m in s.methods:
        name = f"*{md(s.marked(m, names[m]))}*" if m in s.controls else md(s.marked(m, names[m]))
        cells = [_md_cell(s.cells[m, k], _lines(s, m, k)) for k in s.scored]
        rows.append([name, *cells, *(["<br>".join(map(md, filter(None, s.costs(m))))] if costs else [])])
    text = legend(names)
    return md_table(["method", *heads], rows) + (f"\n{md(text)}\n" if text else "")


def _md_cell(cell: Cell, lines: Lines) -> str:
    first = f"**{md(lines[0])}**" if cell.best else md(lines[0])
    return first + (f"<br><sub>{md(lines[1])}</sub>" if lines[1] else "")


def html_summary(s: Summary) -> str:
    """The table as HTML, in which all text is escaped."""
    if s.is_empty:
        return f"<b>{escape(s.dataset)}: {EMPTY}</b>"
    costs = bool(s.fit or s.answer)
    heads = [tuple(filter(None, s.head(k))) for k in s.scored] + (
        [tuple(filter(None, _cost_heads(s)))] if costs else []
    )
    head = "".join(f"<th>{'<br>'.join(map(escape, h))}</th>" for h in (("method",), *heads))
    body = "".join(_html_row(s, m, i, costs) for i, m in enumerate(s.methods))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<b>{escape(s.dataset)}: summary</b><div>{table}</div>"


def _html_row(s: Summary, method: str, number: int, costs: bool) -> str:
    kind = "control" * (method in s.controls) + " first" * (0 < number == s.own)
    cells = []
    for k in s.scored:
        first, second = map(escape, _lines(s, method, k))
        value = f"<b>{first}</b>" if s.cells[method, k].best else first
        cells.append(value + (f"<br><small>{second}</small>" if second else ""))
    cells += ["<br>".join(map(escape, filter(None, s.costs(method))))] if costs else []
    return f'<tr class="{kind}">' + "".join(f"<td>{c}</td>" for c in (escape(s.marked(method)), *cells)) + "</tr>"


def latex_summary(s: Summary, *, intervals: bool = False) -> str:
    """The summary within the width of a two-column page, or with its intervals, for an appendix."""
    return f"% {EMPTY}\n" if s.is_empty else _tex_table(s, intervals=intervals)


def _tex_table(s: Summary, *, intervals: bool) -> str:
    names = s.names(NAME)
    heads = [s.head(k) for k in s.scored]
    costs = [] if intervals else [h for h, k in (("fit", s.fit), ("answer", s.answer)) if k]
    residual = any(k.path == COMPOSITION for k in s.scored) and not intervals
    extra = [*(["residual"] if residual else []), *costs]
    columns = "l" + "r" * len(heads) + "l" * residual + "r" * len(costs)
    top = ["method", *(tex(q) for q, _ in heads), *map(tex, extra)]
    units = [unit for unit, k in ((f"{'CPU' if s.is_cpu else 'wall'} s", s.fit), ("ms", s.answer)) if k and costs]
    below = ["", *(tex(p) for _, p in heads), *[""] * residual, *units]
    rows = [_tex_row(s, m, s.marked(m, names[m]), intervals, residual) for m in s.methods]
    rows.insert(s.own, "\\midrule\n") if 0 < s.own < len(rows) else None
    what = "summary with 95\\,\\% intervals" if intervals else "summary"
    label = "intervals" if intervals else "summary"
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in s.dataset.lower())
    text = legend(names)
    caption = f"{tex_prose(s.dataset)}: {what}. {tex_prose(text)}".strip()
    tabular = (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
        f"{' & '.join(top)} \\\\\n{' & '.join(below)} \\\\\n\\midrule\n{''.join(rows)}\\bottomrule\n"
        "\\end{tabular}"
    )
    return tex_environment("table*", "scriptsize" if intervals else "footnotesize", caption, f"{stem}-{label}", tabular)


def _tex_row(s: Summary, method: str, name: str, intervals: bool, residual: bool) -> str:
    cells = [s.cells[method, k] for k in s.scored]
    shown = rf"\textit{{{tex(name)}}}" if method in s.controls else tex(name)
    values = [rf"\textbf{{{tex_number(c.number)}}}" if c.best else tex_number(c.number) for c in cells]
    if intervals:
        below = [tex_number(" ".join(filter(None, (c.interval, c.rank)))) for c in cells]
        return f"{' & '.join([shown, *values])} \\\\\n{' & '.join(['', *below])} \\\\\n"
    policy = [tex(s.residual(method, next(k for k in s.scored if k.path == COMPOSITION)) or "-")] if residual else []
    fit, answer = (text.partition(" ")[0] for text in s.costs(method))
    costs = [*([fit] if s.fit else []), *([answer] if s.answer else [])]
    return f"{' & '.join([shown, *values, *policy, *map(tex, costs)])} \\\\\n"
