"""What is under way in a run, as live notes of each task, and what happened, as an event log."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..plugins.digest import key_of
from ..storage.schema import mapping, printable

__all__ = [
    "EVENTS",
    "EVERY",
    "ProgressReporter",
    "TaskProgress",
    "format_duration",
    "forward_progress",
    "in_background",
    "is_active",
    "log_event",
    "print_dataset_progress",
    "print_progress",
    "read_events",
    "remove_note",
    "run_lock",
    "tasks_in_progress",
]


EVENTS = "events.jsonl"


def log_event(folder: Path, event: str, **about: Any) -> None:
    """Append an event to a run's log: ``begin``, ``start``, ``wrote``, ``end`` or ``stop``, with what belongs to it.

    A line is written in one call, so that processes do not tear each other's. A log that cannot be written (a full
    disk) ends no work.
    """
    line = json.dumps({"time": round(time.time(), 3), "event": event, "pid": os.getpid(), **about}, default=str)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        return
    try:
        os.write(file, f"{line}\n".encode())
    except OSError:
        return
    finally:
        os.close(file)


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run in their order, but for a line that a kill left half written."""
    path = folder / EVENTS
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue


EVERY = 15.0
"""Seconds between two lines about a task that is under way, where there is no terminal."""
FOLDER, LOCK = ".progress", ".lock"
LARGEST = 2**16
"""Bytes of a note that is read at all."""


@dataclass(frozen=True)
class TaskProgress:
    """What a task is at: ``done`` of ``total`` in a stage that began at ``first``, all times in seconds."""

    task: str
    stage: str
    done: float
    total: float
    loss: float | None
    begun: float
    stage_begun: float
    first: float
    now: float

    @property
    def rate(self) -> float | None:
        """Steps a second since the stage began in this process; None before a second is over."""
        spent, made = self.now - self.stage_begun, self.done - self.first
        return made / spent if spent > 1 and made > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds until the stage is over; None before its rate is known."""
        rate = self.rate
        return None if rate is None or not self.total else max((self.total - self.done) / rate - (now - self.now), 0.0)

    def __str__(self) -> str:
        """Stage, step, rate, time left, loss."""
        parts = [f"{self.stage} {self.done:g}/{self.total:g}".strip() if self.total else self.stage]
        left = self.left(self.now)
        if self.rate is not None and left is not None:
            parts += [
                f"{self.rate:.1f}/s" if self.rate >= 0.1 else f"{1 / self.rate:.0f} s each",
                f"{format_duration(left)} left",
            ]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        return ", ".join(filter(None, parts))


class ProgressReporter:
    """Writes a task's stage, step, total and loss into the run's folder, a few times a second at most.

    A rate counts from where a stage began in this process: one that goes on from a checkpoint, or that begins anew,
    has no part in what was done before. A note that cannot be written (a full disk) ends no work.
    """

    def __init__(self, folder: Path, task: str, *, interval: float = 0.3) -> None:
        self.path = folder / FOLDER / f"{key_of(task)}.json"
        self.task, self.interval, self.last, self.stage, self.done = task, interval, 0.0, "", 0.0
        self.begun = self.stage_begun = time.time()
        self.first = 0.0

    def __enter__(self) -> ProgressReporter:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self("", 0, 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def __call__(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        now = time.time()
        if stage != self.stage or done < self.done:
            self.stage, self.stage_begun, self.first, self.last = stage, now, done, 0.0
        self.done = done
        if now - self.last < self.interval:
            return
        self.last = now
        doing = TaskProgress(self.task, stage, done, total, loss, self.begun, self.stage_begun, self.first, now)
        draft = self.path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(asdict(doing)))
            draft.replace(self.path)


def tasks_in_progress(folder: Path) -> list[TaskProgress]:
    """What the tasks of a run are at, those that began first at the front."""
    found = (_read(path) for path in sorted((folder / FOLDER).glob("*.json")))
    return sorted((d for d in found if d), key=lambda d: d.begun)


def remove_note(folder: Path, task: str) -> None:
    """Remove the note of a task whose process may have died."""
    with contextlib.suppress(OSError):
        (folder / FOLDER / f"{key_of(task)}.json").unlink(missing_ok=True)


def _read(path: Path) -> TaskProgress | None:
    """A note; None where it is gone, no plain file, or not as it should be."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            return None
        said = mapping(json.loads(path.read_text()))
        loss = None if said["loss"] is None else float(said["loss"])
        times = {name: float(said[name]) for name in ("done", "total", "begun", "stage_begun", "first", "now")}
        return TaskProgress(printable(said["task"]), printable(said["stage"], 60), loss=loss, **times)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """A block in which others see that a run is going; notes that a killed run left behind are removed."""
    lock = _lock(folder)
    if lock is None:
        yield
        return
    try:
        if _held(lock) is False:
            for old in (*(folder / FOLDER).glob("*.json"), *(folder / FOLDER).glob("*.tmp")):
                old.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def is_active(folder: Path) -> bool:
    """Whether a process is at work on a run: it holds a lock that ends with it, however it ends."""
    try:
        lock = os.open(folder / FOLDER / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _held(lock) is not False
    finally:
        os.close(lock)


def _lock(folder: Path) -> int | None:
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        return os.open(folder / FOLDER / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError:
        return None


def _held(lock: int) -> bool | None:
    """Whether another process holds a lock; None where the file system knows no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None


def format_duration(seconds: float) -> str:
    """Minutes and seconds, or hours too."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@contextmanager
def print_progress(what: str, *, patience: float = 2.0, every: float | None = None) -> Iterator[Callable[..., None]]:
    """A block that says on standard error what it is at when it takes longer; yields what it reports to.

    Args:
        what: the block does.
        patience: seconds before anything is said.
        every: seconds between two lines, where there is no terminal; by default `EVERY`.
    """
    from rich.console import Console
    from rich.text import Text

    console, stop, said = Console(stderr=True, highlight=False), threading.Event(), [what]

    def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
        said[0] = f"{what}: {stage} {done:,}/{total:,}" if total else f"{what}: {stage}"

    def watch() -> None:
        if stop.wait(patience):
            return
        if not console.is_terminal:
            print(said[0], file=sys.stderr, flush=True)
            while not stop.wait(every or EVERY):
                print(said[0], file=sys.stderr, flush=True)
            return
        with console.status(Text(said[0])) as status:
            while not stop.wait(0.5):
                status.update(Text(said[0]))

    with in_background(watch, stop):
        yield report


@contextmanager
def in_background(watch: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """A block beside which ``watch`` runs in a thread, until ``stop`` is set at the block's end."""
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def print_dataset_progress(dataset: Any, what: str) -> Iterator[None]:
    """A block in which a data set may make or read its data, which says so on standard error when it takes longer."""
    with print_progress(what) as report, forward_progress(dataset, report):
        yield


@contextmanager
def forward_progress(dataset: Any, report: Callable[..., None]) -> Iterator[None]:
    """A block in which a data set reports what it makes; one that lets nobody set an attribute stays silent."""
    with contextlib.suppress(AttributeError):
        dataset.progress = report
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError):
            del dataset.progress
