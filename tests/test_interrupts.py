"""Signals end a run and fail nothing; what plugins raise, whatever it is, fails their own row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from disturbs import DISTURBS
from small import timeless, toy_run

from cfbench.cli.main import _main as cfbench
from cfbench.engine.interrupts import handling
from cfbench.engine.workers.isolated_executor import IsolatedExecutor
from cfbench.errors import Interrupted, interruption_in, raise_interrupted
from cfbench.plugins.spec import Spec
from cfbench.runs.budget import Budget
from cfbench.runs.chain import Outcome, Status, Task
from cfbench.runs.context import LoadedJob
from cfbench.runs.job import Job
from cfbench.runs.progress import read_events

MORE = ["--no-plots", "--no-controls", "--metrics", "truth", "--plugin", str(Path(__file__).with_name("disturbs.py"))]
EXITS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def command(root, methods, jobs="1", *more):
    return toy_run(root, "--methods", methods, "--jobs", jobs, *MORE, *more)


@pytest.fixture
def disturb(tmp_path, monkeypatch):
    """Says which signal a method sends to whom, how often."""
    monkeypatch.setenv(DISTURBS, str(tmp_path / "disturbs"))
    return lambda number, whom, times=1: (tmp_path / "disturbs").write_text(f"{number} {whom} {times}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert cfbench(command(root, "disturbs")) == 0
    return timeless(root)


def recorded(root):
    return [str(path) for path in root.rglob("failed-*")]


@pytest.mark.parametrize("number", EXITS)
@pytest.mark.parametrize(("how", "times"), [("raises", 1), ("wraps", 2)])
def test_what_fails_while_a_run_is_stopped_is_pending(tmp_path, disturb, undisturbed, capsys, number, how, times):
    methods = f"disturbs[how={how}]"
    disturb(number, "driver", times)
    assert cfbench(command(tmp_path, methods)) == EXITS[number]
    assert "cfbench: interrupted; the same command continues" in capsys.readouterr().err
    assert recorded(tmp_path) == []
    assert cfbench(command(tmp_path, methods)) == 0
    assert timeless(tmp_path).value.equals(undisturbed.value)


def in_a_process(root, jobs="2"):
    line = [sys.executable, "-m", "cfbench", *command(root, "disturbs", jobs)]
    environ = {**os.environ, "TMPDIR": str(root / "tmp")}
    (root / "tmp").mkdir(exist_ok=True)
    return subprocess.run(line, capture_output=True, text=True, env=environ)


CASES = [
    ("SIGTERM", "me", 0, ""),
    ("SIGTERM", "worker", 0, ""),
    ("SIGTERM", "all", 143, "cfbench: interrupted; the same command continues"),
    ("SIGHUP", "driver", 129, "cfbench: interrupted; the same command continues"),
    ("SIGKILL", "raylet", 1, "cfbench: error: Ray's raylet ended unexpectedly; the same command continues"),
    ("SIGKILL", "gcs", 1, "cfbench: error: Ray's gcs_server ended unexpectedly; the same command continues"),
]


@linux
@pytest.mark.parametrize(("number", "whom", "code", "says"), CASES)
def test_signals_to_processes_of_a_run_fail_nothing(tmp_path, disturb, undisturbed, number, whom, code, says):
    disturb(number, whom)
    ended = in_a_process(tmp_path)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert recorded(tmp_path) == []
    assert cfbench(command(tmp_path, "disturbs", "1")) == 0
    assert timeless(tmp_path).equals(undisturbed)
    assert not [e for e in read_events(tmp_path / "tiny") if e["event"] == "crash"]


@linux
@pytest.mark.parametrize("whom", ["me", "server"])
def test_a_signal_to_the_process_of_a_plugin_or_its_server_fails_nothing(tmp_path, disturb, undisturbed, whom):
    disturb("SIGTERM", whom)
    assert cfbench(command(tmp_path, "disturbs[how=wraps]")) == 0
    assert recorded(tmp_path) == []
    assert not [e for e in read_events(tmp_path / "tiny") if e["event"] == "crash"]
    assert timeless(tmp_path).value.equals(undisturbed.value)


def test_a_plugin_that_asks_its_own_process_to_stop_fails_after_some_tries(tmp_path, capsys):
    assert cfbench(command(tmp_path, "disturbs[how=stops],disturbs")) == 2
    err = capsys.readouterr().err
    assert "bars disturbs[how=stops] seed 0: crashed: train: its process was asked to stop 3 times (SIGTERM)" in err
    assert "1 cells unfinished" in err
    begun = [e["task"] for e in read_events(tmp_path / "tiny") if e["event"] == "start"]
    assert begun.count("train bars disturbs[how=stops] seed 0") == 3


def test_a_process_that_dies_while_a_run_is_stopped_leaves_its_task_pending(tmp_path):
    executor = IsolatedExecutor(LoadedJob(Job(tmp_path, tmp_path, Budget.named("tiny"))))
    executor.processes = SimpleNamespace(
        submit=lambda job, task, group: "place", outcome=lambda place, task: Outcome(task, Status.CRASHED)
    )
    executor.start(Task("prepare", Spec("strokes")))
    executor.stop()
    assert [outcome.status for outcome in executor.wait()] == ["pending"]


RAISES = """
import os, sys, threading, time
from cfbench.contract import Method
from toys import Learns

class Throws(Learns):
    def __init__(self, graph, what: str = ""):
        super().__init__(graph)
        self.what = what
        if what == "made":
            raise GeneratorExit("in the constructor")

    def fit(self, run):
        super().fit(run)
        if self.what:
            raise {"base": BaseException, "generator": GeneratorExit, "interrupt": KeyboardInterrupt}[self.what]("why")

class Lingers(Learns):
    def __init__(self, graph):
        super().__init__(graph)
        threading.Thread(target=time.sleep, args=(3600,)).start()
"""
REASONS = {"base": "BaseException: why", "generator": "GeneratorExit: why", "interrupt": "KeyboardInterrupt: why"}


def test_an_exception_of_any_class_fails_its_row_and_no_other(tmp_path, capsys):
    (tmp_path / "throws.py").write_text(RAISES)
    (tmp_path / "toys.py").write_text(Path(__file__).with_name("toys.py").read_text())
    rows = ["learns", *(f"throws[what={what}]" for what in REASONS)]
    assert cfbench(command(tmp_path / "runs", ",".join(rows), "1", "--plugin", str(tmp_path / "throws.py"))) == 2
    err = capsys.readouterr().err
    for what, reason in REASONS.items():
        assert f"bars throws[what={what}] seed 0: failed: train: {reason} (throws.py line 16)" in err
    assert "3 cells unfinished" in err
    made = command(tmp_path / "runs", "throws[what=made]", "1", "--plugin", str(tmp_path / "throws.py"))
    assert cfbench(made) == 1
    assert "cannot be made for bars: GeneratorExit: in the constructor" in capsys.readouterr().err


def test_a_command_ends_though_a_thread_of_a_constructor_does_not(tmp_path):
    (tmp_path / "throws.py").write_text(RAISES)
    (tmp_path / "toys.py").write_text(Path(__file__).with_name("toys.py").read_text())
    line = command(tmp_path / "runs", "lingers", "1", "--plugin", str(tmp_path / "throws.py"))
    ended = subprocess.run([sys.executable, "-m", "cfbench", *line], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "lingers" in ended.stdout


def test_a_signal_is_found_in_what_a_library_makes_of_it():
    def caught(raised, by):
        with pytest.raises(by) as found:
            raised()
        return interruption_in(found.value)

    def wrapped():
        try:
            raise_interrupted(signal.SIGTERM, None)
        except BaseException:
            raise RuntimeError("closed") from OSError("closed")

    assert caught(wrapped, RuntimeError).exit_code == 143
    assert interruption_in(SystemExit(1)) is None
    with handling():
        assert interruption_in(KeyboardInterrupt()) is None, "a plugin's"
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert interruption_in(KeyboardInterrupt()).exit_code == 130, "of Python's own handler"


def test_handlers_are_as_before_and_ignored_signals_stay_so(monkeypatch):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is before[0]
    finally:
        signal.signal(signal.SIGHUP, before[1])
