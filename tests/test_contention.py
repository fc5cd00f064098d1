"""Tasks that compute on a device at the same time are counted, and their number is in the table."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
import torch
from small import toy_run

from cfbench.cli.main import _main
from cfbench.engine.contention import DeviceUse, using_device
from cfbench.runs.reader import read_results, read_run
from cfbench.storage.temporary import machine_id

REGISTER = """
import sys
from pathlib import Path
from cfbench.engine.contention import DeviceUse
use = DeviceUse(sys.argv[1], Path(sys.argv[2]))
use.register()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def neighbour(tmp_path):
    """Another process with a task on the device ``gpu``."""
    line = [sys.executable, "-c", REGISTER, "gpu", str(tmp_path / "tasks")]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_a_task_alone_counts_no_other(tmp_path):
    use = DeviceUse("gpu", tmp_path / "tasks", interval=0)
    use.register()
    assert use.count_others() == 0
    use.unregister()
    assert list((tmp_path / "tasks").iterdir()) == []


def test_the_largest_number_is_kept_and_tasks_of_another_device_are_not_counted(tmp_path, neighbour):
    own, second, elsewhere = (DeviceUse(d, tmp_path / "tasks", interval=0) for d in ("gpu", "gpu", "cpu"))
    for use in (own, second, elsewhere):
        use.register()
    assert [own.count_others(), elsewhere.count_others()] == [2, 0]
    second.unregister()
    assert own.count_others() == 2
    assert DeviceUse("gpu", tmp_path / "tasks", interval=0).count_others() == 2


def test_the_file_of_a_killed_process_is_removed(tmp_path, neighbour):
    neighbour.kill()
    neighbour.wait()
    use = DeviceUse("gpu", tmp_path / "tasks", interval=0)
    use.register()
    assert use.count_others() == 0
    assert [p.name for p in (tmp_path / "tasks").iterdir()] == [use.path.name]


def test_foreign_files_in_the_folder_are_no_tasks(tmp_path):
    (tmp_path / "tasks").mkdir()
    here, pid = machine_id(), os.getpid()
    for name in (
        f"gpu.{here}.",
        f"gpu.{here}.x.1",
        f"gpu.{here}.-1.0",
        f"gpux.{here}.{pid}.0",
        f"gpu.{'0' * 8}.{pid}.0",
    ):
        (tmp_path / "tasks" / name).touch()
    assert DeviceUse("gpu", tmp_path / "tasks", interval=0).count_others() == 0


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    use = DeviceUse("gpu", tmp_path / "file" / "tasks", interval=0)
    use.register()
    assert use.count_others() == 0
    use.unregister()


def test_tasks_are_counted_no_more_often_than_the_interval(tmp_path, neighbour):
    use = DeviceUse("gpu", tmp_path / "tasks", interval=1e9)
    use.register()
    assert use.count_others() == 1
    DeviceUse("gpu", tmp_path / "tasks").register()
    assert use.count_others() == 1


def test_a_row_says_whether_other_tasks_ran_while_it_was_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of processes of plugins
    more = ["--methods", "learns", "--jobs", "1", "--metrics", "runtime", "--no-controls", "--no-plots"]
    assert _main(toy_run(tmp_path / "alone", *more)) == 0
    with using_device(torch.device("cpu")):
        assert _main(toy_run(tmp_path / "shared", *more)) == 0
    for name, others in (("alone", 0), ("shared", 1)):
        scores = {s.column: s.value for s in read_results(read_run(tmp_path / name / "tiny"), "bars").scores}
        assert (scores["fit_others"], scores["answer_others"]) == (others, others)
