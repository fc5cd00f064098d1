"""Charts of a page as BokehJS draws them: losses of a fit, and curves over a guidance scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from ..errors import one_line
from ..report.charts.curves import losses, outputs_of, setting_rows, with_chosen
from ..report.charts.recorded import LogRow, Trace, finite
from .model import Chart

if TYPE_CHECKING:
    from bokeh.plotting import figure as Figure

__all__ = ["COLOURS", "INK", "chart_of", "fit_charts", "guidance_charts", "new_figure", "source_of"]

INK, LINE = "#24292f", "#d8dee4"
"""Colours of text and of lines; the page's script puts those of its theme in their place."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SMALL = 220
"""Pixels of a chart on a card."""
MAX_POINTS, LETTERS = 300, 60
"""Points of a line, and letters of a text that a method recorded."""


def new_figure(title: str, x: str, y: str, height: int = SMALL, **how: Any) -> Figure:
    """An empty figure as wide as its place, without tools but for hover, in colours that the page's script changes."""
    from bokeh.plotting import figure

    drawn: Any = figure(title=title, x_axis_label=x, y_axis_label=y, height=height, sizing_mode="stretch_width",
                   toolbar_location=None, tools="", min_width=240, **how)  # fmt: skip
    drawn.background_fill_color = drawn.border_fill_color = None
    drawn.outline_line_color = LINE
    drawn.grid.grid_line_color = LINE
    drawn.title.text_color = INK
    for axis in drawn.axis:
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = LINE
        axis.axis_label_text_font_style = "normal"
    return drawn


def chart_of(drawn: Figure, title: str, quantity: str) -> Chart:
    """A figure as the page holds it; ``title`` says in words what it shows."""
    from bokeh.embed import json_item

    return Chart(title, quantity, dict(json_item(drawn)))


def source_of(data: Mapping[str, Sequence[Any]]) -> Any:
    """Columns of equal length as what glyphs are drawn from."""
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({name: list(values) for name, values in data.items()})


def fit_charts(trace: Trace) -> Iterator[Chart]:
    """The loss of each network of a fit over the images that it has seen."""
    for name, (images, loss) in losses(trace).items():
        points = _thinned(sorted(zip(map(float, images), map(float, loss), strict=True)))
        positive = all(y > 0 for _, y in points)
        log = positive and max(y for _, y in points) > 5 * min(y for _, y in points)
        scale = "log" if log else "linear"
        drawn = new_figure(one_line(f"fit: {name}", LETTERS), "training images seen", "loss", y_axis_type=scale)
        _line(drawn, points, COLOURS[0], "images", "loss")
        yield chart_of(drawn, f"loss of {name} over training images seen", "loss")


def guidance_charts(trace: Trace) -> Iterator[Chart]:
    """Each output that a method recorded against the scale of its guidance, a line a contrast, a ring round the point
    that was chosen."""
    for name, table in trace.tables.items():
        rows = setting_rows(table, "scale", trace.labels)
        groups: dict[str, list[LogRow]] = {}
        for row in rows:
            contrast = finite(row.get("contrast"))
            groups.setdefault(f"contrast {contrast:g}" if math.isfinite(contrast) else "", []).append(row)
        for output in outputs_of(rows, trace.labels):
            label, _, unit = trace.labels.get(output, output).partition("\n")
            label = one_line(label, LETTERS)
            drawn = new_figure(one_line(f"{name}: {label}", LETTERS), "guidance scale", one_line(unit, LETTERS))
            for (group, own), colour in zip(groups.items(), cycle(COLOURS), strict=False):
                points = [
                    (finite(r["scale"]), finite(r.get(output)), r.get("chosen") is True)
                    for r in with_chosen(own, rows, output)
                ]
                known = sorted(p for p in points if math.isfinite(p[1]))
                _line(drawn, _thinned([(x, y) for x, y, _ in known]), colour, "scale", group or output)
                if ringed := [(x, y) for x, y, chosen in known if chosen]:
                    source = source_of({"x": [x for x, _ in ringed], "y": [y for _, y in ringed]})
                    drawn.scatter("x", "y", source=source, size=12, fill_color=None, line_color=INK)
            yield chart_of(drawn, f"{label} over the guidance scale", output)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    return points[:: math.ceil(len(points) / MAX_POINTS) or 1]


def _line(drawn: Figure, points: Sequence[tuple[float, float]], colour: str, x: str, y: str) -> None:
    from bokeh.models import HoverTool

    source = source_of({"x": [p[0] for p in points], "y": [p[1] for p in points]})
    drawn.line("x", "y", source=source, color=colour, line_width=1.5)
    dots = drawn.scatter("x", "y", source=source, color=colour, size=4 if len(points) < 60 else 1)
    drawn.add_tools(HoverTool(renderers=[dots], tooltips=[(x, "@x"), (y, "@y")]))
