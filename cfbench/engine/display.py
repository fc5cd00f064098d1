"""The status of every cell of a run, the estimated time left, and the live table or plain lines that show both."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runs import progress
from ..runs.chain import Outcome, Status, Task, cell_tasks, dataset_tasks
from ..runs.console import in_background
from ..runs.job import Cell
from ..runs.progress import EVENTS, TaskProgress, format_duration, run_lock, tasks_in_progress
from ..runs.terminal import open_console
from ..storage.schema import printable
from .checkpoints import Resumption
from .estimates import CLOSE, Durations, History, TimeLeft, Workload, number_of, parallel

__all__ = ["CellProgress", "RunMonitor", "cell_table", "draw_table", "headline", "live_display", "progress_lines"]


MAX_READ = 2**26
"""Bytes of a log that are read at once: those of a hundred thousand tasks."""


@dataclass(frozen=True)
class CellProgress:
    """The progress of a cell: its status, the task in progress or why it ended, the seconds spent, and those left."""

    label: str
    status: Status
    about: str = ""
    seconds: float = 0.0
    left: TimeLeft | None = None

    @property
    def remaining(self) -> str:
        """The time left, as a range where it is uncertain, with a plus where it is a lower bound."""
        return "" if self.left is None else self.left.clock


class RunMonitor:
    """Follows the cells of a run.

    Args:
        folder: of the run.
        cells: its cells.
        controls: labels of the methods that are controls, whose durations are not compared with those of methods.
        work: the sizes of its tasks; by default all are alike.
        history: durations of other runs, to which those of this run are added.
        device: that it computes on now.
    """

    def __init__(
        self, folder: Path, cells: Iterable[Cell], controls: Iterable[str] = (), *, work: Workload | None = None,
        history: History | None = None, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.folder, self.cells, self.controls = folder, list(cells), frozenset(controls)
        self.work, self.history = work, history or History()
        datasets = {c.dataset.label: c.dataset for c in self.cells}
        self.shared = [task for d in datasets.values() for task in dataset_tasks(d, {})]
        self.titles = {c.label: c.title for c in self.cells}
        chains = {c.label: {t.id: t for t in cell_tasks(c)} for c in self.cells}
        self.chains = {label: list(chain) for label, chain in chains.items()}
        self.tasks = {t.id: t for t in self.shared} | {
            name: t for chain in chains.values() for name, t in chain.items()
        }
        self.log = Durations(self.tasks, device)
        self.done: set[str] = set()
        self.failures: dict[str, tuple[Status, str]] = {}
        self.status: dict[str, tuple[Status, str]] = {}
        self.seconds: dict[str, float] = {}
        self.resumed: dict[str, Resumption] = {}
        self.in_progress: dict[str, TaskProgress] = {}
        self.ended: set[str] = set()
        self.logged_ends: set[str] = set()
        self.now = self.begun = time.time()
        self.total_tasks, self.slots, self._read, self._lock = 0, 1, 0, threading.Lock()

    def end(self, outcome: Outcome) -> None:
        """Register how a task ended."""
        self.ended.add(outcome.task.id)
        if outcome.status is Status.DONE:
            self.done.add(outcome.task.id)
        else:
            self.failures[outcome.task.id] = outcome.status, outcome.reason

    def update(self, now: float | None = None) -> bool:
        """Read new events and the notes of tasks in progress; whether a task has ended since the last update."""
        with self._lock:
            ends = [self._apply(event) for event in self._new_events()]
            self.now = time.time() if now is None else now
            notes = {note.task: note for note in tasks_in_progress(self.folder) if note.task in self.tasks}
            self.in_progress = {task: note for task, note in notes.items() if task not in self.ended}
        return any(ends)

    def _apply(self, event: Mapping[str, Any]) -> bool:
        """Register an event; whether it is the end of a task."""
        seconds, task = number_of(event.get("seconds")), event.get("task", "")
        if event.get("event") == "begin":
            self.begun = number_of(event.get("time")) or self.now
            self.total_tasks = int(number_of(event.get("tasks")) or 0)
            self.slots, self.logged_ends = int(number_of(event.get("jobs")) or 1), set()
            self.resumed = {}
        if duration := self.log.apply(event):
            self.history.add(*duration, self._size(duration[0]), control=self._is_control(duration[0]))
        if event.get("event") == "start":
            self.resumed.pop(task, None)
        if event.get("event") == "resume":
            step, steps = (int(number_of(event.get(name)) or 0) for name in ("step", "steps"))
            self.resumed[task] = Resumption(printable(event.get("stage", ""), 60), step, steps, seconds or 0.0)
        if event.get("event") != "end" or task not in self.tasks:
            return False
        self.logged_ends.add(task)
        if seconds is not None:
            self.seconds[task] = seconds
        return True

    def _new_events(self) -> Iterable[dict[str, Any]]:
        """The events that were written since the last update, without a line that is incomplete."""
        path = self.folder / EVENTS
        try:
            if not path.is_file():
                return
            with path.open("rb") as file:
                file.seek(self._read)
                text = file.read(MAX_READ)
        except OSError:
            return
        complete = text[: text.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("task", ""), str):
                yield event

    def rows(self) -> list[CellProgress]:
        """The progress of shared tasks that are in progress or failed, and of every cell."""
        shared = [self._row(t.id, [t.id]) for t in self.shared if t.id in self.in_progress or t.id in self.failures]
        return [*shared, *(self._row(label, chain) for label, chain in self.chains.items())]

    def _row(self, label: str, chain: list[str]) -> CellProgress:
        notes = [self.in_progress[t] for t in chain if t in self.in_progress]
        spent = sum(self.seconds.get(t, 0.0) for t in chain) + sum(max(self.now - note.begun, 0.0) for note in notes)
        status, reason = self.status.get(label, (Status.PENDING, ""))
        label = self.titles.get(label, label)
        failure = next((self.failures[t] for t in chain if t in self.failures), None)
        if notes:
            about = ", ".join(
                f"{self.tasks[note.task].stage} {note}".strip() + self._continued(note.task) for note in notes
            )
            return CellProgress(label, Status.RUNNING, about, spent, self.left(chain))
        if status is not Status.PENDING:
            return CellProgress(label, status, reason, spent)
        if failure:
            return CellProgress(label, *failure, spent)
        if self.done.issuperset(chain):
            return CellProgress(label, Status.OK, "", spent)
        return CellProgress(label, Status.PENDING, reason, spent, self.left(chain))

    def _continued(self, task: str) -> str:
        """Where a task continued, behind its progress."""
        return f", continued {self.resumed[task]}" if task in self.resumed else ""

    def outcome_line(self, outcome: Outcome) -> str:
        """How a task ended, in a line."""
        self.update()
        name = outcome.task.id
        if outcome.status is Status.DONE:
            return f"{name}: {outcome.seconds:.1f} s{self._continued(name)}"
        return f"{name}: {outcome.status}{',' if outcome.status is Status.SKIPPED else ':'} {outcome.reason}"

    def left(self, chain: Iterable[str]) -> TimeLeft | None:
        """The time that tasks still take one after another; None where all are over."""
        known = [self._left(t) for t in chain if t not in self.done and t not in self.failures]
        return sum(known, TimeLeft()) if known else None

    def total(self) -> TimeLeft | None:
        """The time until all tasks are over, as many at once as now; None where all are."""
        left = {t: self._left(t) for t in self.tasks if t not in self.done and t not in self.failures}
        return parallel(self.tasks, left, max(self.slots, len(self.in_progress), 1)) if left else None

    def _left(self, task: str) -> TimeLeft:
        usual, note = self.usual(task), self.in_progress.get(task)
        if note is None:
            return usual or TimeLeft(complete=False)
        stage = note.left(self.now) or 0.0  # further stages may follow
        spent = self.now - note.begun + (self.resumed[task].seconds if task in self.resumed else 0.0)
        if usual is None or spent >= usual.high:
            return TimeLeft(stage, stage, complete=False)
        return TimeLeft(max(usual.low - spent, stage / CLOSE), max(usual.high - spent, stage * CLOSE))

    def usual(self, task: str) -> TimeLeft | None:
        """How long a whole task takes, as far as tasks of its kind are known; None where none is."""
        found = self.tasks[task]
        return self.history.estimate(found, self._size(found), control=self._is_control(found))

    def _size(self, task: Task) -> float:
        return self.work.of(task) if self.work else 1.0

    def _is_control(self, task: Task) -> bool:
        return task.cell is not None and task.cell.method.label in self.controls


COLOURS = {Status.RUNNING: "cyan", Status.PENDING: "dim", Status.OK: "green"}


PrintLine = Callable[[str], None]


@contextmanager
def live_display(monitor: RunMonitor) -> Iterator[PrintLine]:
    """Context manager that displays a run on standard error, and marks it as active; yields a function for lines.

    Args:
        monitor: of its cells; the caller registers how tasks end.
    """
    console = open_console(stderr=True)
    with run_lock(monitor.folder):
        yield from _live(console, monitor) if console.is_terminal else _plain(monitor)


def _live(console: Any, monitor: RunMonitor) -> Iterator[PrintLine]:
    from rich.live import Live
    from rich.text import Text

    def draw() -> Any:
        monitor.update()
        return draw_table(monitor, headline(monitor), console.size.height)

    with Live(get_renderable=draw, console=console, refresh_per_second=1, transient=True) as live:
        yield lambda text: live.console.print(Text(text))


def _plain(monitor: RunMonitor) -> Iterator[PrintLine]:
    stop = threading.Event()

    def print_line(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def watch() -> None:
        printed, known = time.monotonic(), set[str]()
        while not stop.wait(min(progress.EVERY, 1.0)):
            monitor.update()
            lines = {f"{t}: continues {monitor.resumed[t]}" for t in monitor.in_progress if t in monitor.resumed}
            for line in sorted(lines - known):
                print_line(line)
            known |= lines
            if time.monotonic() - printed >= progress.EVERY:
                printed = time.monotonic()
                for line in progress_lines(monitor):
                    print_line(line)

    with in_background(watch, stop):
        yield print_line


def headline(monitor: RunMonitor) -> str:
    """How many tasks have ended, for how long the run goes on already, and the time left."""
    left, ended = monitor.total(), len(monitor.logged_ends | monitor.ended)
    parts = [f"{ended} of {monitor.total_tasks} tasks over"] if monitor.total_tasks else []
    parts += [format_duration(max(monitor.now - monitor.begun, 0.0)), *([str(left)] if left else [])]
    return ", ".join(parts)


def progress_lines(monitor: RunMonitor) -> list[str]:
    """One line for each task in progress, and one for the run; none where no task is in progress."""
    lines = [f"  {note.task}: {note}".removesuffix(": ") for note in monitor.in_progress.values()]
    return [*lines, f"  {headline(monitor)}"] if lines else []


def draw_table(monitor: RunMonitor, first: str, height: int) -> Any:
    """The table below a first line; where it is too high, the most important rows and a count of the others."""
    from rich.console import Group
    from rich.text import Text

    rows, limit = monitor.rows(), max(height - 4, 3)
    shown = rows if len(rows) <= limit else _most_important(rows, limit - 1)
    rest = [r.status for r in rows if r not in shown]
    counts = ", ".join(f"{rest.count(s)} {s}" for s in dict.fromkeys(rest))
    return Group(Text(first), cell_table(shown), *([Text(f"and {counts}", style="dim")] if rest else []))


def _most_important(rows: list[CellProgress], limit: int) -> list[CellProgress]:
    """Rows in progress first, then failed ones, pending ones and finished ones, in the order of the table."""
    weights = {Status.RUNNING: 0, Status.PENDING: 2, Status.OK: 3, Status.SKIPPED: 3}
    order = sorted(range(len(rows)), key=lambda i: weights.get(rows[i].status, 1))
    return [rows[i] for i in sorted(order[:limit])]


def cell_table(rows: list[CellProgress]) -> Any:
    """Rows as columns of text, one line each."""
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
