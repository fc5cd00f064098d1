"""Cells executed again give the numbers that the run holds, and published tables are what the cells say."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from small import TOYS, doctor, shift, small_run, stage, tree

from cfbench.cli.main import _main
from cfbench.report.summary.overview import BEGIN, END

METHODS = "learns,knows,draws,resample[of=draws[shade=0.2]],tunes,holes"
LEARNS = "cells/bars/learns/seed-0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with every kind of row: fitted, derived, tuned, with given weights, made elsewhere, and invalid."""
    root = tmp_path_factory.mktemp("made")
    assert small_run(root, "r", "--methods", METHODS) == 2, "holes is invalid"
    weights = stage(root / "r", f"{LEARNS}/train-*") / "weights.safetensors"
    shutil.copy(weights, root / "mine.safetensors")
    given = ["--methods", "learns[]", "--weights", str(root / "mine.safetensors"), "--seeds", "7"]
    assert small_run(root, "r", *given) == 0
    export = ["plan", "export", str(root / "q.npz"), "--plugin", TOYS, "--datasets", "bars", "--preset", "tiny"]
    assert _main([*export, "--name", "r", "--run-root", str(root), "--data-root", str(root)]) == 0
    q = np.load(root / "q.npz")
    answers = {"plan": q["plan"], "null": q["x"], "cycle": q["x"][:4]}
    for v in ("kind", "level"):
        f = q[f"do/{v}/factual"]
        answers |= {f"do/{v}": q["x"][f], f"reverse/{v}": q["x"][f[f < 4]]}
    np.savez(root / "answers.npz", **answers)
    score = [
        "score",
        str(root / "answers.npz"),
        "--name",
        "elsewhere",
        "--no-controls",
        "--run",
        "r",
        "--run-root",
        str(root),
    ]
    assert _main([*score, "--plugin", TOYS, "--data-root", str(root), "--no-plots"]) == 0
    return root


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made / "r", tmp_path / "r")
    return tmp_path


def verify(root, *args, plugin=TOYS, cells=9, name="r"):
    plugins = ["--plugin", str(plugin)] if plugin else []
    base = ["verify", name, "--run-root", str(root), "--data-root", str(root), "--cells", str(cells)]
    return _main([*base, *plugins, *args])


def only(root, method):
    """Leave one row in the run."""
    doctor(root / "r", lambda about: about.update(cells=[c for c in about["cells"] if c["method"]["name"] == method]))


def test_cells_of_every_kind_are_equal_to_the_bit(root, capsys):
    before = tree(root / "r")
    assert verify(root) == 0
    out = capsys.readouterr().out
    assert out.count(": equal to the bit") == 8
    assert "8 cells: 8 equal" in out
    for row in ("resample[of=draws[shade=0.2]]", "holes", "elsewhere", "learns seed 7", "tunes"):
        assert f"bars {row}" in out
    assert "key was" not in out
    assert tree(root / "r") == before


def test_weights_that_were_removed_to_save_space_are_skipped(root, capsys):
    only(root, "learns")
    shutil.rmtree(stage(root / "r", f"{LEARNS}/train-*"))
    shutil.rmtree(stage(root / "r", "cells/bars/learns/seed-7"))
    assert verify(root) == 0
    assert "learns seed 0: equal" in capsys.readouterr().out


def test_the_choice_of_cells_follows_the_seed(root, capsys):
    chosen = []
    for seed in ("1", "1", "2"):
        assert verify(root, "--seed", seed, cells=2) == 0
        chosen.append([line for line in capsys.readouterr().out.splitlines() if "equal to the bit" in line])
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 2


@pytest.mark.parametrize(("by", "code", "says"), [(1e-5, 0, "within 0.001"), (0.5, 2, "different by more than 0.001")])
def test_other_images_are_reported_with_their_difference(root, capsys, by, code, says):
    only(root, "learns")
    shift(stage(root / "r", f"{LEARNS}/images-*"), "answers.safetensors", by, "do/kind")
    shutil.rmtree(stage(root / "r", "cells/bars/learns/seed-7"))
    assert verify(root) == code
    out = capsys.readouterr().out
    assert f"bars learns seed 0: {says}" in out
    assert f"  images: do/kind by up to {by:.2g}" in out


def test_other_scores_and_weights_are_reported(root, capsys):
    only(root, "learns")
    shift(stage(root / "r", f"{LEARNS}/score-truth-*"), "scores.safetensors", 100)
    shift(stage(root / "r", f"{LEARNS}/train-*"), "weights.safetensors", 0.25)
    assert verify(root) == 2
    out = capsys.readouterr().out
    assert "  score-truth: abs_error do(kind) by up to 1e+02" in out
    assert "  train: mean by up to 0.25" in out
    assert verify(root, "--tolerance", "1000") == 0


def test_the_scores_of_external_answers_are_computed_from_their_images(root, capsys):
    only(root, "elsewhere")
    shift(stage(root / "r", "cells/bars/elsewhere/seed-0/images-*"), "answers.safetensors", 0.5)
    assert verify(root) == 2
    out = capsys.readouterr().out
    assert "score-truth: abs_error" in out
    assert "images:" not in out


def test_files_that_do_not_match_their_manifests_are_named(root, capsys):
    only(root, "knows")
    answers = stage(root / "r", f"{LEARNS}/images-*") / "answers.safetensors"
    answers.write_bytes(answers.read_bytes()[:-1] + b"!")
    assert verify(root) == 2
    out, err = capsys.readouterr()
    assert "images-" in err
    assert "answers.safetensors does not match its manifest" in err
    assert "bars knows seed 0: equal" in out
    assert answers.is_file(), "verify removes nothing"
    damaged = stage(root / "r", "cells/bars/knows/seed-0/images-*") / "costs.json"
    damaged.write_text("{}")
    assert verify(root) == 1
    assert "no cell that is finished and whole" in capsys.readouterr().err


def test_an_edit_of_the_source_is_reported_by_the_stage_that_it_changes(tmp_path, capsys):
    source = "from cfbench.contract import Method\n\n\nclass Halves(Method):\n"
    source += "    def fit(self, run):\n        pass\n\n    def abduct(self, x, pa, rng):\n        return x\n\n"
    source += "    def predict(self, u, pa, rng):\n        return u * 0.5\n"
    mine = tmp_path / "halves.py"
    mine.write_text(source)
    assert small_run(tmp_path, "r", "--methods", "halves", "--plugin", str(mine)) == 0
    edits = {"# why\n" + source: (0, "equal"), source.replace("0.5", "0.25"): (2, "different")}
    for text, (code, word) in edits.items():
        mine.write_text(text)
        capsys.readouterr()
        assert verify(tmp_path, "--plugin", str(mine)) == code
        out = capsys.readouterr().out
        assert f"halves seed 0: {word}" in out
        changed = [line for line in out.splitlines() if "key was" in line]
        assert len(changed) == (word == "different")
        assert all(line.startswith("  the train key was ") for line in changed)
    mine.write_text(source.replace("return u * 0.5", "raise OSError('the disk is gone')"))
    assert verify(tmp_path, "--plugin", str(mine)) == 2
    assert "failed: images: failed: OSError: the disk is gone" in capsys.readouterr().out


def test_plugins_that_the_run_names_are_not_loaded_unasked(root, capsys):
    only(root, "learns")
    assert verify(root, plugin=None) == 1
    err = capsys.readouterr().err
    assert "unknown" in err
    assert "name them with --plugin if you trust them" in err
    assert len([line for line in err.splitlines() if "error" in line]) == 1


def test_a_judge_that_changed_since_is_taken_from_the_run_and_reported(root, capsys):
    only(root, "knows")

    def other(about):
        new = about["datasets"]["bars"]["judges"][:-12] + "0" * 12
        (root / "r" / about["datasets"]["bars"]["judges"]).rename(root / "r" / new)
        about["datasets"]["bars"]["judges"] = new
        about["cells"][0]["keys"]["judges"] = "0" * 12

    doctor(root / "r", other)
    assert verify(root) == 0
    out = capsys.readouterr().out
    assert "the judges key was 000000000000" in out
    assert "knows seed 0: equal" in out


@pytest.fixture
def published(made, tmp_path):
    assert _main(["leaderboard", "r", "--run-root", str(made), "--out", str(tmp_path), "--no-plots"]) == 0
    return tmp_path


def check(made, out):
    return _main(["leaderboard", "r", "--run-root", str(made), "--out", str(out), "--check"])


def test_tables_that_say_what_the_cells_do_pass_and_nothing_is_written(made, published, capsys):
    capsys.readouterr()
    before = tree(published), tree(made / "r")
    assert check(made, published) == 0
    assert "8 of 8 tables" in capsys.readouterr().out
    assert (tree(published), tree(made / "r")) == before


def edit(path, number, change):
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = change(lines[number - 1])
    path.write_text("".join(lines))


def value(line, change):
    """A line of the tidy CSV with another value."""
    parts = line.split(",")
    parts[7] = change(parts[7])
    return ",".join(parts)


@pytest.mark.parametrize(
    "name", ["bars.csv", "bars-wide.csv", "bars-pairs.csv", "bars.md", "bars.tex", "bars-appendix.tex"]
)
def test_a_table_that_differs_is_named_with_its_first_line(made, published, capsys, name):
    edit(published / name, 3, lambda line: line.replace("e", "E", 1) if "e" in line else line[::-1])
    assert check(made, published) == 2
    out, err = capsys.readouterr()
    assert f"{published / name} differs in line 3: it says" in err
    assert err.count("\n") == 1
    assert "5 of 6 tables" in out


def test_last_digits_of_another_machine_pass_and_a_changed_number_does_not(made, published, capsys):
    path = published / "bars.csv"
    row = next(i for i, line in enumerate(path.read_text().splitlines(), 1) if "truth.abs_error" in line)
    edit(path, row, lambda line: value(line, lambda x: repr(float(x) * (1 + 1e-14))))
    assert check(made, published) == 0
    edit(path, row, lambda line: value(line, lambda x: repr(float(x) * 1.0001)))
    assert check(made, published) == 2
    assert f"differs in line {row}" in capsys.readouterr().err


def test_missing_and_longer_tables_differ(made, published, capsys):
    (published / "bars.tex").unlink()
    with (published / "bars.md").open("a") as file:
        file.write("one more line\n")
    assert check(made, published) == 2
    err = capsys.readouterr().err
    assert "bars.tex is missing" in err
    assert "'one more line', the cells say nothing" in err


def test_a_table_over_all_folders_that_is_not_up_to_date_differs(made, tmp_path, capsys):
    published, readme = tmp_path / "published", tmp_path / "README.md"
    assert _main(["leaderboard", "r", "--run-root", str(made), "--out", str(published), "--no-plots"]) == 0
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert check(made, published) == 2
    assert f"{readme} differs in line 2" in capsys.readouterr().err
    assert _main(["leaderboard", "r", "--run-root", str(made), "--out", str(published), "--no-plots"]) == 0
    assert f"all folders: {tmp_path}/ README.md, summary.csv" in capsys.readouterr().out
    assert check(made, published) == 0
    assert "10 of 10 tables" in capsys.readouterr().out


def test_a_run_without_a_plan_has_no_tables_to_check(root, capsys):
    shutil.rmtree(stage(root / "r", "plans/bars-*"))
    assert _main(["leaderboard", "r", "--run-root", str(root), "--check"]) == 2
    assert "0 of 0 tables" in capsys.readouterr().out
