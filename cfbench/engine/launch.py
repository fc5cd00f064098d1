"""A run declared and executed, alike for the command line, Python and external answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from .. import storage
from ..errors import UserError
from ..plugins.spec import Spec
from ..runs.budget import Budget
from ..runs.chain import STAGES, Outcome, Status, damaged, finished, missing, tasks_of
from ..runs.context import Context, LoadedJob, Run
from ..runs.environment import available_cores, git_state
from ..runs.folders import MANIFEST, check_writable, refuse_unwritable
from ..runs.manifest import (
    SETTINGS,
    DatasetEntry,
    Manifest,
    check_manifest,
    named_twice,
    read_manifest,
    write_manifest,
)
from ..runs.progress import run_lock
from ..runs.reader import StoredRun
from ..storage.schema import printable
from ..storage.scratch import remove_abandoned_scratch
from ..version import __version__
from .claims import remove_abandoned_claims
from .contention import remove_ended_tasks
from .execute import execute
from .prepare import install_bundle
from .todo import Todo

__all__ = ["checked", "declare", "default_jobs", "launch", "report_unfinished"]


def _remove_abandoned(folder: Path) -> None:
    """Remove what commands that were killed left in a run and among temporary files."""
    with run_lock(folder):  # notes
        remove_abandoned_claims(folder)
    for path in folder.glob("cells/*/*/seed-*/.*-checkpoints"):
        if storage.is_complete(path.with_name(path.name[1:].removesuffix("-checkpoints"))):
            storage.remove_tree(path, ignore_errors=True)
    storage.remove_abandoned(folder)
    remove_abandoned_scratch()
    remove_ended_tasks()


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
    """Declare a run and execute the tasks that are to be done; return how each ended.

    Args:
        run: with all its cells.
        argv: the command, as ``run.json`` lists it.
        only: which unfinished tasks to do: those never tried, those that failed before, or both.
        stages: those whose tasks are done.
        jobs: tasks at once; by default `default_jobs`, on a cluster as many as it has cores.
        address: of a Ray cluster.
        dry_run: whether to announce the tasks only, and write nothing.
        announce: called with the tasks before any is started.
        after: called with the outcome of each.

    Raises:
        UserError: the folder holds another run, or cannot be written.
        KeyboardInterrupt: the user asked to stop, and tasks are left.
    """
    if dry_run:
        checked(run, argv)
    else:
        declare(run, argv)
        _remove_abandoned(run.job.folder)
    done = finished(run)
    todo = [t for t in missing(run, done, only) if t.stage in stages]
    jobs = jobs if address else min(jobs or default_jobs(run), max(len(todo), 1))
    announce(Todo(run, tuple(todo), frozenset(done), len(tasks_of(run)), max(jobs, 1)))
    if dry_run:
        for stage, broken in damaged(run, todo).items():
            print(f"cfbench: {stage}: {', '.join(broken[:3])} does not match its manifest", file=sys.stderr)
    if dry_run or not todo:
        return []
    return execute(run, todo, done, jobs, address, after)


def declare(run: Run, argv: Sequence[str]) -> None:
    """Write ``run.json``: the cells, the settings that they share, and a description of each data set.

    Plans and judges of bundles are copied into the run. Cells that an earlier command declared in the folder stay.

    Raises:
        UserError: the folder holds a run under another budget, split, plan or format, or cannot be written; or the
            run has a name, text or number that `read_manifest` would not accept.
    """
    new, folder = checked(run, argv), run.job.folder
    check_writable(folder)
    try:
        write_manifest(folder, new)
        for spec in run.datasets:
            install_bundle(Context(run.loaded), spec)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another --run-root") from error


def checked(run: Run, argv: Sequence[str]) -> Manifest:
    """The manifest that `declare` would write; nothing is written.

    Raises:
        UserError: as `declare` does, except where a disk is full.
    """
    folder, new = run.job.folder, _manifest(run, tuple(argv))
    check_manifest(folder, new)
    refuse_unwritable(folder)
    if not (folder / MANIFEST).exists():
        return new
    old = read_manifest(folder)
    _refuse_settings(folder, old, new)
    _refuse_bundles(folder, old, new)
    joined = _joined(old, new)
    if twice := named_twice(joined.cells):
        raise UserError(f"{folder}: {twice}; give one another name, or this run another --name")
    check_manifest(folder, joined)
    return joined


def _manifest(run: Run, argv: tuple[str, ...]) -> Manifest:
    """The manifest of a run without cells of earlier commands."""
    job, git = run.job, git_state()
    words = tuple(w if w.isprintable() else printable(w, longest=len(w)) for w in argv)
    return Manifest(
        __version__, job.budget, job.split, job.plan, job.action, job.precision,
        datasets={d.label: _entry(run.loaded, d) for d in run.datasets}, cells=run.cells, commands=(words,),
        controls=tuple(sorted(run.controls)), plugins=tuple(sorted(map(str, job.plugins))), **git,
    )  # fmt: skip


def _refuse_settings(folder: Path, old: Manifest, new: Manifest) -> None:
    """Raise unless both declare the same settings."""
    for name in SETTINGS:
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            was, now = (v.name if isinstance(v, Budget) else v for v in (was, now))
            raise UserError(
                f"{folder} holds a run with another {name} ({was}, now {now}); give this one another --name"
            )


def _refuse_bundles(folder: Path, old: Manifest, new: Manifest) -> None:
    """Raise unless both take each data set's questions and judges from the same bundle, or from none."""
    for label in new.datasets.keys() & old.datasets.keys():
        was, now = old.datasets[label].bundle, new.datasets[label].bundle
        if was != now:
            raise UserError(
                f"{folder} holds a run of {label} with another bundle ({_bundle_name(was)}, now {_bundle_name(now)}); "
                "give this one another --name"
            )


def _joined(old: Manifest, new: Manifest) -> Manifest:
    """The new manifest, with the cells, data sets and commands that were declared before."""
    declared = {c.label for c in new.cells}
    aliases = {c.method.label: c.method.alias for c in new.cells}
    kept = [c for c in old.cells if c.label not in declared]
    kept = [replace(c, method=replace(c.method, alias=aliases.get(c.method.label, c.method.alias))) for c in kept]
    return replace(
        new,
        datasets={**old.datasets, **new.datasets},
        cells=(*kept, *new.cells),
        commands=(*(c for c in old.commands if c not in new.commands), *new.commands),
        controls=tuple(sorted({*old.controls, *new.controls})),
        plugins=tuple(sorted({*old.plugins, *new.plugins})),
        merged=old.merged,
        other=old.other,
    )


def _bundle_name(bundle: Mapping[str, str] | None) -> str:
    return f"{bundle['name']} {bundle['version']}, {bundle['digest'][:12]}" if bundle else "none"


def _entry(loaded: LoadedJob, spec: Spec) -> DatasetEntry:
    graph, bundle, action = loaded.dataset(spec).graph, loaded.bundle(spec), loaded.action(spec)

    def relative(folder: Path) -> str:
        return str(folder.relative_to(loaded.job.folder))

    return DatasetEntry(
        spec.folder, relative(loaded.plan_folder(spec)), loaded.keys.plan(spec), relative(loaded.judge_folder(spec)),
        action, graph.variables, graph.shape, relative(loaded.mechanisms_folder(spec)) if action == "learned" else None,
        bundle.identity if bundle else None,
    )  # fmt: skip


def default_jobs(run: Run) -> int:
    """The number of tasks at once: one on a GPU, otherwise one a core."""
    if run.job.device != "cpu":
        return 1
    return max(1, available_cores() // run.job.threads)


def report_unfinished(run: StoredRun, labels: Container[str]) -> int:
    """Print which of the cells with the given labels are not ok; return 2 where there are any, otherwise 0."""
    unfinished = [(cell, state) for cell, state in run.states if cell.label in labels and state.status is not Status.OK]
    for cell, state in unfinished:
        print(f"cfbench: {cell.title}: {state.status}: {state.reason or 'not run'}", file=sys.stderr)
    if unfinished:
        print(f"cfbench: {len(unfinished)} cells unfinished; `--only failed` tries failed ones again", file=sys.stderr)
    return 2 if unfinished else 0
