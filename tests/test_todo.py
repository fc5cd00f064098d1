"""What a command says that it will do: which stages and why, how long it may take, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small import TOYS, small_run

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.runs.job import Cell
from cfbench.runs.keys import Keys

EVERYTHING = "train, tune, images, scores"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a method that works, one that is tuned, and one that fails."""
    root = tmp_path_factory.mktemp("made")
    assert small_run(root, "one", "--methods", "learns,tunes,raises") == 2
    return root


@pytest.fixture
def root(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "runs"))


def dry(root, capsys, *args, metrics="truth,composition,realism") -> str:
    capsys.readouterr()
    assert small_run(root, "one", "--dry-run", *args, metrics=metrics) == 0
    return capsys.readouterr().out


def without_times(out: str) -> list[str]:
    lines = [line.strip() for line in out.splitlines()[2:]]
    return [
        line.rpartition(";")[0] if line.endswith(("second", "seconds", "minutes")) and ";" in line else line
        for line in lines
    ]


def stages(root, pattern):
    found = sorted(root.glob(f"one/{pattern}/{storage.MANIFEST}"))
    assert found
    return found


def test_what_is_done_and_what_failed_is_said(root, capsys):
    *rows, _ = without_times(dry(root, capsys, "--methods", "learns,raises"))
    failed = "train (failed before, failed: ArithmeticError: this method cannot be fitted"
    assert rows[0] == "done   bars learns seed 0"
    assert rows[1].startswith(f"failed bars raises seed 0: tune, images, scores (never done); {failed}")
    assert rows[1].count("`--only failed` tries again") == 1
    again = without_times(dry(root, capsys, "--methods", "learns,raises", "--only", "failed"))
    assert again[1].startswith(f"to do  bars raises seed 0: {failed}")


def test_each_input_that_changed_is_named(root, capsys, monkeypatch):
    """The inputs of a key are stored with each stage, whichever process wrote it."""
    about = [storage.read_json(p) for p in stages(root, "**/*")]
    assert all(about["inputs"] for about in about if about.get("stage") != "failed" and "status" not in about)
    usual = Keys._train

    def with_other_setting(self, dataset, method, fit_spec, params, seed):
        return usual(self, dataset, method, fit_spec, {**params, "width": 3}, seed)

    monkeypatch.setattr(Keys, "_train", with_other_setting)
    row = without_times(dry(root, capsys, "--methods", "learns"))[0]
    assert row == "to do  bars learns seed 0: train (width was not set, now 3), tune, images, scores (follow)"


def test_edited_code_is_named_with_its_file(root, tmp_path, capsys):
    shutil.copy(TOYS, tmp_path / "toys.py")
    file = tmp_path / "toys.py"
    file.write_text(file.read_text().replace("((u + self.mean) / 2)", "((u + self.mean) / 3)"))
    capsys.readouterr()
    args = ["--datasets", "bars", "--preset", "tiny", "--methods", "learns", "--metrics", "truth", "--no-controls"]
    where = ["--run-root", str(root), "--data-root", str(root), "--name", "one", "--plugin", str(file)]
    assert _main(["run", *args, *where, "--dry-run"]) == 0
    shared, row, _ = without_times(capsys.readouterr().out)
    assert shared == "to do  bars: prepare, judges (code of bars changed (toys.py))"
    changed = "code of learns changed (toys.py); code of bars changed (toys.py)"
    assert row.startswith(f"to do  bars learns seed 0: train ({changed})")
    assert row.endswith("tune, images, scores (follow)")


def test_a_new_metric_and_a_changed_one_are_told_apart(root, capsys):
    for path in stages(root, "cells/bars/learns/seed-0/score-truth-*"):
        about = storage.read_json(path)
        shutil.move(path.parent, path.parent.with_name("score-truth-aaaaaaaaaaaa"))
        about["inputs"]["code of cfbench"] = "before"
        storage.write_json(path.parent.with_name("score-truth-aaaaaaaaaaaa") / storage.MANIFEST, about)
    row = without_times(dry(root, capsys, "--methods", "learns", metrics="truth,composition,change"))[0]
    assert row == "to do  bars learns seed 0: scores (truth: code of cfbench changed; change: never done)"


def test_stages_of_before_inputs_were_stored_and_nonsense_in_them_are_no_error(root, capsys):
    for number, path in enumerate(stages(root, "cells/bars/*/seed-0/t*")):
        about = storage.read_json(path)
        about.pop("inputs")
        about |= ({}, {"inputs": [1]}, {"inputs": {"\x1b[2J": "x"}}, {"inputs": {"settings": 3}})[number % 4]
        shutil.move(path.parent, path.parent.with_name(path.parent.name[:-4] + "aaaa"))
        storage.write_json(path.parent.with_name(path.parent.name[:-4] + "aaaa") / storage.MANIFEST, about)
    out = dry(root, capsys, "--methods", "learns,tunes")
    assert "something has changed; what was not recorded" in out
    assert out.replace("\n", "").isprintable()


def test_a_damaged_stage_is_named_with_its_file(root, capsys):
    for path in stages(root, "cells/bars/learns/seed-0/images-*"):
        (path.parent / "answers.safetensors").write_bytes(b"!")
    row = without_times(dry(root, capsys, "--methods", "learns"))[0]
    assert row == "to do  bars learns seed 0: images (damaged: answers.safetensors)"


def test_the_time_is_that_of_the_same_tasks_before(root, capsys):
    out = dry(root, capsys, "--methods", "learns", "--name", "two")
    assert out.splitlines()[-1].startswith("  6 of 6 tasks to do, ")
    assert "unknown" not in out
    other = dry(root, capsys, "--methods", "draws", "--name", "two").splitlines()
    assert ", at least " in other[-1], "of judges and scores"
    assert other[-2].endswith("(never done)"), "of its fit nothing is known"


REFUSED = {
    "budget": (["--preset", "quick"], "another budget"),
    "split": (["--split", "valid"], "another split"),
    "plan": (["--plan", "force-change"], "another plan"),
    "no folder": (["--run-root", "{root}/one/run.json"], "cannot be written"),
    "link": ([], "is a link"),
    "format": ([], "was written in format 7"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_dry_run_refuses_what_the_run_refuses_in_the_same_words(root, capsys, case):
    args, says = REFUSED[case]
    run = root / "one" / "run.json"
    if case == "link":
        (root / "one" / "more").symlink_to(root)
    if case == "format":
        run.write_text(json.dumps(json.loads(run.read_text()) | {"format": 7}))
    said = []
    for more in (["--dry-run"], []):
        capsys.readouterr()
        assert small_run(root, "one", "--methods", "learns", *(a.format(root=root) for a in args), *more) == 1
        said.append(capsys.readouterr().err)
    assert says in said[0]
    assert said[0] == said[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_dry_run_refuses_a_folder_that_cannot_be_written(root, capsys):
    (root / "one").chmod(0o500)
    assert small_run(root, "one", "--methods", "learns", "--dry-run") == 1
    assert "cannot be written" in capsys.readouterr().err
    (root / "one").chmod(0o700)


def test_run_json_does_not_hold_the_inputs(root):
    for described in json.loads((root / "one" / "run.json").read_text())["cells"]:
        cell = Cell.from_dict(described)
        assert "inputs" not in described
        assert replace(cell, inputs={"a": {"b": 1}}) == cell
        assert "inputs" not in replace(cell, inputs={"a": {"b": 1}}).as_dict()
