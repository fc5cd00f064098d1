"""Dot-and-interval charts of every family of metrics, and quality against cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError, reason_of
from ...names import file_stem
from ...plugins.spec import brief
from ...runs.reader import Results
from ...storage.temporary import atomic_write
from ..board import Board
from ..columns import MEAN, Key, where
from ..format import column_name, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "charts",
    "drawing",
    "leaving_out",
    "new_figure",
    "save_figure",
    "set_style",
    "write_plot",
    "write_plots",
]


CONTROL = "#777777"
MARKERS = "osD^vPX*<>pdh"
COLUMNS = 5
"""Panels side by side; a family with more columns goes on in a second figure."""
TAKEN = ("quality-cost", "training", "guidance", "predictor", "counterfactuals")
"""Names of charts and pictures that are of no family."""


def set_style() -> None:
    """Set matplotlib's defaults, whatever a ``matplotlibrc`` says, with seaborn's theme.

    No text is taken for a formula: names of rows, variables and stages may hold dollar signs.
    """
    import matplotlib
    import seaborn as sns

    matplotlib.rcdefaults()
    own = {"axes.grid": True, "grid.color": "#e6e6e6", "font.size": 9, "text.parse_math": False}
    sns.set_theme(context="paper", style="ticks", rc=own)


@contextmanager
def drawing() -> Iterator[None]:
    """Context manager under which figures have the style of `set_style`; the caller's settings are restored."""
    import matplotlib

    with matplotlib.rc_context():
        set_style()
        yield


@contextmanager
def leaving_out(what: str) -> Iterator[None]:
    """Context manager that prints why something could not be drawn or printed, and goes on without it.

    Raises:
        OSError: a file cannot be written.
        UserError: a file of the run cannot be read.
    """
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        print(f"cfbench: {what} left out, as it could not be drawn: {reason_of(error)}", file=sys.stderr)


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure and its axes [rows, columns], drawn by Agg: it belongs to no window or notebook of pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _colours(board: Board) -> dict[str, str]:
    """A colour-blind safe colour for each method, none of which is grey as controls are."""
    from seaborn import color_palette

    own = [m for m in board.methods if not board.is_control(m)]
    palette = [c for c in color_palette("colorblind").as_hex() if len({c[1:3], c[3:5], c[5:7]}) > 1]
    return dict.fromkeys(board.methods, CONTROL) | {m: palette[i % len(palette)] for i, m in enumerate(own)}


def _markers(board: Board) -> dict[str, str]:
    own = [m for m in board.methods if not board.is_control(m)]
    others = [m for m in board.methods if board.is_control(m)]
    return {m: MARKERS[i % len(MARKERS)] for group in (own, others) for i, m in enumerate(group)}


def save_figure(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as draft:
        figure.savefig(draft, format="png", dpi=160, bbox_inches="tight", facecolor="white", backend="agg")
    return path


def _missing(board: Board, method: str, key: Key) -> str:
    word = board.pooled_status(method, key).word
    return "no score" if word == "ok" else word


def _dots(ax: Axes, board: Board, key: Key) -> None:
    """One method a line: the score, its 95 % interval, or why there is none."""
    colours, markers = _colours(board), _markers(board)
    for y, m in enumerate(board.methods):
        e = board.estimates[m, key]
        if not math.isfinite(e.value):
            style: Any = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 7.5, "style": "italic"}
            ax.text(0.03, y, f"× {_missing(board, m, key)}", color="#b02020", **style)
            continue
        if math.isfinite(e.low):
            ax.plot([e.low, e.high], [y, y], color=colours[m], lw=1.8, solid_capstyle="butt")
        hollow = board.is_control(m)
        ax.plot(e.value, y, markers[m], ms=5.5, color=colours[m], mfc="white" if hollow else colours[m], mew=1.2)
    if (target := board.about(key).target) is not None:
        ax.axvline(target, color="#444444", lw=0.8, ls=":")


def _panel(ax: Axes, board: Board, key: Key, first: bool) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    _dots(ax, board, key)
    own = sum(not board.is_control(m) for m in board.methods)
    ax.axhline(own - 0.5, color="#bbbbbb", lw=0.8)
    ax.set_ylim(len(board.methods) - 0.4, -0.6)
    ax.set_yticks(range(len(board.methods)), [brief(m) for m in board.methods] if first else [])
    ax.tick_params(axis="y", length=0)
    if not _set_log(ax, board, key):
        ax.xaxis.set_major_locator(MaxNLocator(4))
    if max(map(abs, ax.get_xlim())) >= 1e4:
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.grid(visible=False, axis="y")
    ax.margins(x=0.08)
    name, unit = heading(board, key)
    ax.set_xlabel(name + (f"\n[{unit}]" if unit else ""), fontsize=8.5)


def _set_log(ax: Axes, board: Board, key: Key) -> bool:
    """Draw a time on a logarithmic axis, at whose left end what takes none stands; whether it is one."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    values = [e.value for m in board.methods if (e := board.estimates[m, key]).value > 0]
    if board.about(key).unit not in ("s", "ms") or not values:
        return False
    # A power of ten, so that no tick stands between it and 0.
    least = 10.0 ** math.floor(math.log10(max(min(values), max(values) / 1e4)))
    ax.set_xscale("symlog", linthresh=least)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("0.", ".")))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return True


def _panel_grid(keys: list[Key]) -> list[list[Key | None]]:
    """Interventions by outputs, or the other way round where that is wider than high."""
    dos = list(dict.fromkeys(k.do for k in keys))
    outputs = list(dict.fromkeys((k.column, k.variable) for k in keys))
    by_panel = {(k.do, k.column, k.variable): k for k in keys}
    grid = [[by_panel.get((do, *o)) for o in outputs] for do in dos]
    return grid if len(outputs) >= min(len(dos), COLUMNS) else [list(row) for row in zip(*grid, strict=True)]


def _family(board: Board, keys: list[Key]) -> Figure:
    """Small multiples: each intervention, output and measured variable on its own scale."""
    grid = _panel_grid(keys)
    rows, columns = len(grid), len(grid[0])
    size = (1.6 + 2.3 * columns, (1.1 + 0.24 * len(board.methods)) * rows)
    figure, axes = new_figure(rows, columns, size)
    for line, row in zip(axes, grid, strict=True):
        first = next(i for i, key in enumerate(row) if key)
        for i, (ax, key) in enumerate(zip(line, row, strict=True)):
            if key is None:
                ax.set_axis_off()
                continue
            _panel(ax, board, key, i == first)
            before = row[i - 1] if i else None
            if before is None or before.do != key.do:
                ax.set_title(where(key.do), loc="left", fontsize=9.5, fontweight="bold")
    return figure


def _chunks(board: Board, family: str) -> list[list[Key]]:
    """The columns of a family that any method has a score in, at most ``COLUMNS`` outputs at a time.

    A column that has a footnote is left to it.
    """
    own = [k for k in board.columns if k.metric == family and not board.about(k).footnote]
    scored = [k for k in own if any(math.isfinite(board.estimates[m, k].value) for m in board.methods)]
    outputs = list(dict.fromkeys((k.column, k.variable) for k in scored))
    parts = [outputs[i : i + COLUMNS] for i in range(0, len(outputs), COLUMNS)]
    return [[k for k in scored if (k.column, k.variable) in part] for part in parts]


def _cost_axes(board: Board) -> list[tuple[str, dict[str, float]]]:
    """Costs of an answer, then of the fit, by method: those of one unit added up, each unit an axis of its own."""
    axes = []
    for role, each in (("answer-cost", " an image"), ("fit-cost", "")):
        groups: dict[str, list[Key]] = {}
        for key in board.columns:
            if not key.do and board.about(key).role == role:
                groups.setdefault(board.about(key).unit, []).append(key)
        for unit, keys in groups.items():
            label = f"{' + '.join(column_name(board, k) for k in keys)} [{unit}{each}]"
            axes.append((label, {m: sum(board.estimates[m, k].value for k in keys) for m in board.methods}))
    return axes


def _quality(board: Board) -> list[Key]:
    """For each intervened variable the error to the truth, or the first printed column where there is no truth."""
    sections = [s for s in board.sections if s.do not in ("", MEAN) and s.keys]
    return [next((k for k in s.keys if board.about(k).role == "error"), s.keys[0]) for s in sections]


def _scatter(ax: Axes, board: Board, key: Key, costs: dict[str, float]) -> list[str]:
    """Points with intervals over a log cost axis; what costs nothing stands at its left edge.

    Returns:
        the methods that have no score or no cost.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colours, markers = _colours(board), _markers(board)
    paid = [c for c in costs.values() if math.isfinite(c) and c > 0]
    edge = min(paid, default=1.0) / 4
    some_free = any(c <= edge for c in costs.values())
    absent = []
    for m in board.methods:
        e, cost = board.estimates[m, key], costs[m]
        if not (math.isfinite(e.value) and math.isfinite(cost)):
            absent.append(m)
            continue
        x, hollow = max(cost, edge), board.is_control(m)
        if math.isfinite(e.low):
            ax.plot([x, x], [e.low, e.high], color=colours[m], lw=1.5, solid_capstyle="butt")
        ax.plot(x, e.value, markers[m], ms=6.5, color=colours[m], mfc="white" if hollow else colours[m], mew=1.3)
    ax.set_xscale("log")
    wide = max(paid, default=1.0) > 100 * edge
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "" if some_free and v < 1.6 * edge else f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(edge / 1.6, max(paid, default=1.0) * 2)
    if some_free:
        ax.axvspan(edge / 1.6, edge * 1.6, color="#f2f2f2", zorder=0)
        ax.text(0.03, 1.02, "no cost", transform=ax.transAxes, fontsize=7, color="#555555", va="bottom")
    return absent


def _legend(figure: Figure, board: Board, absent: set[str]) -> None:
    from matplotlib.lines import Line2D

    colours, markers = _colours(board), _markers(board)
    lines = []
    for m in board.methods:
        face = "white" if board.is_control(m) else colours[m]
        why = board.pooled_status(m).word
        label = f"{m} ({'no score' if why == 'ok' else why})" if m in absent else brief(m)
        style: Any = {"marker": "x" if m in absent else markers[m], "color": "#b02020" if m in absent else colours[m]}
        lines.append(Line2D([], [], ls="", mfc=face, mew=1.3, label=label, **style))
    figure.legend(handles=lines, loc="outside right upper", frameon=False, fontsize=8.5)


def _quality_against_cost(board: Board) -> Figure:
    keys, axes_of_cost = _quality(board), _cost_axes(board)
    rows, columns = len(axes_of_cost), len(keys)
    figure, axes = new_figure(rows, columns, (2.2 + 2.7 * columns, 2.5 * rows))
    absent: set[str] = set()
    for line, (label, costs) in zip(axes, axes_of_cost, strict=True):
        for ax, key in zip(line, keys, strict=True):
            absent |= set(_scatter(ax, board, key, costs))
            name, unit = heading(board, key)
            ax.set_ylabel(name + (f" [{unit}]" if unit else ""), fontsize=8.5)
            ax.set_xlabel(label, fontsize=8.5)
            ax.set_title(where(key.do), loc="right", fontsize=9.5, fontweight="bold")
    _legend(figure, board, absent)
    return figure


def charts(board: Board) -> dict[str, Callable[[], Figure]]:
    """What draws each chart, by its name: a family of metrics (``cld``, ``neighbours-2``) or ``quality-cost``."""
    found: dict[str, Callable[[], Figure]] = {}
    for family in dict.fromkeys(k.metric for k in board.columns):
        for i, keys in enumerate(_chunks(board, family)):
            own = file_stem(family) + ("-scores" if family in TAKEN else "")
            name = own + (f"-{i + 1}" if i else "")
            found[name] = partial(_family, board, keys)
    if _quality(board) and _cost_axes(board):
        found["quality-cost"] = partial(_quality_against_cost, board)
    return found


def write_plots(results: Results | Board, folder: Path) -> list[Path]:
    """Write ``DATASET-FAMILY.png`` for each metric and ``DATASET-quality-cost.png``; the files written.

    A method without a score keeps its line, with the reason. A chart that cannot be drawn is left out with a note.
    """
    board = results if isinstance(results, Board) else Board(results)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in charts(board):
        with leaving_out(f"the chart {name}"):
            written.append(write_plot(board, name, folder))
    return written


def write_plot(board: Board, name: str, folder: Path) -> Path:
    """Write one of the `charts` as ``DATASET-NAME.png``."""
    stem = board.results.stem or file_stem(board.results.dataset)
    with drawing():
        return save_figure(charts(board)[name](), folder / f"{stem}-{name}.png")
