"""Processes forked from a server that has imported cfbench and run no plugin, for code that must not share one.

The server of `multiprocessing` runs the caller's script again in each process, keeps the environment of the first
caller, and serves one process only.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ...runs.terminal import filtered
from ...storage.temporary import process_exists

__all__ = ["ADDRESS", "ForkedProcess", "ProcessDied", "listen"]


ADDRESS = "CFBENCH_FORK_SERVER"
"""The environment variable by which a worker finds the server of the process that started it."""
CONNECTION, LISTENER = b"c", b"l"
"""What a server is given."""
STARTS = 3
"""Attempts to start a process: signals to all processes of a run also end servers that have just started."""


class ProcessDied(Exception):
    """A process ended before it sent what its function returned."""


class ForkedProcess:
    """A process in which functions are called one after another, with this one's present environment and output.

    It ends with all that it started when `end` is called, and when this process ends in any way.

    Raises:
        ProcessDied: it did not start.
    """

    def __init__(self) -> None:
        for left in reversed(range(STARTS)):
            try:
                self._start()
                return
            except (OSError, ProcessDied) as error:  # the server has just been killed
                if not left:
                    raise ProcessDied from error

    def _start(self) -> None:
        self.connection = _connect()
        folder = os.getcwd() if os.path.isdir(os.curdir) else None
        self.connection.send(({k: v for k, v in os.environ.items() if k != ADDRESS}, sys.path, folder))
        self.pid = int(self._receive())

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return process_exists(self.pid)

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let the process call a function of cfbench that returns what JSON can hold; one at a time."""
        with suppress(OSError):  # it has died, which `receive` reports
            self.connection.send((function, arguments))

    def receive(self, seconds: float) -> Any | None:
        """What the function returned, or None if it has not after so many seconds.

        Raises:
            ProcessDied: the process has ended.
        """
        alive = self.alive
        if self.connection.poll(seconds if alive else 0):
            return self._receive()
        if not alive:  # processes that it started keep the connection open
            raise ProcessDied
        return None

    def _receive(self) -> Any:
        try:
            return json.loads(self.connection.recv_bytes())
        except (EOFError, OSError, ValueError) as error:
            raise ProcessDied from error

    def end(self) -> None:
        """End the process and all that it started."""
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        self.connection.close()


def _connect() -> Connection:
    """The connection to a new process, which writes where this one does."""
    ours = _connect_to_other() or _connect_to_own()
    socket.send_fds(ours, [b"."], [1, 2])
    return Connection(ours.detach())


def _connect_to_other() -> socket.socket | None:
    """A connection to the server of the process that started this worker; None where there is none any more."""
    if ADDRESS not in os.environ:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(os.environ[ADDRESS])
    except OSError:
        connection.close()
        del os.environ[ADDRESS]
        return None
    return connection


def _connect_to_own() -> socket.socket:
    ours, theirs = socket.socketpair()
    _give(theirs, CONNECTION)
    return ours


def _give(given: socket.socket, what: bytes) -> None:
    """Give a socket to this process's server."""
    with given:
        try:
            socket.send_fds(_running_server(), [what], [given.fileno()])
        except BrokenPipeError:  # it has just been killed
            assert _server
            _server[0].wait()
            socket.send_fds(_running_server(), [what], [given.fileno()])


_server: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def _running_server() -> socket.socket:
    """The socket of this process's server, which is started if it does not run, and ends when this process does."""
    global _server
    if _server is None or _server[0].poll() is not None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"import sys; sys.path += {sys.path!r}; from {__name__} import main; main({theirs.fileno()})"
            command = [sys.executable, "-P", "-c", code]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        atexit.register(process.kill)  # while it imports it does not see that this process ends
        _server = process, ours
    return _server[1]


def listen(path: Path) -> None:
    """Let this process's server fork processes for workers too, which read the path of its socket from `ADDRESS`."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    _give(listener, LISTENER)


def main(fd: int) -> None:
    """Fork a process for each connection that comes through a socket, until that is closed."""
    _import_what_takes_seconds()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides what an interrupt means
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # processes that end are not waited for
    control = socket.socket(fileno=fd)
    sources = [control]
    while True:
        for source in select.select(sources, [], [])[0]:
            what = CONNECTION
            if source is control:
                what, fds, _, _ = socket.recv_fds(control, 1, 1)
                if not fds:
                    return
                given = socket.socket(fileno=fds[0])
            else:
                given = source.accept()[0]
            if what == LISTENER:  # in place of that of an earlier run
                sources = [control, given]
            else:
                _fork(given, sources)


def _fork(connection: socket.socket, others: list[socket.socket]) -> None:
    """Serve a connection in a new process."""
    if os.fork() == 0:
        for each in others:
            each.close()
        _serve(connection)
    connection.close()


def _import_what_takes_seconds() -> None:
    """Import what tasks import when they need it, so that each process finds it there."""
    import sklearn.neighbors  # noqa: F401
    import torch._dynamo  # noqa: F401  (any optimiser does)

    from ... import judges  # noqa: F401
    from ...evaluation import mechanisms  # noqa: F401
    from .. import tasks  # noqa: F401


def _serve(accepted: socket.socket) -> None:
    """Call functions until the connection is closed, and end this process."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target, fd in zip((1, 2), socket.recv_fds(accepted, 1, 2)[1], strict=True):
            os.dup2(fd, target)
            os.close(fd)
        sys.stdout, sys.stderr = filtered(sys.stdout), filtered(sys.stderr)
        connection = Connection(accepted.detach())
        environment, path, folder = connection.recv()
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        sys.path += [each for each in path if each not in sys.path]
        importlib.invalidate_caches()
        if folder:
            os.chdir(folder)
        threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
        connection.send_bytes(str(os.getpid()).encode())
        while True:
            function, arguments = connection.recv()
            connection.send_bytes(json.dumps(function(*arguments)).encode())
    except EOFError:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _end_with(connection: int) -> None:
    """Kill this process and all that it started when the other end of a connection is closed."""
    closed = select.poll()
    closed.register(connection, 0)
    closed.poll()
    os.killpg(0, signal.SIGKILL)
