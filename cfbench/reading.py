"""A run read back from its folder, with no plugin imported and nothing computed.

The folder may come from a stranger: what stands in it is checked before it is used, and text is made fit to print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import store
from .cells import Cell
from .errors import UserError, one_line
from .plan import Plan
from .results import CellState, Results, Score
from .runfile import FORMAT, read_about, refuse_links
from .stored import card_rows, checked_plan, key, read_scores
from .wellformed import Wrong, each, mapping, printable, scalar, whole_number
from .work import Task, failure_of

__all__ = ["FORMAT", "read_about", "read_results", "readable", "states"]


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """A block that reads a run; what stumbles over its files says so in a line.

    Raises:
        UserError: a file is not as cfbench writes it.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        what = one_line(error, 200) if isinstance(error, Wrong) else f"{type(error).__name__}: {one_line(error, 160)}"
        raise UserError(
            f"{folder} is damaged, or cfbench did not write it ({what}); `cfbench verify` names the stages that "
            "changed, --debug shows where it was met"
        ) from error


def states(folder: Path, about: dict[str, Any]) -> list[tuple[Cell, CellState]]:
    """Where every cell of a run stands.

    Raises:
        UserError: a stage is not as cfbench writes it.
    """
    with readable(folder):
        cells = [Cell.from_dict(c) for c in about["cells"]]
        return [(cell, _state(folder, cell)) for cell in cells]


def _state(folder: Path, cell: Cell) -> CellState:
    status, reason, residual, notes = "pending", "", "", {}
    answered = folder / cell.stage("images")
    if store.complete(answered):
        images = mapping(store.read_json(answered / store.MANIFEST))
        wrong = mapping(images.get("wrong", {}), whole_number(0, 2**53))
        residual, notes = printable(images.get("residual", "")), _notes(folder, cell, images)
        if all(map(store.complete, _score_stages(folder, cell).values())):
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
    places = {cell.path, cell.base.path, cell.fitted.path, Path("failed") / cell.dataset.folder}
    refuse_links(path for place in places for path in [folder / place, *(folder / place).glob("failed-*")])
    for task in tasks:
        if found := failure_of(folder, task):
            status, reason, path = found
            log = (path / "log.txt").relative_to(folder)
            return printable(status, 20), f"{task.stage}: {printable(reason)} (log: {log})"
    return None


def _notes(folder: Path, cell: Cell, images: Mapping[str, Any]) -> dict[str, Any]:
    env = folder / "env" / f"{key(images.get('env', ''))}.json"
    chosen = folder / cell.stage("tune") / "chosen.json" if cell.of is None and not cell.external else None
    refuse_links([env])
    return {
        "device": printable(mapping(store.read_json(env)).get("device", "")) if env.exists() else "",
        "chosen": mapping(store.read_json(chosen), scalar) if chosen and store.complete(chosen.parent) else {},
        "remarks": list(_remarks(folder, cell)),
        "weights": _given(folder, cell),
        "external": cell.external,
    }


def _remarks(folder: Path, cell: Cell) -> Iterator[str]:
    """What a method recorded of its fit and its tuning for those who read the table."""
    for stage in ("train", "tune") if cell.of is None and not cell.external else ():
        file = folder / cell.stage(stage) / "remarks.json"
        if store.complete(file.parent) and file.exists():
            yield from each(printable)(store.read_json(file))


def _given(folder: Path, cell: Cell) -> str:
    """The file that a cell's weights came from in place of a fit."""
    if cell.external or not store.complete(folder / cell.stage("train")):
        return ""
    given = mapping(store.read_json(folder / cell.stage("train") / store.MANIFEST)).get("weights")
    return f"{printable(given['file'])} (sha256 {printable(given['sha256'])[:12]})" if given else ""


def read_results(folder: Path, dataset: str, about: dict[str, Any] | None = None) -> Results:
    """Everything that tables and plots of one data set are made from.

    Args:
        folder: of the run.
        dataset: one that the run asks about.
        about: what ``run.json`` said when it was read; what it says now where left out.

    Raises:
        UserError: there is no run, or a stage is not as cfbench writes it.
    """
    about = about or read_about(folder)
    if dataset not in about["datasets"]:
        raise UserError(f"{folder} does not ask about {dataset!r}, only about {', '.join(about['datasets'])}")
    with readable(folder):
        return _results(folder, dataset, about)


def _results(folder: Path, dataset: str, about: dict[str, Any]) -> Results:
    described = about["datasets"][dataset]
    found = [(cell, state) for cell, state in states(folder, about) if cell.dataset.label == dataset]
    if not store.complete(folder / described["plan"]):
        raise UserError(f"{folder / described['plan']} is missing; run the same `cfbench run` again")
    plan = checked_plan(Plan.load(folder / described["plan"]), [v["name"] for v in described["variables"]])
    cards = [folder / described[of] for of in ("judges", "mechanisms") if described[of]]
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
        resample_key=plan.resample_key,
        cells=tuple(state for _, state in found),
        scores=tuple(s for cell, state in found for s in _scores(folder, cell, state, units, plan)),
        card=tuple(row for path in cards if store.complete(path) for row in card_rows(path / "card.json")),
        controls=tuple(c for c in dict.fromkeys(cell.method.label for cell, _ in found) if c in about["controls"]),
        notes={
            **{name: about[name] for name in ("budget", "split", "plan")},
            "action": described["action"],
            "precision": about["precision"],
            "cfbench": about["cfbench"],
            "bundle": described["bundle"],
        },
    )


def _scores(folder: Path, cell: Cell, state: CellState, units: Mapping[str, str], plan: Plan) -> list[Score]:
    scores: list[Score] = []
    there = state.status == "ok"
    for metric, stage in _score_stages(folder, cell).items():
        if not there and not store.complete(stage):
            continue
        for row, about, raw in read_scores(stage, plan):
            if about.unit == "variable's unit":
                about = replace(about, unit=units.get(row["variable"], ""))
            scores.append(Score(cell.method.label, cell.seed, metric, **row, about=about, values=raw))
    return scores


def _score_stages(folder: Path, cell: Cell) -> dict[str, Path]:
    """The folder of each metric's scores."""
    place = folder / cell.path
    return {m: place / f"score-{m}-{key}" for m, key in cell.scores.items()}
