"""The command ``status``: where every cell of a run stands, once or for as long as the run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import store
from .cells import Cell
from .commands import find_run
from .outlook import Outlook, Row, steps
from .progress import EVERY, going
from .reading import read_about, states
from .screen import drawn, head, lines

__all__ = ["status_command", "view"]

LOOK = 0.5
"""Seconds between two looks."""


def status_command(name: str, run_root: Path, follow: bool = False) -> int:
    """Print where every cell stands; with ``follow`` again and again until the run stops, or Ctrl-C."""
    folder = find_run(name, run_root)
    if follow and going(folder):
        try:
            _follow(folder)
        except KeyboardInterrupt:
            return 0
    for line in told(view(folder).rows()):
        print(line)
    if follow:
        print(f"no process is at work on {folder}; the same `cfbench run` does what is pending", file=sys.stderr)
    return 0


def view(folder: Path) -> Outlook:
    """The cells of a run as they stand on disk.

    Raises:
        UserError: there is no run in the folder, or a stage is not as cfbench writes it.
    """
    about = read_about(folder)
    outlook = Outlook(folder, [Cell.from_dict(c) for c in about["cells"]], about["controls"])
    _look(outlook, about)
    outlook.update()
    if not going(folder):
        outlook.doing = {}
    return outlook


def _look(outlook: Outlook, about: dict[str, Any]) -> None:
    """Which stages are there, and how cells ended."""
    found = states(outlook.folder, about)
    outlook.status = {cell.label: (state.status, state.reason) for cell, state in found}
    outlook.done = {t.id for cell, state in found for t in steps(cell) if _there(outlook.folder, cell, t.stage, state)}
    for described in about["datasets"].values():
        for task in outlook.shared:
            kind = "plan" if task.stage == "prepare" else "judges"
            if task.dataset.folder == described["folder"] and store.complete(outlook.folder / described[kind]):
                outlook.done.add(task.id)


def _there(folder: Path, cell: Cell, stage: str, state: Any) -> bool:
    if stage == "scores" or state.status in ("ok", "invalid"):
        return state.status in ("ok", "invalid")
    return store.complete(folder / cell.stage(stage))


def told(rows: list[Row]) -> list[str]:
    """Rows as lines of text: status, cell, seconds, what is under way or why it is not."""
    width = max((len(r.label) for r in rows), default=0)
    return [_line(row, width) for row in [Row("cell", "status", "seconds"), *rows]]


def _line(row: Row, width: int) -> str:
    seconds = f"{row.seconds:.1f}" if row.seconds else ""
    if row.status == "status":
        seconds, about = row.about, "under way, or why not"
    else:
        left = f"{row.remaining} left" if row.status == "running" and row.remaining else ""
        about = "; ".join(filter(None, (row.about, left)))
    return f"{row.status:<8} {row.label:<{width}} {seconds:>8}  {about}".rstrip()


def _follow(folder: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    (_watch_live if console.is_terminal else _watch_plain)(folder, console)


def _watch_live(folder: Path, console: Any) -> None:
    from rich.live import Live

    outlook = view(folder)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        _watch(folder, outlook, lambda o: live.update(drawn(o, head(o), console.size.height), refresh=True))


def _watch_plain(folder: Path, console: Any) -> None:
    """Cells whose status has changed, and now and then what is under way."""
    before: dict[str, str] = {}
    said = 0.0

    def show(outlook: Outlook) -> None:
        nonlocal said
        rows = outlook.rows()
        for line in told([r for r in rows if before.get(r.label) != r.status and (before or r.status == "running")])[
            1:
        ]:
            print(line, flush=True)
        before.update({r.label: r.status for r in rows})
        if outlook.now - said >= EVERY:
            said = outlook.now
            for line in lines(outlook):
                print(line, flush=True)

    _watch(folder, view(folder), show)


def _watch(folder: Path, outlook: Outlook, show: Callable[[Outlook], None]) -> None:
    """Show a run until it stops; stages are looked for when tasks have ended, not too often where that takes long."""
    cost, looked, due = 0.0, time.monotonic(), False
    while going(folder):
        due |= outlook.update()
        if due and time.monotonic() - looked > 10 * cost:
            begun = time.monotonic()
            _look(outlook, read_about(folder))
            looked, due = time.monotonic(), False
            cost = looked - begun
        show(outlook)
        time.sleep(LOOK)
