"""Commands about plugins."""

from __future__ import annotations

from pathlib import Path

import click

from .options import examples, plugin

__all__ = ["COMMANDS"]


@click.command("list", epilog=examples("cfbench list", "cfbench list methods", "cfbench list --plugin mine.py"))
@click.argument("kind", required=False, type=click.Choice(["methods", "datasets", "metrics", "presets"]))
@plugin
def list_(kind: str | None, plugins: tuple[Path, ...]) -> int:
    """Show methods, data sets, metrics and presets, importing none of them."""
    from .budget import presets
    from .registry import Registry

    registry = Registry(plugins)
    for each in (kind,) if kind else ("methods", "datasets", "metrics", "presets"):
        click.secho(each, bold=True)
        if each == "presets":
            rows = [(name, about["text"]) for name, about in presets().items()]
        else:
            found = [p for (k, _), p in sorted(registry.plugins.items()) if f"{k}s" == each]
            rows = [(p.name, f"{p.origin}  {p.target}") for p in found]
        for name, about in rows:
            click.echo(f"  {name:<16} {about}")
    return 0


COMMANDS = (list_,)
