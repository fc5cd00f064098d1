"""Runs of several machines become one: the union of their cells, nothing mixed, nothing lost, nothing copied twice."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
from small import doctor, seal, shift, small_run, stage, tree

from cfbench import storage
from cfbench.cli.main import _main

LEARNS = "cells/bars/learns/seed-0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs, one a seed each, with the same judges."""
    root = tmp_path_factory.mktemp("made")
    assert small_run(root, "a", "--methods", "learns,knows", "--seeds", "0") == 0
    for part in ("plans", "judges"):
        shutil.copytree(root / "a" / part, root / "b" / part)
    assert small_run(root, "b", "--methods", "learns", "--seeds", "1") == 0
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy of both runs, to be changed."""
    for name in ("a", "b"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def merge(root, *args, name="ab"):
    return _main(["merge", *args, "--name", name, "--run-root", str(root)])


def labels(root, name="ab"):
    about = json.loads((root / name / "run.json").read_text())
    return sorted((c["method"]["name"], c["seed"]) for c in about["cells"])


def test_the_table_of_the_union_is_that_of_one_run_of_everything(root, capsys):
    sources = tree(root / "a"), tree(root / "b")
    assert merge(root, "a", "b") == 0
    assert (tree(root / "a"), tree(root / "b")) == sources
    assert labels(root) == [("knows", 0), ("learns", 0), ("learns", 1)]
    assert "3 of 3 cells finished" in capsys.readouterr().out
    assert small_run(root, "a", "--methods", "learns", "--seeds", "0,1") == 0
    for name in ("a", "ab"):
        assert _main(["leaderboard", name, "--run-root", str(root), "--no-plots"]) == 0
    for name in ("bars.csv", "bars-wide.csv"):
        here, there = (sorted((root / run / "leaderboard" / name).read_text().splitlines()) for run in ("a", "ab"))
        assert here == there
    assert (root / "ab/leaderboard/bars.csv").read_text().count("learns,1,") > 10


def test_a_second_merge_copies_nothing(root, capsys):
    assert merge(root, "a", "b") == 0
    before = {p: p.stat().st_mtime_ns for p in (root / "ab").rglob("*")}
    assert merge(root, "a", "b") == 0
    assert " 0 stages copied" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (root / "ab").rglob("*") if p != root / "ab"} == {
        p: when for p, when in before.items() if p != root / "ab"
    }


def test_a_run_is_merged_into_one_that_is_there(root):
    assert merge(root, "b", name="a") == 0
    assert labels(root, "a") == [("knows", 0), ("learns", 0), ("learns", 1)]
    about = json.loads((root / "a/run.json").read_text())
    assert [m["run"] for m in about["merged"]] == ["a", "b"]
    assert about["merged"][1]["cells"] == ["bars learns seed 1"]


def change(**values):
    return lambda about: about.update(values)


def change_data(**values):
    return lambda about: about["datasets"]["bars"].update(values)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda about: about["budget"].update(images=5), "another budget (tiny, 2,048 images, tiny, 5 images)"),
        (change(split="valid"), "another split (test, valid)"),
        (change(plan="force-change"), "another plan (marginal, force-change)"),
        (change(action="learned"), "another action"),
        (change(precision="bf16"), "another precision (fp32, bf16)"),
        (
            change_data(bundle={"name": "lab", "version": "2", "digest": "ab" * 32}),
            "another bundle of bars (none, lab 2 abababababab)",
        ),
        (change(format=2), "format 2"),
        (change_data(plan_key="0" * 12), "another plan of bars"),
        (change_data(judges="judges/bars-" + "0" * 12), "another judges of bars"),
        (change_data(shape=[1, 9, 9]), "another size of images of bars"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused_before_anything_is_written(root, capsys, edit, says):
    doctor(root / "b", edit)
    assert merge(root, "a", "b") == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (root / "ab").exists()


@pytest.mark.parametrize(
    ("kind", "file"), [("judges", "judges.safetensors"), ("plans", "plan.safetensors"), ("plans", "truth.safetensors")]
)
def test_judges_and_plans_that_differ_under_one_key_are_refused(root, capsys, kind, file):
    shift(stage(root / "b", f"{kind}/bars-*"), file, 1e-3)
    assert merge(root, "a", "b") == 1
    err = capsys.readouterr().err
    assert f"the {kind.rstrip('s') if kind == 'plans' else kind} of bars differ between a and b" in err
    assert "by up to 0.001" in err
    assert "remove all score-*" in err or "remove all images-*" in err
    assert not (root / "ab").exists()


def other_machine(root):
    """A copy of the first run whose numbers differ a little from the images on."""
    shutil.copytree(root / "a", root / "c")
    shift(stage(root / "c", f"{LEARNS}/images-*"), "answers.safetensors", 0.01)
    shift(stage(root / "c", f"{LEARNS}/score-truth-*"), "scores.safetensors", 0.25)


def test_equal_keys_with_other_numbers_keep_the_first_and_tell_the_largest_difference(root, capsys):
    other_machine(root)
    assert merge(root, "a", "c") == 0
    lines = capsys.readouterr().out.splitlines()
    (images,) = [line for line in lines if "learns seed 0 images" in line and "do/kind" in line]
    assert "a (kept) and c differ in do/kind by up to 0.01" in images
    (error,) = [line for line in lines if "learns seed 0 score-truth" in line and " abs_error" in line]
    assert "by up to 0.25" in error
    for path in (root / "ab" / LEARNS).iterdir():
        assert tree(path) == tree(root / "a" / LEARNS / path.name)
    assert merge(root, "c", "a", name="ca") == 0
    kept = stage(root / "ca", f"{LEARNS}/images-*")
    assert tree(kept) == tree(root / "c" / LEARNS / kept.name) != tree(root / "a" / LEARNS / kept.name)


def test_strict_refuses_other_numbers_and_writes_nothing(root, capsys):
    other_machine(root)
    assert merge(root, "a", "c", "--strict") == 1
    assert "differences under --strict" in capsys.readouterr().err
    assert not (root / "ab").exists()
    assert merge(root, "a", "b", "--strict") == 0


def test_seconds_and_memory_are_no_difference(root):
    shutil.copytree(root / "a", root / "c")
    for kind in ("train", "images"):
        folder = stage(root / "c", f"{LEARNS}/{kind}-*")
        storage.write_json(folder / "costs.json", {**storage.read_json(folder / "costs.json"), "fit_s": 99.0})
        seal(folder)
    assert merge(root, "a", "c", "--strict") == 0


def test_images_are_not_mixed_with_weights_that_they_were_not_computed_from(root, capsys):
    shutil.copytree(root / "a", root / "c")
    shift(stage(root / "c", f"{LEARNS}/train-*"), "weights.safetensors", 0.1)
    for kind in ("tune", "images", "score-*"):
        for folder in (root / "a" / LEARNS).glob(f"{kind}-*"):
            shutil.rmtree(folder)
    assert merge(root, "a", "c") == 2
    out, err = capsys.readouterr()
    assert "mean by up to 0.1" in out
    assert "made from stages that are not those kept" in err
    assert sorted(p.name.split("-")[0] for p in (root / "ab" / LEARNS).iterdir()) == ["train"]
    assert merge(root, "c", "a", name="ca") == 0, "named first, its cell is whole"


def test_metrics_that_only_one_has_are_joined_where_the_images_are_the_same(root, made, capsys):
    shutil.copytree(root / "a", root / "c")
    assert small_run(root, "c", "--methods", "learns", "--seeds", "0", metrics="change") == 0
    assert merge(root, "a", "c") == 0
    about = json.loads((root / "ab/run.json").read_text())
    (cell,) = [c for c in about["cells"] if c["method"]["name"] == "learns"]
    assert set(cell["scores"]) == {"truth", "composition", "realism", "change"}
    assert stage(root / "ab", f"{LEARNS}/score-change-*")
    shift(stage(root / "c", f"{LEARNS}/images-*"), "answers.safetensors", 0.01)
    assert merge(root, "a", "c", name="other") == 2
    assert not list((root / "other" / LEARNS).glob("score-change-*"))
    assert "score-change" in capsys.readouterr().err


def test_a_damaged_stage_is_left_out_or_taken_from_another_run(root, capsys):
    shutil.copytree(root / "a", root / "c")
    victim = stage(root / "a", f"{LEARNS}/images-*") / "answers.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    before = tree(root / "a")
    assert merge(root, "a", "b") == 2
    assert "answers.safetensors does not match its manifest" in capsys.readouterr().err
    assert not list((root / "ab" / LEARNS).glob("images-*"))
    assert merge(root, "a", "c", name="ac") == 2
    assert stage(root / "ac", f"{LEARNS}/images-*")
    assert tree(root / "a") == before
    assert merge(root, "a", "c") == 2, "what was left out before is taken now"
    assert tree(root / "ab" / LEARNS) == tree(root / "ac" / LEARNS)


def test_rows_of_another_source_are_left_out_and_reported(root, capsys):
    shutil.copytree(root / "a", root / "c")
    doctor(root / "c", lambda about: about["cells"][0]["keys"].update(train="0" * 12))
    assert merge(root, "a", "c") == 2
    assert "its train key 000000000000 is not the" in capsys.readouterr().err
    assert merge(root, "a", "c", "--strict", name="strict") == 1
    assert not (root / "strict").exists()


def fail(run, cell, reason):
    about = {"stage": "train", "status": "failed", "reason": reason, "key": cell["keys"]["train"]}
    folder = run / "cells/bars" / cell["method"]["name"] / f"seed-{cell['seed']}"
    with storage.write_stage(folder / "failed-train-1", **about) as draft:
        (draft / "log.txt").write_text(reason)


def test_failures_stay_only_where_the_cell_is_not_finished(root, capsys):
    for run in ("a", "b"):
        for cell in json.loads((root / run / "run.json").read_text())["cells"]:
            fail(root / run, cell, f"it fell over on {run}")
    shutil.rmtree(stage(root / "b", "cells/bars/learns/seed-1/images-*"))
    for _ in range(2):
        assert merge(root, "a", "b") == 0
    assert [str(p.relative_to(root / "ab")) for p in (root / "ab").rglob("failed-*")] == [
        "cells/bars/learns/seed-1/failed-train-1"
    ]
    shutil.copytree(root / "b", root / "d")
    shutil.rmtree(stage(root / "d", "cells/bars/learns/seed-1/failed-train-1"))
    fail(root / "d", json.loads((root / "d/run.json").read_text())["cells"][0], "it fell over again")
    assert merge(root, "a", "b", "d") == 0
    assert len(list((root / "ab").rglob("failed-*"))) == 2


@pytest.mark.parametrize("after", [0, 1, 7, 19])
def test_a_killed_merge_continues_with_the_same_command(root, monkeypatch, after):
    assert merge(root, "a", "b", name="calm") == 0
    copies, copy = [], storage.copy_stage

    def killed(source, folder):
        copies.append(folder)
        if len(copies) > after:
            folder.with_name(f".{folder.name}-draft").mkdir(parents=True)
            raise KeyboardInterrupt
        return copy(source, folder)

    monkeypatch.setattr(storage, "copy_stage", killed)
    assert merge(root, "a", "b") == 130
    assert not (root / "ab/run.json").exists()
    monkeypatch.setattr(storage, "copy_stage", copy)
    assert merge(root, "a", "b") == 0
    assert tree(root / "ab") == tree(root / "calm")


def test_a_full_disk_is_one_line_and_leaves_no_half_stage(root, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert merge(root, "a", "b") == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert not [p for p in (root / "ab").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("args", "name", "says"),
    [(["a", "z"], "ab", "no run 'z'"), (["a", "b"], "../x", "no plain name"), ([], "ab", "Missing argument")],
)
def test_a_mistake_is_one_line(root, capsys, args, name, says):
    assert merge(root, *args, name=name) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
