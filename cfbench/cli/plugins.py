"""Commands about plugins: list, show, new and check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import data_root, examples, plugin

__all__ = ["COMMANDS"]


PAGES = ("methods", "datasets", "metrics", "presets")


@click.command(
    "list",
    epilog=examples("cfbench list", "cfbench list methods", "cfbench list -v metrics", "cfbench list --plugin mine.py"),
)
@click.argument("kind", required=False, type=click.Choice(PAGES))
@click.option("-v", "--verbose", is_flag=True, help="Import each, and print what it is, can do, and comes from.")
@plugin
def list_(kind: str | None, verbose: bool, plugins: tuple[Path, ...]) -> int:
    """Show methods, data sets, metrics and presets, importing none of them."""
    from ..plugins.describe import list_plugins
    from ..plugins.registry import Registry
    from ..runs.budget import describe_presets

    pages = (kind,) if kind else PAGES
    for line in list_plugins(Registry(plugins), pages, verbose=verbose, presets=describe_presets()):
        print(line)
    return 0


@click.command(
    epilog=examples(
        "cfbench show diffscm",
        "cfbench show diffscm:paper",
        "cfbench show mine --plugin mine.py",
        "cfbench show 'folder[path=faces]'             its images and variables too",
        "cfbench show quick                            a preset of runs",
    )
)
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(["method", "dataset", "metric", "preset"]), help="Which, if several have the name."
)
@data_root
@plugin
def show(name: str, kind: Any, data_root: Path, plugins: tuple[Path, ...]) -> int:
    """Show all about a method, data set, metric or preset: its docstring, settings and presets.

    Of a data set whose graph lies with its data, such as folder, splits, shape and balance are shown too.
    """
    from ..plugins.describe import kind_of, show_plugin
    from ..plugins.registry import Registry
    from ..runs.budget import Budget, describe_presets

    registry, presets = Registry(plugins), describe_presets()
    kind = kind or kind_of(registry, name, presets)
    if kind == "preset":
        print("\n".join([f"{click.style(name, bold=True)}  preset, for --preset", "", *Budget.named(name).lines()]))
        return 0
    for line in show_plugin(registry, name, kind):
        print(line)
    if kind == "dataset":
        from .data import show_data

        for line in show_data(registry, name, data_root):
            print(line)
    return 0


@click.command(
    epilog=examples(
        "cfbench new method mine                       a file mine.py that works, to be changed",
        "cfbench new metric blur --package --out ~/src    a distribution that can be installed",
    )
)
@click.argument("kind", type=click.Choice(["method", "dataset", "metric"]))
@click.argument("name")
@click.option("--package", is_flag=True, help="Write a distribution with an entry point and a test.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder to write to.  [default: this one]")
def new(kind: str, name: str, package: bool, out: Path) -> int:
    """Write a working method, data set or metric as a start for your own."""
    from ..plugins.scaffold import new_command

    return new_command(kind, name, package=package, out=out)


@click.command(
    epilog=examples(
        "cfbench check mine.py                         every plugin in a file",
        "cfbench check 'mine[width=8]' --plugin mine.py",
        "cfbench check diffscm",
    )
)
@click.argument("target", metavar="NAME|FILE.py")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              metavar="SECONDS", help="End a check that takes longer.")  # fmt: skip
@data_root
@plugin
def check(target: str, timeout: float, data_root: Path, plugins: tuple[Path, ...]) -> int:
    """Check on tiny data that a plugin fulfils the contract; 1 where it does not."""
    from ..conformance.command import check_command

    return check_command(target, data_root=data_root, plugins=plugins, timeout=timeout)


COMMANDS = (list_, show, new, check)
