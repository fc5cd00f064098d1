"""Who computes on a device at the same time, and what a row says of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from cfbench.cli.main import _main
from cfbench.engine.contention import DeviceUse, using_device
from cfbench.runs.reader import read_results
from cfbench.storage.temporary import machine_id

TOYS = str(Path(__file__).with_name("toys.py"))
SIT = """
import sys
from pathlib import Path
from cfbench.engine.contention import DeviceUse
place = DeviceUse(sys.argv[1], Path(sys.argv[2]))
place.take()
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def neighbour(tmp_path):
    """Another process that sits on the device ``gpu``."""
    line = [sys.executable, "-c", SIT, "gpu", str(tmp_path / "seats")]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    yield process
    process.kill()
    process.communicate()


def test_a_task_alone_sees_nobody(tmp_path):
    place = DeviceUse("gpu", tmp_path / "seats", interval=0)
    place.take()
    assert place.look() == 0
    place.leave()
    assert list((tmp_path / "seats").iterdir()) == []


def test_the_most_others_are_kept_and_those_of_another_device_are_not_seen(tmp_path, neighbour):
    own, second, elsewhere = (DeviceUse(d, tmp_path / "seats", interval=0) for d in ("gpu", "gpu", "cpu"))
    for place in (own, second, elsewhere):
        place.take()
    assert [own.look(), elsewhere.look()] == [2, 0]
    second.leave()
    assert own.look() == 2
    assert DeviceUse("gpu", tmp_path / "seats", interval=0).look() == 2


def test_the_seat_of_a_killed_process_is_cleared(tmp_path, neighbour):
    neighbour.kill()
    neighbour.wait()
    place = DeviceUse("gpu", tmp_path / "seats", interval=0)
    place.take()
    assert place.look() == 0
    assert [p.name for p in (tmp_path / "seats").iterdir()] == [place.path.name]


def test_strange_files_in_the_folder_are_nobody(tmp_path):
    (tmp_path / "seats").mkdir()
    here, pid = machine_id(), os.getpid()
    for name in (
        f"gpu.{here}.",
        f"gpu.{here}.x.1",
        f"gpu.{here}.-1.0",
        f"gpux.{here}.{pid}.0",
        f"gpu.{'0' * 8}.{pid}.0",
    ):
        (tmp_path / "seats" / name).touch()
    assert DeviceUse("gpu", tmp_path / "seats", interval=0).look() == 0


def test_a_folder_that_cannot_be_made_ends_no_task(tmp_path):
    (tmp_path / "file").touch()
    place = DeviceUse("gpu", tmp_path / "file" / "seats", interval=0)
    place.take()
    assert place.look() == 0
    place.leave()


def test_it_is_not_looked_more_often_than_asked(tmp_path, neighbour):
    place = DeviceUse("gpu", tmp_path / "seats", interval=1e9)
    place.take()
    assert place.look() == 1
    DeviceUse("gpu", tmp_path / "seats").take()
    assert place.look() == 1


def test_a_row_says_whether_its_times_were_taken_beside_other_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    common = ["run", "--plugin", TOYS, "--datasets", "bars", "--preset", "tiny", "--methods", "learns", "--jobs", "1"]
    common += ["--metrics", "runtime", "--no-controls", "--no-plots", "--data-root", str(tmp_path)]
    assert _main([*common, "--run-root", str(tmp_path / "alone")]) == 0
    with using_device(torch.device("cpu")):
        assert _main([*common, "--run-root", str(tmp_path / "beside")]) == 0
    for name, others in (("alone", 0), ("beside", 1)):
        scores = {s.column: s.value for s in read_results(tmp_path / name / "tiny", "bars").scores}
        assert (scores["fit_others"], scores["answer_others"]) == (others, others)
