"""Charts of quality against cost: rows as points with their names, the Pareto front, and a line along each sweep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..report.charts.cost import front
from ..report.columns import Key
from ..report.summary.rows import Cell, Summary, short_names
from ..report.sweeps import Sweep
from .charts import COLOURS, INK, chart_of, new_figure, source_of
from .model import Chart

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

__all__ = ["cost_charts", "label_offsets"]

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "plus")
HEIGHT, ACROSS, UP, LETTER = 320, 420, 250, 14
"""Pixels of a chart, of its axes and of a line of text; by the latter three names are placed."""
OFFSETS = (4.0, -16.0, 18.0, -30.0, 32.0, -44.0, 46.0)
"""Pixels above a point where its name may stand, the best first."""
LABELLED, NAME = 20, 24
"""Rows whose names stand in a chart, of more they are shown by hover alone; and letters of a name."""

LONG = 3
"""Rows from which on the settings of a sweep's rows stand in place of their names."""

Points = Mapping[str, tuple[float, Cell]]
"""The cost and the score of each row."""


def cost_charts(s: Summary, swept: Sequence[Sweep] = ()) -> tuple[Chart, ...]:
    """Each scored column of a summary against the time of an answer and that of a fit, on logarithmic axes.

    Controls cost nothing worth a point; methods without a score or a time are left out.
    """
    axes = [(s.answer, "time of an answer, for an image [ms]")] if s.answer else []
    axes += [(s.fit, f"time of a fit [{'s of the processor' if s.is_cpu else 's by the clock'}]")] if s.fit else []
    found = [_chart(s, swept, key, cost, label) for key in s.scored for cost, label in axes]
    return tuple(chart for chart in found if chart)


def _chart(s: Summary, swept: Sequence[Sweep], key: Key, cost: Key, label: str) -> Chart | None:
    own = [m for m in s.methods if m not in s.controls]
    known = {m: (s.cells[m, cost].value, s.cells[m, key]) for m in own}
    points = {m: (x, cell) for m, (x, cell) in known.items() if cell.known and math.isfinite(x) and x > 0}
    if not points:
        return None
    quantity = " ".join(filter(None, s.head(key)))
    labelled = len(points) <= LABELLED
    x_range, y_range = _ranges(points, labelled)
    drawn = new_figure("", label, quantity, HEIGHT, x_axis_type="log", x_range=x_range, y_range=y_range)
    if s.arrows.get(key):
        _line(drawn, points, _best(points, higher=s.arrows[key] == "↑"), INK, dash="dashed")
    colours = _colours(own, swept)
    for rows in (path for sweep in swept for path in sweep.paths):
        _line(drawn, points, [m for m in rows if m in points], colours[rows[0]])
    data = _columns(points, own, colours)
    if labelled:
        names = short_names(own, NAME) | dict(_settings(swept))
        across, up = math.log(x_range[1] / x_range[0]) / ACROSS, (y_range[1] - y_range[0]) / UP
        places = [(math.log(x) / across, cell.value / up) for x, cell in points.values()]
        above = label_offsets(places, [len(names[m]) for m in points])
        data["name beside"] = ["" if dy is None else names[m] for m, dy in zip(points, above, strict=True)]
        data["above"] = [dy or 0.0 for dy in above]
    drawn.xaxis.ticker = _ticks(*x_range)
    _points(drawn, source_of(data), [("", "@name"), (quantity, "@score @rank"), (label, "@cost")])
    return chart_of(drawn, f"{quantity} against {label}", quantity)


def _ranges(points: Points, labelled: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of both axes, with room for names to the right."""
    xs = [x for x, _ in points.values()]
    ys = [y for _, c in points.values() for y in (c.low, c.high, c.value) if math.isfinite(y)]
    margin = 0.08 * (max(ys) - min(ys)) or 1.0
    return (min(xs) / 1.6, max(xs) * (6 if labelled else 1.6)), (min(ys) - margin, max(ys) + margin)


def _best(points: Points, *, higher: bool) -> list[str]:
    """The rows of the Pareto front, cheapest first."""
    return front({m: (x, -cell.value if higher else cell.value) for m, (x, cell) in points.items()})


def _settings(swept: Sequence[Sweep]) -> Iterator[tuple[str, str]]:
    """The settings by which the rows of a long sweep are told apart."""
    for sweep in swept:
        yield from ((m, sweep.label(m)) for m in sweep.rows if len(sweep.rows) >= LONG)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two numbers; of many powers these alone."""
    powers = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    steps = (1, 2, 5) if len(powers) < 5 else (1,)
    return [step * power for power in powers for step in steps if low <= step * power <= high]


def _colours(own: Sequence[str], swept: Sequence[Sweep]) -> dict[str, str]:
    """A colour for each row, one for all rows of a sweep."""
    groups = {m: f"sweep {number}" for number, sweep in enumerate(swept) for m in sweep.rows}
    order = list(dict.fromkeys(groups.get(m, m) for m in own))
    return {m: COLOURS[order.index(groups.get(m, m)) % len(COLOURS)] for m in own}


def _columns(points: Points, own: Sequence[str], colours: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    """What the points are drawn from, a column for each property."""
    ends = [(c.low, c.high) if math.isfinite(c.low) else (c.value, c.value) for _, c in points.values()]
    return {
        "name": list(points),
        "x": [x for x, _ in points.values()],
        "y": [c.value for _, c in points.values()],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "score": [f"{c.number} {c.interval}" for _, c in points.values()],
        "rank": [c.rank for _, c in points.values()],
        "cost": [f"{x:.3g}" for x, _ in points.values()],
        "colour": [colours[m] for m in points],
        "marker": [MARKERS[own.index(m) % len(MARKERS)] for m in points],
    }


def _line(drawn: Figure, points: Points, rows: Iterable[str], colour: str, dash: str = "solid") -> None:
    at = [(points[m][0], points[m][1].value) for m in rows]
    source = source_of({"x": [x for x, _ in at], "y": [y for _, y in at]})
    drawn.line("x", "y", source=source, color=colour, line_width=1, line_dash=dash)


def _points(drawn: Figure, source: Any, tips: list[tuple[str, str]]) -> None:
    """Points with intervals, names where there is room for them, and hover."""
    from bokeh.models import BasicTickFormatter, HoverTool
    from bokeh.models.annotations.labels import LabelSet

    drawn.segment("x", "low", "x", "high", source=source, color="colour", line_width=1.5)
    dots = drawn.scatter("x", "y", source=source, size=11, color="colour", marker="marker")
    drawn.add_tools(HoverTool(renderers=[dots], tooltips=tips))
    drawn.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    if "above" in source.data:
        drawn.add_layout(
            LabelSet(x="x", y="y", text="name beside", source=source, x_offset=8, y_offset="above", text_color=INK,
                     text_font_size="12px")
        )  # fmt: skip


def label_offsets(points: Sequence[tuple[float, float]], letters: Sequence[int]) -> list[float | None]:
    """How far above its point each name stands so that none covers another one; None where it has no room.

    Args:
        points: in pixels.
        letters: the number of letters of each name.
    """
    placed: list[tuple[float, float, float]] = []
    found: list[float | None] = []
    for (x, y), count in zip(points, letters, strict=True):
        beside = [at for a, b, at in placed if a <= x + 7 * count and x <= b]
        above = next((dy for dy in OFFSETS if all(abs(y + dy - at) >= LETTER for at in beside)), None)
        found.append(above)
        placed += [] if above is None else [(x, x + 7 * count, y + above)]
    return found
