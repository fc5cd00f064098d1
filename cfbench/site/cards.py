"""Cards of methods: what a run recorded about each row, its curves, and what its installed plugin says of itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from itertools import islice

import click

from .. import storage
from ..errors import UserError
from ..plugins.describe import show_plugin
from ..plugins.registry import Registry
from ..report.board import Board
from ..report.charts.recorded import read_trace
from ..report.format import Entry, heading
from ..runs.job import Cell
from ..runs.reader import CellState, StoredRun
from .charts import fit_charts, guidance_charts
from .model import Card, Chart

__all__ = ["make_cards"]

MAX_CHARTS = 24
"""Curves on a card."""


def make_cards(run: StoredRun, board: Board) -> tuple[Card, ...]:
    """A card for each row, in the order of the board.

    Plugins that are installed are asked for their papers; files that a run names are not executed.
    """
    registry = Registry()
    found: dict[str, list[tuple[Cell, CellState]]] = {}
    for cell, state in run.states_of(board.results.dataset):
        found.setdefault(state.method, []).append((cell, state))
    return tuple(_card(run, board, registry, method, found[method]) for method in board.methods if method in found)


def _card(run: StoredRun, board: Board, registry: Registry, method: str, cells: list[tuple[Cell, CellState]]) -> Card:
    cell, status = cells[0][0], board.pooled_status(method)
    facts = {"method": cell.method.label, "seeds": ", ".join(str(c.seed) for c, _ in cells)}
    facts |= {"answers through": cell.of.label} if cell.of else {}
    facts |= {"shares the fit of": cell.fit.label} if cell.fit != cell.base.method else {}
    facts |= {"residual": board.residual(method)} if board.residual(method) not in ("", "-") else {}
    facts |= dict(_costs(board, method)) | dict(_notes(cells))
    paper, text = _plugin(registry, cell)
    facts |= {"paper": paper} if paper else {}
    failure = "" if status.ok else " ".join(str(status).split())
    charts = tuple(islice(_charts(run, cell), MAX_CHARTS + 1))
    facts |= {"curves": f"the first {MAX_CHARTS} are shown"} if len(charts) > MAX_CHARTS else {}
    return Card(method, board.is_control(method), failure, facts, charts[:MAX_CHARTS], text)


def _costs(board: Board, method: str) -> Iterator[tuple[str, str]]:
    """The costs of a row under the headings of the tables."""
    for key in board.columns:
        if not key.do and not board.about(key).footnote and math.isfinite(board.estimates[method, key].value):
            name, unit = heading(board, key)
            yield f"{name.rstrip(' ↓↑')}" + (f" [{unit}]" if unit else ""), Entry.of(board, method, key).value


def _notes(cells: list[tuple[Cell, CellState]]) -> Iterator[tuple[str, str]]:
    """What a method chose and remarked, and where its weights come from, for each seed."""
    for cell, state in cells:
        of = f", seed {cell.seed}" if len(cells) > 1 else ""
        if chosen := state.notes.get("chosen"):
            yield f"chose on validation data{of}", ", ".join(f"{name} = {value}" for name, value in chosen.items())
        if remarks := state.notes.get("remarks"):
            yield f"remarks{of}", "; ".join(remarks)
        if health := state.notes.get("health"):
            yield f"went wrong{of}", "; ".join(finding.sentence for finding in health)
        if weights := state.notes.get("weights"):
            yield f"weights{of}", str(weights)
        if device := state.notes.get("device"):
            yield f"device{of}", str(device)


def _plugin(registry: Registry, cell: Cell) -> tuple[str, str]:
    """The paper that an installed plugin names, and what ``cfbench show`` prints; empty where it is not installed."""
    if cell.external:
        return "", ""
    try:
        paper = getattr(registry.load("method", cell.method.name), "paper", "")
        text = "\n".join(show_plugin(registry, cell.method.label, "method"))
    except UserError:
        return "", ""
    return (inspect.cleandoc(paper) if isinstance(paper, str) else ""), click.unstyle(text)


def _charts(run: StoredRun, cell: Cell) -> Iterator[Chart]:
    """The curves of a row's fit and tuning; none of a row that answers through another one."""
    if cell.external or cell.of:
        return
    for stage, charts in (("train", fit_charts), ("tune", guidance_charts)):
        if storage.is_complete(folder := run.folder / cell.stage(stage)):
            yield from charts(read_trace(folder, cell.method.label))
