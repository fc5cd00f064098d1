"""The options of ``cfbench run`` in a TOML file: what the command line takes, and nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..errors import UserError, did_you_mean, one_line

__all__ = ["config_option", "config_text", "save_option", "stored_config", "words"]


_NO_CONFIG = frozenset({"config", "save_config", "dry_run", "help"})
"""Options of a command that are no part of what a run is."""


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options that a file may hold, by the name they have there: the long one without dashes in front."""
    found = [p for p in command.params if isinstance(p, click.Option) and p.name not in _NO_CONFIG]
    return {max(p.opts, key=len).removeprefix("--"): p for p in found}


def _read(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Make the settings of a file the defaults of the command's options."""
    if path is not None and not context.resilient_parsing:
        known = _options(context.command)
        settings = _parsed(path)
        if unknown := next((name for name in settings if name not in known), None):
            raise UserError(f"{path}: {unknown!r} is no option of cfbench run; {did_you_mean(unknown, known)}")
        context.default_map = {
            known[name].name: _value(path, name, known[name], value) for name, value in settings.items()
        }
    return path


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"--config {path} cannot be read ({error.strerror}); give a file that --save-config wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"--config {path} is no TOML: {one_line(error, 160)}") from error


def _value(path: Path, name: str, option: click.Option, value: Any) -> Any:
    """A setting as the command line would give it: texts, of an option that may be repeated a list of them."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UserError(f"{path}: {name} is {one_line(value, 60)!r}; write true or false")
        return value
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
        raise UserError(f"{path}: {name} is {one_line(value, 60)!r}; write a text, a number or a list of these")
    texts = [str(v) for v in values]
    return texts if option.multiple else ",".join(texts)


config_option = click.option(
    "--config", type=click.Path(path_type=Path), is_eager=True, callback=_read, metavar="FILE.toml",
    help="Take options from a file; those on the command line come first.",
)  # fmt: skip
save_option = click.option(
    "--save-config", type=click.Path(path_type=Path), metavar="FILE.toml",
    help="Write the options to a file for --config.",
)  # fmt: skip


def config_text(context: click.Context) -> str:
    """The options of a command that were given, on the command line or in a file, as TOML."""
    import tomli_w

    return tomli_w.dumps({name: _plain(value) for name, _, value in _given(context)})


def words(context: click.Context) -> list[str]:
    """A command as a list of words that needs no file of options."""
    found = [str(context.info_name)]
    for name, option, value in _given(context):
        if option.is_flag:
            found.append(f"--{name}" if value else option.secondary_opts[0])
        else:
            found += [w for v in (value if option.multiple else [value]) for w in (f"--{name}", str(v))]
    return found


def stored_config(command: click.Command, commands: Iterable[Sequence[str]]) -> str:
    """The options of the last of a run's commands that was a ``cfbench run``, as TOML; empty where none was."""
    own = [list(c[c.index("run") + 1 :]) for c in commands if "run" in c[:2]]
    if not own:
        return ""
    try:
        with command.make_context("run", own[-1], resilient_parsing=True) as context:
            return config_text(context)
    except click.ClickException:  # an option of another version
        return ""


def _given(context: click.Context) -> Iterator[tuple[str, click.Option, Any]]:
    """The name, the option and the value of everything that was given and has a value."""
    for name, option in _options(context.command).items():
        value = context.params.get(str(option.name))
        given = context.get_parameter_source(str(option.name)) is not ParameterSource.DEFAULT
        if given and value not in (None, ()) and (value or not option.is_flag or option.secondary_opts):
            yield name, option, value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
