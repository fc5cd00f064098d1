"""Ray for one run: started on this machine, where nobody else reaches it, or a cluster that is joined."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ...errors import Interrupted, UserError, one_line
from ...storage.scratch import MARK, end_processes, scratch_folder
from ..interrupts import handling, install_again

__all__ = [
    "VITAL", "RayUnavailable", "authentication", "cluster_authentication", "dead_processes", "import_ray",
    "join_cluster", "marked", "private_folder", "start_ray", "starting_ray", "stopping_ray", "write_token",
]  # fmt: skip


FLOOR = (2, 52)
"""The first version of Ray that has token authentication."""
INNER = "r"
"""The folder inside a private one that Ray works in: it lets everyone write to the one that it is given."""
SOCKET = f"{INNER}/session_2000-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store.1"
"""The longest path that Ray gives a socket inside a private folder."""
PROBE = 10.0
"""Seconds that a cluster has to accept a connection."""
VITAL = frozenset({"raylet", "gcs_server"})
"""Ray's processes on this machine without which no task ends."""
MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
QUIET: Mapping[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


class RayUnavailable(UserError):
    """Ray cannot start on this machine; a run can go on without it."""


def import_ray() -> Any:
    """The module ``ray``.

    Raises:
        UserError: it is of a version without token authentication.
        RayUnavailable: the process uses it for something else.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if tuple(map(int, re.findall(r"\d+", ray.__version__)[:2])) < FLOOR:
        raise UserError(
            f"ray {ray.__version__} does not keep other users out; install ray>={'.'.join(map(str, FLOOR))}, or give "
            "--jobs 1, which does without it"
        )
    if ray.is_initialized():
        raise RayUnavailable("Ray cannot start: this process uses it already")
    return ray


@contextmanager
def private_folder() -> Iterator[Path]:
    """Context manager with an empty folder of this user alone, removed on exit, in which Ray's sockets have room.

    Raises:
        RayUnavailable: there is no place for one.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder(SOCKET))
        except OSError as error:
            why = "no folder for temporary files can be written and has a short path"
            raise RayUnavailable(f"Ray cannot start: {why}") from error
        yield folder


def write_token(folder: Path) -> Path:
    """A file with a new random token, which only this user can read."""
    file = folder / "token"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(secrets.token_hex(32))
    return file


@contextmanager
def authentication(mode: str, token: Path | None = None) -> Iterator[None]:
    """Context manager under which Ray, in this process and those that it starts, authenticates or does not.

    Args:
        mode: ``token`` or ``disabled``.
        token: the file of the token; by default the one that the environment names.
    """
    before = {name: os.environ.get(name) for name in (MODE, TOKEN, TOKEN_PATH)}
    os.environ[MODE] = mode
    if token:
        os.environ[TOKEN_PATH] = str(token)
        os.environ.pop(TOKEN, None)
    _forget_authentication()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _forget_authentication()


def _forget_authentication() -> None:
    """Let Ray read mode and token again; the mode first, as its threads end the process where that asks for a token."""
    raylet = _raylet()
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _raylet() -> Any:
    import ray._raylet as raylet

    return raylet


def start_ray(ray: Any, folder: Path, slots: int, gpus: int, env_vars: Mapping[str, str]) -> Path:
    """Start Ray on this machine, on the loopback interface only, with its sockets and logs in a private folder.

    Neither the working directory nor the driver's script folder is on the path of its workers. Returns the folder of
    the logs.

    Raises:
        RayUnavailable: it does not start.
    """
    if shutil.which("bash") is None:
        raise RayUnavailable("Ray cannot start: its workers need bash, and there is none on the PATH")
    from ray._private import ray_constants
    from ray.job_config import JobConfig

    class JobConfigOfWorkers(JobConfig):  # type: ignore[misc]
        def _runtime_env_has_working_dir(self) -> bool:
            """Whether workers have a folder of their own on their path, in place of those of the driver."""
            return True

    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # off: loopback, as on macOS
    try:
        ray.init(
            address="local", num_cpus=slots, num_gpus=gpus, include_dashboard=False, _temp_dir=str(folder / INNER),
            runtime_env={"env_vars": dict(env_vars)}, job_config=JobConfigOfWorkers(), **QUIET,
        )  # fmt: skip
        listens = ray.util.get_node_ip_address()
        if not ipaddress.ip_address(listens).is_loopback:
            raise RuntimeError(f"it listens on {listens}, which other machines may reach")
    except Exception as error:  # of any class: Ray passes on what went wrong
        ray.shutdown()
        raise RayUnavailable(f"Ray cannot start: {one_line(str(error) or type(error).__name__)}") from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
    return folder / INNER / "session_latest" / "logs"


@contextmanager
def starting_ray() -> Iterator[None]:
    """Context manager around Ray's start, which leaves signal handlers behind that end the process in its own way.

    Raises:
        Interrupted: a signal asked to stop.
    """
    numbers: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        raise Interrupted(number)

    try:
        with handling(handler):
            yield
    except BaseException as error:  # Ray has a handler of its own, and replaces exceptions of others
        if numbers or isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise Interrupted(numbers[0] if numbers else signal.SIGTERM) from None
        raise


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Context manager whose block starts processes that `end_processes` finds by a folder."""
    before = os.environ.get(MARK)
    os.environ[MARK] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(MARK)
        if before is not None:
            os.environ[MARK] = before


@contextmanager
def stopping_ray(ray: Any, folder: Path) -> Iterator[None]:
    """Context manager that stops Ray on exit, and what is left of it then; signals do not disturb that."""
    try:
        yield
    finally:
        with handling(signal.SIG_IGN):
            if VITAL & dead_processes(ray):  # the others would wait for it
                end_processes(folder)
            ray.shutdown()
            install_again()  # Ray's native code has made SIGTERM end this process
            end_processes(folder)


def dead_processes(ray: Any) -> set[str]:
    """Which of the processes that Ray started from this one have ended."""
    node = getattr(getattr(getattr(ray, "_private", None), "worker", None), "_global_node", None)
    return {kind for kind, _ in node.dead_processes()} if node else set()


@contextmanager
def cluster_authentication(ray: Any, address: str) -> Iterator[None]:
    """Context manager under which this process sends its token to a cluster that asks for one, and to no other.

    Warns where the cluster asks for none.

    Raises:
        UserError: there is no cluster, or it does not take the token.
    """
    with _errors_of(ray, address):
        asks = _asks_for_token(ray, address)
    if not asks:
        print(
            f"cfbench: --address {address}: this cluster has no authentication: who reaches its ports executes code on "
            "it and reads what this run sends there; see docs/security.md",
            file=sys.stderr,
        )
    with authentication("token" if asks else "disabled"):
        yield


def join_cluster(ray: Any, address: str, runtime_env: Mapping[str, Any]) -> None:
    """Connect to a cluster.

    Raises:
        UserError: there is none at the address, or it does not take the token.
    """
    with _errors_of(ray, address):
        ray.init(address=address, runtime_env=dict(runtime_env), **QUIET)


@contextmanager
def _errors_of(ray: Any, address: str) -> Iterator[None]:
    """Context manager that raises the errors of connecting to a cluster as `UserError`."""
    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            f"--address {address}: this cluster asks for a token, and yours is missing or another one; give its file "
            f"by {TOKEN_PATH}"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--address {address}: no Ray there ({reason}); start one with `ray start --head`") from error


def _asks_for_token(ray: Any, address: str) -> bool:
    """Whether a cluster refuses who has no token; if so, it has taken the token of the environment."""
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._private.services import canonicalize_bootstrap_address_or_die

    client = address.startswith("ray://")  # another protocol, of another package
    gcs = address.removeprefix("ray://") if client else canonicalize_bootstrap_address_or_die(address)
    host, _, port = gcs.rpartition(":")
    socket.create_connection((host, int(port)), timeout=PROBE).close()  # Ray itself tries for minutes
    if client:
        return os.environ.get(MODE, "") == "token"
    try:
        with authentication("disabled"), _silent():
            _raylet().GcsClient(address=gcs)
        return False
    except ray.exceptions.AuthenticationError:
        pass
    if TOKEN not in os.environ and not os.access(os.environ.get(TOKEN_PATH, "."), os.R_OK):
        raise ray.exceptions.AuthenticationError("no token")  # where Ray 2.52 ends the process
    with authentication("token"), _silent():
        ensure_token_if_auth_enabled(None, create_token_if_missing=False)
        _raylet().GcsClient(address=gcs)
    return True


@contextmanager
def _silent() -> Iterator[None]:
    """Context manager without standard error: Ray's native code writes there what the exception says."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
