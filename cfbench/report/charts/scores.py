"""Dot-and-interval charts of every family of metrics: a panel for each column, a line for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ...errors import one_line
from ..board import Board
from ..columns import Key, where
from ..format import heading, marks_of_do
from ..notes import mark_notes
from ..sweeps import sweeps
from .figure import HEIGHT, WIDTH, Look, add_notes, balanced, cut_names, looks, new_figure, notes_height
from .references import Reference, draw_references, reference_samples, references

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Page", "draw_page", "marked_notes", "pages_of"]

COLUMNS = 4
"""Panels side by side."""
WIDEST = 2.2
"""Inches of a panel at most."""
FAILED, QUIET = "#b02020", "#777777"
Grid = list[list[Key | None]]


@dataclass(frozen=True)
class Page:
    """One figure: its panels, and the rows in each."""

    grid: Grid
    methods: tuple[str, ...]

    @property
    def keys(self) -> list[Key]:
        """The columns of the panels."""
        return [key for row in self.grid for key in row if key]


def pages_of(board: Board, family: str, *, controls: bool = False) -> list[Page]:
    """The figures of a family of metrics, each of which fits a page.

    Columns without a score are left out, and those that have a footnote are left to it. Controls are rows where that
    is asked for, or where there are no others.
    """
    own = [k for k in board.columns if k.metric == family and not board.about(k).footnote]
    scored = [k for k in own if any(math.isfinite(board.estimates[m, k].value) for m in board.methods)]
    methods = [m for m in board.methods if controls or not board.is_control(m)] or list(board.methods)
    each = balanced(methods, int((HEIGHT - 2) / _line_height(looks(board))))
    pages = []
    for rows in each if scored else ():
        fitting = max(int((HEIGHT - 0.8) / _panel_height(looks(board), len(rows))), 1)
        pages += [Page(part, tuple(rows)) for part in balanced(_panel_grid(scored), fitting)]
    return pages


def _panel_grid(keys: Sequence[Key]) -> Grid:
    """Interventions by outputs, or the other way round where that is wider than high, at most `COLUMNS` wide."""
    dos = list(dict.fromkeys(k.do for k in keys))
    outputs = list(dict.fromkeys((k.column, k.variable) for k in keys))
    by_panel = {(k.do, k.column, k.variable): k for k in keys}
    grid: Grid = [[by_panel.get((do, *o)) for o in outputs] for do in dos]
    if len(outputs) < min(len(dos), COLUMNS):
        grid = [list(row) for row in zip(*grid, strict=True)]
    parts = balanced(range(len(grid[0])), COLUMNS)
    return [[row[i] for i in part] for part in parts for row in grid if any(row[i] for i in part)]


def _line_height(drawn: Mapping[str, Look]) -> float:
    """Inches of a row, whose name may have two lines or more."""
    return 0.07 + 0.12 * max((look.name.count("\n") + 1 for look in drawn.values()), default=1)


def _panel_height(drawn: Mapping[str, Look], rows: int) -> float:
    return 0.8 + _line_height(drawn) * rows


def draw_page(board: Board, page: Page) -> Figure:
    """The figure: each intervention, output and measured variable on its own scale."""
    drawn, keys = looks(board), page.keys
    lined = not any(board.is_control(m) for m in page.methods)
    found = {key: references(board, key, controls=lined) for key in keys}
    names = {m: look.name for m, look in drawn.items()}
    notes = [*marked_notes(board, keys), *cut_names(page.methods, names, sweeps(board))]
    figure = new_figure(*_size(page, drawn, notes))
    axes = figure.subplots(len(page.grid), max(map(len, page.grid)), squeeze=False)
    for line, row in zip(axes, page.grid, strict=True):
        first = next(key for key in row if key)
        for ax, key, before in zip_longest(line, row, [None, *row[:-1]]):
            if key is None:
                ax.set_axis_off()
                continue
            _panel(ax, board, key, page.methods, drawn, found[key], named=key == first)
            if before is None or before.do != key.do:
                ax.set_title(where(key.do) + marks_of_do(board, key.do), loc="left", fontweight="bold")
    if samples := reference_samples(r for each in found.values() for r in each):
        columns = max(int(figure.get_figwidth() / 1.3), 1)
        figure.legend(handles=samples, loc="outside upper left", ncols=columns, frameon=False, fontsize=7)
    add_notes(figure, notes)
    return figure


def _size(page: Page, drawn: Mapping[str, Look], notes: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches: as much as names, panels and notes need, and at most a page."""
    across = max(map(len, page.grid))
    names = 0.25 + 0.062 * max(len(line) for m in page.methods for line in drawn[m].name.split("\n"))
    width = max(names + min((WIDTH - names) / across, WIDEST) * across, 4.0)
    height = 0.4 + _panel_height(drawn, len(page.methods)) * len(page.grid) + notes_height(notes, width)
    return width, min(height, HEIGHT)


def marked_notes(board: Board, keys: Sequence[Key]) -> list[str]:
    """What the marks of a figure's panels mean, as below the tables."""
    return [one_line(note, 300) for note in mark_notes(board, keys, titled=True)]


def _panel(
    ax: Axes,
    board: Board,
    key: Key,
    methods: Sequence[str],
    drawn: Mapping[str, Look],
    found: Sequence[Reference],
    *,
    named: bool,
) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    draw_references(ax, found)
    _dots(ax, board, key, methods, drawn)
    own = sum(not board.is_control(m) for m in methods)
    if 0 < own < len(methods):
        ax.axhline(own - 0.5, color="#bbbbbb", lw=0.8)
    ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.set_yticks(range(len(methods)), [drawn[m].name for m in methods] if named else [])
    ax.tick_params(axis="y", length=0)
    if not _set_log(ax, board, key, methods):
        ax.xaxis.set_major_locator(MaxNLocator(3))
    if max(map(abs, ax.get_xlim())) >= 1e4:
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.08)
    name, unit = heading(board, key)
    ax.set_xlabel(name + (f"\n[{unit}]" if unit else ""))


def _dots(ax: Axes, board: Board, key: Key, methods: Sequence[str], drawn: Mapping[str, Look]) -> None:
    """One row a line: the score, its 95 % interval, or why there is none."""
    for y, m in enumerate(methods):
        e, look = board.estimates[m, key], drawn[m]
        if not math.isfinite(e.value):
            _absent(ax, y, board.pooled_status(m, key).word)
            continue
        if math.isfinite(e.low):
            ax.plot([e.low, e.high], [y, y], color=look.colour, lw=1.6, solid_capstyle="butt")
        ax.plot(e.value, y, ms=4.5, **look.style)
    if (target := board.about(key).target) is not None:
        ax.axvline(target, color="#444444", lw=0.8, ls=":")


def _absent(ax: Axes, y: int, word: str) -> None:
    """Why a row has no score: in red where it failed, quietly where there is none to have."""
    failed = word not in ("ok", "no score")
    text = f"× {word}" if failed else "no score"
    style: Any = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 6.5, "style": "italic"}
    ax.text(0.03, y, text, color=FAILED if failed else QUIET, **style)


def _set_log(ax: Axes, board: Board, key: Key, methods: Sequence[str]) -> bool:
    """Draw a time on a logarithmic axis, at whose left end what takes none stands; whether it is one."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, SymmetricalLogLocator

    values = [e.value for m in methods if (e := board.estimates[m, key]).value > 0]
    if board.about(key).unit not in ("s", "ms") or not values:
        return False
    # A power of ten, so that no tick stands between it and 0.
    least = 10.0 ** math.floor(math.log10(max(min(values), max(values) / 1e4)))
    ax.set_xscale("symlog", linthresh=least)
    if max(values) < 100 * min(values):  # else an axis may have no tick with a number
        ax.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=least, subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("0.", ".")))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return True
