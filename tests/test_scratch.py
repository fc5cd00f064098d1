"""Temporary folders of killed processes, and the processes that still work in them, are removed; no others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from small import small_run

from cfbench.storage import scratch
from cfbench.storage.scratch import MARK, new_scratch_folder, remove_abandoned_scratch, scratch_folder
from cfbench.storage.temporary import machine_id, process_exists

KILLED = """
import os, signal, subprocess, sys
from cfbench.storage.scratch import MARK, scratch_folder
with scratch_folder() as folder:
    wait = [sys.executable, "-c", "import time; time.sleep(3600)"]
    child = subprocess.Popen(wait, env={**os.environ, MARK: str(folder)}, stdout=-3, stderr=-3)
    print(folder, child.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The system's temporary folder."""
    monkeypatch.setattr(scratch, "_parents", lambda: [tmp_path])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_removed(system):
    with scratch_folder() as folder:
        assert folder.parent == system
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
        remove_abandoned_scratch()
        assert (folder / "file").exists()
    assert list(system.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_what_a_killed_process_left_is_removed_with_the_processes_that_work_there(system):
    output = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True).stdout
    folder, pid = output.split()
    assert os.path.isdir(folder)
    assert process_exists(int(pid))
    other = subprocess.Popen([sys.executable, "-c", "input()"], env={**os.environ, MARK: f"{folder}1"}, stdin=-1)
    remove_abandoned_scratch()
    assert not os.path.exists(folder)
    assert not process_exists(int(pid))
    assert other.poll() is None
    other.communicate(b"\n")


def test_other_folders_stay(system):
    names = ["cfbench-mine", f"cfbench-{machine_id()}-{os.getpid()}-abcdefgh", f"cfbench-{'0' * 8}-1-abcdefgh", "other"]
    for name in names:
        (system / name).mkdir()
    (system / f"cfbench-{machine_id()}-999999999-abcdefgh").symlink_to(system / "other")
    remove_abandoned_scratch()
    assert {p.name for p in system.iterdir()} >= set(names)


def test_the_folders_of_long_gone_writers_of_other_machines_go(system):
    for name in (f"cfbench-{'0' * 8}-1-abcdefgh", f"cfbench-{'ab' * 16}", "cfbench-mine"):
        (system / name).mkdir()
        os.utime(system / name, (0, 0))
    remove_abandoned_scratch()
    assert [p.name for p in system.iterdir()] == ["cfbench-mine"]


def test_a_folder_that_goes_with_an_object_is_found_after_a_kill(system):
    code = (
        "import os; from cfbench.storage.scratch import new_scratch_folder as new; f = new(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert len(list(system.iterdir())) == 1
    remove_abandoned_scratch()
    assert list(system.iterdir()) == []
    folder = Path(new_scratch_folder().name)
    assert not folder.exists()


def test_temporary_folders_are_made_in_two_places_only():
    sources = Path(scratch.__file__).parents[1].rglob("*.py")
    makers = [f.name for f in sources if re.search(r"(TemporaryDirectory|mkdtemp)\(", f.read_text())]
    assert sorted(makers) == ["scratch.py", "temporary.py"]


def test_a_path_for_sockets_is_short(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(scratch, "_parents", lambda: [deep, tmp_path])
    monkeypatch.setattr(scratch, "SOCKET_PATH", len(str(tmp_path)) + 60)
    with scratch_folder("socket") as folder:
        assert folder.parent == tmp_path


def test_a_command_with_nothing_left_to_do_removes_what_a_killed_one_left(system):
    assert small_run(system, "tiny", "--methods", "learns", metrics="truth") == 0
    owner = f"{machine_id()}-999999999-abcdefgh"
    left = system / f"cfbench-{owner}", system / "tiny" / "plans" / f".bars-draft-{owner}"
    (train,) = (system / "tiny").rglob("train-*")
    left += (train.with_name(f".{train.name}-checkpoints"),)
    for folder in left:
        folder.mkdir()
    files = [system / "tiny" / ".progress" / f"0123456789ab.{kind}" for kind in ("claim", "json")]
    left += tuple(files)
    for file in files:
        file.write_text("999999999 elsewhere")
    counted, mine = (system / "cfbench-tasks" / f"cpu.{machine_id()}.{pid}.0" for pid in (999999999, os.getpid()))
    counted.touch()
    mine.touch()
    assert small_run(system, "tiny", "--methods", "learns", "--dry-run", metrics="truth") == 0
    assert [path for path in (*left, counted) if not path.exists()] == []
    assert small_run(system, "tiny", "--methods", "learns", metrics="truth") == 0
    assert [path for path in (*left, counted) if path.exists()] == []
    assert mine.exists()
