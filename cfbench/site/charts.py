"""Charts of a page as BokehJS draws them: quality against cost, losses of a fit, and curves over a guidance scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..report.charts.curves import losses, outputs_of, setting_rows
from ..report.charts.recorded import Trace
from ..report.columns import Key
from ..report.summary.rows import Summary
from .model import Chart

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

__all__ = ["cost_charts", "fit_charts", "guidance_charts", "label_offsets"]

INK, LINE = "#24292f", "#d8dee4"
"""Colours of text and of lines; the page's script puts those of its theme in their place."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "plus")
HEIGHT, SMALL = 320, 220
"""Pixels of a chart of costs, and of one on a card."""
WIDTH, LETTER = 420, 14
"""Pixels of the axis across and of a line of text, by which labels are placed."""
OFFSETS = (4.0, -16.0, 18.0, -30.0, 32.0, -44.0, 46.0)
"""Pixels above a point where its label may stand, the best first."""
LABELLED = 12
"""Rows whose names stand in a chart; of more they are told by hover alone."""
MAX_POINTS = 300
"""Points of a line."""


def _figure(title: str, x: str, y: str, height: int = SMALL, **how: Any) -> Figure:
    """An empty figure as wide as its place, without tools but for hover, in colours that the page's script changes."""
    from bokeh.models.annotations import Title
    from bokeh.plotting import figure

    drawn = figure(title=title, x_axis_label=x, y_axis_label=y, height=height, sizing_mode="stretch_width",
                   toolbar_location=None, tools="", min_width=240, **how)  # fmt: skip
    drawn.background_fill_color = drawn.border_fill_color = None
    drawn.outline_line_color = LINE
    drawn.grid.grid_line_color = LINE
    assert isinstance(drawn.title, Title)
    drawn.title.text_color = INK
    for axis in drawn.axis:
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = LINE
        axis.axis_label_text_font_style = "normal"
    return drawn


def _chart(drawn: Figure, title: str, quantity: str) -> Chart:
    from bokeh.embed import json_item

    return Chart(title, quantity, dict(json_item(drawn)))


def cost_charts(s: Summary) -> tuple[Chart, ...]:
    """Each scored column of a summary against the time of an answer and that of a fit, on logarithmic axes.

    Controls cost nothing worth a point; methods without a score or a time are left out.
    """
    axes = [(s.answer, "time of an answer, for an image [ms]")] if s.answer else []
    axes += [(s.fit, f"time of a fit [{'s of the processor' if s.is_cpu else 's by the clock'}]")] if s.fit else []
    found = [_costs(s, key, cost, label) for key in s.scored for cost, label in axes]
    return tuple(chart for chart in found if chart)


def _costs(s: Summary, key: Key, cost: Key, label: str) -> Chart | None:
    own = [m for m in s.methods if m not in s.controls]
    points = {m: (s.cells[m, cost].value, s.cells[m, key]) for m in own}
    points = {m: (x, cell) for m, (x, cell) in points.items() if cell.known and math.isfinite(x) and x > 0}
    if not points:
        return None
    ends = [(c.low, c.high) if math.isfinite(c.low) else (c.value, c.value) for _, c in points.values()]
    xs, labelled = [x for x, _ in points.values()], len(points) <= LABELLED
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    margin = 0.08 * (high - low) or 1.0
    x_range, y_range = (min(xs) / 1.6, max(xs) * (6 if labelled else 1.6)), (low - margin, high + margin)
    data: dict[str, Sequence[Any]] = {
        "name": list(points),
        "x": xs,
        "y": [c.value for _, c in points.values()],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "score": [f"{c.number} {c.interval}" for _, c in points.values()],
        "rank": [c.rank for _, c in points.values()],
        "cost": [f"{x:.3g}" for x in xs],
        "colour": [COLOURS[own.index(m) % len(COLOURS)] for m in points],
        "marker": [MARKERS[own.index(m) % len(MARKERS)] for m in points],
    }
    quantity = " ".join(filter(None, s.head(key)))
    drawn = _figure("", label, quantity, HEIGHT, x_axis_type="log", x_range=x_range, y_range=y_range)
    if labelled:
        places = [(math.log(x), y) for x, y in zip(xs, data["y"], strict=True)]
        across, up = math.log(x_range[1] / x_range[0]) / WIDTH, (y_range[1] - y_range[0]) / HEIGHT
        data["above"] = label_offsets([(x / across, y / up) for x, y in places], [len(m) for m in points])
    _draw_costs(drawn, _source(data), [("", "@name"), (quantity, "@score @rank"), (label, "@cost")])
    return _chart(drawn, f"{quantity} against {label}", quantity)


def _draw_costs(drawn: Figure, source: Any, tips: list[tuple[str, str]]) -> None:
    """Points with intervals, names where there is room for them, and hover."""
    from bokeh.models import BasicTickFormatter, HoverTool
    from bokeh.models.annotations import LabelSet

    drawn.segment("x", "low", "x", "high", source=source, color="colour", line_width=1.5)
    dots = drawn.scatter("x", "y", source=source, size=11, color="colour", marker="marker")
    drawn.add_tools(HoverTool(renderers=[dots], tooltips=tips))
    drawn.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    if "above" in source.data:
        drawn.add_layout(
            LabelSet(x="x", y="y", text="name", source=source, x_offset=8, y_offset="above", text_color=INK,
                     text_font_size="12px")
        )  # fmt: skip


def label_offsets(points: Sequence[tuple[float, float]], letters: Sequence[int]) -> list[float]:
    """How far above its point each label stands, so that none covers another one where there is room.

    Args:
        points: in pixels.
        letters: the number of letters of each label.
    """
    placed: list[tuple[float, float, float]] = []
    for (x, y), count in zip(points, letters, strict=True):
        right = x + 7 * count

        def is_free(above: float, left: float = x, right: float = right, y: float = y) -> bool:
            return all(right < a or b < left or abs(y + above - at) >= LETTER for a, b, at in placed)

        above = next((dy for dy in OFFSETS if is_free(dy)), OFFSETS[0])
        placed.append((x, right, y + above))
    return [at - y for (_, _, at), (_, y) in zip(placed, points, strict=True)]


def _source(data: Mapping[str, Sequence[Any]]) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({name: list(values) for name, values in data.items()})


def fit_charts(trace: Trace) -> Iterator[Chart]:
    """The loss of each network of a fit over the images that it has seen."""
    for name, (images, loss) in losses(trace).items():
        points = _thinned(sorted(zip(map(float, images), map(float, loss), strict=True)))
        positive = all(y > 0 for _, y in points)
        log = positive and max(y for _, y in points) > 5 * min(y for _, y in points)
        drawn = _figure(f"fit: {name}", "training images seen", "loss", y_axis_type="log" if log else "linear")
        _line(drawn, points, COLOURS[0], "images", "loss")
        yield _chart(drawn, f"loss of {name} over training images seen", "loss")


def guidance_charts(trace: Trace) -> Iterator[Chart]:
    """Each output that a method recorded against the scale of its guidance, a line a contrast."""
    for name, table in trace.tables.items():
        rows = setting_rows(table, "scale", trace.labels)
        for output in outputs_of(rows, trace.labels):
            label = " ".join(trace.labels.get(output, output).split())
            drawn = _figure(f"{name}: {output}", "guidance scale", label)
            contrasts = sorted({str(row.get("contrast", "")) for row in rows})
            for i, contrast in enumerate(contrasts):
                own = [row for row in rows if str(row.get("contrast", "")) == contrast]
                points = [(float(r["scale"]), float(r[output])) for r in own if _is_number(r.get(output))]
                _line(drawn, _thinned(sorted(points)), COLOURS[i % len(COLOURS)], "scale", output)
            yield _chart(drawn, f"{label} over the guidance scale", output)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    return points[:: math.ceil(len(points) / MAX_POINTS) or 1]


def _line(drawn: Figure, points: Sequence[tuple[float, float]], colour: str, x: str, y: str) -> None:
    from bokeh.models import HoverTool

    source = _source({"x": [p[0] for p in points], "y": [p[1] for p in points]})
    drawn.line("x", "y", source=source, color=colour, line_width=1.5)
    dots = drawn.scatter("x", "y", source=source, color=colour, size=4 if len(points) < 60 else 1)
    drawn.add_tools(HoverTool(renderers=[dots], tooltips=[(x, "@x"), (y, "@y")]))
