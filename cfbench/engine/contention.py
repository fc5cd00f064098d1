"""Who else computes on a device at the same time: each task has a seat there, a file named after its process."""

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

__all__ = ["DeviceUse", "using_device"]


FOLDER = "cfbench-seats"
NUMBERS = itertools.count()


class DeviceUse:
    """A task's place on a device; ``most`` is the largest number of other tasks that were seen there, of any run.

    Only tasks of cfbench on this machine are seen, and only those that are there when somebody looks.
    """

    def __init__(self, device: str, folder: Path | None = None, *, interval: float = 0.3) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / FOLDER
        self.interval, self.last, self.most = interval, -math.inf, 0
        self.row = f"{device}.{machine_id()}."
        self.path = self.folder / f"{self.row}{os.getpid()}.{next(NUMBERS)}"

    def take(self) -> None:
        """Sit down, and clear the seats of processes that are gone.

        Where that cannot be written, nobody is seen, and nobody sees this task.
        """
        with suppress(OSError):
            if not self.folder.is_dir():
                self.folder.mkdir(exist_ok=True)
                self.folder.chmod(0o1777)  # other people's runs are seen too
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            for path in self.folder.glob(f"{self.row}*"):
                if (pid := self._pid(path)) and not process_exists(pid):
                    path.unlink(missing_ok=True)

    def leave(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def look(self) -> int:
        """The most others so far, those that are there now among them; looks a few times a second at most."""
        now = time.monotonic()
        if now - self.last >= self.interval:
            self.last = now
            with suppress(OSError):
                self.most = max(self.most, sum(map(self._taken, self.folder.glob(f"{self.row}*"))))
        return self.most

    def _taken(self, path: Path) -> bool:
        """Whether somebody else sits there."""
        pid = self._pid(path)
        return path.name != self.path.name and pid > 0 and process_exists(pid)

    def _pid(self, path: Path) -> int:
        """The number of the process whose seat it is; 0 where it is nobody's."""
        pid = path.name.removeprefix(self.row).partition(".")[0]
        return int(pid) if pid.isdecimal() else 0


@contextmanager
def using_device(device: torch.device) -> Iterator[DeviceUse]:
    """A block that computes on a device, and is seen to."""
    place = DeviceUse(_name(device))
    place.take()
    place.look()
    try:
        yield place
    finally:
        place.leave()


def _name(device: torch.device) -> str:
    """What a device is called by every process on this machine, whatever number it has there."""
    return f"cuda-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else device.type
