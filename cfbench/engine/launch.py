"""From a declared run to finished tasks, for the command line, Python and answers made elsewhere alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import UserError
from ..plugins.spec import Spec
from ..runs.budget import Budget
from ..runs.chain import STAGES, Outcome, Status, Task, damaged, finished, missing, tasks_of
from ..runs.context import Context, LoadedJob, Run
from ..runs.environment import available_cores, git_state
from ..runs.folders import check_writable
from ..runs.manifest import SETTINGS, DatasetEntry, Manifest, read_manifest, write_manifest
from ..runs.reader import cell_states
from ..version import __version__
from .execute import execute
from .prepare import install_bundle

__all__ = ["Todo", "declare", "default_jobs", "launch", "report_unfinished"]


@dataclass(frozen=True)
class Todo:
    """The tasks of a run that are to be done, and how many it has in all."""

    run: Run
    tasks: tuple[Task, ...]
    total: int


def launch(
    run: Run,
    argv: Sequence[str],
    *,
    only: Literal["missing", "failed", "all"] = "missing",
    stages: Container[str] = STAGES,
    jobs: int = 0,
    address: str | None = None,
    dry_run: bool = False,
    announce: Callable[[Todo], None] = lambda todo: None,
    after: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Declare a run, find out what is to be done and do it; how each task ended.

    Args:
        run: with all its cells.
        argv: the command, as ``run.json`` lists it.
        only: which unfinished tasks to do: those never tried, those that failed before, or both.
        stages: those whose tasks are done.
        jobs: tasks at once; by default `default_jobs`, on a cluster as many as it has cores.
        address: of a Ray cluster.
        dry_run: whether to announce the tasks and write nothing.
        announce: called with the tasks before they are begun.
        after: called with the outcome of each.

    Raises:
        UserError: the folder holds another run, or cannot be written.
        KeyboardInterrupt: the user asked to stop, and tasks are left.
    """
    if not dry_run:
        declare(run, argv)
    done = finished(run)
    todo = [t for t in missing(run, done, only) if t.stage in stages]
    announce(Todo(run, tuple(todo), len(tasks_of(run))))
    if dry_run:
        for stage, broken in damaged(run, todo).items():
            print(f"cfbench: {stage}: {', '.join(broken[:3])} does not match its manifest", file=sys.stderr)
    if dry_run or not todo:
        return []
    return execute(run, todo, done, jobs if address else min(jobs or default_jobs(run), len(todo)), address, after)


def declare(run: Run, argv: Sequence[str]) -> None:
    """Write ``run.json``: the grid, the settings that cells share, and a description of each data set.

    What comes from bundles is put into the run. Cells that an earlier command declared in the same folder stay.

    Raises:
        UserError: the folder holds a run under another budget, split, plan or format, or cannot be written.
    """
    job = run.job
    check_writable(job.folder)
    here = _manifest(run, tuple(argv))
    if (job.folder / "run.json").exists():
        old = read_manifest(job.folder)
        _refuse_settings(job.folder, old, here)
        _refuse_bundles(job.folder, old, here)
        here = _joined(old, here)
    try:
        write_manifest(job.folder, here)
        for spec in run.datasets:
            install_bundle(Context(run.loaded), spec)
    except OSError as error:
        raise UserError(f"{job.folder} cannot be written ({error.strerror}); give another --run-root") from error


def _manifest(run: Run, argv: tuple[str, ...]) -> Manifest:
    """What ``run.json`` says of a run that stands alone."""
    job, git = run.job, git_state()
    return Manifest(
        __version__, job.budget, job.split, job.plan, job.action, job.precision,
        datasets={d.label: _entry(run.loaded, d) for d in run.datasets}, cells=run.cells, commands=(argv,),
        controls=tuple(sorted(run.controls)), plugins=tuple(sorted(map(str, job.plugins))), **git,
    )  # fmt: skip


def _refuse_settings(folder: Path, old: Manifest, here: Manifest) -> None:
    for name in SETTINGS:
        was, now = getattr(old, name), getattr(here, name)
        if was != now:
            was, now = (v.name if isinstance(v, Budget) else v for v in (was, now))
            raise UserError(
                f"{folder} holds a run with another {name} ({was}, now {now}); give this one another --name"
            )


def _refuse_bundles(folder: Path, old: Manifest, here: Manifest) -> None:
    for label in here.datasets.keys() & old.datasets.keys():
        was, now = old.datasets[label].bundle, here.datasets[label].bundle
        if was != now:
            raise UserError(
                f"{folder} holds a run of {label} with another bundle ({_bundle_name(was)}, now {_bundle_name(now)}); "
                "give this one another --name"
            )


def _joined(old: Manifest, here: Manifest) -> Manifest:
    """What is declared now, with the cells, data sets and commands that were declared before."""
    mine = {c.label for c in here.cells}
    return replace(
        here,
        datasets={**old.datasets, **here.datasets},
        cells=(*(c for c in old.cells if c.label not in mine), *here.cells),
        commands=(*(c for c in old.commands if c not in here.commands), *here.commands),
        controls=tuple(sorted({*old.controls, *here.controls})),
        plugins=tuple(sorted({*old.plugins, *here.plugins})),
        merged=old.merged,
        other=old.other,
    )


def _bundle_name(bundle: Mapping[str, str] | None) -> str:
    return f"{bundle['name']} {bundle['version']}, {bundle['digest'][:12]}" if bundle else "none"


def _entry(loaded: LoadedJob, spec: Spec) -> DatasetEntry:
    graph, bundle, action = loaded.dataset(spec).graph, loaded.bundle(spec), loaded.action(spec)

    def place(folder: Path) -> str:
        return str(folder.relative_to(loaded.job.folder))

    return DatasetEntry(
        spec.folder, place(loaded.plan_folder(spec)), loaded.keys.plan(spec), place(loaded.judge_folder(spec)), action,
        graph.variables, graph.shape, place(loaded.mechanisms_folder(spec)) if action == "learned" else None,
        bundle.identity if bundle else None,
    )  # fmt: skip


def default_jobs(run: Run) -> int:
    """Tasks at once: one on a GPU, else a core each."""
    if run.job.device != "cpu":
        return 1
    return max(1, available_cores() // run.job.threads)


def report_unfinished(folder: Path, mine: Iterable[str]) -> int:
    """Say which cells did not come to a good end."""
    bad = [
        (cell, state)
        for cell, state in cell_states(folder, read_manifest(folder))
        if cell.label in mine and state.status is not Status.OK
    ]
    for cell, state in bad:
        print(f"cfbench: {cell.label}: {state.status}: {state.reason or 'not run'}", file=sys.stderr)
    if bad:
        print(f"cfbench: {len(bad)} cells unfinished; `--only failed` tries failed ones again", file=sys.stderr)
    return 2 if bad else 0
