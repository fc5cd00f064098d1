"""What all charts share: their style and size, the colour, marker and name of each row, and how they are saved."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import UserError, reason_of
from ...plugins.spec import fold
from ...storage.temporary import atomic_write
from ..board import Board
from ..budgets import curves
from ..summary.rows import short_names
from ..sweeps import Sweep, sweeps

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = [
    "CONTROL",
    "HEIGHT",
    "WIDTH",
    "Look",
    "add_notes",
    "balanced",
    "cut_names",
    "drawing",
    "leaving_out",
    "looks",
    "new_figure",
    "notes_height",
    "numbered",
    "save_figure",
    "set_style",
]

T = TypeVar("T")
WIDTH, HEIGHT = 7.0, 9.0
"""Inches of a figure at most: what a page of a paper has room for."""
DPI = 160
CONTROL = "#777777"
MARKERS = "osD^vPX*<>pdh"
NAME = 20
"""Letters in a line of a row's name, of which there are two."""


def set_style() -> None:
    """Set matplotlib's defaults, whatever a ``matplotlibrc`` says, with seaborn's theme.

    No text is taken for a formula: names of rows, variables and stages may hold dollar signs.
    """
    import matplotlib
    import seaborn as sns

    matplotlib.rcdefaults()
    own = {"axes.grid": True, "grid.color": "#e6e6e6", "font.size": 8, "text.parse_math": False,
           "axes.labelsize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7.5, "axes.linewidth": 0.8,
           "xtick.major.size": 3, "ytick.major.size": 3, "axes.titlesize": 8.5}  # fmt: skip
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


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, drawn by Agg: it belongs to no window or notebook of pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save_figure(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as draft:
        figure.savefig(draft, format="png", dpi=DPI, facecolor="white", backend="agg")
    return path


@dataclass(frozen=True)
class Look:
    """How a row is drawn: its name in lines, colour and marker; the marker of a control is hollow."""

    name: str
    colour: str
    marker: str
    hollow: bool

    @property
    def style(self) -> dict[str, Any]:
        """Keywords of a point for matplotlib."""
        face = "white" if self.hollow else self.colour
        return {"marker": self.marker, "color": self.colour, "mfc": face, "mew": 1.0, "ls": ""}

    def sample(self, label: str) -> Line2D:
        """A point for a legend."""
        from matplotlib.lines import Line2D

        return Line2D([], [], ms=5, label=label, **self.style)


def looks(board: Board) -> Mapping[str, Look]:
    """How each row is drawn: methods in colour-blind safe colours, rows of a sweep or curve alike."""
    from seaborn import color_palette

    palette = [c for c in color_palette("colorblind").as_hex() if len({c[1:3], c[3:5], c[5:7]}) > 1]
    of = {m: sweep for sweep in sweeps(board) for m in sweep.rows}
    alike = {m: curve.name for curve in curves(board) for m in curve.rows.values()}
    alike |= {m: sweep.name for m, sweep in of.items()}
    own = [m for m in board.methods if not board.is_control(m)]
    others = [m for m in board.methods if board.is_control(m)]
    kinds = list(dict.fromkeys(alike.get(m, m) for m in own))
    names = short_names(board.methods, 2 * NAME) | {m: f"{sweep.name} {sweep.label(m)}" for m, sweep in of.items()}
    found = {}
    for m in board.methods:
        hollow = board.is_control(m)
        i = others.index(m) if hollow else kinds.index(alike.get(m, m))
        colour = CONTROL if hollow else palette[i % len(palette)]
        found[m] = Look(fold(names[m], NAME), colour, MARKERS[i % len(MARKERS)], hollow)
    return found


def cut_names(methods: Iterable[str], names: Mapping[str, str], swept: Iterable[Sweep]) -> list[str]:
    """A note of what the names stand for that are cut short; none where none is."""
    inside = {m for sweep in swept for m in sweep.rows}
    cut = [m for m in methods if m not in inside and "".join(names[m].split("\n")) != m]
    return [f"Rows: {'; '.join(f'{names[m]} is {m}' for m in cut)}."] if cut else []


def balanced(items: Sequence[T], most: int) -> list[list[T]]:
    """Items in as few parts as have at most so many, of about the same number."""
    size = math.ceil(len(items) / math.ceil(len(items) / max(most, 1))) if items else 1
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def numbered(name: str, i: int) -> str:
    """The name of the figure with a number, counted from 0, of several that make one chart."""
    return name + (f"-{i + 1}" if i else "")


def add_notes(figure: Figure, notes: Sequence[str]) -> None:
    """Write sentences below all that a figure shows."""
    if notes:
        lines = _wrapped(notes, figure.get_figwidth())
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, color="#444444")


def notes_height(notes: Sequence[str], width: float) -> float:
    """Inches that `add_notes` takes in a figure of so many inches."""
    return 0.11 * len(_wrapped(notes, width))


def _wrapped(notes: Sequence[str], width: float) -> list[str]:
    return [line for note in notes for line in wrap(note, max(round(width * 18), 1))]
