"""A run: its declared grid on disk, the tasks that are missing, and who does them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import __version__, store
from .bench import Bench
from .cells import Cell, Job
from .drafts import sweep
from .environment import git_state
from .errors import UserError
from .events import note
from .executors import Executor, InProcess
from .furnishing import furnish
from .interrupts import interruptible
from .outlook import Outlook
from .progress import forget
from .reading import FORMAT, read_about
from .schedule import Schedule
from .screen import display
from .spec import Spec
from .work import Outcome, Task, failure_of
from .workers import ray_workers
from .workshop import Workshop

__all__ = ["Run", "check_writable", "damaged", "declare", "execute", "finished", "is_finished", "missing", "tasks_of"]


@dataclass(frozen=True)
class Run:
    """The cells of a run and the job that they share."""

    job: Job
    cells: tuple[Cell, ...]
    shop: Workshop
    controls: tuple[str, ...]
    datasets: tuple[Spec, ...]


def declare(run: Run, argv: list[str]) -> None:
    """Write ``run.json``: the grid, the settings that cells share, and a description of each data set.

    What comes from bundles is put into the run. Cells that an earlier command declared in the same folder stay.

    Raises:
        UserError: the folder holds a run under another budget, split, plan or format, or cannot be written.
    """
    check_writable(run.job.folder)
    path = run.job.folder / "run.json"
    job = run.job
    budget = job.budget.as_dict() | {"seeds": list(job.budget.seeds)}
    shared = {"budget": budget, "split": job.split, "plan": job.plan, "action": job.action, "precision": job.precision}
    old = read_about(job.folder) if path.exists() else {"cells": [], "datasets": {}, "commands": [], "controls": []}
    for name, value in shared.items():
        if name in old and old[name] != value:
            raise UserError(
                f"{job.folder} holds a run with another {name} ({_short(old[name])}, now {_short(value)}); "
                "give this one another --name"
            )
    _refuse_bundles(run, old["datasets"])
    mine = {c.label for c in run.cells}
    kept = [c for c in old["cells"] if Cell.from_dict(c).label not in mine]
    about = {
        **old, "format": FORMAT, "cfbench": __version__, **git_state(), **shared,
        "commands": [*[c for c in old["commands"] if c != argv], argv],
        "controls": sorted({*old["controls"], *run.controls}),
        "plugins": sorted({*old.get("plugins", []), *map(str, job.plugins)}),
        "datasets": {**old["datasets"], **{d.label: _describe(run.shop, d) for d in run.datasets}},
        "cells": [*kept, *(c.as_dict() for c in run.cells)],
    }  # fmt: skip
    try:
        store.write_json(path, about)
        for spec in run.datasets:
            furnish(Bench(run.shop), spec)
    except OSError as error:
        raise UserError(f"{job.folder} cannot be written ({error.strerror}); give another --run-root") from error


def _refuse_bundles(run: Run, described: Mapping[str, Any]) -> None:
    for spec in run.datasets:
        bundle = run.shop.bundle(spec)
        before, now = described.get(spec.label, {}).get("bundle"), bundle.identity if bundle else None
        if spec.label in described and before != now:
            raise UserError(
                f"{run.job.folder} holds a run of {spec.label} with another bundle ({_called(before)}, now "
                f"{_called(now)}); give this one another --name"
            )


def _called(bundle: Mapping[str, str] | None) -> str:
    return f"{bundle['name']} {bundle['version']}, {bundle['digest'][:12]}" if bundle else "none"


def _short(value: Any) -> Any:
    return value["name"] if isinstance(value, dict) else value


def _describe(shop: Workshop, spec: Spec) -> dict[str, Any]:
    graph, bundle = shop.dataset(spec).graph, shop.bundle(spec)
    return {
        "folder": spec.folder,
        "plan": str(shop.plan_folder(spec).relative_to(shop.job.folder)),
        "plan_key": shop.plan_key(spec),
        "action": shop.action(spec),
        "mechanisms": _learned(shop, spec),
        "bundle": bundle.identity if bundle else None,
        "judges": str(shop.judge_folder(spec).relative_to(shop.job.folder)),
        "shape": list(graph.shape),
        "variables": [vars(v) | {"parents": list(v.parents)} for v in graph.variables],
    }


def _learned(shop: Workshop, spec: Spec) -> str | None:
    """Where the parents' learned mechanisms lie; None where the data set's own are used."""
    return str(shop.mechanisms_folder(spec).relative_to(shop.job.folder)) if shop.action(spec) == "learned" else None


def tasks_of(run: Run) -> list[Task]:
    """Every task of a run, those first that others wait for longest."""
    tasks: list[Task] = []
    for dataset in run.datasets:
        prepare = Task("prepare", dataset)
        judges = Task("judges", dataset, needs=(prepare.id,))
        tasks.append(prepare)
        cells = [c for c in run.cells if c.dataset.label == dataset.label]
        chains = [(cell.method.label in run.controls, _chain(cell, prepare.id, judges.id)) for cell in cells]
        asked, controls = ([t for of, chain in chains if of == control for t in chain] for control in (False, True))
        tasks += [*asked, judges, *controls]
    return list({t.id: t for t in tasks}.values())


def _chain(cell: Cell, prepare: str, judges: str) -> list[Task]:
    """The tasks of a cell, each needing all that it reads: some of it may be there, and some be made anew."""
    if cell.external:
        return [Task("scores", cell.dataset, cell, (prepare, judges))]
    train = Task("train", cell.dataset, cell.fitted, (prepare,))
    tune = Task("tune", cell.dataset, cell.base, (train.id,))
    images = Task("images", cell.dataset, cell, (prepare, train.id, tune.id))
    scores = Task("scores", cell.dataset, cell, (prepare, judges, train.id, tune.id, images.id))
    return [train, tune, images, scores]


def _folders(run: Run, task: Task) -> list[Path]:
    """The stages that a task makes."""
    if task.cell is None:
        place = run.shop.judge_folder if task.stage == "judges" else run.shop.plan_folder
        return [place(task.dataset)]
    stages = [f"score-{m}" for m in task.cell.scores] if task.stage == "scores" else [task.stage]
    return [run.job.folder / task.cell.stage(s) for s in stages]


def is_finished(run: Run, task: Task) -> bool:
    """Whether a task's folders are all there and whole."""
    return all(map(store.whole, _folders(run, task)))


def damaged(run: Run, tasks: Iterable[Task]) -> dict[Path, list[str]]:
    """The stages of tasks that are there, and do not match their manifests, with the files that do not."""
    there = (folder for task in tasks for folder in _folders(run, task) if os.path.lexists(folder / store.MANIFEST))
    return {folder: broken for folder in there if (broken := store.mismatches(folder))}


def finished(run: Run) -> set[str]:
    """The tasks that are done, by their ids; every file of theirs is read once to check it."""
    return {t.id for t in tasks_of(run) if is_finished(run, t)}


def missing(run: Run, done: Container[str], only: Literal["missing", "failed", "all"]) -> list[Task]:
    """The tasks to do: those not done, without (missing), with (failed) or whatever (all) a recorded failure."""
    todo = [t for t in tasks_of(run) if t.id not in done]
    broken = [t for t in todo if failure_of(run.job.folder, t)]
    if only == "missing":
        return [t for t in todo if t not in broken]
    if only == "failed":
        cells = {t.cell.label for t in broken if t.cell}
        return [t for t in todo if t in broken or (t.cell and t.cell.label in cells)]
    return todo


def execute(
    run: Run,
    todo: list[Task],
    done: Iterable[str],
    jobs: int,
    address: str | None = None,
    after: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Do the tasks, each as soon as what it needs is done (some is already); those needing a failed one are skipped.

    With several ``jobs``, or an ``address``, Ray does them. ``after`` is told how each ended.

    Raises:
        KeyboardInterrupt: the user asked to stop, and tasks are left.
    """
    workers: AbstractContextManager[Executor]
    workers = nullcontext(InProcess(run.job, run.shop))
    if jobs > 1 or address:
        workers = ray_workers(run.job, jobs, address)
    schedule, folder = Schedule(todo, done), run.job.folder
    sweep(folder)
    for stage, broken in damaged(run, todo).items():
        store.discard_broken(stage)
        print(f"cfbench: {stage}: {', '.join(broken[:3])} does not match its manifest; removed", file=sys.stderr)
    note(folder, "begin", tasks=len(todo), jobs=jobs)
    outlook = _outlook(run, schedule)
    with (
        display(outlook) as say,
        interruptible(say) as interrupt,
        workers as executor,
    ):
        while True:
            for outcome in schedule.skip():
                outlook.end(outcome.task, outcome.status, outcome.reason)
                say(_told(outcome))
            for task in [] if interrupt.asked else schedule.ready(executor.slots):
                executor.start(task)
            if not schedule.flying:
                break
            for outcome in executor.wait():
                schedule.end(outcome)
                outlook.end(outcome.task, outcome.status, outcome.reason)
                forget(folder, outcome.task)
                say(_told(outcome))
                after(outcome)
    note(folder, "stop", left=len(schedule.waiting))
    if schedule.waiting:
        raise KeyboardInterrupt
    return list(schedule.outcomes.values())


def _outlook(run: Run, schedule: Schedule) -> Outlook:
    """What the display shows: every cell, what is done and what failed before and is left alone."""
    outlook = Outlook(run.job.folder, run.cells, run.controls)
    outlook.done |= schedule.done
    alone = {t.id for t in tasks_of(run)} - schedule.done - {t.id for t in schedule.waiting}
    outlook.bad |= dict.fromkeys(alone, ("failed", "before; --only failed tries again"))
    return outlook


def _told(outcome: Outcome) -> str:
    if outcome.status == "done":
        return f"{outcome.task}: {outcome.seconds:.1f} s"
    return f"{outcome.task}: {outcome.status}{':' if outcome.status != 'skipped' else ','} {outcome.reason}"


def check_writable(folder: Path) -> None:
    """Make a folder.

    Raises:
        UserError: that cannot be done, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another --run-root") from error
