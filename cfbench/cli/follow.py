"""The command ``status``: the status of every cell of a run, once or until the run stops."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from .. import storage
from ..engine.checkpoints import resumption
from ..engine.display import CellProgress, RunMonitor, draw_table, headline, progress_lines
from ..engine.estimates import Workload, earlier_runs
from ..runs.chain import STAGES, Status, cell_tasks
from ..runs.findings import BROKEN
from ..runs.folders import find_run
from ..runs.job import Cell
from ..runs.manifest import Manifest, read_manifest
from ..runs.progress import EVERY, is_active, read_events
from ..runs.reader import CellState, cell_states
from ..runs.terminal import open_console
from .config import stored_config

__all__ = ["monitor_of", "status_command"]


INTERVAL = 0.5
"""Seconds between two updates."""
States = Sequence[tuple[Cell, CellState]]


def status_command(name: str, run_root: Path, run: click.Command, follow: bool = False) -> int:
    """Print the status of every cell, and the options of the run; with ``follow`` repeatedly until the run stops.

    Args:
        run: the command that reads the options of a run.
    """
    folder = find_run(name, run_root)
    if follow and is_active(folder):
        try:
            _follow(folder)
        except KeyboardInterrupt:
            return 0
    manifest = read_manifest(folder)
    states = cell_states(folder, manifest)
    for line in [*status_lines(monitor_of(folder, manifest, states).rows()), *_health_lines(states)]:
        print(line)
    if options := stored_config(run, manifest.commands):
        print(f"\noptions:\n{indent(options, '  ').rstrip()}")
    if follow:
        print(f"no process is at work on {folder}; the same `cfbench run` does what is pending", file=sys.stderr)
    return 0


def _health_lines(states: States) -> list[str]:
    """A line for each finding of a fit or a tuning, with the cell that answers by it."""
    found = [(cell, f) for cell, state in states for f in state.notes.get("health", ())]
    return [f"{BROKEN} {cell.label}: {finding.sentence}" for cell, finding in found]


def monitor_of(folder: Path, manifest: Manifest | None = None, states: States | None = None) -> RunMonitor:
    """A monitor of a run, read from its folder; ``run.json`` and the states of cells only where they are not given.

    Raises:
        UserError: there is no run in the folder, or a stage is not as cfbench writes it.
    """
    manifest = manifest or read_manifest(folder)
    device = next((str(e["device"]) for e in reversed([*read_events(folder)]) if "device" in e), "cpu")
    monitor = RunMonitor(
        folder, manifest.cells, manifest.controls, work=Workload.of_run(manifest), device=device,
        history=earlier_runs(folder, device) if is_active(folder) else None,
    )  # fmt: skip
    _read_stages(monitor, manifest, cell_states(folder, manifest) if states is None else states)
    monitor.update()
    if not is_active(folder):
        monitor.in_progress = {}
    return monitor


def _read_stages(monitor: RunMonitor, manifest: Manifest, found: States) -> None:
    """Read which stages are there, and how cells ended."""
    monitor.status = {c.label: (s.status, s.reason or _continues(monitor.folder, c, s.status)) for c, s in found}
    monitor.done = {
        t.id for cell, state in found for t in cell_tasks(cell) if _is_done(monitor.folder, cell, t.stage, state.status)
    }
    for task in monitor.shared:
        entry = manifest.datasets[task.dataset.label]
        if storage.is_complete(monitor.folder / entry.stages[STAGES[task.stage].key]):
            monitor.done.add(task.id)


def _continues(folder: Path, cell: Cell, status: Status) -> str:
    """Where the fit of a pending cell will continue."""
    train = folder / cell.stage("train") if status is Status.PENDING and not cell.external else None
    where = resumption(train) if train and not storage.is_complete(train) else None
    return f"train continues {where}" if where else ""


def _is_done(folder: Path, cell: Cell, stage: str, status: Status) -> bool:
    if stage == "scores" or status.answered:
        return status.answered
    return storage.is_complete(folder / cell.stage(stage))


def status_lines(rows: list[CellProgress]) -> list[str]:
    """Rows as lines of text, below a head: status, cell, seconds, the task in progress or why there is none.

    Columns of which no row has anything are left out; without rows there is one line that says so.
    """
    if not rows:
        return ["no rows yet: `cfbench run` adds methods, `cfbench score` answers made elsewhere"]
    head = ("status", "cell", "seconds", "under way, or why not")
    table = [head, *map(_texts, rows)]
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    padded = [_padded(column, right=column[0] == "seconds") for column in columns]
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]


def _texts(row: CellProgress) -> tuple[str, str, str, str]:
    left = f"{row.remaining} left" if row.status is Status.RUNNING and row.remaining else ""
    seconds = f"{row.seconds:.1f}" if row.seconds else ""
    return str(row.status), row.label, seconds, "; ".join(filter(None, (row.about, left)))


def _padded(column: Sequence[str], right: bool) -> list[str]:
    """The texts of a column, all as wide as its widest."""
    width = max(map(len, column))
    return [text.rjust(width) if right else text.ljust(width) for text in column]


def _follow(folder: Path) -> None:
    console = open_console()
    (_watch_live if console.is_terminal else _watch_plain)(folder, console)


def _watch_live(folder: Path, console: Any) -> None:
    from rich.live import Live

    monitor = monitor_of(folder)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        _watch(folder, monitor, lambda o: live.update(draw_table(o, headline(o), console.size.height), refresh=True))


def _watch_plain(folder: Path, console: Any) -> None:
    """Print cells whose status has changed, and every `EVERY` seconds the tasks in progress."""
    before: dict[str, Status] = {}
    printed = 0.0

    def show(monitor: RunMonitor) -> None:
        nonlocal printed
        rows = monitor.rows()
        for line in status_lines(
            [r for r in rows if before.get(r.label) != r.status and (before or r.status is Status.RUNNING)]
        )[1:]:
            print(line, flush=True)
        before.update({r.label: r.status for r in rows})
        if monitor.now - printed >= EVERY:
            printed = monitor.now
            for line in progress_lines(monitor):
                print(line, flush=True)

    _watch(folder, monitor_of(folder), show)


def _watch(folder: Path, monitor: RunMonitor, show: Callable[[RunMonitor], None]) -> None:
    """Show a run until it stops; stages are read when tasks have ended, less often where reading takes long."""
    cost, last, due = 0.0, time.monotonic(), False
    while is_active(folder):
        due |= monitor.update()
        if due and time.monotonic() - last > 10 * cost:
            begun = time.monotonic()
            manifest = read_manifest(folder)
            _read_stages(monitor, manifest, cell_states(folder, manifest))
            last, due = time.monotonic(), False
            cost = last - begun
        show(monitor)
        time.sleep(INTERVAL)
