"""Tasks that a process is at work on, locked so that another process with the same run waits for them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ..plugins.digest import key_of
from ..runs.chain import Failure, Task, last_failure
from ..runs.progress import FOLDER

__all__ = ["Claims", "remove_abandoned_claims"]


class Claims:
    """The tasks that this process is at work on.

    The system releases the lock of a process that ends in any way, and forked children do not inherit it. Where the
    file system has no locks, every task may be taken.
    """

    def __init__(self, folder: Path, print_line: Callable[[str], None]) -> None:
        self.folder, self.print_line = folder, print_line
        self.locks: dict[str, int] = {}
        self.elsewhere: dict[str, Failure | None] = {}

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for name in list(self.locks):
            _unlock(self._path(name), self.locks.pop(name))

    def take(self, task: Task) -> bool:
        """Whether this process may execute a task now; says once that another is at work on it."""
        path = self._path(task.id)
        try:
            lock = _lock(path)
        except OSError:
            return True
        if lock is not None:
            self.locks[task.id] = lock
            return True
        if task.id not in self.elsewhere:
            self.elsewhere[task.id] = last_failure(self.folder, task)
            self.print_line(f"{task.id}: {_owner(path)} is at work on it; waiting for that")
        return False

    def failure_elsewhere(self, task: Task) -> Failure | None:
        """The failure that another process recorded while this one waited for it; None where there is none."""
        if task.id not in self.elsewhere:
            return None
        before, now = self.elsewhere.pop(task.id), last_failure(self.folder, task)
        return now if now != before else None

    def release(self, task: Task) -> None:
        """Let other processes have a task."""
        if task.id in self.locks:
            _unlock(self._path(task.id), self.locks.pop(task.id))

    def _path(self, task: str) -> Path:
        return self.folder / FOLDER / f"{key_of(task)}.claim"


def remove_abandoned_claims(folder: Path) -> None:
    """Remove the claims of processes that were killed while they executed a run."""
    for path in (folder / FOLDER).glob("*.claim"):
        with contextlib.suppress(OSError):
            if (lock := _lock(path)) is not None:
                _unlock(path, lock)


def _lock(path: Path) -> int | None:
    """Lock a file, made if it is missing, and write into it who holds it; None where another process does."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, file):
                os.truncate(file, 0)
                os.write(file, f"{os.getpid()} {socket.gethostname()}".encode())
                return file
        except (BlockingIOError, PermissionError):
            os.close(file)
            return None
        except OSError:
            os.close(file)
            raise
        os.close(file)  # another process removed it meanwhile


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _unlock(path: Path, lock: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(lock)


def _owner(path: Path) -> str:
    """Who holds a lock, in words."""
    with contextlib.suppress(OSError, ValueError):
        pid, host = path.read_text()[:300].split()
        return f"process {int(pid)}" + ("" if host == socket.gethostname() else f" on {host[:64]}")
    return "another process"
