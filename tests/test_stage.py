"""Stages appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from cfbench import storage
from cfbench.storage import temporary


def fill(folder, value):
    storage.write_tensors(folder / "t.safetensors", {"x": torch.full((3,), float(value))})


def test_a_stage_appears_when_its_block_ends(tmp_path):
    folder = tmp_path / "cell" / "train-abc"
    with storage.write_stage(folder, stage="train") as draft:
        fill(draft, 1)
        assert not folder.exists()
    assert storage.is_complete(folder)
    assert storage.read_json(folder / "stage.json")["stage"] == "train"
    assert storage.read_tensors(folder / "t.safetensors")["x"].tolist() == [1, 1, 1]


def test_a_block_that_fails_leaves_nothing(tmp_path):
    def fail():
        with storage.write_stage(tmp_path / "s") as draft:
            fill(draft, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_drops_its_work(tmp_path):
    with storage.write_stage(tmp_path / "s") as slow:
        fill(slow, 1)
        with storage.write_stage(tmp_path / "s") as fast:
            fill(fast, 2)
    assert storage.read_tensors(tmp_path / "s" / "t.safetensors")["x"].tolist() == [2, 2, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("damage", ["change", "remove", "manifest"])
def test_a_damaged_stage_is_found_out_and_removed(tmp_path, damage):
    folder = tmp_path / "s"
    with storage.write_stage(folder) as draft:
        fill(draft, 1)
    assert storage.remove_damaged(folder) == []
    victim = folder / ("stage.json" if damage == "manifest" else "t.safetensors")
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    assert storage.remove_damaged(folder)
    assert not folder.exists()


WRITER = """
    import sys, time
    from pathlib import Path
    from cfbench import storage

    run = Path(sys.argv[1])
    kept = run / "cells" / ".train-aa-checkpoints"
    kept.mkdir(parents=True)
    (kept / "1-8.safetensors").write_text("state")
    with (
        storage.temporary_folder(run / "cells" / "images-aa") as scratch,
        storage.write_stage(run / "cells" / "train-aa") as stage,
        storage.atomic_write(run / "run.json") as table,
        storage.atomic_write(kept / "1-9.safetensors") as state,
    ):
        (stage / "inner").mkdir()
        for file in (scratch / "answers", stage / "inner" / "weights", table, state):
            file.write_text("half")
        print("ready", flush=True)
        time.sleep(600)
"""
KEPT = {"cells", "cells/.train-aa-checkpoints", "cells/.train-aa-checkpoints/1-8.safetensors"}


def everything(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


def test_drafts_of_a_killed_process_are_swept_up_and_those_of_a_living_one_are_not(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        before = everything(tmp_path)
        assert len(before - KEPT) == 7
        try:
            assert storage.remove_abandoned(tmp_path) == []
            assert everything(tmp_path) == before
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(storage.remove_abandoned(tmp_path)) == 4
    assert everything(tmp_path) == KEPT
    assert storage.remove_abandoned(tmp_path) == []


def test_drafts_of_this_process_are_left_alone(tmp_path):
    with storage.write_stage(tmp_path / "s") as draft:
        fill(draft, 1)
        assert storage.remove_abandoned(tmp_path) == []
    assert storage.is_complete(tmp_path / "s")


@pytest.mark.parametrize("name", [".images-aa-draft-0123abcd-1-abcd_123", ".train-0123456789ab-abcd_123"])
def test_drafts_of_other_machines_are_swept_up_when_nothing_in_them_changed_for_a_day(tmp_path, name):
    file = tmp_path / "cells" / name / "answers" / "x"
    file.parent.mkdir(parents=True)
    file.write_text("half")
    now = time.time()

    def aged(path: Path, days: float):
        os.utime(path, (now - days * temporary.AGE,) * 2)

    for path in (file.parent, file.parent.parent):
        aged(path, 3)
    for days, swept in ((0, 0), (0.9, 0), (1.1, 1)):
        aged(file, days)
        assert len(storage.remove_abandoned(tmp_path)) == swept
    assert everything(tmp_path) == {"cells"}


def test_what_is_no_draft_is_never_swept_up(tmp_path):
    names = [".train-aa-checkpoints", ".progress", ".my-settings", ".git-draft", "train-0123456789ab", ".a-draft-x-1"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("mine")
        for path in (tmp_path / name / "file", tmp_path / name):
            os.utime(path, (0, 0))
    before = everything(tmp_path)
    assert storage.remove_abandoned(tmp_path) == []
    assert everything(tmp_path) == before


def test_of_a_link_that_is_named_like_a_draft_only_the_link_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".x-draft-{temporary.machine_id()}-{gone.pid}-abcd_123").symlink_to(tmp_path / "mine")
    assert len(storage.remove_abandoned(tmp_path / "run")) == 1
    assert everything(tmp_path) == {"run", "mine", "mine/file"}
