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
from .leaderboard import Board
from .plan import Plan
from .reading import read_about, read_results, states

__all__ = ["publish"]


def publish(folder: Path, dataset: str, out: Path, *, pictures: bool = True) -> None:
    """Write the tables and pictures of a data set into ``out``, and print the tables and where all of it lies."""
    from .tables import render, write

    about = read_about(folder)
    if not store.complete(folder / about["datasets"][dataset]["plan"]):
        print(f"cfbench: {dataset} has no plan yet, so there is no table of it", file=sys.stderr)
        return
    board = Board(read_results(folder, dataset))
    tables = list(write(board, out).values())
    charts, sheets = [], []
    if pictures:
        from .curves import write_curves
        from .plots import write_plots

        charts = [*write_plots(board, out), *write_curves(folder, dataset, out)]
        sheets = [_sheet(folder, dataset, out)]
    _show(render(board, _width()))
    for what, paths in (("tables", tables), ("charts", charts), ("contact sheet", sheets)):
        if paths:
            print(f"{what}: {paths[0].parent}/ {', '.join(p.name for p in paths)}")


def _width() -> int:
    return shutil.get_terminal_size((120, 40)).columns


def _show(table: Any) -> None:
    from rich.console import Console

    Console(width=max(_width(), 100)).print(table)


def _sheet(folder: Path, dataset: str, out: Path, columns: int = 16) -> Path:
    """The contact sheet: the plan's first questions about each variable, answered by the first seed of each row."""
    from .sheet import contact_sheet

    about = read_about(folder)
    described = about["datasets"][dataset]
    plan_folder = folder / described["plan"]
    plan, truth = Plan.load(plan_folder), store.read_tensors(plan_folder / "truth.safetensors")
    factuals = store.read_tensors(plan_folder / "factuals.safetensors")["x"].float() / 255
    each = max(columns // max(len(plan.asked), 1), 2)
    labels = [label for v in plan.asked for label in _labels(described, plan, v, each)]
    rows = {"factual": torch.cat([factuals[a.factual[:each]] for a in plan.asked.values()])}
    if truth:
        rows["truth"] = torch.cat([_first(truth.get(f"do/{v}"), rows["factual"], each) for v in plan.asked])
    for cell, images in _answers(folder, about, dataset).items():
        rows[cell] = torch.cat([images[f"do/{v}"][:each] for v in plan.asked])
    path = out / f"{described['folder']}-counterfactuals.png"
    conventions = [d["name"] for d in described["variables"] if d["truth"] == "convention"]
    title = f"{dataset}, preset {about['budget']['name']}, first seed of each method"
    title += "".join(f"; the truth of do({v}) is a convention" for v in conventions)
    return contact_sheet(path, labels, rows, title=title)


def _first(images: Tensor | None, like: Tensor, each: int) -> Tensor:
    return torch.full_like(like[:each], torch.nan) if images is None else images[:each]


def _labels(described: dict[str, Any], plan: Plan, v: str, each: int) -> list[str]:
    kind = {d["name"]: d["kind"] for d in described["variables"]}[v]
    values = plan.asked[v].value[:each].tolist()
    return [f"do({v}={int(x) if kind == 'categorical' else format(x, '.3g')})" for x in values]


def _answers(folder: Path, about: dict[str, Any], dataset: str) -> dict[str, dict[str, Tensor]]:
    """The images of the first seed of each method that answered, the truth itself left out."""
    first: dict[str, Cell] = {}
    for cell, _ in states(folder, about):
        if cell.dataset.label == dataset and store.complete(folder / cell.stage("images")):
            first.setdefault(cell.method.label, cell)
    shown = {label: cell for label, cell in first.items() if label not in ("oracle", "identity")}
    return {label: store.read_tensors(folder / c.stage("images") / "answers.safetensors") for label, c in shown.items()}
