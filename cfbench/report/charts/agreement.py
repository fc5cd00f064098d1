"""How well each metric orders methods as their skill does, as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..agreement import AXIS, NOTES, Agreement
from .figure import add_notes, drawing, new_figure, notes_height, save_figure

__all__ = ["write_agreements"]

ROW = 0.2
"""Inches of a metric's line."""


def write_agreements(found: Sequence[Agreement], path: Path) -> Path:
    """Write the mean rank correlation of each column with the skill, with its interval, best first."""
    with drawing():
        figure = new_figure(5.5, 0.8 + ROW * len(found) + notes_height(NOTES, 5.5))
        ax = figure.subplots()
        for y, a in enumerate(found):
            if math.isfinite(a.low):
                ax.plot([a.low, a.high], [y, y], color="#0173b2", lw=1.6, solid_capstyle="butt")
            ax.plot(a.rho, y, "o", ms=4.5, color="#0173b2")
        ax.axvline(0, color="#444444", lw=0.8)
        ax.set_xlim(-1.02, 1.02)
        ax.set_ylim(len(found) - 0.4, -0.6)
        ax.set_yticks(range(len(found)), [a.metric for a in found])
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(AXIS)
        add_notes(figure, NOTES)
        return save_figure(figure, path)
