"""A run read back from its folder, with no plugin imported and nothing computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import store
from .cells import Cell
from .contract import Column
from .errors import UserError
from .plan import Plan
from .results import CellState, Results, Score
from .work import Task, failure_of

__all__ = ["FORMAT", "read_about", "read_results", "states"]

FORMAT = 1


def read_about(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says.

    Raises:
        UserError: there is no run in the folder, or another version of cfbench wrote it in another format.
    """
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} holds no run (no run.json); give the --name of a run, or its folder")
    about = store.read_json(folder / "run.json")
    if about.get("format") != FORMAT:
        found = about.get("format")
        raise UserError(
            f"{folder} was written in format {found}, this cfbench reads {FORMAT}; use the matching version"
        )
    return about


def states(folder: Path, about: dict[str, Any]) -> list[tuple[Cell, CellState]]:
    """Where every cell of a run stands."""
    cells = [Cell.from_dict(c) for c in about["cells"]]
    return [(cell, _state(folder, cell, about["datasets"][cell.dataset.label])) for cell in cells]


def _state(folder: Path, cell: Cell, dataset: dict[str, Any]) -> CellState:
    status, reason, residual, notes = "pending", "", "", {}
    if store.complete(folder / cell.stage("images")):
        images = store.read_json(folder / cell.stage("images") / store.MANIFEST)
        residual, wrong = images["residual"], images["wrong"]
        notes = _notes(folder, cell, images)
        if all(store.complete(folder / cell.stage(f"score-{m}")) for m in cell.scores):
            status = "invalid" if wrong else "ok"
            reason = "; ".join(f"{n} answers {what}" for what, n in wrong.items())
    if status == "pending":
        status, reason = _failed(folder, cell) or (status, reason)
    return CellState(cell.method.label, cell.seed, status, reason, residual, {**cell.keys, **cell.scores}, notes)


def _failed(folder: Path, cell: Cell) -> tuple[str, str] | None:
    tasks = [Task("train", cell.dataset, cell.fitted)]
    tasks += [Task("tune", cell.dataset, cell.base)]
    tasks += [Task("images", cell.dataset, cell), Task("scores", cell.dataset, cell)]
    tasks += [Task("prepare", cell.dataset), Task("judges", cell.dataset)]
    for task in tasks:
        if found := failure_of(folder, task):
            status, reason, path = found
            return status, f"{task.stage}: {reason} (log: {(path / 'log.txt').relative_to(folder)})"
    return None


def _notes(folder: Path, cell: Cell, images: dict[str, Any]) -> dict[str, Any]:
    env = folder / "env" / f"{images['env']}.json"
    chosen = folder / cell.stage("tune") / "chosen.json"
    return {
        "device": store.read_json(env)["device"] if env.exists() else "",
        "chosen": store.read_json(chosen) if chosen.exists() and cell.of is None else {},
        "weights": _given(folder, cell),
        "external": cell.external,
    }


def _given(folder: Path, cell: Cell) -> str:
    """The file that a cell's weights came from in place of a fit."""
    path = folder / cell.stage("train") / store.MANIFEST
    given = store.read_json(path).get("weights") if path.exists() and not cell.external else None
    return f"{given['file']} (sha256 {given['sha256'][:12]})" if given else ""


def read_results(folder: Path, dataset: str) -> Results:
    """Everything that tables and plots of one data set are made from."""
    about = read_about(folder)
    described = about["datasets"][dataset]
    found = [(cell, state) for cell, state in states(folder, about) if cell.dataset.label == dataset]
    plan = Plan.load(folder / described["plan"])
    cards = [folder / described[of] / "card.json" for of in ("judges", "mechanisms") if described.get(of)]
    everyone = np.arange(len(plan))
    units = {v["name"]: v["unit"] for v in described["variables"]}
    return Results(
        dataset=dataset,
        preset=about["budget"]["name"],
        methods=tuple(dict.fromkeys(cell.method.label for cell, _ in found)),
        seeds=tuple(sorted({cell.seed for cell, _ in found})),
        variables=tuple(v["name"] for v in described["variables"]),
        factuals=len(plan),
        factual={"null": everyone} | {v: a.factual.numpy() for v, a in plan.asked.items()},
        supported={"null": everyone >= 0} | {v: a.supported.numpy() for v, a in plan.asked.items()},
        truth={v["name"]: v["truth"] for v in described["variables"]},
        plan_key=described["plan_key"],
        cells=tuple(state for _, state in found),
        scores=tuple(s for cell, _ in found for s in _scores(folder, cell, units)),
        card=tuple(row for path in cards if path.exists() for row in store.read_json(path)),
        controls=tuple(c for c in dict.fromkeys(cell.method.label for cell, _ in found) if c in about["controls"]),
        notes={
            **{name: about[name] for name in ("budget", "split", "plan")},
            "action": described.get("action", "exact"),
            "precision": about.get("precision", "fp32"),
            "cfbench": about["cfbench"],
        },
    )


def _scores(folder: Path, cell: Cell, units: Mapping[str, str]) -> list[Score]:
    scores: list[Score] = []
    for metric in cell.scores:
        stage = folder / cell.stage(f"score-{metric}")
        if not store.complete(stage):
            continue
        stored, values = store.read_json(stage / "scores.json"), store.read_tensors(stage / "scores.safetensors")
        columns = {name: Column(**about) for name, about in stored["columns"].items()}
        for row in stored["rows"]:
            raw = values[f"{row['do']}|{row['column']}|{row['variable']}"].numpy()
            about = columns[row["column"]]
            if about.unit == "variable's unit":
                about = replace(about, unit=units.get(row["variable"], ""))
            scores.append(Score(cell.method.label, cell.seed, metric, **row, about=about, values=raw))
    return scores
