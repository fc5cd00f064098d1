"""Names beside points, placed so that they overlap neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

__all__ = ["place_labels"]

Point = tuple[float, float]
SIZE = 6.5
"""Points (1/72 inch) of the letters."""
POINT = 4.0
"""Points from the middle of a marker to its edge."""
NEAR = 7.0
RADII = (NEAR, 11.0, 16.0, 22.0, 30.0, 40.0, 52.0)
"""How far from its point a name may stand; one that does not stand next to it has a line to it."""
DIRECTIONS = (0, 180, 45, 315, 135, 225, 90, 270, 20, 340, 160, 200)
"""Degrees, the best first."""


def place_labels(
    ax: Axes, names: Sequence[tuple[Point, str]], others: Sequence[Point] = (), colours: Mapping[str, str] | None = None
) -> list[str]:
    """Write the name of each point beside it. The layout of the figure is fixed by this.

    Args:
        ax: the axes, whose limits and scales are final.
        names: points in units of the data, each with its name.
        others: points without a name, which no name may cover.
        colours: of names that are not black.

    Returns:
        the names that have no room.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale, frame = figure.dpi / 72, ax.get_window_extent(renderer)
    at = {point: tuple(map(float, ax.transData.transform(point))) for point in (*others, *(p for p, _ in names))}
    taken = [Bbox.from_bounds(x - POINT * scale, y - POINT * scale, 2 * POINT * scale, 2 * POINT * scale)
             for x, y in at.values()]  # fmt: skip
    left = []
    for point, name in sorted(names):
        colour = (colours or {}).get(name, "#222222")
        text = ax.annotate(name, point, xytext=(0, 0), textcoords="offset points", fontsize=SIZE, color=colour)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
        size = text.get_window_extent(renderer)
        for dx, dy, apart in _offsets(size.width / scale, size.height / scale):
            x, y = at[point][0] + dx * scale, at[point][1] + dy * scale
            box = Bbox.from_bounds(x, y, size.width, size.height)
            if _inside(box, frame) and not any(box.overlaps(other) for other in taken):
                text.set_position((dx, dy))
                taken.append(box)
                if apart:
                    _lead(ax, at[point], box)
                break
        else:
            text.remove()
            left.append(name)
    return left


def _offsets(width: float, height: float) -> Iterator[tuple[float, float, bool]]:
    """Where the lower left corner of a name may lie, in points from the marker, and whether that is far from it."""
    for radius in RADII:
        for degrees in DIRECTIONS:
            x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            yield radius * x + width * (x - 1) / 2, radius * y + height * (y - 1) / 2, radius > NEAR


def _inside(box: Bbox, frame: Bbox) -> bool:
    return box.x0 >= frame.x0 + 1 and box.x1 <= frame.x1 - 1 and box.y0 >= frame.y0 + 1 and box.y1 <= frame.y1 - 1


def _lead(ax: Axes, start: Sequence[float], box: Bbox) -> None:
    """A thin line from a point to the nearest edge of its name."""
    end = (min(max(start[0], box.x0), box.x1), min(max(start[1], box.y0), box.y1))
    to_data = ax.transData.inverted().transform
    (x0, y0), (x1, y1) = to_data(start), to_data(end)
    ax.plot([x0, x1], [y0, y1], color="#999999", lw=0.5, zorder=1.8, scalex=False, scaley=False)
