"""Where every cell of a run stands, how long it will take, and the live table or plain lines that show it."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..runs import progress
from ..runs.chain import Outcome, Status, Task, cell_tasks, dataset_tasks
from ..runs.console import in_background
from ..runs.job import Cell
from ..runs.progress import EVENTS, TaskProgress, format_duration, run_lock, tasks_in_progress

__all__ = ["CellProgress", "RunMonitor", "cell_table", "draw_table", "headline", "live_display", "progress_lines"]


Kind = tuple[str, ...]
MOST = 2**26
"""Bytes of a log that are read at a look: those of a hundred thousand tasks."""
LATEST = 20
"""Times of a kind that count: the machine may have become another."""


@dataclass(frozen=True)
class CellProgress:
    """Where a cell stands: what is under way or why it ended, the seconds spent, and those left.

    ``left`` is None where nothing is known; a part of it is not, where it is not ``sure``.
    """

    label: str
    status: Status
    about: str = ""
    seconds: float = 0.0
    left: float | None = None
    sure: bool = True

    @property
    def remaining(self) -> str:
        """The time left, with a plus where more will come to it."""
        return "" if self.left is None else format_duration(self.left) + ("" if self.sure else "+")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)


class RunMonitor:
    """The cells of a run as they go on.

    Args:
        folder: of the run.
        cells: its cells.
        controls: the labels of the methods that are controls, which take another time than methods.
    """

    def __init__(self, folder: Path, cells: Iterable[Cell], controls: Iterable[str] = ()) -> None:
        self.folder, self.cells, self.controls = folder, list(cells), frozenset(controls)
        datasets = {c.dataset.label: c.dataset for c in self.cells}
        self.shared = [task for d in datasets.values() for task in dataset_tasks(d, {})]
        chains = {c.label: {t.id: t for t in cell_tasks(c)} for c in self.cells}
        self.chains = {label: list(chain) for label, chain in chains.items()}
        self.tasks = {t.id: t for t in self.shared} | {
            name: t for chain in chains.values() for name, t in chain.items()
        }
        self.kinds = {name: self._kinds(t) for name, t in self.tasks.items()}
        self.done: set[str] = set()
        self.bad: dict[str, tuple[Status, str]] = {}
        self.status: dict[str, tuple[Status, str]] = {}
        self.seconds: dict[str, float] = {}
        self.took: dict[Kind, list[float]] = {}
        self.doing: dict[str, TaskProgress] = {}
        self.ended: set[str] = set()
        self.over: set[str] = set()
        self.now = self.begun = time.time()
        self.asked, self.slots, self._read, self._lock = 0, 1, 0, threading.Lock()

    def end(self, outcome: Outcome) -> None:
        """Take note of how a task ended."""
        self.ended.add(outcome.task.id)
        if outcome.status is Status.DONE:
            self.done.add(outcome.task.id)
        else:
            self.bad[outcome.task.id] = outcome.status, outcome.reason

    def update(self, now: float | None = None) -> bool:
        """Read what is new in the log, and what is under way; whether a task has ended since the last time."""
        with self._lock:
            news = [self._note(event) for event in self._news()]
            self.now = time.time() if now is None else now
            doing = {d.task: d for d in tasks_in_progress(self.folder) if d.task in self.tasks}
            self.doing = {task: d for task, d in doing.items() if task not in self.ended}
        return any(news)

    def _note(self, event: Mapping[str, Any]) -> bool:
        """Take note of an event; whether it is the end of a task."""
        seconds, task = _number(event.get("seconds")), event.get("task", "")
        if event.get("event") == "begin":
            self.begun, self.asked = _number(event.get("time")) or self.now, int(_number(event.get("tasks")) or 0)
            self.slots, self.over = int(_number(event.get("jobs")) or 1), set()
        if event.get("event") != "end" or task not in self.tasks:
            return False
        self.over.add(task)
        if seconds is not None:
            self.seconds[task] = seconds
        if event.get("status") == Status.DONE and seconds is not None:
            for kind in self.kinds[task]:
                self.took.setdefault(kind, []).append(seconds)
        return True

    def _news(self) -> Iterable[dict[str, Any]]:
        """The events that were written since the last look, but for a line that is half written."""
        path = self.folder / EVENTS
        try:
            if not path.is_file():
                return
            with path.open("rb") as file:
                file.seek(self._read)
                text = file.read(MOST)
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("task", ""), str):
                yield event

    def rows(self) -> list[CellProgress]:
        """What data sets share while it is under way, and every cell."""
        shared = [self._row(t.id, [t.id]) for t in self.shared if t.id in self.doing or t.id in self.bad]
        return [*shared, *(self._row(label, chain) for label, chain in self.chains.items())]

    def _row(self, label: str, chain: list[str]) -> CellProgress:
        at = [self.doing[t] for t in chain if t in self.doing]
        spent = sum(self.seconds.get(t, 0.0) for t in chain) + sum(max(self.now - d.begun, 0.0) for d in at)
        status, reason = self.status.get(label, (Status.PENDING, ""))
        bad = next((self.bad[t] for t in chain if t in self.bad), None)
        if at:
            about = ", ".join(f"{self.tasks[d.task].stage} {d}".strip() for d in at)
            return CellProgress(label, Status.RUNNING, about, spent, *self.left(chain))
        if status is not Status.PENDING:
            return CellProgress(label, status, reason, spent)
        if bad:
            return CellProgress(label, *bad, spent)
        if self.done.issuperset(chain):
            return CellProgress(label, Status.OK, "", spent)
        return CellProgress(label, Status.PENDING, reason, spent, *self.left(chain))

    def left(self, chain: Iterable[str]) -> tuple[float | None, bool]:
        """Seconds that tasks still take, one after another, and whether something is known of each."""
        known = [self._left(t) for t in chain if t not in self.done and t not in self.bad]
        sums = [k for k in known if k is not None]
        return (sum(sums) if sums else None), len(sums) == len(known)

    def total(self) -> tuple[float | None, bool]:
        """Seconds until all is done with so many tasks at once, and whether something is known of each task."""
        left, sure = self.left(self.tasks)
        return (None if left is None else left / max(self.slots, len(self.doing), 1)), sure

    def _left(self, task: str) -> float | None:
        usual, doing = self.usual(task), self.doing.get(task)
        if doing is None:
            return usual
        measured, rest = doing.left(self.now), None if usual is None else max(usual - (self.now - doing.begun), 0.0)
        if measured is not None and doing.first > 0:  # it went on from a checkpoint and will take less than usual
            return measured
        return max((s for s in (measured, rest) if s is not None), default=None)

    def usual(self, task: str) -> float | None:
        """Seconds that the same stage took for the cells that are most alike; None where it has taken none yet."""
        found = next((self.took[kind] for kind in self.kinds[task] if kind in self.took), None)
        return median(found[-LATEST:]) if found else None

    def _kinds(self, task: Task) -> list[Kind]:
        """What a task is one of, from the most to the least alike; controls are not alike to methods."""
        if task.cell is None:
            return [(task.stage,)]
        stage, method, dataset = task.stage, task.cell.method, task.dataset.label
        same = [(stage, method.label), (stage, method.name), (stage, str(method.label in self.controls))]
        return [kind for s in same for kind in ((*s, dataset), s)]


COLOURS = {Status.RUNNING: "cyan", Status.PENDING: "dim", Status.OK: "green"}


Say = Callable[[str], None]


@contextmanager
def live_display(monitor: RunMonitor) -> Iterator[Say]:
    """A display of a run on standard error, and the sign for others that it is going; yields a way to say a line.

    Args:
        monitor: on its cells; the caller tells it how tasks end.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with run_lock(monitor.folder):
        yield from _live(console, monitor) if console.is_terminal else _plain(monitor)


def _live(console: Any, monitor: RunMonitor) -> Iterator[Say]:
    from rich.live import Live
    from rich.text import Text

    def draw() -> Any:
        monitor.update()
        return draw_table(monitor, headline(monitor), console.size.height)

    with Live(get_renderable=draw, console=console, refresh_per_second=1, transient=True) as live:
        yield lambda text: live.console.print(Text(text))


def _plain(monitor: RunMonitor) -> Iterator[Say]:
    stop = threading.Event()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def watch() -> None:
        while not stop.wait(progress.EVERY):
            monitor.update()
            for line in progress_lines(monitor):
                say(line)

    with in_background(watch, stop):
        yield say


def headline(monitor: RunMonitor) -> str:
    """How many tasks are over, since when, and for how long it will go on."""
    left, sure = monitor.total()
    over = f"{len(monitor.over | monitor.ended)} of {monitor.asked} tasks over, " if monitor.asked else ""
    rest = "" if left is None else f", about {format_duration(left)}{'' if sure else ' or more'} left"
    return f"{over}{format_duration(max(monitor.now - monitor.begun, 0.0))}{rest}"


def progress_lines(monitor: RunMonitor) -> list[str]:
    """One line for each task under way, and one for the whole."""
    doing = [f"  {d.task}: {d}".removesuffix(": ") for d in monitor.doing.values()]
    return [*doing, f"  {headline(monitor)}"] if doing else []


def draw_table(monitor: RunMonitor, first: str, height: int) -> Any:
    """The table with a line above; where it does not fit, what goes on and what went wrong, and a count of the rest."""
    from rich.console import Group
    from rich.text import Text

    rows, room = monitor.rows(), max(height - 4, 3)
    shown = rows if len(rows) <= room else _foremost(rows, room - 1)
    rest = [r.status for r in rows if r not in shown]
    counts = ", ".join(f"{rest.count(s)} {s}" for s in dict.fromkeys(rest))
    return Group(Text(first), cell_table(shown), *([Text(f"and {counts}", style="dim")] if rest else []))


def _foremost(rows: list[CellProgress], room: int) -> list[CellProgress]:
    """The rows that matter most, in their order."""
    weights = {Status.RUNNING: 0, Status.PENDING: 2, Status.OK: 3, Status.SKIPPED: 3}
    order = sorted(range(len(rows)), key=lambda i: weights.get(rows[i].status, 1))
    return [rows[i] for i in sorted(order[:room])]


def cell_table(rows: list[CellProgress]) -> Any:
    """Rows side by side, each in one line."""
    from rich.text import Text

    head = ("status", "cell", "seconds", "left", "under way")
    words = [head, *((r.status, r.label, f"{r.seconds:.1f}" * (r.seconds > 0), r.remaining, r.about) for r in rows)]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    found = Text(no_wrap=True, overflow="ellipsis")
    for line, style in zip(words, ["bold", *(COLOURS.get(r.status, "red") for r in rows)], strict=True):
        status, label, seconds, left, about = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        found.append(status, style)
        found.append(f"  {label}  {seconds.strip():>{widths[2]}}  {left.strip():>{widths[3]}}  {about.rstrip()}\n")
    found.rstrip()
    return found
