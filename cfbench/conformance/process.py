"""A worker process that sends events and is not trusted: hangs and crashes are reported, nothing of it survives."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["ProcessFailure", "run_worker"]


FRAME = re.compile(r'File "(.+?)", line (\d+) in')
START = 600.0
"""Seconds until the first event: importing torch from a slow disk is not the plugin's fault."""


STILL = 0.5
"""Share of the time limit without a step after which work that is counted in steps is said to hang."""


class ProcessFailure(Exception):
    """The process hung, was slow or died: what it did, in words, and its stack trace.

    Attributes:
        slow: whether it was at work, and a longer time limit would do.
    """

    def __init__(self, what: str, trace: str, slow: bool = False) -> None:
        super().__init__(what)
        self.trace, self.slow = trace, slow

    def describe(self, file: str) -> str:
        """What the process did, and at which line of the plugin's file, or else of any file."""
        frames = [f for f in FRAME.findall(self.trace) if not f[0].startswith("<")]
        own = [f for f in frames if f[0] == file] or frames
        if self.slow:
            return str(self)
        return f"{self}" + "".join(f" ({Path(name).name} line {line})" for name, line in own[:1])


@contextmanager
def run_worker(module: str, request: Mapping[str, Any], timeout: float) -> Iterator[Iterator[dict[str, Any]]]:
    """Context manager that starts a process and gives its events; on exit it ends the process and all that it started.

    Args:
        module: the module whose ``main`` the process runs.
        request: its argument, sent as JSON; ``fds`` is added: file descriptors for events (a line of JSON each), for
            the stack trace (on SIGUSR1 or a crash), and of a pipe that is closed when this process ends.
        timeout: seconds between two events; the first may take longer. Events called ``progress`` (stage, done,
            total) are not given, and extend no time limit: they tell what is slow from what hangs.

    Raises:
        ProcessFailure: (while events are read) the process ended early, or sent nothing for ``timeout`` seconds.
    """
    (events, sender), (lifeline, held) = os.pipe(), os.pipe()
    with tempfile.TemporaryFile() as trace:
        fds = sender, trace.fileno(), lifeline
        code = f"import sys; sys.path += {sys.path!r}; from {module} import main; main()"
        command = [sys.executable, "-P", "-c", code, json.dumps({**request, "fds": fds})]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=fds, start_new_session=True
        )  # a plugin prints to the standard error; the standard output is for the report
        os.close(sender)
        os.close(lifeline)
        try:
            yield _read_events(events, process, trace, timeout)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(events)
            os.close(held)


def _read_events(
    events: int, process: subprocess.Popen[bytes], trace: BinaryIO, timeout: float
) -> Iterator[dict[str, Any]]:
    """Events line by line, each within ``timeout`` seconds of the one before."""
    rest, limit, start, progress = b"", START, time.monotonic(), None
    while True:
        while b"\n" not in rest:
            if not select.select([events], [], [], max(0.0, start + limit - time.monotonic()))[0]:
                raise _overdue(progress, limit, _trace(process, trace))
            more = os.read(events, 65536)
            if not more:
                raise ProcessFailure(_exit_text(process), _read(trace))
            rest += more
        line, _, rest = rest.partition(b"\n")
        event = json.loads(line)
        if event["event"] == "progress":
            progress = _Progress(event["stage"], event["done"], event["total"], time.monotonic() - start)
            continue
        limit, start, progress = timeout, time.monotonic(), None
        yield event


@dataclass(frozen=True)
class _Progress:
    """How far work had come that many seconds after the last event."""

    stage: str
    done: int
    total: int
    seconds: float


def _overdue(progress: _Progress | None, limit: float, trace: str) -> ProcessFailure:
    """What a process is said to do that has sent no event within its time limit."""
    if progress is None or not progress.total:
        return ProcessFailure(f"hangs: gave no answer within {limit:g} s", trace)
    step = f"step {progress.done} of {progress.total} of {progress.stage}"
    if limit - progress.seconds > STILL * limit:
        return ProcessFailure(f"hangs: at {step} since {limit - progress.seconds:.2g} of {limit:g} s", trace)
    needed = 2 * limit * progress.total / max(progress.done, 1)
    return ProcessFailure(
        f"{step} after {limit:g} s; try --timeout {max(10 * round(needed / 10), 10)}", trace, slow=True
    )


def _exit_text(process: subprocess.Popen[bytes]) -> str:
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
    """The stack trace of a process that hangs, which it writes on SIGUSR1."""
    process.send_signal(signal.SIGUSR1)
    for _ in range(20):
        if text := _read(trace):
            return text
        time.sleep(0.05)
    return ""


def _read(trace: BinaryIO) -> str:
    return os.pread(trace.fileno(), 1 << 16, 0).decode(errors="replace")
