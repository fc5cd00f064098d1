"""Processes forked from a server that has imported cfbench and run no plugin, for code that must not share one.

The server of `multiprocessing` runs the caller's script again in each process, keeps the environment of the first
caller, and needs a temporary folder.
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
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ...storage.temporary import process_exists

__all__ = ["ForkedProcess", "ProcessDied"]


class ProcessDied(Exception):
    """A process ended before it sent what its function returned."""


class ForkedProcess:
    """A process in which functions are called one after another, with the environment that this one has now.

    It ends with all that it started when it is told to, and when this process ends in any way.
    """

    def __init__(self) -> None:
        self.connection = _connect()
        folder = os.getcwd() if os.path.isdir(os.curdir) else None
        self.connection.send((dict(os.environ), sys.path, folder))
        self.pid = int(self._receive())

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let the process call a function of cfbench that returns what JSON can hold; one at a time."""
        with suppress(OSError):  # it has died, which `receive` reports
            self.connection.send((function, arguments))

    def receive(self, seconds: float) -> Any | None:
        """What the function returned, or None if it has not after so many seconds.

        Raises:
            ProcessDied: the process has ended.
        """
        alive = process_exists(self.pid)
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


_server: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def _running_server() -> socket.socket:
    """The socket of the server, which is started if it does not run, and ends when this process does."""
    global _server
    if _server is None or _server[0].poll() is not None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"import sys; sys.path += {sys.path!r}; from {__name__} import main; main({theirs.fileno()})"
            command = [sys.executable, "-P", "-c", code]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
        atexit.register(ours.close)
        _server = process, ours
    return _server[1]


def _connect() -> Connection:
    """The connection to a new process of the server."""
    ours, theirs = socket.socketpair()
    with theirs:
        for last in (False, True):
            try:
                socket.send_fds(_running_server(), [b"."], [theirs.fileno()])
                break
            except BrokenPipeError:  # the server has just been killed
                if last:
                    raise
                assert _server
                _server[0].wait()
    return Connection(ours.detach())


def main(fd: int) -> None:
    """Fork a process for each connection that comes through a socket, until that is closed."""
    _import_what_takes_seconds()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides what an interrupt means
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # processes that end are not waited for
    control = socket.socket(fileno=fd)
    while True:
        _, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not fds:
            return
        if os.fork() == 0:
            control.close()
            _serve(Connection(fds[0]))
        os.close(fds[0])


def _import_what_takes_seconds() -> None:
    """Import what tasks import when they need it, so that each process finds it there."""
    import sklearn.neighbors  # noqa: F401
    import torch._dynamo  # noqa: F401  (any optimiser does)

    from ... import judges  # noqa: F401
    from ...evaluation import mechanisms  # noqa: F401
    from .. import tasks  # noqa: F401


def _serve(connection: Connection) -> None:
    """Call functions until the connection is closed, and end this process."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        environment, path, folder = connection.recv()
        os.environ.clear()
        os.environ.update(environment)
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
