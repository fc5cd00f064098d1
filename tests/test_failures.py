"""Whatever breaks ends in a row with its own status; what only the machine is to blame for is tried again."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from small import toy_run

from cfbench.cli.main import _main as cfbench
from cfbench.engine.failures import is_transient, out_of_memory, with_smaller_batches
from cfbench.runs.progress import log_event, read_events
from cfbench.storage.stage import read_json

ALONE = ["--no-plots", "--no-controls", "--metrics", "truth"]


def command(root, methods, jobs="1", *more):
    return toy_run(root, "--methods", methods, "--jobs", jobs, *ALONE, *more)


def events(root, kind):
    return [e for e in read_events(root / "tiny") if e["event"] == kind]


def test_memory_that_runs_out_halves_the_batch_and_changes_no_number(tmp_path):
    assert cfbench(command(tmp_path / "a", "knows")) == 0
    assert cfbench(command(tmp_path / "b", "hungry")) == 0
    one, two = (load_file(next((tmp_path / n).rglob("answers.safetensors"))) for n in "ab")
    assert all(torch.equal(one[k], two[k]) for k in one)
    batches = [read_json(next((tmp_path / n).rglob("images-*/stage.json")))["batch"] for n in "ab"]
    assert batches == [64, 4]


def test_memory_that_runs_out_in_a_fit_has_a_status_of_its_own(tmp_path, capsys):
    assert cfbench(command(tmp_path, "greedy,knows")) == 2
    assert "bars greedy seed 0: oom: train: OutOfMemoryError" in capsys.readouterr().err
    rows = pd.read_csv(tmp_path / "tiny" / "leaderboard" / "bars.csv").set_index("method")
    assert set(rows.loc["greedy"].status.str.partition(":")[0]) == {"oom"}
    assert (rows.loc["knows"].status == "ok").all()


def test_a_full_disk_is_no_failure_of_a_method(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("DISK_IS_FULL", "1")
        assert cfbench(command(tmp_path, "writes")) == 2
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.rglob("failed-*"))
    assert cfbench(command(tmp_path, "writes")) == 0


def test_a_worker_that_dies_once_is_tried_again_alone_and_no_crash(tmp_path):
    flag = tmp_path / "died"
    os.environ["DIES_ONCE"] = str(flag)
    try:
        assert cfbench(command(tmp_path, "mortal,knows", "2")) == 0
    finally:
        del os.environ["DIES_ONCE"]
    assert flag.exists()
    (crash,) = events(tmp_path, "crash")
    assert crash["task"] == "train bars mortal seed 0"
    begun = {e["task"]: 0 for e in events(tmp_path, "start")}
    for e in events(tmp_path, "start"):
        begun[e["task"]] += 1
    assert begun.pop("train bars mortal seed 0") == 2
    assert set(begun.values()) == {1}


def test_a_worker_that_dies_twice_is_a_crash_of_its_own_row(tmp_path, capsys):
    assert cfbench(command(tmp_path, "dies,knows", "2")) == 2
    assert "bars dies seed 0: crashed: train: its process died twice" in capsys.readouterr().err


def test_every_stage_is_noted_once_and_a_second_command_does_nothing(tmp_path):
    for _ in range(2):
        assert cfbench(command(tmp_path, "knows")) == 0
    wrote = [e["stage"] for e in events(tmp_path, "wrote")]
    assert len(wrote) == len(set(wrote)) >= 6
    assert all((tmp_path / "tiny" / stage / "stage.json").is_file() for stage in wrote)
    assert [e["tasks"] for e in events(tmp_path, "begin")] == [len(events(tmp_path, "end"))]


@pytest.mark.parametrize("twice", [False, True])
def test_the_first_interrupt_lets_short_stages_finish_and_the_second_does_not(tmp_path, twice):
    line = [sys.executable, "-m", "cfbench", *command(tmp_path, "slow,knows")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, **quiet, start_new_session=True)
    deadline = time.monotonic() + 300
    while not any(e["task"].startswith("train bars slow") for e in events(tmp_path, "start")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    if twice:
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
    output = process.communicate()[1]
    assert process.returncode == 130, output
    assert "Ctrl-C again" in output
    done = {e["task"] for e in events(tmp_path, "end")}
    assert ("train bars slow seed 0" in done) != twice
    assert "train bars knows seed 0" not in done
    assert cfbench(command(tmp_path, "slow,knows")) == 0


def test_batches_shrink_for_want_of_memory_only():
    tried = []

    def attempt(batch):
        tried.append(batch)
        if batch > 2:
            raise MemoryError
        return "fits"

    assert with_smaller_batches(16, attempt) == ("fits", 2)
    assert tried == [16, 8, 4, 2]
    with pytest.raises(ZeroDivisionError):
        with_smaller_batches(16, lambda batch: 1 / 0)
    with pytest.raises(MemoryError):
        with_smaller_batches(2, lambda batch: [][1] if batch == 0 else attempt(99))


def test_blame_is_found_through_causes():
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_transient(error)
    assert not out_of_memory(error)
    assert not is_transient(FileNotFoundError(errno.ENOENT, "none"))
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("size mismatch"))


def test_half_a_line_in_the_log_is_passed_over(tmp_path):
    log_event(tmp_path, "begin", tasks=1)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "sta')
    assert [e["event"] for e in read_events(tmp_path)] == ["begin"]
