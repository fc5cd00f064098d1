"""What a plugin does to its process reaches no other row, no judge and no score."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from small import TOYS, toy_run

from cfbench.cli.main import _main as cfbench
from cfbench.engine.request import Request
from cfbench.engine.workers.fork_server import ForkedProcess, ProcessDied
from cfbench.engine.workers.isolation import Group, group_of, is_pristine, parts_of
from cfbench.engine.workers.plugin_processes import PluginProcesses
from cfbench.plugins.spec import Spec
from cfbench.runs.budget import Budget
from cfbench.runs.chain import Task, tasks_of
from cfbench.runs.environment import isolated
from cfbench.runs.job import Job
from cfbench.runs.progress import read_events
from cfbench.storage.temporary import process_exists

VANDAL = """
import builtins, os, random, sys, threading, time
import numpy as np
import torch
from cfbench import contract
from cfbench.evidence import Evidence
from toys import Learns

def damage():
    torch.Tensor.abs = torch.Tensor.square
    torch.Tensor.mean = torch.mean = lambda x, *a, **k: torch.zeros(())
    torch.nn.functional.conv2d = torch.nn.functional.linear = lambda x, *a, **k: x * 0
    torch.randn = torch.zeros
    np.abs = np.absolute = np.mean = np.std = np.sqrt = lambda x, *a, **k: np.zeros(())
    np.random.seed = torch.manual_seed = random.seed = lambda *a, **k: None
    builtins.sum = builtins.max = lambda *a, **k: 0
    Evidence.__getattribute__ = lambda self, name: None
    os.environ["OMP_NUM_THREADS"] = "7"
    sys.setrecursionlimit(60)

class Vandal(Learns):
    def fit(self, run):
        super().fit(run)
        damage()
        raise ArithmeticError("done")

class Sly(Learns):
    def predict(self, u, pa, rng):
        answer = super().predict(u, pa, rng)
        torch.Tensor.abs = torch.Tensor.square
        np.mean = np.abs = lambda x, *a, **k: np.zeros(())
        sys.setrecursionlimit(100)
        return answer

class Rogue(contract.Metric):
    columns = {"grey": contract.Column("sum of the answer", "none")}
    def __call__(self, evidence):
        torch.Tensor.abs = torch.Tensor.square
        return {"grey": evidence.answer.flatten(1).sum(1)}

class Quits(Learns):
    def fit(self, run):
        os._exit(0)

class Lingers(Learns):
    def fit(self, run):
        super().fit(run)
        threading.Thread(target=time.sleep, args=(3600,)).start()

class Stays(Learns):
    def fit(self, run):
        if os.fork() == 0:
            time.sleep(3600)
        time.sleep(3600)
"""
METRICS = "truth,composition,effectiveness,drift"


@pytest.fixture(scope="module")
def vandal(tmp_path_factory):
    """A plugin file with a copy of the toys beside it."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "toys.py").write_text(Path(TOYS).read_text())
    (folder / "vandal.py").write_text(VANDAL)
    return str(folder / "vandal.py")


def run(root, methods, *more, jobs="1", metrics=METRICS):
    """Exit code of a run, and its table."""
    args = ["--methods", methods, "--metrics", metrics, "--jobs", jobs, "--no-plots", "--no-controls", *more]
    code = cfbench(toy_run(root, *args))
    return code, pd.read_csv(root / "tiny" / "leaderboard" / "bars.csv")


def values(table, *rows):
    """All numbers of some rows."""
    keys = ["method", "metric", "variable", "do", "questions", "seed"]
    found = table[table.method.isin(rows)].set_index(keys)[["value", "low", "high"]].sort_index()
    assert found.value.notna().sum() > 10
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    code, table = run(tmp_path_factory.mktemp("undisturbed"), "learns,identity")
    assert code == 0
    return values(table, "learns", "identity")


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_no_value_of_another_row_differs_beside_a_plugin_that_damages_its_process(tmp_path, vandal, undisturbed, jobs):
    metrics = f"rogue,{METRICS}"
    code, table = run(tmp_path, "vandal,sly,learns,identity", "--plugin", vandal, jobs=jobs, metrics=metrics)
    assert code == 2
    status = table.groupby("method").status.agg(lambda s: set(s.str.partition(":")[0]))
    assert status["vandal"] == {"failed"}
    assert status["learns"] == status["identity"] == {"ok"}
    kept = table[~table.metric.fillna("").str.startswith("rogue")]
    pd.testing.assert_frame_equal(values(kept, "learns", "identity"), undisturbed, check_exact=True)


def test_a_plugin_that_ends_its_process_has_a_row(tmp_path, vandal):
    code, table = run(tmp_path, "quits,knows", "--plugin", vandal, metrics="truth")
    assert code == 2
    rows = table.set_index("method").status
    assert rows["quits"].str.startswith("crashed: train: its process died twice").all()
    assert set(rows["knows"]) == {"ok"}
    assert [e["again"] for e in read_events(tmp_path / "tiny") if e["event"] == "crash"] == [False, True]


def command(root, vandal, methods):
    args = ["--plugin", vandal, "--methods", methods, "--metrics", "truth", "--jobs", "1", "--no-plots"]
    return [sys.executable, "-m", "cfbench", *toy_run(root, *args, "--no-controls")]


def test_a_thread_that_never_ends_does_not_keep_the_command(tmp_path, vandal):
    done = subprocess.run(command(tmp_path, vandal, "lingers"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_processes_end_when_the_command_is_killed(tmp_path, vandal):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(tmp_path, vandal, "stays"), **quiet)
    begun = until(lambda: [e for e in read_events(tmp_path / "tiny") if e.get("task", "").startswith("train")])
    group = os.getpgid(begun[0]["pid"])
    assert group not in (os.getpgid(process.pid), os.getpgid(0))
    process.kill()
    process.wait()
    until(lambda: not group_exists(group))


def until(condition):
    """What a condition says once it is true."""
    deadline = time.monotonic() + 300
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def group_exists(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def request(root, vandal, **more):
    asked = {"datasets": "strokes", "methods": "deepscm,sly", "seeds": "0", "preset": "tiny", **more}
    return Request(**asked, plugins=(Path(TOYS), Path(vandal)), run_root=root, data_root=root).run()


def test_tasks_share_a_process_with_those_of_the_same_plugins_only(tmp_path, vandal):
    chosen = request(tmp_path, vandal, metrics="truth,rogue")
    parts = [part for task in tasks_of(chosen) for part in parts_of(chosen.loaded, task)]
    found = {part.id: group_of(chosen.loaded, part) for part in parts}
    assert len(found) == len(parts)
    file = Path(vandal)
    for name, group in found.items():
        if name.endswith("rogue"):
            expected = Group(("metric rogue",), (file,))
        elif "sly" in name and not name.startswith("scores"):
            expected = Group(("method sly",), (file,))
        else:
            expected = Group()
        assert group == expected, name
    assert {"prepare strokes", "judges strokes", "scores strokes deepscm seed 0"} <= found.keys()
    assert "images strokes resample[of=deepscm] seed 0" in found


def test_a_run_of_built_in_plugins_stays_in_one_process(tmp_path, vandal):
    plain = Request(datasets="strokes", methods="deepscm", preset="tiny", run_root=tmp_path, data_root=tmp_path).run()
    assert is_pristine(plain.loaded)
    assert not is_pristine(request(tmp_path, vandal).loaded)


def fork_then_die():
    if os.fork() == 0:
        time.sleep(3600)
    os._exit(0)


def test_a_process_that_dies_is_told_though_what_it_started_lives():
    process = ForkedProcess()
    process.send(os.getpid)
    assert until(lambda: process.receive(0.1)) == process.pid
    process.send(fork_then_die)
    with pytest.raises(ProcessDied):
        until(lambda: process.receive(0.1))
    process.end()
    until(lambda: not group_exists(process.pid))


def test_a_process_that_dies_between_two_tasks_is_replaced(tmp_path):
    job, task = Job(tmp_path, tmp_path, Budget.named("tiny"), plugins=(Path(TOYS),)), Task("prepare", Spec("bars"))
    processes, group = PluginProcesses(), Group(("dataset bars",), (Path(TOYS),))
    for _ in range(2):
        place = processes.submit(job, task, group)
        assert until(lambda at=place: processes.outcome(at, task)).status == "done"
        os.kill(processes.processes[place].pid, signal.SIGKILL)
        until(lambda at=place: not processes.processes[at].alive)
    processes.end_all()


STARTS = """
from cfbench.engine.workers import fork_server
fork_server._running_server()
print(fork_server._server[0].pid)
"""


def test_a_server_that_still_imports_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    (tmp_path / "sklearn" / "neighbors.py").write_text("import time; time.sleep(300)")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with (tmp_path / "pid").open("w") as output:
        subprocess.run([sys.executable, "-P", "-c", STARTS], stdout=output, env=environ, check=True)
    server = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while alive := process_exists(server):
        if time.monotonic() > deadline:
            os.kill(server, signal.SIGKILL)
            break
        time.sleep(0.02)
    assert not alive


@pytest.mark.parametrize(("deaths", "status"), [(2, "done"), (3, "crashed")])
def test_a_task_whose_process_does_not_start_is_no_error_of_the_command(tmp_path, monkeypatch, deaths, status):
    job, task = Job(tmp_path, tmp_path, Budget.named("tiny"), plugins=(Path(TOYS),)), Task("prepare", Spec("bars"))
    processes, start, started = PluginProcesses(), ForkedProcess._start, []

    def killed(process):
        started.append(process)
        if len(started) <= deaths:
            raise ProcessDied
        start(process)

    monkeypatch.setattr(ForkedProcess, "_start", killed)
    place = processes.submit(job, task, Group(("dataset bars",), (Path(TOYS),)))
    assert until(lambda: processes.outcome(place, task)).status == status
    processes.end_all()


def test_the_recursion_limit_is_put_back():
    before = sys.getrecursionlimit()
    with isolated(0, 1):
        sys.setrecursionlimit(before + 500)
    assert sys.getrecursionlimit() == before
