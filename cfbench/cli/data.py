"""What ``prepare`` does, and what ``show`` says of data that lie on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..contract import Dataset
from ..errors import UserError, reason_of
from ..plugins.registry import Registry
from ..plugins.spec import Spec
from ..runs.console import print_dataset_progress
from ..runs.context import open_dataset
from ..runs.data_summary import summarise_data

__all__ = ["prepare_command", "show_data"]


def prepare_command(datasets: tuple[str, ...], data_root: Path, plugins: tuple[Path, ...]) -> int:
    """Prepare data sets one after another, and print what each holds."""
    registry, root = Registry(plugins), data_root.resolve()
    specs = [s for text in datasets for s in registry.parse("dataset", text)]
    opened = []
    for spec in specs:
        with _reported(registry, spec, "opened"):
            opened.append((spec, open_dataset(registry, spec, root)))
    for spec, dataset in opened:
        with print_dataset_progress(dataset, f"preparing {spec.label}"), _reported(registry, spec, "prepared"):
            dataset.prepare(root)
            lines = list(summarise_data(dataset, root))
        print(f"{spec.label} is ready under {data_root}")
        print("\n".join(lines))
    return 0


def show_data(registry: Registry, text: str, data_root: Path) -> Iterator[str]:
    """The lines about the data of a data set whose graph lies with them; none for others, whose class says it all.

    Raises:
        UserError: the data that settings name cannot be read.
    """
    (spec, *_), root = registry.parse("dataset", text), data_root.resolve()
    if registry.load("dataset", spec.name).open is Dataset.open:
        return
    try:
        with _reported(registry, spec, "opened"):
            lines = list(summarise_data(open_dataset(registry, spec, root), root))
    except UserError:
        if spec.params:
            raise
        return
    yield from ("", "data", *lines)


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
