"""What Ray is started with on this machine, and runs where it cannot start."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from small import toy_run

from cfbench.cli.main import _main as cfbench
from cfbench.engine.workers import ray_executor as executors
from cfbench.engine.workers import ray_session
from cfbench.engine.workers.ray_executor import RayExecutor
from cfbench.engine.workers.ray_session import import_ray, private_folder, write_token
from cfbench.errors import UserError
from cfbench.runs.budget import Budget
from cfbench.runs.context import LoadedJob
from cfbench.runs.job import Job
from cfbench.storage import scratch

UNTRUSTED = (
    "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\nraise ImportError('not the real one')\n"
)


def loaded(folder: Path) -> LoadedJob:
    return LoadedJob(Job(folder, folder, Budget.named("tiny")))


STOPS = """
import ctypes, os, pathlib, signal
from types import SimpleNamespace
from cfbench.engine.workers import ray_session

def end_processes(folder):
    os.kill(os.getpid(), signal.SIGTERM)
    print("ended", flush=True)

ray_session.end_processes = end_processes
native = ctypes.CDLL(None).signal
native.argtypes = ctypes.c_int, ctypes.c_void_p
with ray_session.stopping_ray(SimpleNamespace(shutdown=lambda: native(signal.SIGTERM, None)), pathlib.Path()):
    pass
"""


def test_a_signal_does_not_keep_what_is_left_of_ray_from_being_removed():
    """Ray's native code resets the handler of SIGTERM when it shuts down."""
    ended = subprocess.run([sys.executable, "-c", STOPS], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr


def test_tokens_differ_and_folders_end_with_what_they_are_for(tmp_path):
    def of_one_run():
        with private_folder() as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            return folder, write_token(folder).read_text()

    (first, one), (second, other) = of_one_run(), of_one_run()
    assert one != other
    assert not first.exists()
    assert not second.exists()
    with pytest.raises(FileNotFoundError, match="of a run"), private_folder() as folder:
        raise FileNotFoundError("of a run")
    assert not folder.exists()


@pytest.mark.parametrize("temporary", ["{}/" + "x" * 100, "/proc", "/dev/null", None])
def test_a_temporary_folder_of_no_use_is_replaced(tmp_path, monkeypatch, temporary):
    monkeypatch.setattr(tempfile, "tempdir", temporary and temporary.format(tmp_path))
    if temporary is None:
        monkeypatch.setattr(tempfile, "_get_default_tempdir", no_folder)
    elif tmp_path.as_posix() in tempfile.gettempdir():
        Path(tempfile.gettempdir()).mkdir()
    with private_folder() as folder:
        assert folder.parent in (Path("/tmp"), Path("/var/tmp"))
        assert len(f"{folder}/{ray_session.SOCKET}") < scratch.SOCKET_PATH


def no_folder(*given, **named):
    raise FileNotFoundError("No usable temporary directory found")


def test_a_version_without_tokens_is_refused(monkeypatch):
    ray = import_ray()
    for version in ("2.51.2", "2.9.3", "1.13.0"):
        monkeypatch.setattr(ray, "__version__", version)
        with pytest.raises(UserError, match=rf"ray {version} .*install ray>=2\.52, or give --jobs 1"):
            import_ray()
    for version in ("2.52.0", "2.100.0rc1", "3.0.0.dev0"):
        monkeypatch.setattr(ray, "__version__", version)
        assert import_ray() is ray


def test_the_distribution_asks_for_a_version_with_tokens():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    (asked,) = [r for r in project["dependencies"] if re.match(r"ray\b", r)]
    assert asked == f"ray>={'.'.join(map(str, ray_session.FLOOR))}"


def broken(*given, **named):
    raise RuntimeError("the raylet\ndid not start")


def no_bash(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")


def no_place(monkeypatch):
    monkeypatch.setattr(scratch, "SOCKET_PATH", 10)


def no_start(monkeypatch):
    monkeypatch.setattr(import_ray(), "init", broken)


def in_use(monkeypatch):
    monkeypatch.setattr(import_ray(), "is_initialized", lambda: True)


@pytest.mark.parametrize(
    ("prevent", "why"),
    [
        (no_bash, "its workers need bash, and there is none on the PATH"),
        (no_place, "no folder for temporary files can be written and has a short path"),
        (no_start, "the raylet did not start"),
        (in_use, "this process uses it already"),
    ],
)
def test_where_ray_cannot_start_a_run_goes_on_in_one_process(tmp_path, monkeypatch, capsys, prevent, why):
    command = toy_run(tmp_path, "--methods", "learns", "--metrics", "truth", "--no-controls", "--no-plots")
    with monkeypatch.context() as patch:
        prevent(patch)
        assert cfbench([*command, "--jobs", "2"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Ray" in line]
    assert line == f"cfbench: Ray cannot start: {why}; this run goes on without it, one task at a time"
    assert (tmp_path / "tiny" / "leaderboard" / "bars.csv").is_file()


def test_a_cluster_is_not_replaced_by_this_process(tmp_path, monkeypatch, capsys):
    in_use(monkeypatch)
    command = toy_run(tmp_path, "--methods", "learns", "--metrics", "truth", "--no-controls", "--no-plots")
    assert cfbench([*command, "--address", "127.0.0.1:1"]) == 1
    assert "this process uses it already" in capsys.readouterr().err


class Slow:
    """Ray, of whose workers only the first ones start."""

    def __init__(self, started):
        self.started = started

    def remote(self, **options):
        return lambda function: SimpleNamespace(remote=lambda *given: object())

    def wait(self, references, num_returns, timeout):
        return references[: self.started], references[self.started :]


@pytest.mark.parametrize("started", [0, 1, 2])
def test_workers_that_do_not_start_are_told_once(tmp_path, monkeypatch, capsys, started):
    now = time.monotonic()
    monkeypatch.setattr(executors.time, "monotonic", lambda: now)
    executor = RayExecutor(Slow(started), loaded(tmp_path), 2, 0)
    executor.warm_up(tmp_path / "logs")
    for later, expected in ((59, False), (61, started < 2), (200, False)):
        monkeypatch.setattr(executors.time, "monotonic", lambda later=later: now + later)
        executor.wait()
        said = capsys.readouterr().err
        assert (f"{2 - started} of 2 workers of Ray have not started within 60 s" in said) is expected
        assert (str(tmp_path / "logs") in said) is expected


def test_a_worker_of_the_data_does_not_import_from_the_working_directory(tmp_path, monkeypatch):
    import numpy as np
    from cfbench_datasets.morphomnist import worker_pool

    (tmp_path / "numpy.py").write_text(UNTRUSTED)
    monkeypatch.chdir(tmp_path)
    digits = np.zeros((2, 28, 28), np.uint8)
    digits[:, 8:20, 13:15] = 255
    worker_pool._redraw_in_process(digits, np.full(2, np.nan), np.full((2, 1), 3.0))
    assert not list(tmp_path.glob("*.ran"))
