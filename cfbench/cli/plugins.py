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
    from ..runs.budget import presets

    texts = {name: about["text"] for name, about in presets().items()}
    for line in list_plugins(Registry(plugins), (kind,) if kind else PAGES, verbose=verbose, presets=texts):
        print(line)
    return 0


@click.command(
    epilog=examples("cfbench show diffscm", "cfbench show diffscm:paper", "cfbench show mine --plugin mine.py")
)
@click.argument("name")
@click.option("--kind", type=click.Choice(["method", "dataset", "metric"]), help="Which, if several have the name.")
@plugin
def show(name: str, kind: Any, plugins: tuple[Path, ...]) -> int:
    """Show all about a method, data set or metric: its docstring, settings and presets."""
    from ..plugins.describe import show_plugin
    from ..plugins.registry import Registry

    for line in show_plugin(Registry(plugins), name, kind):
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
