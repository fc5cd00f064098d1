"""Rows of methods at several budgets as curves: quality over the training images seen, and over the time of the fit."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...plugins.budgets import spell_budget
from ..board import Board, Estimate
from ..budgets import Curve, curves, fit_cost, followed, seen
from ..columns import Key, where
from ..format import column_name, heading, marks_of_do
from ..summary.rows import short_names
from .figure import HEIGHT, WIDTH, Look, add_notes, balanced, cut_names, looks, new_figure, notes_height
from .labels import place_labels
from .references import Reference, draw_references, reference_samples, references
from .scores import marked_notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["budget_pages", "draw_budgets"]

CURVES = 10
"""Curves of a figure at most."""
NAME = 20
"""Letters of a method's name at the end of its curve."""
PANEL = 2.05
"""Inches of a panel's height."""
INK = 0.65
"""Share of a curve's colour that its name has; the rest is black."""
READING = (
    "Lines join the rows of a method that differ only in their budget; bars are 95 % intervals. The smallest "
    "budget is hollow."
)


def budget_pages(board: Board) -> list[list[Curve]]:
    """The methods in each figure; none where no method has rows at several budgets."""
    return balanced(curves(board), CURVES) if followed(board) else []


def draw_budgets(board: Board, drawn: Sequence[Curve]) -> Figure:
    """The figure: a line of panels for each quality, over images on the left and over seconds on the right."""
    keys, cost = followed(board), fit_cost(board)
    axes = [("training images seen", _seen(board, drawn))]
    if cost is not None:
        axes.append((f"{column_name(board, cost)} [s]", {m: board.estimates[m, cost].value for m in _rows(drawn)}))
    names = short_names((c.name for c in drawn), NAME)
    notes = [READING, *cut_names(names, names, ()), *marked_notes(board, keys)]
    figure = new_figure(WIDTH, min(0.5 + PANEL * len(keys) + notes_height(notes, WIDTH), HEIGHT))
    grid = figure.subplots(len(keys), len(axes), squeeze=False, sharex="col", sharey="row")
    style = looks(board)
    panels = []
    for line, key in zip(grid, keys, strict=True):
        for ax, (label, costs) in zip(line, axes, strict=True):
            panels.append(_Panel(ax, board, key, drawn, costs, style))
            ax.set_xlabel(label if key == keys[-1] else "")
        name, unit = heading(board, key)
        line[0].set_ylabel(name + (f"\n[{unit}]" if unit else ""))
        place = where(key.do) + marks_of_do(board, key.do) if key.do else ""
        line[0].set_title(place, loc="left", fontweight="bold")
    samples = reference_samples(r for panel in panels for r in panel.references)
    if samples:
        figure.legend(handles=samples, loc="outside upper left", ncols=5, frameon=False, fontsize=7)
    add_notes(figure, notes)
    left = {name for panel in panels for name in panel.name_curves(names)}
    if left:
        print(f"cfbench: {len(left)} names have no room at their curves in budgets", file=sys.stderr)
    return figure


def _rows(drawn: Sequence[Curve]) -> list[str]:
    return [row for curve in drawn for row in curve.rows.values()]


def _seen(board: Board, drawn: Sequence[Curve]) -> dict[str, float]:
    """The images that each row's fit has seen; its budget where that is unknown."""
    budgets = {row: float(images) for curve in drawn for images, row in curve.rows.items()}
    if (key := seen(board)) is None:
        return budgets
    found = {row: board.estimates[row, key].value for row in budgets}
    return {row: found[row] if found[row] > 0 else images for row, images in budgets.items()}


class _Panel:
    """One quality of all curves over one cost."""

    def __init__(
        self, ax: Axes, board: Board, key: Key, drawn: Sequence[Curve], costs: Mapping[str, float],
        style: Mapping[str, Look],
    ) -> None:  # fmt: skip
        self.ax, self.curves = ax, drawn
        self.points: dict[str, tuple[float, float]] = {}
        self.colours = {c.name: style[next(iter(c.rows.values()))].colour for c in drawn}
        estimates = {m: board.estimates[m, key] for m in _rows(drawn)}
        for curve in drawn:
            self._curve(list(curve.rows.values()), estimates, costs, style[next(iter(curve.rows.values()))])
        shown = [estimates[m] for m in self.points]
        self.references = _near(shown, references(board, key))
        draw_references(ax, self.references, upright=False)
        self._axes()

    def _curve(
        self, rows: Sequence[str], estimates: Mapping[str, Estimate], costs: Mapping[str, float], look: Look
    ) -> None:
        for m in rows:
            e, x = estimates[m], costs[m]
            if not (math.isfinite(e.value) and x > 0):
                continue
            self.points[m] = x, e.value
            if math.isfinite(e.low):
                self.ax.plot([x, x], [e.low, e.high], color=look.colour, lw=1.0, alpha=0.55, solid_capstyle="butt")
            face = "white" if m == rows[0] else look.colour
            self.ax.plot(x, e.value, ms=4.5, zorder=3, **look.style | {"mfc": face})
        line = [self.points[m] for m in rows if m in self.points]
        self.ax.plot([x for x, _ in line], [y for _, y in line], color=look.colour, lw=1.0, zorder=2)

    def _axes(self) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        ax, paid = self.ax, [x for x, _ in self.points.values()]
        ax.set_xscale("log")
        if paid:
            least, most = min(paid), max(paid)
            pad = max((most / least) ** 0.06, 1.05)
            ax.set_xlim(least / pad, most * max((most / least) ** 0.45, 1.4))  # with room for names
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if most > 100 * least else (1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: spell_budget(round(v)) if v >= 1 else f"{v:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.margins(y=0.1)

    def name_curves(self, names: Mapping[str, str]) -> list[str]:
        """Write the name of each curve at its last point; those that have no room."""
        ends = {c.name: [self.points[m] for m in c.rows.values() if m in self.points][-1:] for c in self.curves}
        named = [(points[0], names[name]) for name, points in ends.items() if points]
        colours = {names[name]: _ink(colour) for name, colour in self.colours.items()}
        return place_labels(self.ax, named, list(self.points.values()), colours)


def _ink(colour: str) -> str:
    """A colour dark enough for small letters on white."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = (INK * part for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _near(shown: Sequence[Estimate], lined: Sequence[Reference]) -> list[Reference]:
    """The references that lie near the scores."""
    ends = [v for e in shown for v in (e.value, e.low, e.high) if math.isfinite(v)]
    span = max(ends, default=0.0) - min(ends, default=0.0)
    return [r for r in lined if ends and min(ends) - span / 4 <= r.value <= max(ends) + span / 4]
