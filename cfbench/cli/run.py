"""What ``run`` and ``leaderboard`` do, apart from reading their options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..engine.launch import launch, report_unfinished
from ..engine.request import Request
from ..engine.todo import Todo, lines_of
from ..report.charts.curves import check_installed, scalar_writer
from ..report.publish import publish
from ..runs.folders import find_run
from ..runs.reader import read_run
from ..storage.temporary import atomic_write

__all__ = ["leaderboard_command", "run_command"]


def run_command(
    *, argv: list[str], config: str, save_config: Path | None, only: Any, jobs: int, address: str | None, plots: bool,
    details: bool, tensorboard: bool, dry_run: bool, show_all: bool, **options: Any,
) -> int:  # fmt: skip
    """Run what is missing, write the tables, and print them; 2 where a cell is not ok.

    Args:
        argv: the command, as ``run.json`` lists it.
        config: its options as TOML, which are written to ``save_config`` once they have been found to be right.
    """
    if tensorboard:
        check_installed()
    run = Request(**options).run()
    if save_config:
        with atomic_write(save_config) as draft:
            draft.write_text(config, encoding="utf-8")
        print(f"options written: cfbench run --config {save_config}")
    after = scalar_writer(run) if tensorboard and not dry_run else lambda outcome: None
    launch(run, argv, only=only, jobs=jobs, address=address, dry_run=dry_run, announce=_announce, after=after)
    if dry_run:
        return 0
    stored = read_run(run.job.folder)
    rows = None if show_all else {c.method.label for c in run.cells}
    out = run.job.folder / "leaderboard"
    publish(stored, [d.label for d in run.datasets], out, pictures=plots, details=details, rows=rows)
    return report_unfinished(stored, {c.label for c in run.cells})


def _announce(todo: Todo) -> None:
    """Print what is to be done of each cell, why, and how long it may take."""
    run, budget = todo.run, todo.run.job.budget
    own = " where its row has no @" if any(c.method.images or (c.of and c.of.images) for c in run.cells) else ""
    print(f"run {run.job.folder}")
    print(
        f"  preset {budget.name}: {budget.images:,} training images a method{own}, up to {budget.factuals} factuals "
        f"of the {run.job.split} split, plan {run.job.plan}, device {run.job.device}"
    )
    for line in lines_of(todo):
        print(line)
    sys.stdout.flush()


def leaderboard_command(name: str, run_root: Path, out: Path | None, plots: bool, details: bool) -> int:
    """Write the tables and pictures of a run, and print the tables."""
    folder = find_run(name, run_root)
    run = read_run(folder)
    publish(run, run.manifest.datasets, out or folder / "leaderboard", pictures=plots, details=details)
    return 0
