"""How long tasks will take: estimated from how long tasks of the same kind took, in this run and in earlier ones."""

from __future__ import annotations

import math
import socket
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.budget import Budget
from ..runs.chain import Status, Task, cell_tasks, dataset_tasks
from ..runs.folders import MANIFEST
from ..runs.job import Cell
from ..runs.manifest import Manifest, read_manifest
from ..runs.progress import EVENTS, format_duration, read_events

__all__ = [
    "CLOSE",
    "Durations",
    "History",
    "TimeLeft",
    "Workload",
    "earlier_runs",
    "number_of",
    "parallel",
    "tasks_by_id",
]


@dataclass(frozen=True)
class TimeLeft:
    """Seconds that something will still take: at least ``low``, and at most ``high`` unless part of it is unknown."""

    low: float = 0.0
    high: float = 0.0
    complete: bool = True

    def __add__(self, other: TimeLeft) -> TimeLeft:
        return TimeLeft(self.low + other.low, self.high + other.high, self.complete and other.complete)

    @property
    def unknown(self) -> bool:
        """Whether nothing is known, or no more than a second."""
        return not self.complete and self.high < 1

    def __str__(self) -> str:
        """In a sentence: ``4 to 9 minutes left``, ``at least 4 minutes left`` or ``time left unknown yet``."""
        if self.unknown:
            return "time left unknown yet"
        return f"{self.words} left"

    @property
    def words(self) -> str:
        """``4 to 9 minutes``, ``about 30 seconds`` or ``at least 4 minutes``."""
        if not self.complete:
            return f"at least {_words(max(self.low, 1.0))}"
        if self.low < 1:
            return f"up to {_words(max(self.high, 1.0))}"
        low, high = _rounded(self.low), _rounded(self.high)
        if low == high or self.high <= CLOSE * self.low:
            return f"about {_words(math.sqrt(self.low * self.high))}"
        return f"{low[0]} to {high[0]} {high[1]}" if low[1] == high[1] else f"{' '.join(low)} to {' '.join(high)}"

    @property
    def clock(self) -> str:
        """As in a narrow column: ``1:10-2:40``, with a plus where it is a lower bound, empty where it is unknown."""
        if self.unknown:
            return ""
        if not self.complete:
            return f"{format_duration(self.low)}+"
        low, high = format_duration(self.low), format_duration(self.high)
        return high if self.high <= CLOSE * self.low or low == high else f"{low}-{high}"


CLOSE = 1.2
"""Ends of a range that differ by less than this factor are one number."""


def _words(seconds: float) -> str:
    return " ".join(_rounded(seconds))


def _rounded(seconds: float) -> tuple[str, str]:
    """A number of few digits, and its unit."""
    if seconds < 95:
        number = round(seconds) if seconds < 10 else 5 * round(seconds / 5)
        return str(number), "second" if number == 1 else "seconds"
    if seconds < 95 * 60:
        return str(round(seconds / 60)), "minutes"
    return f"{seconds / 3600:.2g}" if seconds < 36000 else str(round(seconds / 3600)), "hours"


@dataclass(frozen=True)
class Workload:
    """What the time of a run's tasks grows with: its budget or that of a row, and the variables of each data set."""

    budget: Budget
    variables: Mapping[str, int]

    @classmethod
    def of_run(cls, manifest: Manifest) -> Workload:
        """That of a run."""
        return cls(manifest.budget, {label: len(d.variables) for label, d in manifest.datasets.items()})

    def of(self, task: Task) -> float:
        """The size of a task, in units of its stage: images of a fit, images to answer or score, scale of judges."""
        if task.stage == "train":
            return max(self.budget.images_of(task.cell.fit.images if task.cell else None), 1)
        if task.stage == "judges":
            return max(self.budget.judge, 1e-6)
        variables = self.variables.get(task.dataset.label, 1)
        rounds = min(self.budget.rounds, self.budget.factuals)
        return max(self.budget.factuals * (1 + variables) + rounds * (2 * variables + 10), 1)


GROWTH: Mapping[str, tuple[float, float]] = {
    "prepare": (0.0, 0.4), "judges": (0.4, 0.95), "train": (0.65, 1.0), "tune": (0.0, 0.5),
    "images": (0.6, 1.0), "scores": (0.2, 0.9),
}  # fmt: skip
"""Seconds grow at least and at most with these powers of the size of a stage's tasks: all have a part that is fixed."""
LATEST = 20
"""Durations of a kind that count: the speed of the machine may have changed."""
SINGLE, SEVERAL = 1.4, 1.15
"""Factors by which a duration may differ from the one that was seen, or from the range of several."""


Kind = tuple[str, ...]


def _kinds(task: Task, control: bool) -> list[tuple[Kind, float]]:
    """The kinds of tasks that a task belongs to, narrowest first, with the factor by which their durations differ.

    How long a fit, a tuning or answers take says nothing about those of another method. Scores of methods and of
    controls take alike.
    """
    stage, dataset = task.stage, task.dataset.label
    if task.cell is None:
        return [((stage, "in", dataset), 1.0), ((stage,), 3.0)]
    row, name = task.cell.method.label, task.cell.method.name
    kinds = [((stage, row, "in", dataset), 1.0), ((stage, row), 2.0)]
    kinds += [((stage, name, "of", "in", dataset), 1.0 if stage == "train" else 2.0), ((stage, name, "of"), 3.0)]
    if stage == "scores":
        kinds += [((stage, "all", "in", dataset), 1.3), ((stage, "all"), 2.0)]
    elif control:
        kinds += [((stage, "controls", "in", dataset), 3.0), ((stage, "controls"), 4.0)]
    return kinds


@dataclass(frozen=True)
class _Duration:
    seconds: float
    size: float


class History:
    """The durations of tasks that have ended, by kind."""

    def __init__(self) -> None:
        self._durations: dict[Kind, list[_Duration]] = {}

    def add(self, task: Task, seconds: float, size: float, *, control: bool = False) -> None:
        """Register how long a task took whose size was ``size``."""
        for kind, _ in _kinds(task, control):
            self._durations.setdefault(kind, []).append(_Duration(seconds, size))

    def estimate(self, task: Task, size: float, *, control: bool = False) -> TimeLeft | None:
        """The seconds of a whole task, from the narrowest kind that is known; None where none is."""
        for kind, factor in _kinds(task, control):
            if found := self._durations.get(kind):
                return _scaled(found, size, GROWTH[task.stage], factor)
        return None


def _scaled(found: list[_Duration], size: float, growth: tuple[float, float], factor: float) -> TimeLeft:
    """The range of the latest durations of the most similar size, scaled to a size."""
    nearest = min(found, key=lambda d: abs(math.log(size / d.size))).size
    alike = sorted(d.seconds for d in [d for d in found if d.size == nearest][-LATEST:])
    ratio = size / nearest
    scales = sorted(ratio**power for power in growth)
    cut = len(alike) // 5
    kept = alike[cut : len(alike) - cut]
    spread = factor * (SINGLE if len(alike) == 1 and ratio == 1 else SEVERAL)
    return TimeLeft(kept[0] * scales[0] / spread, kept[-1] * scales[1] * spread)


def parallel(tasks: Mapping[str, Task], left: Mapping[str, TimeLeft], slots: int) -> TimeLeft:
    """The time until all tasks have ended, ``slots`` at once, each after those that it needs (Graham's bounds)."""
    total = sum(left.values(), TimeLeft())
    chain: dict[str, TimeLeft] = {}
    for name in _in_order(tasks, left):
        needed = [chain[n] for n in tasks[name].needs if n in chain]
        before = TimeLeft(max((n.low for n in needed), default=0.0), max((n.high for n in needed), default=0.0))
        chain[name] = before + left[name]
    low, high = max((c.low for c in chain.values()), default=0.0), max((c.high for c in chain.values()), default=0.0)
    return TimeLeft(max(total.low / slots, low), (total.high + (slots - 1) * high) / slots, total.complete)


def _in_order(tasks: Mapping[str, Task], left: Container[str]) -> Iterator[str]:
    """The ids of tasks that are left, each after those that it needs."""
    seen: set[str] = set()
    for first in tasks:
        pending = [first]
        while pending:
            name = pending[-1]
            unmet = [n for n in tasks[name].needs if n in tasks and n not in seen and n in left]
            if name not in seen and unmet:
                pending += unmet
                continue
            pending.pop()
            if name in left and name not in seen:
                seen.add(name)
                yield name


def tasks_by_id(cells: Iterable[Cell]) -> dict[str, Task]:
    """All tasks of cells and of their data sets."""
    cells = list(cells)
    datasets = {c.dataset.label: c.dataset for c in cells}
    found = [t for d in datasets.values() for t in dataset_tasks(d, {})]
    return {t.id: t for t in (*found, *(t for c in cells for t in cell_tasks(c)))}


RUNS = 10
"""Runs whose logs are read, the latest."""
MAX_BYTES = 2**21
"""Bytes of a log or a manifest; larger ones would take too long to read before a run starts."""


def earlier_runs(folder: Path, device: str) -> History:
    """The durations in the logs of the runs beside one that were made on this machine and kind of device.

    Nothing is an error: a run that cannot be read says nothing.
    """
    history = History()
    others = sorted((p for p in folder.parent.glob(f"*/{EVENTS}") if _is_small(p)), key=lambda p: p.stat().st_mtime)
    for path in others[-RUNS:]:
        if path.parent != folder and _is_small(path.with_name(MANIFEST)):
            try:
                _add_run(history, path.parent, device)
            except (UserError, OSError):
                continue
    return history


def _is_small(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_BYTES
    except OSError:
        return False


def _add_run(history: History, folder: Path, device: str) -> None:
    manifest = read_manifest(folder)
    work = Workload.of_run(manifest)
    log = Durations(tasks_by_id(manifest.cells), device)
    for event in read_events(folder):
        if found := log.apply(event):
            task, seconds = found
            control = task.cell is not None and task.cell.method.label in manifest.controls
            history.add(task, seconds, work.of(task), control=control)


class Durations:
    """Reads the durations of whole tasks from the events of a log, one after another.

    Tasks that continued what was there, failed, or were done on another machine or kind of device have none.
    """

    def __init__(self, tasks: Mapping[str, Task], device: str) -> None:
        self.tasks, self.device = tasks, device
        self.here, self.resumed = True, set[str]()

    def apply(self, event: Mapping[str, Any]) -> tuple[Task, float] | None:
        """The task that an event ends and its seconds; None for any other event."""
        name, task = event.get("event"), self.tasks.get(str(event.get("task", "")))
        if name == "begin":
            same = _kind(event.get("device", self.device)) == _kind(self.device)
            self.here = same and event.get("host", socket.gethostname()) == socket.gethostname()
        elif task and name == "start":
            self.resumed.discard(task.id)
        elif task and name == "resume":
            self.resumed.add(task.id)
        elif task and name == "end" and event.get("status") == Status.DONE:
            seconds = number_of(event.get("seconds"))
            if seconds is not None and self.here and task.id not in self.resumed:
                return task, seconds
        return None


def _kind(device: Any) -> str:
    return str(device).partition(":")[0]


def number_of(value: Any) -> float | None:
    """A finite number that is not negative, as an event may hold it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        return None
    return float(value)
