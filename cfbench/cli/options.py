"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from ..runs.folders import DATA_ROOT

__all__ = ["data_root", "details", "examples", "plugin", "run_root"]


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


data_root = click.option(
    "--data-root", type=click.Path(path_type=Path), envvar=DATA_ROOT, show_envvar=True, default=Path("data"),
    show_default=True, help="Folder with data sets.",
)  # fmt: skip
run_root = click.option(
    "--run-root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder with runs."
)
plugin = click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), metavar="FILE.py",
    help="Load a method, data set or metric from a file that is not installed.",
)  # fmt: skip
details = click.option("--details", is_flag=True, help="Print the tables of all metrics below the summary.")
