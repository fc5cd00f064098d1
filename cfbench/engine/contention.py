"""Tasks that compute on the same device at the same time: each registers a file there, named after its process."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from ..storage.temporary import machine_id, process_exists

__all__ = ["DeviceUse", "remove_ended_tasks", "using_device"]


FOLDER = "cfbench-tasks"
NUMBERS = itertools.count()


class DeviceUse:
    """A task's registration on a device; ``max_others`` is the largest number of other tasks that were found there.

    Tasks of all runs of cfbench on this machine are counted, at the moments at which `count_others` is called.
    """

    def __init__(self, device: str, folder: Path | None = None, *, interval: float = 0.3) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / FOLDER
        self.interval, self.last, self.max_others = interval, -math.inf, 0
        self.prefix = f"{device}.{machine_id()}."
        self.path = self.folder / f"{self.prefix}{os.getpid()}.{next(NUMBERS)}"

    def register(self) -> None:
        """Write this task's file, and remove those of processes that have ended.

        Where the folder cannot be written, no other task is counted, and no other counts this one.
        """
        with suppress(OSError):
            if not self.folder.is_dir():
                self.folder.mkdir(exist_ok=True)
                self.folder.chmod(0o1777)  # tasks of other users are counted too
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            for path in self.folder.glob(f"{self.prefix}*"):
                if (pid := self._pid(path)) and not process_exists(pid):
                    path.unlink(missing_ok=True)

    def unregister(self) -> None:
        """Remove this task's file."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def count_others(self) -> int:
        """The largest number of other tasks so far, present ones included; counts a few times a second at most."""
        now = time.monotonic()
        if now - self.last >= self.interval:
            self.last = now
            with suppress(OSError):
                files = self.folder.glob(f"{self.prefix}*")
                self.max_others = max(self.max_others, sum(map(self._is_other_task, files)))
        return self.max_others

    def _is_other_task(self, path: Path) -> bool:
        """Whether a file is that of another task whose process is alive."""
        pid = self._pid(path)
        return path.name != self.path.name and pid > 0 and process_exists(pid)

    def _pid(self, path: Path) -> int:
        """The process that a file names; 0 where it names none."""
        pid = path.name.removeprefix(self.prefix).partition(".")[0]
        return int(pid) if pid.isdecimal() else 0


def remove_ended_tasks() -> None:
    """Remove the files of tasks of this machine, on any device, whose processes have ended."""
    for path in (Path(tempfile.gettempdir()) / FOLDER).glob(f"*.{machine_id()}.*"):
        pid = path.name.split(".")[-2]
        with suppress(OSError):
            if pid.isdecimal() and not process_exists(int(pid)):
                path.unlink(missing_ok=True)


@contextmanager
def using_device(device: torch.device) -> Iterator[DeviceUse]:
    """Context manager under which a task is registered on a device."""
    use = DeviceUse(_name(device))
    use.register()
    use.count_others()
    try:
        yield use
    finally:
        use.unregister()


def _name(device: torch.device) -> str:
    """The name of a device that all processes on this machine agree on, whatever number they give it."""
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else device.type
