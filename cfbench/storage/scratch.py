"""Folders under the system's temporary folder that a process works in, and what a killed process left there."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .temporary import is_abandoned, machine_id, remove_tree

__all__ = ["MARK", "end_processes", "new_scratch_folder", "remove_abandoned_scratch", "scratch_folder"]


MARK = "CFBENCH_SCRATCH"
"""The environment variable by which processes that work in a folder are found."""
PREFIX = "cfbench-"
RANDOM = 8
"""Letters that `tempfile` puts at the end of a name."""
OWNED = re.compile(r"cfbench-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-\w{8}")
NODE = re.compile(r"cfbench-[0-9a-f]{32}")
"""Names of the folders in which nodes of a cluster execute tasks."""


SOCKET_PATH = 104 if sys.platform == "darwin" else 108
"""Bytes that the path of a Unix socket may have, with the zero at its end."""


@contextmanager
def scratch_folder(socket: str = "") -> Iterator[Path]:
    """Context manager with a temporary folder that no other user can read, removed on exit.

    Args:
        socket: the longest path that a Unix socket will have inside. The folder is elsewhere than in the system's
            temporary folder where that has too long a path for it, or cannot be written.

    Raises:
        OSError: there is no place for one.
    """
    folder = new_scratch_folder(socket)
    try:
        yield Path(folder.name)
    finally:
        remove_tree(Path(folder.name), ignore_errors=True)
        folder.cleanup()


def new_scratch_folder(socket: str = "") -> TemporaryDirectory[str]:
    """A folder like that of `scratch_folder`, removed with the object."""
    name, longest = f"{PREFIX}{machine_id()}-{os.getpid()}-", SOCKET_PATH - len(f"/{socket}") - 1
    for parent in _parents():
        if not socket or len(os.fsencode(parent / name)) + RANDOM <= longest:
            with suppress(OSError):
                return TemporaryDirectory(prefix=name, dir=parent, ignore_cleanup_errors=True)
    raise FileNotFoundError("no folder for temporary files can be written; give one by TMPDIR")


def _parents() -> list[Path]:
    """The system's place for temporary folders, and those where paths are short."""
    places = [Path("/tmp"), Path("/var/tmp")]
    with suppress(OSError):  # raised where no folder can be written
        places.insert(0, Path(tempfile.gettempdir()))
    return list(dict.fromkeys(places))


def remove_abandoned_scratch() -> None:
    """Remove the folders of this user's processes that have ended, and end the processes that still work in them."""
    for parent in _parents():
        for folder in parent.glob(f"{PREFIX}*"):
            with suppress(OSError):
                owner = OWNED.fullmatch(folder.name) or NODE.fullmatch(folder.name)
                mine = folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink()
                if owner and mine and is_abandoned(folder, owner):
                    end_processes(folder)
                    remove_tree(folder, ignore_errors=True)


def end_processes(folder: Path, patience: float = 5.0) -> None:
    """Kill the processes, but for this one, whose environment says that they work in a folder; wait for their end.

    Does nothing where the system has no ``/proc``.
    """
    deadline = time.monotonic() + patience
    while (found := _processes(folder)) and time.monotonic() < deadline:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(folder: Path) -> list[int]:
    entry, found = f"{MARK}={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if entry in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found
