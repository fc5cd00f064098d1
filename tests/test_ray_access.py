"""Ray on this machine as a run starts it: closed to others, and with nothing of the working directory in it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cfbench.engine.workers.ray_executor import ray_executor
from cfbench.runs.budget import Budget
from cfbench.runs.context import LoadedJob
from cfbench.runs.job import Job

LOOPBACK = {"0100007F", f"{'0' * 24}01000000", f"{'0' * 16}FFFF00000100007F"}
"""127.0.0.1, ::1 and 127.0.0.1 as an IPv6 address, as /proc/net has them."""
UNTRUSTED = (
    "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\nraise ImportError('not the real one')\n"
)


@dataclass
class Session:
    ray: Any
    here: Path
    token: Path


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Ray as a run starts it, where HOME cannot be written, TMPDIR has 100 letters, and others left modules."""
    here = tmp_path_factory.mktemp("here")
    for name in ("safetensors", "numpy", "torch", "cfbench", "yaml", "packaging"):
        (here / f"{name}.py").write_text(UNTRUSTED)
    long = here / ("x" * 100)
    long.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("HOME", "/dev/null")
        patch.setenv("TMPDIR", str(long))
        patch.setattr(tempfile, "tempdir", None)
        patch.delenv("RAY_AUTH_MODE", raising=False)
        with ray_executor(LoadedJob(Job(here, here, Budget.named("tiny"))), 2) as executor:
            token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            yield Session(executor.ray, here, token)
            assert (executor.logs / "raylet.out").is_file()
        assert not token.parent.exists()
        assert not os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}
        assert not list(long.iterdir())


def family() -> list[int]:
    """This process and all that it started."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def listening(pids: list[int]) -> list[str]:
    """The addresses on which processes listen, in the hexadecimal digits of /proc/net."""
    opened = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            try:
                opened.add(os.readlink(file))
            except OSError:
                continue
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return [line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in opened]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux' /proc")
def test_all_ports_are_on_the_loopback_interface(session):
    @session.ray.remote
    def pid():
        return os.getpid()

    worker, pids = session.ray.get(pid.remote()), family()
    assert worker in pids
    found = listening(pids)
    assert len(found) >= 5, "gcs, raylet twice, driver, worker"
    assert set(found) <= LOOPBACK


CLIENT = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit(3)
"""


def enter(session, **environ):
    """The exit code of a client: 0 inside, 3 refused."""
    address = session.ray.get_runtime_context().gcs_address
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    return subprocess.run(
        [sys.executable, "-P", "-c", CLIENT, address], env=clean | environ, cwd="/", capture_output=True, check=False
    ).returncode


def test_a_client_needs_the_token_of_this_run(session):
    assert enter(session, RAY_AUTH_MODE="disabled") == 3
    assert enter(session, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="f" * 64) == 3
    assert enter(session, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(session.token)) == 0


def test_another_user_does_not_get_the_token(session):
    assert stat.S_IMODE(session.token.stat().st_mode) == 0o600
    assert stat.S_IMODE(session.token.parent.stat().st_mode) == 0o700
    assert re.fullmatch("[0-9a-f]{64}", session.token.read_text())
    sockets = list(session.token.parent.rglob("sockets/raylet*"))
    assert sockets, "Ray's sockets are somewhere else"
    if os.geteuid() == 0:
        for file in (session.token, sockets[0]):
            found = subprocess.run(["ls", file], user=65534, capture_output=True, text=True, check=False)
            assert found.returncode
            assert "denied" in found.stderr


def test_nothing_of_the_working_directory_runs_in_a_worker(session):
    @session.ray.remote
    def place():
        import cfbench.storage  # which imports safetensors

        assert cfbench.storage
        return os.getcwd(), sys.path

    here, path = session.ray.get(place.remote())
    assert here == str(session.here), "plugins open files there"
    assert not {"", ".", here} & set(path)
    assert not list(session.here.glob("*.ran"))
