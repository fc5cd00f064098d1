"""All charts of a leaderboard by their names, and their files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...names import file_stem
from ...runs.reader import Results
from ..board import Board
from .budgets import budget_pages, draw_budgets
from .cost import cost_pages, draw_costs
from .figure import drawing, leaving_out, numbered, save_figure
from .scores import draw_page, pages_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["charts", "write_plot", "write_plots"]

COST, BUDGETS = "quality-cost", "budgets"
TAKEN = (COST, BUDGETS, "training", "guidance", "predictor", "counterfactuals")
"""Names of charts and pictures that are of no family."""


def charts(board: Board, *, controls: bool = False) -> dict[str, Callable[[], Figure]]:
    """What draws each chart, by its name: a family of metrics (``cld``, ``neighbours-2``), ``quality-cost`` or, where
    a method has rows at several budgets, ``budgets``.

    Args:
        board: the leaderboard.
        controls: whether each control has a line of its own; otherwise they are lines and a band behind the scores.
    """
    found: dict[str, Callable[[], Figure]] = {}
    for family in dict.fromkeys(k.metric for k in board.columns):
        own = file_stem(family) + ("-scores" if family in TAKEN else "")
        for i, page in enumerate(pages_of(board, family, controls=controls)):
            found[numbered(own, i)] = partial(draw_page, board, page)
    for i, costs in enumerate(cost_pages(board)):
        found[numbered(COST, i)] = partial(draw_costs, board, costs, controls=controls)
    for i, several in enumerate(budget_pages(board)):
        found[numbered(BUDGETS, i)] = partial(draw_budgets, board, several)
    return found


def write_plots(results: Results | Board, folder: Path, *, controls: bool = False) -> list[Path]:
    """Write ``DATASET-FAMILY.png`` for each metric, and the other `charts`; the files written.

    A method without a score keeps its line, with the reason. A chart that cannot be drawn is left out with a note.
    """
    board = results if isinstance(results, Board) else Board(results)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in charts(board, controls=controls):
        with leaving_out(f"the chart {name}"):
            written.append(write_plot(board, name, folder, controls=controls))
    return written


def write_plot(board: Board, name: str, folder: Path, *, controls: bool = False) -> Path:
    """Write one of the `charts` as ``DATASET-NAME.png``."""
    stem = board.results.stem or file_stem(board.results.dataset)
    with drawing():
        return save_figure(charts(board, controls=controls)[name](), folder / f"{stem}-{name}.png")
