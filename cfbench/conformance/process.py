"""A process that tells how far it came, and is not trusted: what hangs or dies is told, and nothing of it stays."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["ProcessFailure", "run_worker"]


FRAME = re.compile(r'File "(.+?)", line (\d+) in')
START = 600.0
"""Seconds in which the process must have started: an import of torch from a slow disk is no mistake of a plugin's."""


class ProcessFailure(Exception):
    """The process hung or died: what it did, in words, and where its code was."""

    def __init__(self, what: str, trace: str) -> None:
        super().__init__(what)
        self.trace = trace

    def told(self, file: str) -> str:
        """What it did, and at which line of the plugin's file, or else of any."""
        places = [p for p in FRAME.findall(self.trace) if not p[0].startswith("<")]
        own = [p for p in places if p[0] == file] or places
        return f"{self}" + "".join(f" ({Path(name).name} line {line})" for name, line in own[:1])


@contextmanager
def run_worker(module: str, asked: Mapping[str, Any], timeout: float) -> Iterator[Iterator[dict[str, Any]]]:
    """Events that a fresh process tells; when the block ends, so does it, and all that it started.

    Args:
        module: whose ``main`` the process runs, with ``asked`` in JSON as its argument; there ``fds`` are the files
            in which it tells events, a line of JSON each, and its stack when it gets SIGUSR1 or dies, and the pipe
            that is closed when nobody listens any more.
        timeout: seconds until the next event, but for the first.

    Raises:
        Breakdown: (while they are read) it ended unasked, or told nothing for ``timeout`` seconds.
    """
    (hear, tell), (life, hold) = os.pipe(), os.pipe()
    with tempfile.TemporaryFile() as trace:
        fds = tell, trace.fileno(), life
        code = f"import sys; sys.path += {sys.path!r}; from {module} import main; main()"  # finds what this one finds
        command = [sys.executable, "-P", "-c", code, json.dumps({**asked, "fds": fds})]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=fds, start_new_session=True
        )  # what a plugin prints goes to the standard error: the standard output is the report's
        os.close(tell)
        os.close(life)
        try:
            yield _heard(hear, process, trace, timeout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(hear)
            os.close(hold)


def _heard(hear: int, process: subprocess.Popen[bytes], trace: BinaryIO, timeout: float) -> Iterator[dict[str, Any]]:
    """Events line by line, each awaited for ``timeout`` seconds from the one before."""
    rest, limit = b"", START
    while True:
        deadline = time.monotonic() + limit
        while b"\n" not in rest:
            if not select.select([hear], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ProcessFailure(f"hangs: gave no answer within {limit:g} s", _trace(process, trace))
            more = os.read(hear, 65536)
            if not more:
                raise ProcessFailure(_death(process), _read(trace))
            rest += more
        line, _, rest = rest.partition(b"\n")
        limit = timeout
        yield json.loads(line)


def _death(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, in words."""
    try:
        code = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return "closed the pipe that answers go through"
    if code >= 0:
        return f"ended its process with exit status {code}"
    name = signal.Signals(-code).name
    return f"killed its process with {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _trace(process: subprocess.Popen[bytes], trace: BinaryIO) -> str:
    """The stack of a process that hangs, which it writes down when it is asked to."""
    process.send_signal(signal.SIGUSR1)
    for _ in range(20):
        if text := _read(trace):
            return text
        time.sleep(0.05)
    return ""


def _read(trace: BinaryIO) -> str:
    return os.pread(trace.fileno(), 1 << 16, 0).decode(errors="replace")
