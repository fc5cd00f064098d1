"""Lines that scores are read against: controls, a band from no change to the truth, and the judge's own error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..board import Board
from ..columns import Key
from ..summary.headline import JUDGED, UNCHANGED

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["Reference", "draw_references", "reference_samples", "references"]

JUDGE = "the judge's own error on real images"
STYLES = ("--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)), (0, (8, 3)), (0, (1, 4)))
ORACLE_STYLE, JUDGE_STYLE = "-", (0, (1, 1))
INK, SHADE = "#555555", "#eeeeee"


@dataclass(frozen=True)
class Reference:
    """A value to read scores against, and how its line is drawn; ``end`` if the band begins or ends there."""

    name: str
    value: float
    style: Any
    end: bool = False


def references(board: Board, key: Key, *, controls: bool = True) -> list[Reference]:
    """The references of a column: the controls that do not answer through another row, and the judge's own error.

    Costs have none. Without ``controls`` only the judge's.
    """
    found = list(_controls(board, key)) if key.do and controls else []
    own = _judge_error(board, key)
    return [*found, *([] if math.isnan(own) else [Reference(JUDGE, own, JUDGE_STYLE)])]


def _controls(board: Board, key: Key) -> Iterable[Reference]:
    cells = {c.method: c for c in reversed(board.results.cells)}
    styles = iter(STYLES)
    for m in board.methods:
        cell = cells.get(m)
        if not board.is_control(m) or cell is None or (cell.spec and "of" in cell.spec.params):
            continue
        name = cell.spec.name if cell.spec else m
        style = ORACLE_STYLE if cell.is_truth else next(styles, ":")
        if math.isfinite(value := board.estimates[m, key].value):
            yield Reference(m, value, style, cell.is_truth or name == UNCHANGED)


def _judge_error(board: Board, key: Key) -> float:
    """What the judge behind a column of effectiveness gets wrong on real images, as the column counts it."""
    about = board.about(key)
    if about.role != "effectiveness" and key.metric != "measured":
        return math.nan
    judge = JUDGED.get(key.metric) or "reader"
    row = next((r for r in board.results.card if (r.get("judge"), r.get("variable"), r.get("data"))
                == (judge, key.variable, "real")), {})  # fmt: skip
    error = float(row.get("error", math.nan))
    return 1 - error if about.direction == "higher" else error


def draw_references(ax: Axes, found: Iterable[Reference], *, upright: bool = True) -> None:
    """Draw references as lines behind the scores, upright where scores lie along x, and the band."""
    found = list(found)
    line, span = (ax.axvline, ax.axvspan) if upright else (ax.axhline, ax.axhspan)
    ends = [r.value for r in found if r.end]
    if len(ends) == 2:
        span(min(ends), max(ends), color=SHADE, lw=0, zorder=0)
    for r in found:
        line(r.value, color=INK, lw=0.9, ls=r.style, zorder=1)


def reference_samples(found: Iterable[Reference]) -> list[Artist]:
    """What a legend shows of references: the line of each, and the band."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    known = {r.name: r for r in found}
    samples: list[Artist] = [Line2D([], [], color=INK, lw=0.9, ls=r.style, label=r.name) for r in known.values()]
    ends = [r.name for r in known.values() if r.end]
    return samples + ([Patch(color=SHADE, label=f"{ends[0]} to {ends[1]}")] if len(ends) == 2 else [])
