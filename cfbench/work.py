"""One task of a run, done in any process, its failure written down instead of raised."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from . import fitting, groundwork, store
from .bench import Bench
from .cells import Cell, Job
from .errors import InvalidAnswer, UserError, reason_of
from .events import note
from .faults import passing, status_of
from .limits import TimedOut, time_limit
from .progress import Reporter
from .scores import MetricFailed, scores
from .seats import Seat, seat
from .spec import Spec
from .surroundings import standard
from .workshop import Workshop

__all__ = ["Outcome", "Task", "failure_of", "inputs", "perform", "record_failure"]

Stage = Literal["prepare", "judges", "train", "tune", "images", "scores"]
STAGES: Mapping[str, Callable[[Bench, Any], None]] = {
    "prepare": groundwork.prepare,
    "judges": groundwork.judges,
    "train": fitting.train,
    "tune": fitting.tune,
    "images": fitting.images,
    "scores": scores,
}
INPUTS: Mapping[str, tuple[str, ...]] = {
    "tune": ("train",),
    "images": ("train", "tune"),
    "scores": ("train", "tune", "images"),
}


@dataclass(frozen=True)
class Task:
    """A unit of work: the data set's own stages, or one stage of a cell; it waits for the tasks in ``needs``."""

    stage: Stage
    dataset: Spec
    cell: Cell | None = None
    needs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.stage} {self.cell.label if self.cell else self.dataset.label}"


@dataclass(frozen=True)
class Outcome:
    """How a task ended: done, failed, invalid, timeout, oom, crashed or skipped, why, and in how many seconds."""

    task: str
    status: str
    reason: str = ""
    seconds: float = 0.0


def perform(job: Job, task: Task, shop: Workshop | None = None) -> Outcome:
    """Do a task; an exception that it raises ends in a folder ``failed-STAGE-N`` of its cell."""
    start = time.perf_counter()
    note(job.folder, "start", task=task.id)
    outcome = _attempt(job, task, shop or Workshop(job))
    seconds = round(time.perf_counter() - start, 3)
    note(job.folder, "end", task=task.id, status=outcome.status, reason=outcome.reason, seconds=seconds)
    return replace(outcome, seconds=seconds)


def _attempt(job: Job, task: Task, shop: Workshop) -> Outcome:
    try:
        if spoilt := next(_spoilt(shop, task), None):
            return Outcome(task.id, "failed", _line(f"{spoilt}; the same command computes it again"))
        with (
            standard(),
            Reporter(job.folder, task.id) as report,
            seat(Bench(shop).device) as place,
            time_limit(job.timeout if task.cell else None),
        ):
            STAGES[task.stage](Bench(shop, _both(report, place), place.look), task.cell or task.dataset)
    except (Exception, SystemExit, TimedOut) as error:
        said = _said(error, _file(task, shop))
        if passing(error):
            return Outcome(task.id, "failed", _line(f"{said}; make room, then the same command tries again"))
        return record_failure(job, task, status_of(error), said, traceback.format_exc())
    return Outcome(task.id, "done")


def _both(report: Reporter, place: Seat) -> Callable[..., None]:
    """Progress that is reported, and at which is looked who else computes."""

    def progress(stage: str, done: int, total: int, loss: float | None = None) -> None:
        place.look()
        report(stage, done, total, loss)

    return progress


def _spoilt(shop: Workshop, task: Task) -> Iterator[str]:
    """What a task reads that is not as it was written, whoever did that since the run began."""
    for folder in inputs(shop, task):
        if broken := store.mismatches(folder):
            yield f"{folder}: {', '.join(broken[:3])} is missing or does not match its manifest"


def inputs(shop: Workshop, task: Task) -> Iterator[Path]:
    """The stages that a task reads."""
    if task.stage in ("images", "scores"):
        yield shop.plan_folder(task.dataset)
    if task.stage == "scores":
        yield shop.judge_folder(task.dataset)
    for stage in INPUTS.get(task.stage, ()):
        if task.cell and task.cell.keys.get(stage):
            yield shop.job.folder / task.cell.stage(stage)


def _file(task: Task, shop: Workshop) -> Path | None:
    """The file of a task's plugin, where it is one that was given as a file."""
    kind, name = ("method", task.cell.method.name) if task.cell else ("dataset", task.dataset.name)
    plugin = shop.registry.plugins.get((kind, name))
    return plugin.file if plugin else None


def _said(error: BaseException, file: Path | None) -> str:
    """An exception in words, with the plugin's line where the words are not our own."""
    if isinstance(error, TimedOut):
        return f"{error} (--timeout)"
    if isinstance(error, (UserError, InvalidAnswer, MetricFailed)):
        return f"{type(error).__name__}: {error}"
    return reason_of(error, file)


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def record_failure(job: Job, task: Task, status: str, reason: str, log: str = "") -> Outcome:
    """Write down that a task ended badly, beside the stages of its cell, and say so."""
    reason, base = _line(reason), job.folder / _place(task)
    about = {"stage": task.stage, "status": status, "reason": reason, "key": _key(task)}
    try:
        with store.writing(store.numbered(base, f"failed-{task.stage}"), **about) as draft:
            (draft / "log.txt").write_text(log or reason)
    except OSError as error:
        reason = _line(f"{reason}; this could not be recorded: {error}")
    return Outcome(task.id, status, reason)


def failure_of(folder: Path, task: Task) -> tuple[str, str, Path] | None:
    """Status, reason and folder of a task's last failure under its present key, if there is one."""
    for path in reversed(store.records(folder / _place(task), f"failed-{task.stage}")):
        about = store.read_json(path / store.MANIFEST)
        if about["key"] == _key(task):
            return about["status"], about["reason"], path
    return None


def _place(task: Task) -> Path:
    """The folder inside the run where failures of a task are recorded."""
    return task.cell.path if task.cell else Path("failed") / task.dataset.folder


def _key(task: Task) -> str:
    if task.cell is None:
        return task.dataset.label
    return " ".join(task.cell.scores.values()) if task.stage == "scores" else task.cell.keys[task.stage]
