"""Temporary files and folders (drafts) whose names identify the writing process, and removal of abandoned ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = [
    "atomic_write",
    "entries",
    "is_abandoned",
    "machine_id",
    "process_exists",
    "remove_abandoned",
    "remove_tree",
    "temporary_folder",
]


OWNED = re.compile(r"\..+-draft-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)(-\w{8})?")
UNOWNED = re.compile(r"\.[\w-]+-[0-9a-f]{12}-\w{8}")
"""Names of drafts from versions that did not identify the writer."""
AGE = 86400.0
"""Seconds without a change after which a draft of another machine counts as abandoned."""


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Context manager with a temporary folder next to ``folder``, deleted on exit unless it was renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-{_owner()}-", dir=folder.parent))
    try:
        yield draft
    finally:
        remove_tree(draft, ignore_errors=True)


def entries(folder: Path, enter: Callable[[os.DirEntry[str]], bool] = lambda entry: True) -> Iterator[os.DirEntry[str]]:
    """All that is below a folder, sorted within each folder, however deep it is; no link is followed.

    Folders that cannot be read, and those that are not to be entered, are taken for empty.
    """
    pending = [os.fspath(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as found:
                inside = sorted(found, key=lambda entry: entry.name)
        except OSError:
            continue
        yield from inside
        pending += [entry.path for entry in inside if entry.is_dir(follow_symlinks=False) and enter(entry)]


def remove_tree(folder: Path, *, ignore_errors: bool = False) -> None:
    """Remove a folder and all that is below it, however deep that is.

    Raises:
        OSError: something cannot be removed, unless ``ignore_errors``.
    """
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.is_symlink() or not folder.exists():
        return
    tolerated = OSError if ignore_errors else FileNotFoundError
    for entry in reversed(list(entries(folder))):  # what is nested too deep for it
        remove = os.rmdir if entry.is_dir(follow_symlinks=False) else os.unlink
        with contextlib.suppress(tolerated):
            remove(entry.path)
    with contextlib.suppress(tolerated):
        folder.rmdir()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context manager with a temporary file next to ``path`` that replaces it on success; creates the folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{_owner()}")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove abandoned drafts below a folder and return their paths.

    A draft of this machine is abandoned if its process has ended; one of another machine, which may share the folder,
    if it has not changed for a day. Checkpoints stay.
    """
    drafts = [Path(entry.path) for entry in entries(folder, lambda entry: not _is_draft(entry)) if _is_draft(entry)]
    abandoned = [path for path in drafts if is_abandoned(path, OWNED.fullmatch(path.name))]
    for path in abandoned:
        if path.is_dir() and not path.is_symlink():
            remove_tree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return abandoned


def _is_draft(entry: os.DirEntry[str]) -> bool:
    return bool(OWNED.fullmatch(entry.name) or UNOWNED.fullmatch(entry.name))


def _owner() -> str:
    return f"draft-{machine_id()}-{os.getpid()}"


@cache
def machine_id() -> str:
    """Eight hexadecimal digits that identify a process number space: a digest of host, boot and container."""
    parts = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read())
        except OSError:  # not Linux
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_abandoned(draft: Path, owner: re.Match[str] | None) -> bool:
    """Whether the writer that a draft's name tells has ended; of one that is unknown, if it is unchanged for a day."""
    about = owner.groupdict() if owner else {}
    if about.get("machine") == machine_id():
        return not process_exists(int(about["pid"]))
    return time.time() - _changed(draft) > AGE


def process_exists(pid: int) -> bool:
    """Whether a process of that number runs on this machine; one that has ended and is not waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or not Linux
        return True


def _changed(draft: Path) -> float:
    """The time of the last change in a draft; now, if it cannot be read."""
    try:
        return max(os.lstat(path).st_mtime for path in (str(draft), *(entry.path for entry in entries(draft))))
    except OSError:
        return time.time()
