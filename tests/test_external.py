"""Questions exported, answered without torch, and scored as a row like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cfbench.cli.main import _main as cfbench

TOYS = str(Path(__file__).with_name("toys.py"))

IDENTITY = """
import json, sys
import numpy as np

q = np.load(sys.argv[1])
x, rounds = q["x"], json.loads(str(q["about"]))["rounds"]
answers = {"plan": q["plan"], "null": x, "cycle": x[:rounds]}
for v in json.loads(str(q["about"]))["variables"]:
    factual = q[f"do/{v['name']}/factual"]
    answers[f"do/{v['name']}"] = x[factual]
    answers[f"reverse/{v['name']}"] = x[factual[factual < rounds]]
np.savez(sys.argv[2], **answers)
assert "torch" not in sys.modules and "cfbench" not in sys.modules
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A folder with a run whose rows are the controls, and the questions of its plan."""
    root = tmp_path_factory.mktemp("external")
    common = ["--plugin", TOYS, "--preset", "tiny", "--run-root", str(root)]
    assert cfbench(["run", "--datasets", "bars", "--methods", "identity", "--jobs", "1", "--no-plots", *common]) == 0
    assert cfbench(["plan", "export", str(root / "q.npz"), "--datasets", "bars", *common]) == 0
    script = root / "identity.py"
    script.write_text(IDENTITY)
    subprocess.run([sys.executable, script, root / "q.npz", root / "a.npz"], check=True)
    return root


def score(root, file, name="mine"):
    where = ["--run", "tiny", "--run-root", str(root), "--plugin", TOYS]
    return cfbench(["score", str(file), "--name", name, *where, "--no-plots"])


def test_plugin_files_that_a_run_names_are_not_executed(where, capsys):
    assert cfbench(["score", str(where / "a.npz"), "--name", "mine", "--run", "tiny", "--run-root", str(where)]) == 1
    assert "the run was declared with --plugin" in capsys.readouterr().err


def test_identity_computed_without_torch_gives_exactly_the_identity_row(where):
    assert score(where, where / "a.npz") == 0
    table = pd.read_csv(where / "tiny" / "leaderboard" / "bars.csv")
    numbers = table[~table.metric.str.startswith("runtime")]
    at = ["metric", "variable", "do", "questions", "direction", "unit", "status", "seed"]
    mine, identity = (
        numbers[numbers.method == m].drop(columns=["method", "keys", "rank_low", "rank_high"]).set_index(at)
        for m in ("mine", "identity")
    )
    pd.testing.assert_frame_equal(mine.sort_index(), identity.sort_index())
    assert len(mine) > 50
    assert table[(table.method == "mine") & table.metric.str.startswith("runtime")].value.isna().all()
    assert "mine: answers made elsewhere" in (where / "tiny" / "leaderboard" / "bars.md").read_text()


def test_questions_are_those_of_the_plan(where):
    q = np.load(where / "q.npz")
    about = json.loads(str(q["about"]))
    assert [v["name"] for v in about["variables"]] == ["kind", "level"]
    assert q["x"].dtype == np.uint8
    assert (q["do/kind/cf_pa"][:, 0] == q["do/kind/value"]).all()
    assert (q["do/kind/value"] != q["pa"][q["do/kind/factual"], 0]).all()
    assert (q["do/level/cf_pa"][:, 0] == q["pa"][q["do/level/factual"], 0]).all()


def spoil(where, tmp_path, **changes):
    arrays = {k: v for k, v in np.load(where / "a.npz").items() if k not in changes or changes[k] is not None}
    path = tmp_path / "damaged.npz"
    np.savez(path, **{**arrays, **{k: v for k, v in changes.items() if v is not None}})
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"plan": np.array("0123")}, "answers the plan 0123"),
        ({"do/kind": None}, "has no array 'do/kind'"),
        ({"do/kind": np.zeros((3, 1, 8, 8), np.uint8)}, "do/kind must be images"),
        ({"null": np.zeros((64, 1, 8, 8), np.int64)}, "null must be images"),
        ({"more": np.zeros(3)}, "unknown arrays more"),
        ({"null": np.array([{"a": 1}], dtype=object)}, "no .npz of plain arrays"),
    ],
)
def test_answers_that_do_not_fit_are_refused_in_a_line(where, tmp_path, capsys, changes, says):
    assert score(where, spoil(where, tmp_path, **changes), "other") == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_names_of_methods_and_missing_files_are_refused(where, tmp_path, capsys):
    assert score(where, where / "a.npz", "diffscm") == 1
    assert "the name of a method" in capsys.readouterr().err
    assert score(where, tmp_path / "none.npz") == 1
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "text.npz").write_text("hello")
    assert score(where, tmp_path / "text.npz") == 1
    assert "no .npz of plain arrays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x.astype(np.float32), "have values from 0 to 255; divide them by 255, or write uint8"),
        (lambda x: x / 127.5 - 1, "have values from -1 to 1; write (x + 1) / 2, which lies in [0, 1]"),
        (lambda x: np.full(x.shape, np.nan), "are not finite; write uint8 or floats in [0, 1]"),
        (lambda x: x * 1000.0, "have values from 0 to 2.55e+05; write uint8 or floats in [0, 1]"),
    ],
)
def test_answers_of_another_range_are_refused_before_anything_is_computed(where, tmp_path, capsys, change, says):
    before = set((where / "tiny").rglob("*"))
    images = np.load(where / "a.npz")["do/kind"]
    images[:, 0, :2, 0] = (0, 255)
    assert score(where, spoil(where, tmp_path, **{"do/kind": change(images)}), "scaled") == 1
    err = capsys.readouterr().err
    assert f"{len(images)} of {len(images)} images of do/kind {says}" in err
    assert err.count("\n") == 1
    assert set((where / "tiny").rglob("*")) == before


def test_the_controls_that_a_run_lacks_stand_beside_the_answers(where, tmp_path, capsys):
    common = ["--run-root", str(tmp_path), "--plugin", TOYS]
    assert cfbench(["plan", "export", str(tmp_path / "q.npz"), "--datasets", "bars", "--preset", "tiny", *common]) == 0
    asked = [
        "score",
        str(where / "a.npz"),
        "--name",
        "mine",
        "--run",
        "tiny",
        "--metrics",
        "truth",
        "--no-plots",
        *common,
    ]
    assert cfbench([*asked, "--no-controls"]) == 0
    table = tmp_path / "tiny" / "leaderboard" / "bars.csv"
    assert set(pd.read_csv(table).method) == {"mine"}
    assert cfbench(asked) == 0
    scores = pd.read_csv(table)
    assert {"mine", "identity", "nearest", "oracle"} <= set(scores.method)
    scores = scores[scores.metric.str.startswith("truth")].set_index(["metric", "variable", "do", "questions"])
    mine, identity = (scores[scores.method == row].value.sort_index() for row in ("mine", "identity"))
    pd.testing.assert_series_equal(mine, identity)


def test_answers_that_are_not_finite_are_counted_and_make_the_row_invalid(where, tmp_path, capsys):
    images = np.load(where / "a.npz")["do/kind"].astype(np.float32) / 255
    images[0, 0, 0, 0] = np.nan
    images[1, 0, 0, 0] = 7
    assert score(where, spoil(where, tmp_path, **{"do/kind": images}), "holed") == 2
    err = capsys.readouterr().err
    assert "1 answers do: not finite; 1 answers do: out of [0, 1]; correct them and score the file again" in err
    assert "--only failed" not in err
