"""Where every cell of a run stands and how long it will take: from its log, and from what its tasks say of themselves.

Times left are measured: of what is under way by its rate, of what has not begun by the same stage of other cells.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .cells import Cell
from .events import EVENTS
from .progress import Doing, clock, running
from .work import Task

__all__ = ["Outlook", "Row", "steps"]

Kind = tuple[str, ...]
MOST = 2**26
"""Bytes of a log that are read at a look: those of a hundred thousand tasks."""
LATEST = 20
"""Times of a kind that count: the machine may have become another."""


def steps(cell: Cell) -> list[Task]:
    """The tasks of a cell, in their order; the first two may be shared with other cells."""
    own = [Task("images", cell.dataset, cell), Task("scores", cell.dataset, cell)]
    if cell.external:
        return own[1:]
    return [Task("train", cell.dataset, cell.fitted), Task("tune", cell.dataset, cell.base), *own]


@dataclass(frozen=True)
class Row:
    """Where a cell stands: what is under way or why it ended, the seconds spent, and those left.

    ``left`` is None where nothing is known; a part of it is not, where it is not ``sure``.
    """

    label: str
    status: str
    about: str = ""
    seconds: float = 0.0
    left: float | None = None
    sure: bool = True

    @property
    def remaining(self) -> str:
        """The time left, with a plus where more will come to it."""
        return "" if self.left is None else clock(self.left) + ("" if self.sure else "+")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)


class Outlook:
    """The cells of a run as they go on.

    Args:
        folder: of the run.
        cells: its cells.
        controls: the labels of the methods that are controls, which take another time than methods.
    """

    def __init__(self, folder: Path, cells: Iterable[Cell], controls: Iterable[str] = ()) -> None:
        self.folder, self.cells, self.controls = folder, list(cells), frozenset(controls)
        datasets = {c.dataset.label: c.dataset for c in self.cells}
        self.shared = [Task(stage, d) for d in datasets.values() for stage in ("prepare", "judges")]
        chains = {c.label: {t.id: t for t in steps(c)} for c in self.cells}
        self.chains = {label: list(chain) for label, chain in chains.items()}
        self.tasks = {t.id: t for t in self.shared} | {
            name: t for chain in chains.values() for name, t in chain.items()
        }
        self.kinds = {name: self._kinds(t) for name, t in self.tasks.items()}
        self.done: set[str] = set()
        self.bad: dict[str, tuple[str, str]] = {}
        self.status: dict[str, tuple[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self.took: dict[Kind, list[float]] = {}
        self.doing: dict[str, Doing] = {}
        self.ended: set[str] = set()
        self.over: set[str] = set()
        self.now = self.begun = time.time()
        self.asked, self.slots, self._read, self._lock = 0, 1, 0, threading.Lock()

    def end(self, task: str, status: str, reason: str) -> None:
        """Take note of how a task ended."""
        self.ended.add(task)
        if status == "done":
            self.done.add(task)
        else:
            self.bad[task] = status, reason

    def update(self, now: float | None = None) -> bool:
        """Read what is new in the log, and what is under way; whether a task has ended since the last time."""
        with self._lock:
            news = [self._note(event) for event in self._news()]
            self.now = time.time() if now is None else now
            doing = {d.task: d for d in running(self.folder) if d.task in self.tasks}
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
        if event.get("status") == "done" and seconds is not None:
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

    def rows(self) -> list[Row]:
        """What data sets share while it is under way, and every cell."""
        shared = [self._row(t.id, [t.id]) for t in self.shared if t.id in self.doing or t.id in self.bad]
        return [*shared, *(self._row(label, chain) for label, chain in self.chains.items())]

    def _row(self, label: str, chain: list[str]) -> Row:
        at = [self.doing[t] for t in chain if t in self.doing]
        spent = sum(self.seconds.get(t, 0.0) for t in chain) + sum(max(self.now - d.begun, 0.0) for d in at)
        status, reason = self.status.get(label, ("", ""))
        bad = next((self.bad[t] for t in chain if t in self.bad), None)
        if at:
            about = ", ".join(f"{d.task.partition(' ')[0]} {d}".strip() for d in at)
            return Row(label, "running", about, spent, *self.left(chain))
        if status not in ("", "pending"):
            return Row(label, status, reason, spent)
        if bad:
            return Row(label, *bad, spent)
        if self.done.issuperset(chain):
            return Row(label, "ok", "", spent)
        return Row(label, "pending", reason, spent, *self.left(chain))

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
