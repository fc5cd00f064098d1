"""Files and folders under a draft's name, which tells who writes them, and sweeping up those of processes that died."""

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
"""Drafts of stages as versions named them that did not say who writes."""
AGE = 86400.0
"""Seconds without a change after which a draft of another machine is nobody's any more."""


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``, gone after the block unless it was given that name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-{_owner()}-", dir=folder.parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which takes its place when the block ends well; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{_owner()}")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the drafts below a folder whose writers are gone: the paths that were removed.

    Of this machine these are the processes that do not run any more; of another one, which may share the folder,
    those that have changed nothing for a day. Checkpoints stay.
    """
    gone = []
    for place, folders, files in os.walk(folder):
        drafts = [name for name in (*folders, *files) if OWNED.fullmatch(name) or UNOWNED.fullmatch(name)]
        folders[:] = [name for name in folders if name not in drafts]
        gone += [path for path in (Path(place, name) for name in drafts) if _abandoned(path)]
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return gone


def _owner() -> str:
    return f"draft-{machine_id()}-{os.getpid()}"


@cache
def machine_id() -> str:
    """Eight digits that tell one set of process numbers from another: a digest of host, boot and container."""
    told = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            told.append(read())
        except OSError:  # not Linux
            told.append("")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def _abandoned(draft: Path) -> bool:
    owner = OWNED.fullmatch(draft.name)
    if owner and owner["machine"] == machine_id():
        return not process_exists(int(owner["pid"]))
    return time.time() - _changed(draft) > AGE


def process_exists(pid: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def _changed(draft: Path) -> float:
    """When anything in a draft last changed; now, where that cannot be told."""
    try:
        return max(p.lstat().st_mtime for p in (draft, *draft.rglob("*")))
    except OSError:
        return time.time()
