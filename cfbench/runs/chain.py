"""The stages of a run: their order, inputs and owners, the tasks that compute them, and how each ended."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import storage
from ..plugins.spec import Spec

if TYPE_CHECKING:
    from .context import LoadedJob, Run
    from .job import Cell

__all__ = [
    "KEYS",
    "STAGES",
    "Failure",
    "Outcome",
    "Stage",
    "Status",
    "Task",
    "cell_stages",
    "cell_tasks",
    "damaged",
    "dataset_tasks",
    "failure_folder",
    "finished",
    "input_folders",
    "inputs_of",
    "last_failure",
    "missing",
    "output_folders",
    "tasks_of",
]


class Status(StrEnum):
    """The status of a cell or a task.

    A task that succeeds is ``done``; a cell is ``ok`` when it is answered and scored, ``invalid`` when some of its
    answers violate the contract. Both end as ``failed`` by an exception, ``oom`` out of memory, ``crashed`` when the
    process died, ``timeout`` beyond the limit; a task is ``skipped`` when a task that it needs did not succeed.
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    OK = "ok"
    INVALID = "invalid"
    FAILED = "failed"
    OOM = "oom"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    SKIPPED = "skipped"

    @property
    def answered(self) -> bool:
        """Whether a cell has answers and scores."""
        return self in (Status.OK, Status.INVALID)

    @classmethod
    def of_failure(cls, text: object) -> Status:
        """The status that a failure was recorded with; ``failed`` where this version does not know it."""
        return next((status for status in cls if status == text), cls.FAILED)


@dataclass(frozen=True)
class Stage:
    """A step from data to scores that writes one folder (scores: one a metric).

    Attributes:
        name: of its task and, for stages of a cell, the beginning of its folder's name.
        owner: what the folder belongs to: the data set, the cell that is fitted, the one that is tuned, or each cell.
        reads: stages whose folders it reads.
        waits: stages that must be done before it, though it does not read their folders.
        external: whether this stage of a cell with external answers is ``computed``, ``given`` or ``absent``.
    """

    name: str
    owner: Literal["dataset", "fit", "tune", "cell"]
    reads: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    external: Literal["computed", "given", "absent"] = "computed"

    @property
    def key(self) -> str:
        """The name of its key among the keys of a cell."""
        return "plan" if self.name == "prepare" else self.name

    def belongs_to(self, cell: Cell) -> bool:
        """Whether a cell, or its data set, has a folder of this stage."""
        return not (cell.external and self.external == "absent")


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("prepare", "dataset"),
        Stage("judges", "dataset", waits=("prepare",)),
        Stage("train", "fit", waits=("prepare",), external="absent"),
        Stage("tune", "tune", reads=("train",), external="absent"),
        Stage("images", "cell", reads=("prepare", "train", "tune"), external="given"),
        Stage("scores", "cell", reads=("prepare", "judges", "train", "tune", "images")),
    )
}
"""All stages, each after those that it needs."""
CELL_STAGES = tuple(stage for stage in STAGES.values() if stage.owner != "dataset")
KEYS = tuple(stage.key for stage in (*CELL_STAGES[:-1], *(s for s in STAGES.values() if s.owner == "dataset")))
"""The names of a cell's keys, its own stages before those of its data set; scores have keys of their own."""


@dataclass(frozen=True)
class Task:
    """One stage of a data set or of a cell, its key, and the ids of the tasks that must be done before it.

    ``part`` names the metric of scores that are computed apart from a cell's others.
    """

    stage: str
    dataset: Spec
    cell: Cell | None = None
    key: str = ""
    needs: tuple[str, ...] = ()
    part: str = ""

    @property
    def id(self) -> str:
        return " ".join(filter(None, (self.stage, self.cell.label if self.cell else self.dataset.label, self.part)))


@dataclass(frozen=True)
class Outcome:
    """How a task ended, why, and after how many seconds; ``pending`` means that it was interrupted.

    ``log`` is the text to record about a failure; none is recorded without it, as the same command tries again then.
    """

    task: Task
    status: Status
    reason: str = ""
    seconds: float = 0.0
    log: str = ""


@dataclass(frozen=True)
class Failure:
    """A recorded failure of a task: its status, the reason in one line, and the folder with its log."""

    status: Status
    reason: str
    folder: Path


def dataset_tasks(dataset: Spec, keys: Mapping[str, str]) -> list[Task]:
    """The tasks that all cells of a data set share; ``keys`` holds those of plan and judges, where they are needed."""
    shared = [stage for stage in STAGES.values() if stage.owner == "dataset"]
    ids = {stage.name: Task(stage.name, dataset).id for stage in shared}
    return [
        Task(s.name, dataset, None, keys.get(s.key, ""), tuple(ids[n] for n in (*s.waits, *s.reads))) for s in shared
    ]


def cell_tasks(cell: Cell) -> list[Task]:
    """The tasks of a cell in order; those of its fit and tuning may be shared with other cells."""
    return [_task(stage, cell) for stage in CELL_STAGES if not cell.external or stage.external == "computed"]


def _task(stage: Stage, cell: Cell) -> Task:
    owner = cell.owner(stage)
    needed = [STAGES[name] for name in (*stage.waits, *stage.reads)]
    computed = [s for s in needed if not cell.external or s.external == "computed"]
    needs = (Task(s.name, cell.dataset, None if s.owner == "dataset" else cell.owner(s)).id for s in computed)
    key = " ".join(cell.scores.values()) if stage.name == "scores" else owner.keys.get(stage.key, "")
    return Task(stage.name, cell.dataset, owner, key, tuple(needs))


def tasks_of(run: Run) -> list[Task]:
    """Every task of a run; tasks that the longest chains wait for come first."""
    tasks: list[Task] = []
    for dataset in run.datasets:
        prepare, judges = dataset_tasks(dataset, run.loaded.keys.shared(dataset))
        cells = [c for c in run.cells if c.dataset.label == dataset.label]
        methods, controls = (
            [t for c in cells if (c.method.label in run.controls) == control for t in cell_tasks(c)]
            for control in (False, True)
        )
        tasks += [prepare, *methods, judges, *controls]
    return list({t.id: t for t in tasks}.values())


def cell_stages(cell: Cell) -> Iterator[tuple[str, Path]]:
    """The stages of a cell, each after its inputs, with their folders inside a run."""
    for stage in (s for s in CELL_STAGES if s.belongs_to(cell)):
        for name in _folders_of(stage.name, cell):
            yield name, cell.stage(name)


def _folders_of(stage: str, cell: Cell) -> list[str]:
    """The names of a stage's folders: its own, or one for each metric."""
    return [f"score-{metric}" for metric in cell.scores] if stage == "scores" else [stage]


def inputs_of(name: str, cell: Cell) -> list[str]:
    """The cell's own stages that a stage (or ``score-METRIC``) reads; none for external answers."""
    stage = STAGES["scores" if name.startswith("score-") else name]
    if cell.external and stage.external == "given":
        return []
    return [n for n in stage.reads if STAGES[n].owner != "dataset" and STAGES[n].belongs_to(cell)]


def input_folders(loaded: LoadedJob, task: Task) -> Iterator[Path]:
    """The folders that a task reads."""
    for name in STAGES[task.stage].reads:
        if STAGES[name].owner == "dataset":
            yield loaded.shared_folder(name, task.dataset)
        elif task.cell and STAGES[name].belongs_to(task.cell):
            yield loaded.job.folder / task.cell.stage(name)


def output_folders(loaded: LoadedJob, task: Task) -> list[Path]:
    """The folders that a task writes."""
    if task.cell is None:
        return [loaded.shared_folder(task.stage, task.dataset)]
    return [loaded.job.folder / task.cell.stage(name) for name in _folders_of(task.stage, task.cell)]


def damaged(run: Run, tasks: Iterable[Task]) -> dict[Path, list[str]]:
    """The output folders of tasks that do not match their manifests, with the files that do not."""
    folders = (folder for task in tasks for folder in output_folders(run.loaded, task))
    present = (folder for folder in folders if os.path.lexists(folder / storage.MANIFEST))
    return {folder: broken for folder in present if (broken := storage.damaged_files(folder))}


def finished(run: Run) -> set[str]:
    """The ids of the tasks that are done; every file of their folders is read once to check it."""
    return {t.id for t in tasks_of(run) if all(map(storage.is_intact, output_folders(run.loaded, t)))}


def missing(run: Run, done: Container[str], only: Literal["missing", "failed", "all"]) -> list[Task]:
    """The tasks to do: of those not done, the ones without (missing) or with (failed) a recorded failure, or all.

    ``failed`` includes the other tasks of the cell and all tasks that need the failed one, so that one command
    finishes what the failure prevented.
    """
    todo = [t for t in tasks_of(run) if t.id not in done]
    if only == "all":
        return todo
    broken = [t for t in todo if last_failure(run.job.folder, t)]
    if only == "missing":
        return [t for t in todo if t not in broken]
    again = _with_dependents(broken, todo)
    cells = {t.cell.label for t in broken if t.cell}
    return [t for t in todo if t.id in again or (t.cell and t.cell.label in cells)]


def _with_dependents(some: Iterable[Task], tasks: Iterable[Task]) -> set[str]:
    """The ids of some tasks, and of those that need one of them, directly or indirectly."""
    found, size, tasks = {t.id for t in some}, -1, list(tasks)
    while len(found) > size:
        size = len(found)
        found |= {t.id for t in tasks if found.intersection(t.needs)}
    return found


def failure_folder(task: Task) -> Path:
    """The folder inside the run where failures of a task are recorded."""
    return task.cell.path if task.cell else Path("failed") / task.dataset.folder


def last_failure(folder: Path, task: Task) -> Failure | None:
    """A task's last failure under its present key, or None; ``folder`` is the run's."""
    for path in reversed(storage.records(folder / failure_folder(task), f"failed-{task.stage}")):
        about = storage.read_json(path / storage.MANIFEST)
        if about["key"] == task.key:
            return Failure(Status.of_failure(about["status"]), about["reason"], path)
    return None
