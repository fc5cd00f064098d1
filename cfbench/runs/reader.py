"""A run read back from its folder as results, without importing plugins or computing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..contract import Column
from ..errors import UserError
from ..evaluation.plan import Plan
from ..names import file_stem
from ..plugins.spec import Spec
from ..storage.schema import (
    boolean,
    each,
    mapping,
    printable,
    scalar,
    whole_number,
)
from .chain import Status, Task, cell_tasks, dataset_tasks, failure_folder, last_failure
from .findings import Finding, read_findings
from .job import Cell
from .manifest import DatasetEntry, Manifest, read_manifest, refuse_links
from .stage_reader import check_plan_tensors, optional_key, read_card, read_scores, reading_run

__all__ = [
    "KEPT",
    "CellState",
    "Results",
    "Score",
    "StoredRun",
    "aliases_of",
    "cell_states",
    "read_results",
    "read_run",
]


@dataclass(frozen=True)
class Score:
    """One column of one metric for one cell and one intervention.

    ``values`` depends on ``kind``: "image" holds one score a question [Q] (NaN where there is none), "set" the
    jackknife's pseudo-values [G] of groups of factuals (factual n is in group n mod G; NaN for groups without a score;
    [0] in stages that cfbench 0.1.0 wrote, which have no interval), "cell" nothing. ``value`` is the score over all
    questions.
    ``do`` names a variable where ``scope`` is "do", and means nothing under the null intervention ("null") and for
    costs ("cell").
    ``asked`` counts the questions (or rows) that the metric was asked about, ``finite`` those that it could score.
    """

    method: str
    seed: int
    metric: str
    column: str
    variable: str
    do: str
    kind: str
    value: float
    asked: int
    finite: int
    about: Column
    values: np.ndarray
    scope: str = "do"


@dataclass(frozen=True)
class CellState:
    """The status of a cell, with the reason, its keys, and what its answers record of the method.

    ``spec`` is what was asked for, and ``fit`` names the fit that it answers by: cells that share one have one name.
    """

    method: str
    seed: int
    status: Status
    reason: str = ""
    residual: str = ""
    is_truth: bool = False
    in_gallery: bool = True
    is_real: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    spec: Spec | None = None
    fit: str = ""


@dataclass(frozen=True)
class Results:
    """All cells of one data set in a run.

    ``factual[do]`` [Q] is the number (0..N-1) of each question's factual and ``supported[do]`` [Q] whether its
    counterfactual parents lie in the support of the training data. ``truth[variable]`` is
    exact, convention or none. ``card`` has a row for each judge and kind of data: judge, variable, data, error,
    unit, n, good (bool). ``stem`` is how the names of its files begin, by default `file_stem` of the data set alone.
    ``specs`` has the label of each row by what it is called, which differ where users gave it a name.
    """

    dataset: str
    preset: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    variables: tuple[str, ...]
    factuals: int
    factual: Mapping[str, np.ndarray]
    supported: Mapping[str, np.ndarray]
    truth: Mapping[str, str]
    plan_key: str
    cells: tuple[CellState, ...]
    scores: tuple[Score, ...]
    card: tuple[Mapping[str, Any], ...] = ()
    controls: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    stem: str = ""
    specs: Mapping[str, str] = field(default_factory=dict)

    @property
    def aliases(self) -> dict[str, str]:
        """The labels of the rows that users gave a name, by that name."""
        return aliases_of(self.specs)


KEPT = "\N{PILCROW SIGN}"
"""The mark behind the name of a row that keeps a fit by other code."""


def aliases_of(specs: Mapping[str, str]) -> dict[str, str]:
    """The labels of the rows that users gave a name, by that name, out of the labels of all rows by their titles."""
    titles = {title.removesuffix(f" {KEPT}"): label for title, label in specs.items()}
    return {title: label for title, label in titles.items() if title != label}


_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "residual": printable,
    "is_truth": boolean,
    "in_gallery": boolean,
    "is_real": boolean,
}
"""Fields of the manifest of a cell's answers that describe the method."""


def cell_states(folder: Path, manifest: Manifest) -> list[tuple[Cell, CellState]]:
    """The status of every cell of a run.

    Raises:
        UserError: a stage is not as cfbench writes it.
    """
    with reading_run(folder):
        return [(cell, _state(folder, cell, manifest)) for cell in manifest.cells]


def _state(folder: Path, cell: Cell, manifest: Manifest) -> CellState:
    status, reason, notes = Status.PENDING, "", {}
    about: dict[str, Any] = {}
    answered = folder / cell.stage("images")
    if storage.is_complete(answered):
        images = mapping(storage.read_json(answered / storage.MANIFEST))
        wrong = mapping(images.get("wrong", {}), whole_number(0, 2**53))
        about = {name: check(images[name]) for name, check in _ANSWERS.items() if name in images}
        notes = _notes(folder, cell, images)
        if all(map(storage.is_complete, _score_stages(folder, cell).values())):
            status = Status.INVALID if wrong else Status.OK
            reason = "; ".join(f"{n} answers {what}" for what, n in wrong.items())
    if status is Status.PENDING:
        status, reason = _failed(folder, cell, manifest.datasets[cell.dataset.label]) or (status, reason)
    keys = {**cell.keys, **{f"score-{metric}": key for metric, key in cell.scores.items()}}
    fit = "" if cell.external else cell.fitted.method.label
    about |= {"keys": keys, "notes": notes, "spec": cell.method, "fit": fit}
    title = manifest.titles[cell.method.label]
    title += f" {KEPT}" if (cell.dataset.label, cell.method.label) in manifest.kept else ""
    return CellState(title, cell.seed, status, reason, **about)


def _failed(folder: Path, cell: Cell, dataset: DatasetEntry) -> tuple[Status, str] | None:
    """The status and reason of the first task of a cell that failed; None where none has."""
    owners = {cell.path, cell.base.path, cell.fitted.path, failure_folder(Task("", cell.dataset))}
    parents = [folder / owner for owner in owners]
    failures = [path for parent in parents for path in parent.glob("failed-*")]
    refuse_links([*parents, *failures])
    for task in (*cell_tasks(cell), *dataset_tasks(cell.dataset, dataset.keys)) if failures else ():
        if found := last_failure(folder, task):
            log = (found.folder / "log.txt").relative_to(folder)
            return found.status, f"{task.stage}: {printable(found.reason)} (log: {log})"
    return None


def _notes(folder: Path, cell: Cell, images: Mapping[str, Any]) -> dict[str, Any]:
    env = folder / "env" / f"{optional_key(images.get('env', ''))}.json"
    chosen = folder / cell.stage("tune") / "chosen.json" if cell.of is None and not cell.external else None
    refuse_links([env])
    return {
        "device": printable(mapping(storage.read_json(env)).get("device", "")) if env.exists() else "",
        "chosen": mapping(storage.read_json(chosen), scalar) if chosen and storage.is_complete(chosen.parent) else {},
        "remarks": list(_remarks(folder, cell)),
        "health": list(_health(folder, cell)),
        "weights": _weights_source(folder, cell),
        "external": cell.external,
        "kept": (cell.keys["train"], cell.kept) if cell.kept else None,
    }


def _remarks(folder: Path, cell: Cell) -> Iterator[str]:
    """Remarks that a method recorded on its fit and its tuning for readers of the table."""
    for stage in ("train", "tune") if cell.of is None and not cell.external else ():
        file = folder / cell.stage(stage) / "remarks.json"
        if storage.is_complete(file.parent) and file.exists():
            yield from each(printable)(storage.read_json(file))


def _health(folder: Path, cell: Cell) -> Iterator[Finding]:
    """What was found wrong with the fit and the tuning that a cell answers by."""
    for stage in ("train", "tune") if not cell.external else ():
        path = folder / cell.stage(stage)
        if storage.is_complete(path):
            yield from read_findings(path) or ()


def _weights_source(folder: Path, cell: Cell) -> str:
    """The file that a cell's weights came from in place of a fit; empty where it was fitted."""
    if cell.external or not storage.is_complete(folder / cell.stage("train")):
        return ""
    source = mapping(storage.read_json(folder / cell.stage("train") / storage.MANIFEST)).get("weights")
    return f"{printable(source['file'])} (sha256 {printable(source['sha256'])[:12]})" if source else ""


@dataclass(frozen=True)
class StoredRun:
    """A run in its folder: what ``run.json`` says, and the state of every cell, each read once."""

    folder: Path
    manifest: Manifest

    @cached_property
    def states(self) -> list[tuple[Cell, CellState]]:
        """The state of every cell when it was first asked for.

        Raises:
            UserError: a stage is not as cfbench writes it.
        """
        return cell_states(self.folder, self.manifest)

    def states_of(self, dataset: str) -> list[tuple[Cell, CellState]]:
        """The states of the cells of a data set."""
        return [(cell, state) for cell, state in self.states if cell.dataset.label == dataset]


def read_run(folder: Path) -> StoredRun:
    """The run in a folder.

    Raises:
        UserError: there is none.
    """
    return StoredRun(folder, read_manifest(folder))


def read_results(run: StoredRun, dataset: str) -> Results:
    """Everything that tables and plots of one data set are made from.

    Raises:
        UserError: the run does not ask about the data set, or a stage is not as cfbench writes it.
    """
    if dataset not in run.manifest.datasets:
        known = ", ".join(run.manifest.datasets)
        raise UserError(f"{run.folder} does not ask about {dataset!r}, only about {known}")
    with reading_run(run.folder):
        return _results(run, dataset)


def _results(run: StoredRun, dataset: str) -> Results:
    folder, manifest, found = run.folder, run.manifest, run.states_of(dataset)
    entry = manifest.datasets[dataset]
    if not storage.is_complete(folder / entry.plan):
        raise UserError(f"{folder / entry.plan} is missing; run the same `cfbench run` again")
    plan = check_plan_tensors(Plan.load(folder / entry.plan), [v.name for v in entry.variables])
    cards = [folder / entry.stages[of] for of in ("judges", "mechanisms") if of in entry.stages]
    units = {v.name: v.unit for v in entry.variables}
    return Results(
        dataset=dataset,
        stem=file_stem(dataset, manifest.datasets),
        preset=manifest.budget.name,
        methods=tuple(dict.fromkeys(state.method for _, state in found)),
        seeds=tuple(sorted({cell.seed for cell, _ in found})),
        variables=tuple(v.name for v in entry.variables),
        factuals=len(plan),
        factual={v: a.factual.numpy() for v, a in plan.asked.items()},
        supported={v: a.supported.numpy() for v, a in plan.asked.items()},
        truth={v.name: v.truth for v in entry.variables},
        plan_key=entry.plan_key,
        cells=tuple(state for _, state in found),
        scores=tuple(s for cell, state in found for s in _scores(folder, cell, state, units, plan)),
        card=tuple(row for path in cards if storage.is_complete(path) for row in read_card(path / "card.json")),
        controls=tuple(dict.fromkeys(state.method for cell, state in found if cell.method.label in manifest.controls)),
        specs={state.method: cell.method.label for cell, state in found},
        notes={
            "budget": manifest.budget.as_dict(),
            "split": manifest.split,
            "plan": manifest.plan,
            "action": entry.action,
            "precision": manifest.precision,
            "cfbench": manifest.cfbench,
            "bundle": entry.bundle,
        },
    )


def _scores(folder: Path, cell: Cell, state: CellState, units: Mapping[str, str], plan: Plan) -> list[Score]:
    scores: list[Score] = []
    for metric, stage in _score_stages(folder, cell).items():
        if state.status is not Status.OK and not storage.is_complete(stage):
            continue
        for row, column, raw in read_scores(stage, plan):
            if column.unit == "variable's unit":
                column = replace(column, unit=units.get(row["variable"], ""))
            scores.append(Score(state.method, cell.seed, metric, **row, about=column, values=raw))
    return scores


def _score_stages(folder: Path, cell: Cell) -> dict[str, Path]:
    """The folder of each metric's scores."""
    return {m: folder / cell.stage(f"score-{m}") for m in cell.scores}
