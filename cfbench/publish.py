"""Everything that a run shows of one data set: tables, charts and the contact sheet, all derived from its cells."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import store
from .cells import Cell
from .imagefile import Stored, stored
from .leaderboard import Board
from .plan import Plan
from .reading import read_about, read_results, readable, states

__all__ = ["board_of", "publish", "write_all", "write_sheet"]


def publish(folder: Path, dataset: str, out: Path, *, pictures: bool = True) -> None:
    """Write the tables and pictures of a data set into ``out``, and print the tables and where all of it lies."""
    board = board_of(folder, dataset)
    if board is None:
        print(f"cfbench: {dataset} has no plan yet, so there is no table of it", file=sys.stderr)
        return
    written = write_all(folder, board, out, pictures=pictures)
    _show(board)
    for what, paths in written.items():
        if paths:
            print(f"{what}: {paths[0].parent}/ {', '.join(p.name for p in paths)}")


def board_of(folder: Path, dataset: str, about: dict[str, Any] | None = None) -> Board | None:
    """The leaderboard of a data set, read from the cells; None where it has no plan yet.

    Args:
        folder: of the run.
        dataset: one that the run asks about.
        about: what ``run.json`` said when it was read; what it says now where left out.

    Raises:
        UserError: there is no run in the folder.
    """
    about = about or read_about(folder)
    planned = store.complete(folder / about["datasets"][dataset]["plan"])
    return Board(read_results(folder, dataset, about)) if planned else None


def write_all(
    folder: Path, board: Board, out: Path, *, pictures: bool = True, about: dict[str, Any] | None = None
) -> dict[str, list[Path]]:
    """Write the tables and pictures of a data set into ``out``; the files by what they are."""
    from .tables import write

    dataset = board.results.dataset
    written = {"tables": list(write(board, out).values())}
    if pictures:
        from .curves import write_curves
        from .plots import write_plots

        written["charts"] = [*write_plots(board, out), *write_curves(folder, dataset, out, about)]
        written["contact sheet"] = [write_sheet(folder, dataset, out, about=about)]
    return written


def _show(board: Board) -> None:
    from rich.console import Console

    from .tables import render

    width = shutil.get_terminal_size((120, 40)).columns
    Console(width=max(width, 100)).print(render(board, width))


def write_sheet(folder: Path, dataset: str, out: Path, columns: int = 16, about: dict[str, Any] | None = None) -> Path:
    """Write the contact sheet: the plan's first questions about each variable, answered by each row's first seed."""
    from .sheet import contact_sheet

    about = about or read_about(folder)
    with readable(folder):
        labels, rows, title = _questions(folder, dataset, about, columns)
    return contact_sheet(out / f"{about['datasets'][dataset]['folder']}-counterfactuals.png", labels, rows, title=title)


def _questions(
    folder: Path, dataset: str, about: dict[str, Any], columns: int
) -> tuple[list[str], dict[str, Tensor], str]:
    """The labels of the columns, the images of each row, and what the sheet says of itself."""
    described = about["datasets"][dataset]
    plan_folder = folder / described["plan"]
    plan, truth = Plan.load(plan_folder), stored(plan_folder / "truth.safetensors")
    factuals = stored(plan_folder / "factuals.safetensors")["x"]
    each = max(columns // max(len(plan.asked), 1), 2)
    labels = [label for v in plan.asked for label in _labels(described, plan, v, each)]
    rows = {"factual": torch.cat([factuals[a.factual[:each]].float() / 255 for a in plan.asked.values()])}
    if truth:
        rows["truth"] = torch.cat([_first(truth.get(f"do/{v}"), rows["factual"], each) for v in plan.asked])
    for cell, images in _answers(folder, about, dataset).items():
        rows[cell] = torch.cat([images[f"do/{v}"][:each] for v in plan.asked])
    conventions = [d["name"] for d in described["variables"] if d["truth"] == "convention"]
    title = f"{dataset}, preset {about['budget']['name']}, first seed of each method"
    title += "".join(f"; the truth of do({v}) is a convention" for v in conventions)
    return labels, rows, title


def _first(images: Stored | None, like: Tensor, each: int) -> Tensor:
    return torch.full_like(like[:each], torch.nan) if images is None else images[:each]


def _labels(described: dict[str, Any], plan: Plan, v: str, each: int) -> list[str]:
    kind = {d["name"]: d["kind"] for d in described["variables"]}[v]
    values = plan.asked[v].value[:each].tolist()
    return [f"do({v}={int(x) if kind == 'categorical' else format(x, '.3g')})" for x in values]


def _answers(folder: Path, about: dict[str, Any], dataset: str) -> dict[str, dict[str, Stored]]:
    """The images of the first seed of each method that answered, the truth itself left out."""
    first: dict[str, Cell] = {}
    for cell, _ in states(folder, about):
        if cell.dataset.label == dataset and store.complete(folder / cell.stage("images")):
            first.setdefault(cell.method.label, cell)
    shown = {label: cell for label, cell in first.items() if label not in ("oracle", "identity")}
    return {label: stored(folder / c.stage("images") / "answers.safetensors") for label, c in shown.items()}
