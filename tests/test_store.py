"""Stages appear whole or not at all."""

from __future__ import annotations

import pytest
import torch

from cfbench import store


def fill(folder, value):
    store.write_tensors(folder / "t.safetensors", {"x": torch.full((3,), float(value))})


def test_a_stage_appears_when_its_block_ends(tmp_path):
    folder = tmp_path / "cell" / "train-abc"
    with store.writing(folder, stage="train") as draft:
        fill(draft, 1)
        assert not folder.exists()
    assert store.complete(folder)
    assert store.read_json(folder / "stage.json")["stage"] == "train"
    assert store.read_tensors(folder / "t.safetensors")["x"].tolist() == [1, 1, 1]


def test_a_block_that_fails_leaves_nothing(tmp_path):
    def fail():
        with store.writing(tmp_path / "s") as draft:
            fill(draft, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_drops_its_work(tmp_path):
    with store.writing(tmp_path / "s") as slow:
        fill(slow, 1)
        with store.writing(tmp_path / "s") as fast:
            fill(fast, 2)
    assert store.read_tensors(tmp_path / "s" / "t.safetensors")["x"].tolist() == [2, 2, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("damage", ["change", "remove", "manifest"])
def test_a_damaged_stage_is_found_out_and_removed(tmp_path, damage):
    folder = tmp_path / "s"
    with store.writing(folder) as draft:
        fill(draft, 1)
    assert store.discard_broken(folder) == []
    victim = folder / ("stage.json" if damage == "manifest" else "t.safetensors")
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    assert store.discard_broken(folder)
    assert not folder.exists()
