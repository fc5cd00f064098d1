"""Quality against cost: rows as points with their names, the Pareto front, and a line along each sweep."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..board import Board, Estimate
from ..columns import MEAN, Key, where
from ..format import column_name, heading, marks_of_do
from ..summary.headline import ANSWERS, FITS, clocks
from ..summary.rows import short_names
from ..sweeps import sweeps
from .figure import HEIGHT, WIDTH, Look, add_notes, balanced, cut_names, looks, new_figure, notes_height
from .labels import place_labels
from .references import Reference, draw_references, reference_samples, references
from .scores import marked_notes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CostPage", "cost_axes", "cost_pages", "draw_costs", "front", "quality_keys"]

PANELS = 7
"""Panels of a figure at most."""
NAME = 16
"""Letters of a row's name beside its point."""
FRONT: dict[str, Any] = {"color": "#111111", "lw": 1.5, "ls": "-"}


@dataclass(frozen=True)
class CostPage:
    """One figure: the columns that are a quality, and each row's cost."""

    keys: tuple[Key, ...]
    label: str
    costs: Mapping[str, float]


def cost_pages(board: Board) -> list[CostPage]:
    """The figures of quality against cost: those of answers first."""
    parts = balanced(quality_keys(board), PANELS)
    return [CostPage(tuple(keys), label, costs) for label, costs in cost_axes(board) for keys in parts]


def quality_keys(board: Board) -> list[Key]:
    """The mean over the interventions where there is one, then for each intervention the error to the truth, or the
    first printed column where there is no truth."""
    shown = [s for s in board.sections if s.do and s.keys]
    mean = [s.keys[0] for s in shown if s.do == MEAN]
    return mean + [
        next((k for k in s.keys if board.about(k).role == "error"), s.keys[0]) for s in shown if s.do != MEAN
    ]


def cost_axes(board: Board) -> list[tuple[str, dict[str, float]]]:
    """Costs of an answer, then of the fit, by method: those of one unit added up, each unit an axis of its own.

    Of times that several clocks measured those of the first one count.
    """
    timed = {path for paths in (FITS, *ANSWERS) for path in paths}
    known = {k.path for k in board.columns if any(math.isfinite(board.estimates[m, k].value) for m in board.methods)}
    others = timed - set(clocks(known))
    axes = []
    for role, each in (("answer-cost", " an image"), ("fit-cost", "")):
        groups: dict[str, list[Key]] = {}
        for key in board.columns:
            if not key.do and board.about(key).role == role and key.path not in others:
                groups.setdefault(board.about(key).unit, []).append(key)
        for unit, keys in groups.items():
            label = f"{' + '.join(column_name(board, k) for k in keys)} [{unit}{each}]"
            axes.append((label, {m: sum(board.estimates[m, k].value for k in keys) for m in board.methods}))
    return axes


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The rows that no other row beats in one of (cost, loss) and equals in the other, cheapest first."""
    found: list[str] = []
    best = math.inf
    for row, (_, loss) in sorted(points.items(), key=lambda item: item[1]):
        if loss < best:
            found, best = [*found, row], loss
    return found


def draw_costs(board: Board, page: CostPage, *, controls: bool = False) -> Figure:
    """The figure: a panel for each quality, whose first one is wide where their number is odd."""
    drawn = looks(board)
    wide, count = len(page.keys) % 2, len(page.keys)
    rows = wide + count // 2
    swept = sweeps(board)
    names = short_names(board.methods, NAME) | {m: s.label(m) for s in swept for m in s.rows}
    shown = [m for m in board.methods if controls or not board.is_control(m)] or list(board.methods)
    notes = [*marked_notes(board, page.keys), *cut_names(shown, names, swept)]
    figure = new_figure(WIDTH, min(0.6 + 2.6 * rows + notes_height(notes, WIDTH), HEIGHT))
    grid = figure.add_gridspec(rows, 2)
    places = [grid[0, :]] * wide + [grid[wide + i // 2, i % 2] for i in range(count - wide)]
    panels = [
        _Panel(figure.add_subplot(place), board, key, page, drawn, shown)
        for place, key in zip(places, page.keys, strict=True)
    ]
    _legend(figure, board, drawn, panels)
    add_notes(figure, notes)
    left = {n for p in panels for n in place_labels(p.ax, [(point, names[m]) for m, point in p.points.items()])}
    if left:
        print(f"cfbench: {len(left)} names have no room beside their points in quality-cost", file=sys.stderr)
    return figure


class _Panel:
    """One quality against the cost; ``absent`` are the rows that have no score or no cost."""

    def __init__(
        self, ax: Axes, board: Board, key: Key, page: CostPage, drawn: Mapping[str, Look], shown: Sequence[str]
    ) -> None:
        self.ax, self.board, self.key, self.drawn = ax, board, key, drawn
        lined = references(board, key, controls=not any(map(board.is_control, shown)))
        found = {m: (board.estimates[m, key], page.costs[m]) for m in shown}
        known = {m: (e, c) for m, (e, c) in found.items() if math.isfinite(e.value) and math.isfinite(c)}
        self.absent = {m: self._why_absent(m, e) for m, (e, _) in found.items() if m not in known}
        paid = [c for _, c in known.values() if c > 0]
        self.edge = min(paid, default=1.0) / 4
        self.points = {m: (max(c, self.edge), e.value) for m, (e, c) in known.items()}
        for m, (e, _) in known.items():
            self._point(m, e)
        self._front()
        self._paths()
        self.references = self._limits([e for e, _ in known.values()], lined)
        draw_references(ax, self.references, upright=False)
        self._axes(page.label, paid, some_free=len(paid) < len(known))

    def _why_absent(self, method: str, e: Estimate) -> str:
        if math.isfinite(e.value):
            return "cost unknown"
        word = self.board.pooled_status(method).word
        return "no score" if word == "ok" else word

    def _point(self, method: str, e: Estimate) -> None:
        x, look = self.points[method][0], self.drawn[method]
        if math.isfinite(e.low):
            self.ax.plot([x, x], [e.low, e.high], color=look.colour, lw=1.0, alpha=0.55, solid_capstyle="butt")
        self.ax.plot(x, e.value, ms=5, zorder=3, **look.style)

    def _front(self) -> None:
        about = self.board.about(self.key)
        if about.direction == "none":
            return
        own = {m: p for m, p in self.points.items() if not self.board.is_control(m)}
        target = about.target
        losses = {
            m: (x, abs(y - target) if target is not None else -y if about.direction == "higher" else y)
            for m, (x, y) in own.items()
        }
        line = [own[m] for m in front(losses)]
        self.ax.plot([x for x, _ in line], [y for _, y in line], **FRONT, zorder=2)

    def _paths(self) -> None:
        for sweep in sweeps(self.board):
            for path in sweep.paths:
                points = [self.points[m] for m in path if m in self.points]
                colour = self.drawn[path[0]].colour
                self.ax.plot([x for x, _ in points], [y for _, y in points], color=colour, lw=0.8, zorder=1.5)

    def _limits(self, estimates: Sequence[Estimate], lined: Iterable[Reference]) -> list[Reference]:
        """Show all scores and what of the references is not far from them; the references that are shown."""
        ends = [v for e in estimates for v in (e.value, e.low, e.high) if math.isfinite(v)]
        if not ends:
            return list(lined)
        low, high = min(ends), max(ends)
        span = high - low or abs(high) or 1.0
        near = [r for r in lined if low - span / 2 <= r.value <= high + span / 2]
        low, high = min([low, *(r.value for r in near)]), max([high, *(r.value for r in near)])
        self.ax.set_ylim(low - 0.1 * (high - low or span), high + 0.1 * (high - low or span))
        return near

    def _axes(self, label: str, paid: Sequence[float], *, some_free: bool) -> None:
        """A log axis of costs, at whose left edge what costs nothing stands."""
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        ax, edge, most = self.ax, self.edge, max(paid, default=1.0)
        ax.set_xscale("log")
        wide = most > 100 * edge
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "" if some_free and v < 1.6 * edge else f"{v:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        least = edge / 1.6 if some_free else 4 * edge
        pad = (most / least) ** 0.12
        ax.set_xlim(least if some_free else least / max(pad, 1.15), most * max(pad, 1.15))
        if some_free:
            ax.axvspan(least, edge * 1.6, color="#f2f2f2", zorder=0)
            ax.text(0.01, 0.01, "no cost", transform=ax.transAxes, fontsize=6.5, color="#555555", va="bottom")
        name, unit = heading(self.board, self.key)
        ax.set_ylabel(name + (f" [{unit}]" if unit else ""))
        ax.set_xlabel(label)
        ax.set_title(where(self.key.do) + marks_of_do(self.board, self.key.do), loc="left", fontweight="bold")


def _legend(figure: Figure, board: Board, drawn: Mapping[str, Look], panels: Sequence[_Panel]) -> None:
    """What lines mean, the sweeps, and rows without a point."""
    from matplotlib.lines import Line2D

    lines: list[Artist] = [Line2D([], [], **FRONT, label="Pareto front")]
    lines += reference_samples(r for panel in panels for r in panel.references)
    lines += [drawn[next(iter(s.rows))].sample(f"{s.name}: {', '.join(s.settings)}") for s in sweeps(board)]
    for m in (m for m in board.methods if all(m in panel.absent for panel in panels)):
        label = f"{drawn[m].name} ({panels[0].absent[m]})"
        lines.append(Line2D([], [], ls="", marker="x", color="#b02020", label=label))
    figure.legend(handles=lines, loc="outside upper left", ncols=4, frameon=False, fontsize=7)
