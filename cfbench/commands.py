"""What the commands do, apart from reading their options."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from .environment import cores
from .errors import UserError, did_you_mean
from .grid import Run, damaged, declare, execute, finished, missing, tasks_of
from .progress import reported
from .publish import publish
from .reading import read_about, states
from .request import Request
from .spec import parse_specs
from .tensorboard import check_installed, write_scalars
from .work import Outcome

__all__ = [
    "default_jobs",
    "find_run",
    "leaderboard_command",
    "prepare_command",
    "run_command",
    "verdict",
]


def run_command(
    *, argv: list[str], only: Any, jobs: int, address: str | None, plots: bool, tensorboard: bool, dry_run: bool,
    **options: Any,
) -> int:  # fmt: skip
    """Run what is missing, write the tables, and print them; 2 where a cell has not come to a good end."""
    if tensorboard:
        check_installed()
    run = Request(**options).run()
    if not dry_run:
        declare(run, argv)
    done = finished(run)
    todo = missing(run, done, only)
    _announce(run, todo)
    if dry_run:
        for stage, broken in damaged(run, todo).items():
            print(f"cfbench: {stage}: {', '.join(broken[:3])} does not match its manifest", file=sys.stderr)
        return 0
    note = partial(_note_fit, run) if tensorboard else lambda outcome: None
    if tensorboard:
        write_scalars(run.job.folder, run.cells)
    if todo:
        execute(run, todo, done, jobs if address else min(jobs or default_jobs(run), len(todo)), address, note)
    for dataset in run.datasets:
        publish(run.job.folder, dataset.label, run.job.folder / "leaderboard", pictures=plots)
    return verdict(run.job.folder, {c.label for c in run.cells})


def _note_fit(run: Run, outcome: Outcome) -> None:
    """Write the scalars of a fit that has just ended."""
    if outcome.status == "done" and outcome.task.startswith("train "):
        write_scalars(run.job.folder, run.cells)


def default_jobs(run: Run) -> int:
    """Tasks at once: one on a GPU, else a core each."""
    if run.job.device != "cpu":
        return 1
    return max(1, cores() // run.job.threads)


def _announce(run: Run, todo: list[Any]) -> None:
    """Print what will be done and what is there."""
    budget, total = run.job.budget, len(tasks_of(run))
    print(f"run {run.job.folder}")
    print(
        f"  preset {budget.name}: {budget.images:,} training images a method, up to {budget.factuals} factuals "
        f"of the {run.job.split} split, plan {run.job.plan}, device {run.job.device}"
    )
    unfinished = {t.cell.label for t in todo if t.cell}
    for cell in run.cells:
        print(f"  {'to do' if {cell.label, cell.fitted.label} & unfinished else 'done '}  {cell.label}")
    print(f"  {len(todo)} of {total} tasks to do", flush=True)


def verdict(folder: Path, mine: Iterable[str]) -> int:
    """Say which cells did not come to a good end."""
    bad = [
        (cell, state)
        for cell, state in states(folder, read_about(folder))
        if cell.label in mine and state.status != "ok"
    ]
    for cell, state in bad:
        print(f"cfbench: {cell.label}: {state.status}: {state.reason or 'not run'}", file=sys.stderr)
    if bad:
        print(f"cfbench: {len(bad)} cells unfinished; `--only failed` tries failed ones again", file=sys.stderr)
    return 2 if bad else 0


def prepare_command(datasets: tuple[str, ...], data_root: Path, plugins: tuple[Path, ...]) -> int:
    """Prepare data sets one after another."""
    from .registry import Registry

    registry = Registry(plugins)
    loaded = [(s, registry.resolve("dataset", s)) for text in datasets for s in parse_specs(text)]
    for spec, (cls, params) in loaded:
        dataset = cls(**params)
        dataset.open(data_root.resolve())
        with reported(dataset, f"preparing {spec.label}"):
            dataset.prepare(data_root.resolve())
        print(f"{spec.label} is ready under {data_root}")
    return 0


def leaderboard_command(name: str, run_root: Path, out: Path | None, plots: bool) -> int:
    """Write the tables and pictures of a run, and print the tables."""
    folder = find_run(name, run_root)
    for dataset in read_about(folder)["datasets"]:
        publish(folder, dataset, out or folder / "leaderboard", pictures=plots)
    return 0


def find_run(name: str, run_root: Path) -> Path:
    """The folder of a run, given by name or path.

    Raises:
        UserError: there is none.
    """
    for folder in (run_root / name, Path(name)):
        if (folder / "run.json").is_file():
            return folder
    known = [p.parent.name for p in run_root.glob("*/run.json") if p.is_file()]
    raise UserError(f"no run {name!r} in {run_root}; {did_you_mean(name, known)}")
