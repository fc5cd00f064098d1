"""The process in which plugins are checked: it may hang or die, and has told by then how far it came."""

from __future__ import annotations

import faulthandler
import inspect
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PluginError, UserError, did_you_mean, reason_of
from ..plugins.discovery import Plugin, plugins_in_file
from ..plugins.registry import Registry
from ..plugins.signatures import Kind
from ..plugins.spec import parse_specs

__all__ = ["main"]


LOAD, NAME = "load", "name"
"""What is asked of a plugin before all checks: that it can be loaded, and that its name is its own."""
KINDS: tuple[Kind, ...] = ("method", "dataset", "metric")
Say = Callable[..., None]


@dataclass(frozen=True)
class Found:
    """A plugin to check: its class and settings, or the reason why there is none."""

    label: str
    kind: str
    origin: str
    cls: type[Any] | None = None
    params: dict[str, Any] | None = None
    problem: str = ""
    clash: str = ""


def examine(asked: dict[str, Any], say: Say) -> None:
    """Check what is asked for, and say each step; checks that are settled already keep their outcome."""
    from .. import conformance  # noqa: F401  (its own imports take no plugin's time)

    say(event="ready")
    say(event="begin", check=LOAD)
    found = list(_found(asked))
    for each in found:
        say(event="plugin", label=each.label, kind=each.kind, origin=each.origin, file=_file(each.cls))
    for each in found:
        _say_loaded(each, say)
        settled = asked["settled"].get(each.label, {})
        if each.cls and LOAD not in settled:
            say(event="begin", label=each.label, check=LOAD)
            try:
                _examine(each, settled, asked["data_root"], say)
            except UserError as error:
                say(event="end", label=each.label, check=LOAD, status="failed", text=str(error))
    say(event="done")


def _examine(each: Found, settled: Mapping[str, tuple[str, str]], root: str, say: Say) -> None:
    """Check one plugin."""
    from ..conformance import Skipped, Violation, checks, subject

    assert each.cls is not None
    made: dict[str, type[Violation] | type[Skipped]] = {"failed": Violation, "not run": Violation, "skipped": Skipped}
    examined = subject(each.cls, data_root=Path(root) if Path(root).is_dir() else None, **(each.params or {}))
    for name, (status, text) in settled.items():
        examined.outcomes[name] = made[status](text) if status in made else None
    asks = checks(examined)
    say(event="checks", label=each.label, checks=[c.name for c in asks])
    for check in (c for c in asks if c.name not in settled):
        say(event="begin", label=each.label, check=check.name)
        outcome = check.outcome(examined)
        status = "ok" if outcome is None else "skipped" if isinstance(outcome, Skipped) else "failed"
        text = check.text if outcome is None else str(outcome)
        say(event="end", label=each.label, check=check.name, status=status, text=text)


def _say_loaded(each: Found, say: Say) -> None:
    if each.cls is None:
        say(event="end", label=each.label, check=LOAD, status="failed", text=each.problem)
    if each.clash:
        say(event="end", label=each.label, check=NAME, status="failed", text=each.clash)


def _file(cls: type[Any] | None) -> str:
    try:
        return str(inspect.getsourcefile(cls) or "") if cls else ""
    except (TypeError, OSError):
        return ""


def _found(asked: dict[str, Any]) -> Iterator[Found]:
    """The plugins that a file defines, or those that have a name."""
    target, plugins = asked["target"], [Path(p) for p in asked["plugins"]]
    if not asked["is_file"]:
        return _named(Registry(plugins), target)
    file = Path(target)
    return _in_file(Registry([*plugins, file]), file)


def _in_file(registry: Registry, file: Path) -> Iterator[Found]:
    for plugin in plugins_in_file(file):
        if not isinstance(plugin, Plugin):
            yield Found(file.name, "file", plugin.origin, problem=f"cannot be loaded: {plugin.reason}")
            continue
        try:
            registry.find(plugin.kind, plugin.name)
            clash = ""
        except PluginError as error:
            clash = str(error)
        yield Found(plugin.name, plugin.kind, str(file.resolve()), plugin.cls, clash=clash)


def _named(registry: Registry, text: str) -> Iterator[Found]:
    spec = parse_specs(text)[0]
    kinds = [k for k in KINDS if spec.name in registry.names(k)]
    if not kinds and registry.broken:
        registry.find("method", spec.name)
    if not kinds:
        known = [n for k in KINDS for n in registry.names(k)]
        raise UserError(f"no plugin {spec.name!r}; {did_you_mean(spec.name, known)}")
    for kind in kinds:
        label = spec.label if len(kinds) == 1 else f"{kind} {spec.label}"
        try:
            cls, params = registry.resolve(kind, spec)
            yield Found(label, kind, registry.find(kind, spec.name).origin, cls, params)
        except PluginError as error:
            yield Found(label, kind, registry.plugins[kind, spec.name].origin, problem=str(error))


def _end_with(life: int) -> None:
    """End this process and all that it started when the one that waits for it is gone."""
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Examine what the first argument asks for, in JSON."""
    asked = json.loads(sys.argv[1])
    sys.argv[1:] = []
    out, trace, life = asked["fds"]
    for fd in (out, trace, life):
        os.set_inheritable(fd, False)
    faulthandler.enable(trace, all_threads=False)
    faulthandler.register(signal.SIGUSR1, trace, all_threads=False)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()

    def say(**event: Any) -> None:
        os.write(out, (json.dumps(event) + "\n").encode())

    import torch

    torch.set_num_threads(1)
    try:
        examine(asked, say)
    except UserError as error:
        say(event="broken" if isinstance(error, PluginError) else "mistake", text=str(error))
    except Exception as error:
        traceback.print_exc()
        say(event="broken", text=f"the checks themselves failed: {reason_of(error)}")
