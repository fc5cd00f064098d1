"""What ``run``, ``prepare`` and ``leaderboard`` do, apart from reading their options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.launch import Todo, launch, report_unfinished
from ..engine.request import Request
from ..errors import UserError, reason_of
from ..plugins.spec import Spec
from ..report.charts.curves import check_installed, scalar_writer
from ..report.publish import publish
from ..runs.console import print_dataset_progress
from ..runs.context import open_dataset
from ..runs.folders import find_run
from ..runs.reader import read_run
from ..storage.temporary import atomic_write

if TYPE_CHECKING:
    from ..plugins.registry import Registry

__all__ = ["leaderboard_command", "prepare_command", "run_command"]


def run_command(
    *, argv: list[str], config: str, save_config: Path | None, only: Any, jobs: int, address: str | None, plots: bool,
    details: bool, tensorboard: bool, dry_run: bool, **options: Any,
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
    publish(stored, [d.label for d in run.datasets], run.job.folder / "leaderboard", pictures=plots, details=details)
    return report_unfinished(stored, {c.label for c in run.cells})


def _announce(todo: Todo) -> None:
    """Print the cells, and which of them are done."""
    run, budget = todo.run, todo.run.job.budget
    print(f"run {run.job.folder}")
    print(
        f"  preset {budget.name}: {budget.images:,} training images a method, up to {budget.factuals} factuals "
        f"of the {run.job.split} split, plan {run.job.plan}, device {run.job.device}"
    )
    unfinished = {t.cell.label for t in todo.tasks if t.cell}
    for cell in run.cells:
        print(f"  {'to do' if {cell.label, cell.fitted.label} & unfinished else 'done '}  {cell.title}")
    print(f"  {len(todo.tasks)} of {todo.total} tasks to do", flush=True)


def prepare_command(datasets: tuple[str, ...], data_root: Path, plugins: tuple[Path, ...]) -> int:
    """Prepare data sets one after another."""
    from ..plugins.registry import Registry

    registry, root = Registry(plugins), data_root.resolve()
    specs = [s for text in datasets for s in registry.parse("dataset", text)]
    opened = []
    for spec in specs:
        with _reported(registry, spec, "opened"):
            opened.append((spec, open_dataset(registry, spec, root)))
    for spec, dataset in opened:
        with print_dataset_progress(dataset, f"preparing {spec.label}"), _reported(registry, spec, "prepared"):
            dataset.prepare(root)
        print(f"{spec.label} is ready under {data_root}")
    return 0


@contextmanager
def _reported(registry: Registry, spec: Spec, what: str) -> Iterator[None]:
    """Context manager that reports an exception of a data set in one line.

    Raises:
        UserError: in place of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = reason_of(error, registry.find("dataset", spec.name).file)
        raise UserError(f"{spec.label} cannot be {what}: {reason}; --debug shows more") from error


def leaderboard_command(name: str, run_root: Path, out: Path | None, plots: bool, details: bool) -> int:
    """Write the tables and pictures of a run, and print the tables."""
    folder = find_run(name, run_root)
    run = read_run(folder)
    publish(run, run.manifest.datasets, out or folder / "leaderboard", pictures=plots, details=details)
    return 0
