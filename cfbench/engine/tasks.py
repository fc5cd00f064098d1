"""One task of a run executed in any process, its failure returned instead of raised, and recorded by the driver."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .. import storage
from ..errors import Interrupted, InvalidAnswer, TaskTimeout, UserError, interruption_in, reason_of
from ..runs.chain import Outcome, Status, Task, failure_folder, input_folders, output_folders
from ..runs.context import Context, LoadedJob
from ..runs.environment import standard
from ..runs.job import Job
from ..runs.progress import ProgressReporter, log_event
from . import fit, prepare
from .contention import DeviceUse, using_device
from .failures import is_transient, status_of, time_limit
from .interrupts import handling
from .score import MetricError, scores

__all__ = ["record_failure", "run_task", "until_interrupted"]


RUNNERS: Mapping[str, Callable[[Context, Any], None]] = {
    "prepare": prepare.prepare,
    "judges": prepare.judges,
    "train": fit.train,
    "tune": fit.tune,
    "images": fit.images,
    "scores": scores,
}


def run_task(job: Job, task: Task, loaded: LoadedJob | None = None) -> Outcome:
    """Execute a task, and return how it ended; an exception of any class that it raises is a failure.

    Raises:
        Interrupted: a signal asked this process to stop.
    """
    start = time.perf_counter()
    log_event(job.folder, "start", task=task.id)
    outcome = _attempt(job, task, loaded or LoadedJob(job))
    seconds = round(time.perf_counter() - start, 3)
    log_event(job.folder, "end", task=task.id, status=outcome.status, reason=outcome.reason, seconds=seconds)
    return replace(outcome, seconds=seconds)


T = TypeVar("T")


def until_interrupted(task: Task, execute: Callable[[], T]) -> T | Outcome:
    """What the execution of a task in a worker returns; that it is pending where a signal asked the worker to stop."""
    try:
        with handling():
            return execute()
    except Interrupted as error:
        return Outcome(task, Status.PENDING, str(error))


def _attempt(job: Job, task: Task, loaded: LoadedJob) -> Outcome:
    try:
        if damaged := next(_damaged_inputs(loaded, task), None):
            return Outcome(task, Status.FAILED, _one_line(f"{damaged}; the same command computes it again"))
        with (
            standard(),
            ProgressReporter(job.folder, task.id) as report,
            using_device(Context(loaded).device) as use,
            time_limit(job.timeout if task.cell else None),
        ):
            context = Context(
                loaded, _report_and_count(report, use), use.count_others, task.cell.inputs if task.cell else {},
                lambda about: log_event(job.folder, "resume", task=task.id, **about),
            )  # fmt: skip
            _report_scores(context, task)
            RUNNERS[task.stage](context, task.cell or task.dataset)
    except BaseException as error:
        if interruption := interruption_in(error):
            raise interruption from None
        reason = _reason(error, _file(task, loaded))
        if is_transient(error):
            return Outcome(task, Status.FAILED, _one_line(f"{reason}; make room, then the same command tries again"))
        return Outcome(task, status_of(error), _one_line(reason), log=traceback.format_exc())
    return Outcome(task, Status.DONE)


def _report_scores(context: Context, task: Task) -> None:
    """Say how many metrics of a cell are computed already."""
    folders = output_folders(context.loaded, task) if task.stage == "scores" else []
    if done := sum(map(storage.is_complete, folders)):
        context.resumed({"stage": "metrics", "step": done, "steps": len(folders), "seconds": 0.0})


def _report_and_count(report: ProgressReporter, use: DeviceUse) -> Callable[..., None]:
    """A progress callback that also counts the other tasks on the device."""

    def progress(stage: str, done: int, total: int, loss: float | None = None) -> None:
        use.count_others()
        report(stage, done, total, loss)

    return progress


def _damaged_inputs(loaded: LoadedJob, task: Task) -> Iterator[str]:
    """Describe the folders that a task reads and that do not match their manifests."""
    for folder in input_folders(loaded, task):
        if broken := storage.damaged_files(folder):
            yield f"{folder}: {', '.join(broken[:3])} is missing or does not match its manifest"


def _file(task: Task, loaded: LoadedJob) -> Path | None:
    """The file of a task's plugin; None where it comes from a distribution or the session."""
    kind, name = ("method", task.cell.method.name) if task.cell else ("dataset", task.dataset.name)
    plugin = loaded.registry.plugins.get((kind, name))
    return plugin.file if plugin else None


def _reason(error: BaseException, file: Path | None) -> str:
    """An exception in one line, with the plugin's line of code unless cfbench raised it."""
    if isinstance(error, TaskTimeout):
        return f"{error} (--timeout)"
    if isinstance(error, (UserError, InvalidAnswer, MetricError)):
        return f"{type(error).__name__}: {error}"
    return reason_of(error, file)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def record_failure(job: Job, outcome: Outcome) -> Outcome:
    """Record the failure of a task in a folder ``failed-STAGE-N`` next to the stages of its cell.

    Only the driver records: it knows whether the run is being stopped, which is no failure of a task.
    """
    if not outcome.log:
        return outcome
    task, base = outcome.task, job.folder / failure_folder(outcome.task)
    about = {"stage": task.stage, "status": outcome.status, "reason": outcome.reason, "key": task.key}
    try:
        with storage.write_stage(storage.next_numbered(base, f"failed-{task.stage}"), **about) as draft:
            (draft / "log.txt").write_text(outcome.log, errors="backslashreplace")
    except OSError as error:
        return replace(outcome, reason=_one_line(f"{outcome.reason}; this could not be recorded: {error}"))
    return outcome
