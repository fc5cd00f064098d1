"""The worker process that checks plugins and sends each step as an event, as it may hang or crash in any of them."""

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

from ..errors import PluginError, UserError, reason_of
from ..plugins.discovery import Plugin, plugins_in_file
from ..plugins.registry import Registry
from ..plugins.signatures import Kind
from ..plugins.spec import parse_specs

__all__ = ["main"]


LOAD, NAME = "load", "name"
"""Checks before all others: that the plugin can be loaded, and that its name is unique."""
KINDS: tuple[Kind, ...] = ("method", "dataset", "metric")
Send = Callable[..., None]


@dataclass(frozen=True)
class Candidate:
    """A plugin to check: its class and keywords, or the reason why it cannot be loaded."""

    label: str
    kind: str
    origin: str
    cls: type[Any] | None = None
    params: dict[str, Any] | None = None
    problem: str = ""
    clash: str = ""


def run_checks(request: dict[str, Any], send: Send) -> None:
    """Check the plugins of a request and send each step; settled checks keep their outcome."""
    from .. import conformance  # noqa: F401  (not part of the time limit of a check)

    send(event="ready")
    send(event="begin", check=LOAD)
    found = list(_candidates(request))
    for each in found:
        send(event="plugin", label=each.label, kind=each.kind, origin=each.origin, file=_file(each.cls))
    for each in found:
        _send_loading(each, send)
        settled = request["settled"].get(each.label, {})
        if each.cls and LOAD not in settled:
            send(event="begin", label=each.label, check=LOAD)
            try:
                _run_checks(each, settled, request["recorded"].get(each.label, {}), request["data_root"], send)
            except UserError as error:
                send(event="end", label=each.label, check=LOAD, status="failed", text=str(error))
    send(event="done")


def _run_checks(
    each: Candidate, settled: Mapping[str, tuple[str, str]], recorded: Mapping[str, Any], root: str, send: Send
) -> None:
    """Check one plugin; ``recorded`` is what its calls did in earlier processes, where they were settled."""
    from ..conformance import Skipped, Violation, checks, subject

    assert each.cls is not None
    outcomes: dict[str, type[Violation | Skipped]] = {"failed": Violation, "not run": Violation, "skipped": Skipped}
    examined = subject(each.cls, data_root=Path(root) if Path(root).is_dir() else None, **(each.params or {}))
    examined.state_changes.update(recorded.get("state_changes", {}))
    examined.test_data_uses.extend(recorded.get("test_data_uses", ()))
    examined.progress = lambda stage, done, total, loss=None: send(
        event="progress", stage=str(stage), done=int(done or 0), total=int(total or 0)
    )
    for name, (status, text) in settled.items():
        examined.outcomes[name] = outcomes[status](text) if status in outcomes else None
    selected = checks(examined)
    send(event="checks", label=each.label, checks=[c.name for c in selected])
    for check in (c for c in selected if c.name not in settled):
        send(event="begin", label=each.label, check=check.name)
        outcome = check.outcome(examined)
        status = "ok" if outcome is None else "skipped" if isinstance(outcome, Skipped) else "failed"
        text = check.text if outcome is None else str(outcome)
        result = {"check": check.name, "status": status, "text": text}
        send(event="end", label=each.label, recorded=examined.recorded, **result)


def _send_loading(each: Candidate, send: Send) -> None:
    if each.cls is None:
        send(event="end", label=each.label, check=LOAD, status="failed", text=each.problem)
    if each.clash:
        send(event="end", label=each.label, check=NAME, status="failed", text=each.clash)


def _file(cls: type[Any] | None) -> str:
    try:
        return str(inspect.getsourcefile(cls) or "") if cls else ""
    except (TypeError, OSError):
        return ""


def _candidates(request: dict[str, Any]) -> Iterator[Candidate]:
    """The plugins that a file defines, or those of a name."""
    target, plugins = request["target"], [Path(p) for p in request["plugins"]]
    if not request["is_file"]:
        return _named(Registry(plugins), target)
    file = Path(target)
    return _in_file(Registry([*plugins, file]), file)


def _in_file(registry: Registry, file: Path) -> Iterator[Candidate]:
    for plugin in plugins_in_file(file):
        if not isinstance(plugin, Plugin):
            yield Candidate(file.name, "file", plugin.origin, problem=f"cannot be loaded: {plugin.reason}")
            continue
        try:
            registry.find(plugin.kind, plugin.name)
            clash = ""
        except PluginError as error:
            clash = str(error)
        yield Candidate(plugin.name, plugin.kind, str(file.resolve()), plugin.cls, clash=clash)


def _named(registry: Registry, text: str) -> Iterator[Candidate]:
    spec = parse_specs(text)[0]
    kinds = [k for k in KINDS if spec.name in registry.names(k)]
    if not kinds and registry.broken:
        registry.find("method", spec.name)
    if not kinds:
        known = [n for k in KINDS for n in registry.names(k)]
        raise UserError(f"no plugin {spec.name!r}; {registry.suggest(spec.name, known)}")
    for kind in kinds:
        label = spec.label if len(kinds) == 1 else f"{kind} {spec.label}"
        try:
            cls, params = registry.resolve(kind, registry.parse(kind, text)[0])
            yield Candidate(label, kind, registry.find(kind, spec.name).origin, cls, params)
        except PluginError as error:
            yield Candidate(label, kind, registry.plugins[kind, spec.name].origin, problem=str(error))


def _exit_with(lifeline: int) -> None:
    """Kill this process and all that it started when the parent process has ended."""
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the checks of the request in the first argument, in JSON."""
    request = json.loads(sys.argv[1])
    sys.argv[1:] = []
    events, trace, lifeline = request["fds"]
    for fd in (events, trace, lifeline):
        os.set_inheritable(fd, False)
    faulthandler.enable(trace, all_threads=False)
    faulthandler.register(signal.SIGUSR1, trace, all_threads=False)
    threading.Thread(target=_exit_with, args=(lifeline,), daemon=True).start()

    def send(**event: Any) -> None:
        os.write(events, (json.dumps(event) + "\n").encode())

    import torch

    torch.set_num_threads(1)
    try:
        run_checks(request, send)
    except UserError as error:
        send(event="broken" if isinstance(error, PluginError) else "mistake", text=str(error))
    except Exception as error:
        traceback.print_exc()
        send(event="broken", text=f"the checks themselves failed: {reason_of(error)}")
