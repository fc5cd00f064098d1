"""The progress of a run: its event log, a note of each task in progress, and the lock of a run that is active."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
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
    "FOLDER",
    "ProgressReporter",
    "TaskProgress",
    "format_duration",
    "is_active",
    "log_event",
    "read_events",
    "remove_note",
    "run_lock",
    "tasks_in_progress",
]


EVENTS = "events.jsonl"


def log_event(folder: Path, event: str, **about: Any) -> None:
    """Append an event to a run's log: ``begin``, ``start``, ``resume``, ``wrote``, ``crash``, ``end`` or ``stop``, and
    its fields.

    A line is written in one call, so that lines of several processes do not mix. A log that cannot be written (a full
    disk) is no error.
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
    """The events of a run in order, without lines that a killed process left incomplete or that are no events."""
    path = folder / EVENTS
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


EVERY = 15.0
"""Seconds between two lines about a task in progress, where there is no terminal."""
FOLDER, LOCK = ".progress", ".lock"
MAX_NOTE = 2**16
"""Bytes of a note; larger files are ignored."""


@dataclass(frozen=True)
class TaskProgress:
    """The progress of a task: ``done`` of ``total`` steps in a stage that started from ``first``.

    ``begun``, ``stage_begun`` and ``now`` are times in seconds since the epoch.
    """

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
        """Steps a second since the stage began in this process; None during the first second."""
        seconds, steps = self.now - self.stage_begun, self.done - self.first
        return steps / seconds if seconds > 1 and steps > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds until the stage ends; None before its rate is known."""
        rate = self.rate
        return None if rate is None or not self.total else max((self.total - self.done) / rate - (now - self.now), 0.0)

    def __str__(self) -> str:
        """Stage, step, rate, time left and loss, as far as they are known."""
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

    The rate counts from the step at which a stage began in this process, which is not 0 after a checkpoint. A note
    that cannot be written (a full disk) is no error.
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
        note = TaskProgress(self.task, stage, done, total, loss, self.begun, self.stage_begun, self.first, now)
        draft = self.path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(asdict(note)))
            draft.replace(self.path)


def tasks_in_progress(folder: Path) -> list[TaskProgress]:
    """The progress of the tasks of a run, in the order in which they began."""
    found = (_read(path) for path in sorted((folder / FOLDER).glob("*.json")))
    return sorted((note for note in found if note), key=lambda note: note.begun)


def remove_note(folder: Path, task: str) -> None:
    """Remove the note of a task whose process may have died."""
    with contextlib.suppress(OSError):
        (folder / FOLDER / f"{key_of(task)}.json").unlink(missing_ok=True)


def _read(path: Path) -> TaskProgress | None:
    """A note; None where it was removed, is no plain file, or is damaged."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_NOTE:
            return None
        note = mapping(json.loads(path.read_text()))
        loss = None if note["loss"] is None else float(note["loss"])
        numbers = {name: float(note[name]) for name in ("done", "total", "begun", "stage_begun", "first", "now")}
        return TaskProgress(printable(note["task"]), printable(note["stage"], 60), loss=loss, **numbers)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Context manager under which other processes see a run as active; notes of a killed run are removed first."""
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
    """Whether a process is executing a run: it holds a lock that the system releases when it ends in any way."""
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
    """Whether another process holds a lock; None where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None


def format_duration(seconds: float) -> str:
    """``M:SS``, or ``H:MM:SS`` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
