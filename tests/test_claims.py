"""Two processes with the same run share its tasks: one waits for what the other is at work on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from small import timeless, toy_run

from cfbench.cli.main import _main as cfbench
from cfbench.engine.claims import Claims, remove_abandoned_claims
from cfbench.engine.tasks import record_failure
from cfbench.plugins.spec import Spec
from cfbench.runs.budget import Budget
from cfbench.runs.chain import Outcome, Status, Task
from cfbench.runs.job import Job
from cfbench.runs.progress import FOLDER, read_events

TASK, OTHER = Task("prepare", Spec("bars")), Task("judges", Spec("bars"))
HOLD = """
import sys
from pathlib import Path
from cfbench.engine.claims import Claims, remove_abandoned_claims
from cfbench.plugins.spec import Spec
from cfbench.runs.chain import Task
with Claims(Path(sys.argv[1]), print) as claims:
    assert claims.take(Task("prepare", Spec("bars")))
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is at work on a task."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **pipes)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_a_task_of_another_process_is_waited_for_and_that_is_said_once(tmp_path, holder):
    lines = []
    with Claims(tmp_path, lines.append) as mine:
        assert not mine.take(TASK)
        assert not mine.take(TASK)
        assert mine.take(OTHER)
        assert lines == [f"prepare bars: process {holder.pid} is at work on it; waiting for that"]
        holder.communicate()
        assert mine.take(TASK)
        assert mine.failure_elsewhere(TASK) is None
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_killed_process_holds_nothing_and_its_file_is_removed(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    remove_abandoned_claims(tmp_path)
    assert list((tmp_path / FOLDER).iterdir()) == []
    with Claims(tmp_path, print) as mine:
        assert mine.take(TASK)


def test_a_failure_that_another_process_recorded_meanwhile_is_taken_over(tmp_path, holder):
    with Claims(tmp_path, lambda line: None) as mine:
        assert not mine.take(TASK)
        record_failure(Job(tmp_path, tmp_path, Budget.named("tiny")), Outcome(TASK, Status.FAILED, "why", log="log"))
        holder.communicate()
        assert mine.take(TASK)
        assert mine.failure_elsewhere(TASK).reason == "why"


def test_a_file_system_without_locks_disturbs_nothing(tmp_path, monkeypatch):
    def missing(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("cfbench.engine.claims.fcntl.lockf", missing)
    with Claims(tmp_path, print) as mine:
        assert mine.take(TASK)
        mine.release(TASK)


def test_two_commands_at_once_compute_nothing_twice(tmp_path):
    more = ["--methods", "slow,patient", "--metrics", "truth", "--no-plots", "--no-controls", "--jobs", "1"]
    line = [sys.executable, "-m", "cfbench", *toy_run(tmp_path / "both", *more)]
    environ = {**os.environ, "PATIENCE": "0.05"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": environ}
    first = subprocess.Popen(line, **pipes)
    while not any(e["event"] == "start" for e in read_events(tmp_path / "both" / "tiny")):
        assert first.poll() is None
        time.sleep(0.02)
    second = subprocess.run(line, **pipes)
    err = first.communicate()[1] + second.stderr
    assert (first.returncode, second.returncode) == (0, 0), err
    assert "is at work on it; waiting for that" in err
    events = list(read_events(tmp_path / "both" / "tiny"))
    wrote = [e["stage"] for e in events if e["event"] == "wrote"]
    assert len(wrote) == len(set(wrote)) == len(list(Path(tmp_path).rglob("stage.json")))
    assert cfbench(toy_run(tmp_path / "one", *more)) == 0
    pd.testing.assert_frame_equal(timeless(tmp_path / "both"), timeless(tmp_path / "one"), check_exact=True)
