"""A run in a process of its own, with the CPU-seconds of methods, judges, metrics and data counted apart.

``python stopwatch.py OPTIONS`` takes the arguments of ``cfbench`` as JSON, the plugin file and whether one Ray worker
does the work, and prints JSON.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

WATCHED = {
    "method": ("fit", "tune", "abduct", "predict", "answer", "sample"),
    "dataset": ("open", "prepare", "split", "act", "oracle", "measure"),
    "metric": ("__call__",),
}
SPENT: Counter[str] = Counter()
INSIDE: list[str] = []


def watch(owner: Any, name: str, kind: str) -> None:
    """Count the CPU-seconds of a function, but for those of watched functions that it calls."""
    function = owner.__dict__.get(name)
    if not callable(function) or hasattr(function, "watched"):
        return

    @functools.wraps(function)
    def timed(*given: Any, **named: Any) -> Any:
        if INSIDE:
            return function(*given, **named)
        INSIDE.append(kind)
        begun = time.process_time()
        try:
            return function(*given, **named)
        finally:
            SPENT[kind] += time.process_time() - begun
            INSIDE.pop()

    timed.watched = True  # type: ignore[attr-defined]
    setattr(owner, name, timed)


def watch_all(plugin: str) -> None:
    """Watch every plugin, and the making of judges."""
    import cfbench.judges
    from cfbench.judges import report, training
    from cfbench.plugins.registry import Registry

    registry = Registry([Path(plugin)] if plugin else [])
    for kind, names in WATCHED.items():
        for plugin_name in registry.names(kind):
            for cls in registry.load(kind, plugin_name).__mro__:
                if cls.__module__.split(".")[0] not in ("builtins", "torch"):
                    for name in names:
                        watch(cls, name, kind)
    for module, name in ((training, "train_judges"), (report, "card")):
        watch(module, name, "judges")
        setattr(cfbench.judges, name, getattr(module, name))


def family(pid: int) -> float:
    """CPU-seconds of the processes below one, from Linux' /proc."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            stats[int(path.parent.name)] = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
    found = [pid]
    for each in found:
        found += [child for child, stat in stats.items() if int(stat[1]) == each]
    ticks = sum(int(t) for child in found[1:] for t in stats[child][11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def main(argv: list[str], plugin: str, ray: bool) -> None:
    """Run a command and print what it took."""
    from cfbench.cli import main
    from cfbench.engine import execute as executing
    from cfbench.engine import launch
    from cfbench.engine.workers import ray_executor

    if ray:  # where one worker does all: the command itself starts Ray for several only
        executing.nullcontext = lambda here: ray_executor.ray_executor(here.loaded, 1)
    else:
        watch_all(plugin)
        assert executing.nullcontext is nullcontext
    working, execute = [0.0], launch.execute

    def timed(*given: Any, **named: Any) -> Any:
        import ray as module

        shutdown = module.shutdown

        def last(*a: Any, **k: Any) -> None:
            working[0] += family(os.getpid())
            shutdown(*a, **k)

        if ray:
            module.shutdown = last
        return execute(*given, **named)

    if ray:
        launch.execute = timed
    sys.argv = ["cfbench", *argv]
    loaded = time.process_time()
    code = main._main(argv)
    assert code == 0, code
    counted = {"loading": loaded, "total": time.process_time() + working[0], "workers": working[0]}
    print(f"\n{json.dumps({**counted, **{kind: SPENT[kind] for kind in (*WATCHED, 'judges')}})}")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
