"""A method that sends signals while it is fitted, once for each row, as CFBENCH_TEST_DISTURBS says; a plugin file."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from toys import Learns

DISTURBS = "CFBENCH_TEST_DISTURBS"


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid):
    found = []
    for each in {int(path.name) for path in Path("/proc").glob("[0-9]*")} - {os.getpid()}:
        with suppress(OSError):  # it has just ended
            found += [each] if parent(each) == pid else []
    return found


def named(pids, name):
    return [pid for pid in pids if name in Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]]


def pids(whom):
    """The processes of a kind; this one is a child of a fork server, which is a child of the driver."""
    me, server = os.getpid(), os.getppid()
    driver = parent(server)
    raylet = named(children(driver), "raylet")
    workers = [pid for each in raylet for pid in children(each)]
    return {
        "me": [me],
        "server": [server],
        "worker": named(workers, "ray::_in_worker"),
        "raylet": raylet,
        "gcs": named(children(driver), "gcs_server"),
        "driver": [driver],
        "all": [driver, *children(driver), *workers, me],
    }[whom]


class Disturbs(Learns):
    """``how`` it goes on: as if nothing was, with an exception, or with another one for whatever the signal raises.

    One that ``stops`` asks its own process to stop each time.
    """

    def __init__(self, graph, how: str = "learns"):
        super().__init__(graph)
        self.how = how

    def fit(self, run):
        if self.how == "stops":
            signal.raise_signal(signal.SIGTERM)
        file = Path(os.environ.get(DISTURBS, ""))
        if file.is_file():
            number, whom, times = file.read_text().split()
            file.unlink()
            try:
                for _ in range(int(times)):
                    for pid in pids(whom):
                        os.kill(pid, getattr(signal, number))
                if whom not in ("me", "driver", "server"):
                    signal.pause()
            except BaseException as error:
                if self.how == "wraps":
                    raise RuntimeError("the library was interrupted") from error
                raise
            if self.how == "raises":
                raise ArithmeticError("a file was cut off")
        super().fit(run)
