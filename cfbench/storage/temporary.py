"""Temporary files and folders (drafts) whose names identify the writing process, and removal of abandoned ones."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["atomic_write", "machine_id", "process_exists", "remove_abandoned", "temporary_folder"]


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
        shutil.rmtree(draft, ignore_errors=True)


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
    abandoned = []
    for parent, folders, files in os.walk(folder):
        drafts = [name for name in (*folders, *files) if OWNED.fullmatch(name) or UNOWNED.fullmatch(name)]
        folders[:] = [name for name in folders if name not in drafts]
        abandoned += [path for path in (Path(parent, name) for name in drafts) if _abandoned(path)]
    for path in abandoned:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return abandoned


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


def _abandoned(draft: Path) -> bool:
    owner = OWNED.fullmatch(draft.name)
    if owner and owner["machine"] == machine_id():
        return not process_exists(int(owner["pid"]))
    return time.time() - _changed(draft) > AGE


def process_exists(pid: int) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user
        return True
    return True


def _changed(draft: Path) -> float:
    """The time of the last change in a draft; now, if it cannot be read."""
    try:
        return max(p.lstat().st_mtime for p in (draft, *draft.rglob("*")))
    except OSError:
        return time.time()
