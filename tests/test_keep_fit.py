"""The stored fit of a method whose code was edited is kept where the user says so, and every table says it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file
from small import small_run

import cfbench
from cfbench import storage
from cfbench.cli.main import _main
from cfbench.runs.manifest import read_manifest

MINE = '''
import torch
from cfbench.contract import Method


class Mine(Method):
    """Adds what it learned."""

    answer_params = frozenset({"dim"})

    def __init__(self, graph, dim: float = 1.0, width: int = 1):
        super().__init__(graph)
        self.register_buffer("mean", torch.zeros(graph.shape))

    def fit(self, run):
        for x, _ in run.batches(4, 16):
            self.mean += x.mean(0) / 4

    def abduct(self, x, pa, rng):
        return x

    def predict(self, u, pa, rng):
        return ((u + self.mean) / 2 * self.dim if hasattr(self, "dim") else (u + self.mean) / 2).clamp(0, 1)
'''
EDITED = MINE.replace("(u + self.mean) / 2)", "(u + self.mean) / 4)")


def run(root, *args, methods="mine,mine[dim=0.5]"):
    return small_run(root, "one", "--plugin", str(root / "mine.py"), "--methods", methods, *args, metrics="truth")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a method, whose `predict` was edited afterwards."""
    root = tmp_path_factory.mktemp("made")
    (root / "mine.py").write_text(MINE)
    assert run(root) == 0
    (root / "mine.py").write_text(EDITED)
    return root


@pytest.fixture
def root(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture(scope="module")
def kept(made, tmp_path_factory):
    root = Path(shutil.copytree(made, tmp_path_factory.mktemp("kept") / "runs"))
    assert run(root, "--keep-fit", "mine") == 0
    return root


def fits(root):
    return sorted(p.parent.name for p in root.glob("one/cells/bars/mine/seed-0/train-*/stage.json"))


def test_the_fit_is_kept_and_the_answers_are_those_of_the_present_code(made, kept):
    assert fits(kept) == fits(made), "nothing was fitted"
    cell = next(c for c in read_manifest(kept / "one").cells if c.method.label == "mine")
    assert f"train-{cell.keys['train']}" in fits(made)
    assert cell.kept not in ("", cell.keys["train"])
    old, new = (p for p in sorted(kept.glob("one/cells/bars/mine/seed-0/images-*"), key=lambda p: p.stat().st_mtime))
    before, after = (load_file(p / "answers.safetensors")["null"] for p in (old, new))
    assert (before / 2).allclose(after, atol=1e-6)
    inputs = storage.read_json(kept / "one" / cell.stage("tune") / storage.MANIFEST)["inputs"]
    assert (inputs["train"], inputs["kept in place of"]) == (cell.keys["train"], cell.kept)


def test_the_same_command_does_nothing_and_another_edit_answers_anew(kept, capsys):
    capsys.readouterr()
    assert run(kept, "--keep-fit", "mine") == 0
    out = capsys.readouterr().out
    assert "  0 of 9 tasks to do\n" in out
    assert re.search(r"done   bars mine seed 0; fit by other code kept, key [0-9a-f]{12}\n", out)
    (kept / "mine.py").write_text(MINE.replace("(u + self.mean) / 2)", "(u + self.mean) / 8)"))
    assert run(kept, "--keep-fit", "mine", "--dry-run") == 0
    row = "bars mine seed 0: tune (code of the method changed), images, scores (follow)"
    assert row in capsys.readouterr().out
    (kept / "mine.py").write_text(EDITED)


def test_every_table_says_it(kept, capsys):
    capsys.readouterr()
    assert _main(["leaderboard", "one", "--details", "--no-plots", "--run-root", str(kept)]) == 0
    out, files = capsys.readouterr().out, kept / "one" / "leaderboard"
    cell = next(c for c in read_manifest(kept / "one").cells if c.method.label == "mine")
    note = f"fit made by other code: key {cell.keys['train']}, of the present code {cell.kept}."
    for text in (out, (files / "bars.md").read_text()):
        assert note in " ".join(text.split())
        assert "mine ¶" in text
    for name in ("bars.csv", "bars-wide.csv", "summary.csv"):
        assert set(pd.read_csv(files / name).method) == {"mine ¶", "mine[dim=0.5] ¶"}, name
    assert r"mine \P" in (files / "bars.tex").read_text()
    assert "Names:" not in out, "the mark is no name that a user gave"
    assert _main(["leaderboard", "one", "--check", "--no-plots", "--run-root", str(kept)]) == 0


def test_verify_answers_with_the_kept_fit_and_says_so(kept, capsys):
    capsys.readouterr()
    args = ["verify", "one", "--cells", "1", "--plugin", str(kept / "mine.py"), "--data-root", str(kept)]
    toys = str(Path(__file__).with_name("toys.py"))
    assert _main([*args, "--plugin", toys, "--run-root", str(kept)]) == 0
    out = capsys.readouterr().out
    assert "equal to the bit" in out
    assert re.search(r"its fit was made by other code \(key [0-9a-f]{12}\) and kept: it was not fitted again", out)


def test_without_the_option_the_method_is_fitted_and_the_mark_is_gone(kept, tmp_path):
    root = Path(shutil.copytree(kept, tmp_path / "runs"))
    assert run(root) == 0
    assert len(fits(root)) == 2
    assert "¶" not in (root / "one/leaderboard/bars.md").read_text()
    assert all(not c.kept and "kept" not in c.as_dict() for c in read_manifest(root / "one").cells)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["--keep-fit", "mine", "--seeds", "1"],
            "has no fit of bars mine seed 1 that differs in code only (none is stored)",
        ),
        (["--keep-fit", "mien"], "--keep-fit 'mien' is no method of this run; did you mean 'mine'?"),
        (["--keep-fit", "mine", "--precision", "bf16", "--name", "two"], "none is stored"),
    ],
)
def test_where_there_is_nothing_to_keep_it_is_refused_and_nothing_is_written(root, capsys, args, says):
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    for more in ([], ["--dry-run"]):
        capsys.readouterr()
        assert run(root, *args, *more) == 1
        assert says in capsys.readouterr().err
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("case", ["width", "images", "data", "unknown", "damaged"])
def test_a_fit_that_differs_in_more_than_code_is_not_kept(root, capsys, case):
    (path,) = root.glob("one/cells/bars/mine/seed-0/train-*/stage.json")
    about = storage.read_json(path)
    if case == "unknown":
        del about["inputs"]
    elif case == "data":
        about["inputs"]["code of bars"] = {"toys.py": "other"}
    elif case != "damaged":
        about["inputs"]["settings"][case] = 77
    storage.write_json(path, about)
    if case == "damaged":
        (path.parent / "costs.json").write_text("{")
    assert run(root, "--keep-fit", "mine") == 1
    says = {
        "width": "width was 77, now 1",
        "images": "images was 77, now 2048",
        "data": "code of bars changed (toys.py)",
    }
    assert says.get(case, {"unknown": "not recorded", "damaged": "none is stored"}.get(case)) in capsys.readouterr().err


def test_a_kept_fit_that_is_lost_is_not_made_by_other_code(kept, tmp_path):
    """The fit is there when the cells are made, and gone when it is to be read."""
    from cfbench.engine.fit import train
    from cfbench.runs.context import Context, LoadedJob
    from cfbench.runs.manifest import reopen_job

    root = Path(shutil.copytree(kept, tmp_path / "runs"))
    cell = next(c for c in read_manifest(root / "one").cells if c.kept)
    shutil.rmtree(root / "one" / cell.stage("train"))
    with pytest.raises(cfbench.errors.UserError, match="is gone"):
        train(Context(LoadedJob(reopen_job(root / "one", data_root=root))), cell.fitted)


def test_an_older_run_json_has_no_kept_fits(made):
    text = (made / "one" / "run.json").read_text()
    assert "kept" not in text
    assert all(c.kept == "" for c in read_manifest(made / "one").cells)
    assert json.loads(text)["cells"]
