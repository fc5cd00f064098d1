"""A run read back from its folder as results, with no plugin imported and nothing computed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from .. import storage
from ..contract import Column, Role
from ..errors import UserError, one_line
from ..evaluation.plan import Plan
from ..storage.schema import (
    SchemaError,
    boolean,
    each,
    mapping,
    matching,
    number,
    one_of,
    optional,
    printable,
    scalar,
    text,
    whole_number,
)
from .chain import Status, cell_tasks, dataset_tasks, failure_folder, last_failure
from .job import Cell
from .manifest import DatasetEntry, Manifest, read_manifest, refuse_links

__all__ = [
    "CellState",
    "Results",
    "Score",
    "card_rows",
    "cell_states",
    "check_plan_tensors",
    "optional_key",
    "read_results",
    "read_scores",
    "reading_run",
]


@dataclass(frozen=True)
class Score:
    """One column of one metric for one cell and one intervention.

    ``values`` depends on ``kind``: "image" holds one score a question [Q] (NaN where there is none), "set" the
    replicates [R] on the shared bootstrap resamples, "cell" nothing. ``value`` is the score of all questions.
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


@dataclass(frozen=True)
class CellState:
    """Where a cell stands, with the reason and its keys, and what its answers say of the method behind them."""

    method: str
    seed: int
    status: Status
    reason: str = ""
    residual: str = ""
    is_truth: bool = False
    in_gallery: bool = True
    keys: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """All cells of one data set in a run.

    ``factual[do]`` [Q] numbers the factual (0..N-1) behind each question of an intervention and ``supported[do]``
    [Q] says whether its counterfactual parents lie in the support of the training data. ``truth[variable]`` is
    exact, convention or none. ``card`` has a row for each judge and kind of data: judge, variable, data, error,
    unit, n, good (bool).
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
    resample_key: str
    cells: tuple[CellState, ...]
    scores: tuple[Score, ...]
    card: tuple[Mapping[str, Any], ...] = ()
    controls: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


MOST = 10**5
"""Replicates of a set's score: hundreds are drawn."""

optional_key = matching(re.compile(r"(?:[0-9a-f]{8,64})?"), "key")
"""A key, or none."""
_count = whole_number(0, 2**53)
_ANSWERS: dict[str, Callable[[Any], Any]] = {"residual": printable, "is_truth": boolean, "in_gallery": boolean}
"""What the manifest of a cell's answers says of the method behind them."""
_COLUMN: dict[str, Callable[[Any], Any]] = {
    "direction": one_of("lower", "higher", "target", "none"),
    "low": optional(number),
    "high": optional(number),
    "target": optional(number),
    "privileged": boolean,
    "subset": boolean,
    "printed": optional(boolean),
    "order": number,
    "role": one_of(*get_args(Role)),
}


def check_plan_tensors(plan: Plan, variables: Sequence[str]) -> Plan:
    """A plan whose questions are about factuals that it has and variables that the data set has.

    Raises:
        Wrong: it is not so.
    """
    n, d = len(plan), len(variables)
    _shaped("rows", plan.rows, (n,), whole=True)
    _shaped("index", plan.index, (n,), whole=True)
    _shaped("pa", plan.pa, (n, d))
    for v, asked in plan.asked.items():
        if v not in variables:
            raise SchemaError(f"the plan asks about {printable(v, 40)}, which is no variable of the data set")
        q = len(asked)
        _shaped(f"factual/{v}", asked.factual, (q,), whole=True)
        _shaped(f"value/{v}", asked.value, (q,))
        _shaped(f"cf_pa/{v}", asked.cf_pa, (q, d))
        _shaped(f"supported/{v}", asked.supported, (q,))
        if asked.supported.dtype != torch.bool or bool(((asked.factual < 0) | (asked.factual >= n)).any()):
            raise SchemaError(f"the plan's questions about {v} are about no factuals of its own")
    return plan


def _shaped(name: str, x: Tensor, shape: tuple[int, ...], *, whole: bool = False) -> None:
    if tuple(x.shape) != shape or (whole and x.dtype != torch.int64):
        raise SchemaError(f"the plan's {printable(name, 60)} is {x.dtype} {list(x.shape)[:8]}, not {list(shape)}")


def read_scores(stage: Path, plan: Plan) -> Iterator[tuple[dict[str, Any], Column, np.ndarray]]:
    """Each row of a stage of scores (do, column, variable, kind, value, asked, finite), its column and raw scores.

    What this version does not know of rows and columns is passed over.

    Raises:
        Wrong: scores and questions do not fit.
    """
    said, arrays = storage.read_verified(stage, "scores.json", "scores.safetensors", 2**30)
    # The stages of a metric describe the same columns, a thousand times where there are a thousand cells.
    columns, rows = _columns(json.dumps(mapping(said)["columns"])), each(_score_row)(said["rows"])
    for row in rows:
        values = arrays[f"{row['do']}|{row['column']}|{row['variable']}"]
        if not _fits(values, row, plan):
            raise SchemaError(f"{stage.name} has {list(values.shape)[:8]} scores of {row['column']}, do({row['do']})")
        yield row, columns[row["column"]], values.astype(np.float64, copy=False)


def _fits(values: np.ndarray, row: Mapping[str, Any], plan: Plan) -> bool:
    """Whether raw scores are one a question, or as many as replicates may be."""
    if values.ndim != 1 or values.dtype.kind != "f":
        return False
    if row["kind"] != "image":
        return len(values) <= MOST
    return len(values) == (len(plan) if row["do"] == "null" else len(plan.asked[row["do"]]))


@lru_cache(64)
def _columns(said: str) -> Mapping[str, Column]:
    return MappingProxyType(mapping(json.loads(said), _column))


def _column(value: Any) -> Column:
    said = mapping(value)
    checks = {f.name: _COLUMN.get(f.name, printable) for f in fields(Column) if f.name in said}
    return Column(**{"text": "", **{name: check(said[name]) for name, check in checks.items()}})


def _score_row(value: Any) -> dict[str, Any]:
    said = mapping(value)
    return {name: check(said[name]) for name, check in _ROW.items()}


def _real(value: Any) -> float:
    """A number, which may be NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SchemaError(f"{printable(repr(value), 60)} is no number")
    return float(value)


_ROW: dict[str, Callable[[Any], Any]] = {
    "do": text,
    "column": text,
    "variable": text,
    "kind": one_of("image", "set", "cell"),
    "value": _real,
    "asked": _count,
    "finite": _count,
}


def card_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a card that tells what judges or mechanisms are worth; none where there is no card."""
    return each(_card_row)(storage.read_json(path)) if path.exists() else []


def _card_row(value: Any) -> dict[str, Any]:
    known = {"error": _real, "n": _count, "good": optional(boolean)}
    return {name: known.get(name, printable)(v) for name, v in mapping(value).items()}


@contextmanager
def reading_run(folder: Path) -> Iterator[None]:
    """A block that reads a run; what stumbles over its files says so in a line.

    Raises:
        UserError: a file is not as cfbench writes it.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        what = (
            one_line(error, 200)
            if isinstance(error, SchemaError)
            else f"{type(error).__name__}: {one_line(error, 160)}"
        )
        raise UserError(
            f"{folder} is damaged, or cfbench did not write it ({what}); `cfbench verify` names the stages that "
            "changed, --debug shows where it was met"
        ) from error


def cell_states(folder: Path, manifest: Manifest) -> list[tuple[Cell, CellState]]:
    """Where every cell of a run stands.

    Raises:
        UserError: a stage is not as cfbench writes it.
    """
    with reading_run(folder):
        return [(cell, _state(folder, cell, manifest.datasets[cell.dataset.label])) for cell in manifest.cells]


def _state(folder: Path, cell: Cell, dataset: DatasetEntry) -> CellState:
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
        status, reason = _failed(folder, cell, dataset) or (status, reason)
    keys = {**cell.keys, **cell.scores}
    return CellState(cell.method.label, cell.seed, status, reason, keys=keys, notes=notes, **about)


def _failed(folder: Path, cell: Cell, dataset: DatasetEntry) -> tuple[Status, str] | None:
    """How the first task of a cell that failed did so, and why."""
    tasks = [*cell_tasks(cell), *dataset_tasks(cell.dataset, dataset.keys)]
    places = {failure_folder(task) for task in tasks}
    refuse_links(path for place in places for path in [folder / place, *(folder / place).glob("failed-*")])
    for task in tasks:
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
        "weights": _given(folder, cell),
        "external": cell.external,
    }


def _remarks(folder: Path, cell: Cell) -> Iterator[str]:
    """What a method recorded of its fit and its tuning for those who read the table."""
    for stage in ("train", "tune") if cell.of is None and not cell.external else ():
        file = folder / cell.stage(stage) / "remarks.json"
        if storage.is_complete(file.parent) and file.exists():
            yield from each(printable)(storage.read_json(file))


def _given(folder: Path, cell: Cell) -> str:
    """The file that a cell's weights came from in place of a fit."""
    if cell.external or not storage.is_complete(folder / cell.stage("train")):
        return ""
    given = mapping(storage.read_json(folder / cell.stage("train") / storage.MANIFEST)).get("weights")
    return f"{printable(given['file'])} (sha256 {printable(given['sha256'])[:12]})" if given else ""


def read_results(folder: Path, dataset: str, manifest: Manifest | None = None) -> Results:
    """Everything that tables and plots of one data set are made from.

    Args:
        folder: of the run.
        dataset: one that the run asks about.
        manifest: what ``run.json`` said when it was read; what it says now where left out.

    Raises:
        UserError: there is no run, or a stage is not as cfbench writes it.
    """
    manifest = manifest or read_manifest(folder)
    if dataset not in manifest.datasets:
        raise UserError(f"{folder} does not ask about {dataset!r}, only about {', '.join(manifest.datasets)}")
    with reading_run(folder):
        return _results(folder, dataset, manifest)


def _results(folder: Path, dataset: str, manifest: Manifest) -> Results:
    entry = manifest.datasets[dataset]
    found = [(cell, state) for cell, state in cell_states(folder, manifest) if cell.dataset.label == dataset]
    if not storage.is_complete(folder / entry.plan):
        raise UserError(f"{folder / entry.plan} is missing; run the same `cfbench run` again")
    plan = check_plan_tensors(Plan.load(folder / entry.plan), [v.name for v in entry.variables])
    cards = [folder / entry.stages[of] for of in ("judges", "mechanisms") if of in entry.stages]
    everyone = np.arange(len(plan))
    units = {v.name: v.unit for v in entry.variables}
    return Results(
        dataset=dataset,
        preset=manifest.budget.name,
        methods=tuple(dict.fromkeys(cell.method.label for cell, _ in found)),
        seeds=tuple(sorted({cell.seed for cell, _ in found})),
        variables=tuple(v.name for v in entry.variables),
        factuals=len(plan),
        factual={"null": everyone} | {v: a.factual.numpy() for v, a in plan.asked.items()},
        supported={"null": everyone >= 0} | {v: a.supported.numpy() for v, a in plan.asked.items()},
        truth={v.name: v.truth for v in entry.variables},
        plan_key=entry.plan_key,
        resample_key=plan.resample_key,
        cells=tuple(state for _, state in found),
        scores=tuple(s for cell, state in found for s in _scores(folder, cell, state, units, plan)),
        card=tuple(row for path in cards if storage.is_complete(path) for row in card_rows(path / "card.json")),
        controls=tuple(c for c in dict.fromkeys(cell.method.label for cell, _ in found) if c in manifest.controls),
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
    there = state.status is Status.OK
    for metric, stage in _score_stages(folder, cell).items():
        if not there and not storage.is_complete(stage):
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
