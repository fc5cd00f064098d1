"""The leaderboard as CSV, Markdown, LaTeX and for the terminal."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .leaderboard import Board, Key, Section
from .results import Results

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

__all__ = ["Cell", "csv", "footnotes", "heading", "latex", "markdown", "number", "render", "write"]

ARROWS = {"lower": "↓", "higher": "↑", "target": "→", "none": ""}
MARKS = {"convention": "*", "none": "°", "exact": ""}
FLAG = "‡"
WEAK = "§"
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
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(v) >= size:
            return f"{v / size:.3g}{suffix}" if abs(v) < 1e3 * size else f"{v / size:.0f}{suffix}"
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
    counted = f"n={board._asked[key]}" if about.subset else ""
    unit = ", ".join(part for part in (UNITS.get(about.unit, about.unit), counted) if part)
    return f"{name} {arrow}".strip() + (FLAG if key in board.flagged else ""), unit


def _title(board: Board, section: Section) -> str:
    if not section.do:
        return section.title
    truth = board.results.truth.get(section.do, "none")
    says = {"exact": "exact truth", "convention": "truth by convention", "none": "no truth"}[truth]
    weak = WEAK if section.do in _weak(board.results) else ""
    return f"{section.title}{MARKS[truth]}{weak}, {says}"


def _weak(results: Results) -> set[str]:
    return {str(row.get("variable", "")) for row in results.card if row.get("good") is False}


def _extra(board: Board, section: Section, method: str) -> list[str]:
    """Residual policy and status, in the last table only."""
    if section.do:
        return []
    residual = next((c.residual for c in board.results.cells if c.method == method and c.residual), "-")
    return [residual, board.pooled_status(method).partition(":")[0].partition(";")[0]]


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def footnotes(board: Board) -> list[str]:
    """All that a reader must know to judge the numbers, one sentence or two each."""
    r = board.results
    notes = [f"Preset {r.preset}; {_told(r.notes)}; device: {_devices(board) or 'not told'}."]
    seeds = ", ".join(map(str, r.seeds))
    training = (
        f"One training seed ({seeds}): the variance between trainings is not in the intervals."
        if len(r.seeds) < 2
        else f"Training seeds {seeds}; intervals hold the choice of factuals and of seeds."
    )
    asked = ", ".join(f"{len(v)} on {k}" for k, v in r.factual.items() if k != "null")
    inside = ", ".join(f"{int(v.sum())} of {len(v)} on {k}" for k, v in r.supported.items() if k != "null")
    notes += [
        training,
        f"95 % percentile bootstrap intervals from {_plural(len(board.resamples.counts), 'resample')} of "
        f"{_plural(r.factuals, 'factual')}, the same for every method; ± is half the interval's width. "
        f"n: questions {asked}" + (f"; inside the support of the training data: {inside}." if inside else "."),
        "Bold: no other method is surely better (the interval of the paired difference holds 0). #: the ranks that a "
        "method may hold; controls, last, are not ranked. (n%): the share of questions with a score, where not all "
        "have one; for ranks the others count as the worst score seen.",
        f"Questions: plan {r.plan_key[:12]}.",
    ]
    return [*notes, *_marks(board), *_failures(board), *_chosen(board)]


def _told(notes: Mapping[str, Any]) -> str:
    """Settings in words; of a mapping its numbers, as a budget has them."""
    said = []
    for k, v in notes.items():
        if isinstance(v, Mapping):
            inner = (f"{n} {x:,}" for n, x in v.items() if isinstance(x, int | float) and not isinstance(x, bool))
            said.append(f"{k}: {', '.join(inner)}")
        elif isinstance(v, str | int | float):
            said.append(f"{k}: {v}")
    return "; ".join(said)


def _devices(board: Board) -> str:
    own = [board.results.notes.get("device"), *(c.notes.get("device") for c in board.results.cells)]
    return ", ".join(dict.fromkeys(str(d) for d in own if d))


def _chosen(board: Board) -> Iterable[str]:
    """What methods chose for themselves on the validation split, where they chose anything."""
    for c in board.results.cells:
        if chosen := c.notes.get("chosen"):
            seed = f" (seed {c.seed})" if len(board.seeds(c.method)) > 1 else ""
            values = ", ".join(f"{k}={_value(v)}" for k, v in chosen.items())
            yield f"{c.method}{seed} chose {values} on validation data."


def _value(v: object) -> str:
    return f"{v:.4g}" if isinstance(v, float) else str(v)


def _marks(board: Board) -> Iterable[str]:
    r, truths = board.results, board.results.truth
    if conventions := [v for v in r.variables if truths.get(v) == "convention"]:
        yield f"{MARKS['convention']} The truth of do({', '.join(conventions)}) is a convention: data do not tell it."
    if without := [v for v in r.variables if truths.get(v, "none") == "none"]:
        yield f"{MARKS['none']} do({', '.join(without)}) has no known truth."
    if weak := sorted(_weak(r)):
        yield f"{WEAK} The judges of {', '.join(weak)} are not good enough to tell methods apart by them."
    if board.flagged:
        won: dict[str, list[str]] = {}
        for key, winner in board.flagged.items():
            where = "no intervention" if key.do == "none" else f"do({key.do})"
            won.setdefault("/".join(filter(None, (key.path, key.variable))), []).append(f"{where} {winner}")
        told = "; ".join(f"{name} ({', '.join(places)})" for name, places in won.items())
        yield f"{FLAG} The oracle does not win these; in brackets, a row that is surely better: {told}."


def _failures(board: Board) -> Iterable[str]:
    for m in board.methods:
        if (status := board.pooled_status(m)) != "ok":
            yield f"{m}: {' '.join(status.split())}"


def _card(results: Results) -> pd.DataFrame:
    rows = [{**row, "good": _good(row.get("good"))} for row in results.card]
    card = pd.DataFrame(rows)
    if "error" in card:
        card["error"] = [number(float(e))(float(e)) for e in card["error"]]
    return card


def _good(flag: bool | None) -> str:
    return "" if flag is None else "yes" if flag else "NO"


def _card_line(results: Results) -> str:
    """The judge card in a line: each judge's errors, one a kind of data."""
    told: dict[tuple[str, str], list[str]] = {}
    for row in _card(results).to_dict("records"):
        judge = " ".join(filter(None, (str(row.get("judge", "")), str(row.get("variable", "")))))
        error = f"{row.get('data', '')} {row['error']} (n={row.get('n', '')})"
        told.setdefault((judge, str(row.get("unit", ""))), []).append(error)
    return "; ".join(f"{judge} [{unit or 'own unit'}]: {', '.join(e)}" for (judge, unit), e in told.items())


# Spreadsheets run what begins with these.
_FORMULA = re.compile(r"^[=+\-@\t\r]")


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value != "-" and _FORMULA.match(value) else value


def csv(table: pd.DataFrame) -> str:
    """CSV text in which no cell begins as a formula would: such text gets an apostrophe before it."""
    safe = table.map(_safe)
    safe.columns = pd.Index([_safe(c) for c in table.columns])
    return safe.to_csv(index=False, lineterminator="\n")


def _md(text: object) -> str:
    return re.sub(r"([|*_<>`\\])", r"\\\1", " ".join(str(text).split()))


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
        heads = [" ".join(filter(None, (name, unit and f"[{unit}]"))) for name, unit in _heads(board, s)]
        head = ["method", *map(_md, heads), *([] if s.do else ["residual", "status"])]
        rows = [
            [_md_name(board, m), *(_md_cell(Cell.of(board, m, k)) for k in s.keys), *map(_md, _extra(board, s, m))]
            for m in board.methods
        ]
        parts.append(f"## {_md(_title(board, s))}\n\n{_md_table(head, rows)}")
    if board.matrix:
        parts.append(f"## Each variable as judged, after each intervention\n\n{_md_matrix(board)}")
    if board.results.card:
        card = _card(board.results)
        parts.append(f"## Judge card\n\n{_md_table(list(card.columns), [list(map(_md, r)) for r in card.values])}")
    parts.append("## Notes\n\n" + "".join(f"- {_md(n)}\n" for n in footnotes(board)))
    return "\n".join(parts)


def _heads(board: Board, s: Section) -> list[tuple[str, str]]:
    return [heading(board, k, s) for k in s.keys]


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


_TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\rightarrow$",
    "²": r"\textsuperscript{2}",
    "°": r"\textsuperscript{$\circ$}",
    "*": r"\textsuperscript{*}",
    FLAG: r"\textsuperscript{$\ddagger$}",
    WEAK: r"\textsuperscript{\S}",
    "±": r"$\pm$",
    "µ": r"$\mu$",
    "×": r"$\times$",
    "–": "--",
}


def _tex(text: object) -> str:
    return "".join(_TEX.get(c, c) for c in " ".join(str(text).split()))


def _tex_number(text: str) -> str:
    return re.sub(r"-(?=\d)", "$-$", _tex(text))


def _tex_rows(board: Board, s: Section, method: str) -> str:
    """A line of values and a smaller one of intervals."""
    cells = [Cell.of(board, method, k) for k in s.keys]
    name = rf"\textit{{{_tex(method)}}}" if board.is_control(method) else _tex(method)
    values = [rf"\textbf{{{_tex_number(c.value)}}}" if c.best else _tex_number(c.value) for c in cells]
    below = [" ".join(filter(None, (c.interval, c.coverage))) for c in cells]
    extra = list(map(_tex, _extra(board, s, method)))
    lines = [" & ".join([name, *values, *extra])]
    if any(below):
        small = [rf"{{\tiny {_tex_number(b)}}}" if b else "" for b in below]
        lines.append(" & ".join(["", *small, *[""] * len(extra)]))
    return " \\\\\n".join(lines) + " \\\\\n"


def _tex_table(board: Board, s: Section) -> str:
    extra = [] if s.do else ["residual", "status"]
    heads = _heads(board, s)
    names = ["method", *(_tex(n) for n, _ in heads), *extra]
    units = ["", *(rf"{{\tiny {_tex(u)}}}" if u else "" for _, u in heads), *[""] * len(extra)]
    rows = [_tex_rows(board, s, m) for m in board.methods]
    own = sum(not board.is_control(m) for m in board.methods)
    body = "".join(rows[:own]) + ("\\midrule\n" if 0 < own < len(rows) else "") + "".join(rows[own:])
    label = re.sub(r"[^a-z0-9]+", "-", f"{board.results.dataset}-{s.do or 'cost'}".lower())
    return (
        "\\begin{table}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{_tex(board.results.dataset)}: {_tex(_title(board, s))}.}}\\label{{tab:{label}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(heads)}{'l' * len(extra)}}}\n\\toprule\n"
        f"{' & '.join(names)} \\\\\n{' & '.join(units)} \\\\\n\\midrule\n{body}\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def latex(board: Board) -> str:
    """The printed tables as LaTeX for ``\\input``; it needs the package booktabs and nothing else."""
    notes = "\n\n".join(_tex(n) for n in footnotes(board))
    head = "% \\usepackage{booktabs}\n% \\usepackage[T1]{fontenc}\n"
    tables = "\n".join(_tex_table(board, s) for s in board.sections)
    return f"{head}{tables}\n{{\\footnotesize\\noindent\n{notes}\n\\par}}\n"


def render(results: Results | Board, width: int = 120) -> Group:
    """The printed tables for a terminal of ``width`` columns, with footnotes; wide ones are continued below."""
    from rich.console import Group
    from rich.text import Text

    board = results if isinstance(results, Board) else Board(results)
    tables = [t for s in board.sections for t in _terminal(board, s, width)]
    notes = [*footnotes(board), *([f"Judges' errors: {_card_line(board.results)}."] if board.results.card else [])]
    return Group(*tables, *(Text(n, style="dim") for n in notes))


def _terminal(board: Board, s: Section, width: int) -> list[Group]:
    from rich.text import Text

    names = [Text("method\n"), *(Text(m, style="dim" if board.is_control(m) else "") for m in board.methods)]
    columns = [
        [Text("\n".join(head)), *(_short(Cell.of(board, m, key)) for m in board.methods)]
        for head, key in zip(_heads(board, s), s.keys, strict=True)
    ]
    extra = [] if s.do else [["residual\n", "status\n"], *(_extra(board, s, m) for m in board.methods)]
    columns += [list(map(Text, column)) for column in zip(*extra, strict=True)]
    title = f"{board.results.dataset}, {_title(board, s)}"
    own = sum(not board.is_control(m) for m in board.methods)
    parts = _split(columns, width - _width(names))
    return [_rich(title + (", continued" if i else ""), [names, *p], own) for i, p in enumerate(parts)]


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


def _rich(title: str, columns: list[list[Text]], own: int) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for i, (head, *_) in enumerate(columns):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for i, row in enumerate(zip(*(column[1:] for column in columns), strict=True)):
        table.add_row(*row, end_section=i == own - 1)
    return Group(Text(title, style="bold"), table)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


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
        _replace(folder / name, text)
    return {kind: folder / name for kind, (name, _) in texts.items()}
