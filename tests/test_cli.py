"""The command line from end to end, on a toy data set in a plugin file."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from cfbench.cli.main import _main

TOYS = str(Path(__file__).with_name("toys.py"))


def run(tmp_path, *args, jobs="1", plots=False):
    base = ["run", "--plugin", TOYS, "--datasets", "bars", "--preset", "tiny", "--jobs", jobs]
    base += [] if plots else ["--no-plots"]
    return _main([*base, "--run-root", str(tmp_path / "runs"), "--data-root", str(tmp_path), *args])


def table(tmp_path, name="tiny"):
    return pd.read_csv(tmp_path / "runs" / name / "leaderboard" / "bars.csv")


def value(df, method, metric, **where):
    rows = df[(df.method == method) & (df.metric == metric) & (df.seed.astype(str) == "all") & (df.questions == "all")]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1, rows
    return rows.value.iloc[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a method that knows the answers, with all controls."""
    tmp_path = tmp_path_factory.mktemp("finished")
    assert run(tmp_path, "--methods", "knows,learns", plots=True) == 0
    return tmp_path


def scores(df, method):
    return df[df.method == method]


def test_the_tables_and_pictures_are_there(finished):
    written = {p.name for p in (finished / "runs/tiny/leaderboard").iterdir()}
    assert {
        "bars.csv",
        "bars-wide.csv",
        "bars.md",
        "bars.tex",
        "bars-appendix.tex",
        "bars-counterfactuals.png",
    } <= written


def test_identity_scores_what_theory_says(finished):
    df = table(finished)
    for do in ("kind", "level"):
        assert value(df, "identity", "cld.cld", do=do) == pytest.approx(1.3133, abs=1e-4)
        assert value(df, "identity", "cld.cld_weighted", do=do) == pytest.approx(0.2954, abs=1e-4)
        assert value(df, "identity", "tea.tea_effectiveness", do=do) == pytest.approx(0, abs=1e-9)
    assert value(df, "identity", "composition.composition_1") == 0
    assert value(df, "identity", "composition.composition_10") == 0


def test_the_oracle_and_a_method_that_knows_make_no_error(finished):
    df = table(finished)
    for method in ("oracle", "knows"):
        for do in ("kind", "level"):
            assert value(df, method, "truth.abs_error", do=do) == pytest.approx(0, abs=1e-4)
            assert value(df, method, "tea.tea_effectiveness", do=do) == pytest.approx(1, abs=1e-5)
    assert value(df, "learns", "truth.abs_error", do="kind") > 1


def test_the_same_command_does_nothing_again(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in (finished / "runs/tiny/cells").rglob("*") if p.is_file()}
    assert run(finished, "--methods", "knows,learns") == 0
    assert "0 of" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in (finished / "runs/tiny/cells").rglob("*") if p.is_file()}


def test_the_leaderboard_is_derived_again_to_the_letter(finished):
    out = finished / "again"
    assert _main(["leaderboard", "tiny", "--run-root", str(finished / "runs"), "--out", str(out), "--no-plots"]) == 0
    for name in ("bars.csv", "bars-wide.csv", "bars.md", "bars.tex", "bars-appendix.tex"):
        assert (out / name).read_bytes() == (finished / "runs/tiny/leaderboard" / name).read_bytes()


def test_an_answer_parameter_shares_the_fit_and_changes_the_answers(finished):
    assert run(finished, "--methods", "knows,knows[dim=0.5],knows[knob=2]") == 0
    cells = finished / "runs/tiny/cells/bars"
    about = json.loads((finished / "runs/tiny/run.json").read_text())
    mine = [c for c in about["cells"] if c["method"]["name"] == "knows"]
    plain, dim, knob = (c["keys"] for c in sorted(mine, key=lambda c: sorted(c["method"]["params"])))
    assert dim["train"] == plain["train"] != knob["train"]
    assert dim["images"] != plain["images"]
    assert len(list(cells.glob("knows*"))) == 3
    df = table(finished)
    assert value(df, "knows[dim=0.5]", "truth.abs_error", do="level") > 1
    assert value(df, "knows[knob=2]", "truth.abs_error", do="level") == pytest.approx(0, abs=1e-4)
    assert "learns" in set(df.method), "rows of earlier commands stay"


def test_ray_gives_the_same_numbers(finished, tmp_path):
    assert run(tmp_path, "--methods", "knows,learns", jobs="2") == 0
    columns = ["method", "metric", "variable", "do", "questions", "seed", "value"]
    ours, theirs = (table(p)[columns] for p in (tmp_path, finished))
    theirs = theirs[theirs.method.isin(set(ours.method))]
    timeless = [df[~df.metric.str.startswith("runtime")] for df in (ours, theirs)]
    timeless = [df.sort_values(columns[:-1]).reset_index(drop=True) for df in timeless]
    pd.testing.assert_frame_equal(*timeless, check_exact=True)


def test_what_a_method_leaves_open_is_tuned_once_and_kept(tmp_path):
    assert run(tmp_path, "--methods", "tunes,tunes[dim=0.5],tunes[dim=1]", "--no-controls") == 0
    cells = tmp_path / "runs/tiny/cells/bars"
    (chosen,) = cells.glob("tunes/seed-0/tune-*/chosen.json")
    assert json.loads(chosen.read_text()) == {"dim": 0.5}
    (curve,) = cells.glob("tunes/seed-0/tune-*/curve.json")
    assert json.loads(curve.read_text()) == [{"dim": 0.5, "valid": 128}]
    assert len(list(cells.glob("*/seed-0/train-*"))) == 1
    df = table(tmp_path)
    change = {m: value(df, m, "change.l1_factual", do="kind") for m in df.method.unique()}
    assert change["tunes"] == pytest.approx(change["tunes[dim=0.5]"])
    assert change["tunes"] != pytest.approx(change["tunes[dim=1]"])


def test_a_fresh_sample_of_every_model_that_can_draw_stands_among_the_controls(tmp_path):
    assert run(tmp_path, "--methods", "learns,draws,draws[shade=0.2],draws[places=2]") == 0
    df = table(tmp_path)
    drawn = {m for m in df.method.unique() if m.startswith("resample")}
    assert drawn == {"resample[of=draws]", "resample[of=draws[places=2]]"}
    cells = tmp_path / "runs/tiny/cells/bars"
    assert not list(cells.glob("resample-*/seed-0/train-*"))
    assert not list(cells.glob("resample-*/seed-0/tune-*"))
    assert len(list(cells.glob("resample-*/seed-0/images-*"))) == 2
    assert value(df, "resample[of=draws]", "effectiveness.error", do="level") < 0.1
    assert value(df, "resample[of=draws]", "composition.composition_1") > 5
    assert (tmp_path / "runs/tiny/leaderboard/bars.md").read_text().count("*resample[of=draws]*") > 1


def test_a_preset_of_answers_shares_the_fit_and_one_of_the_fit_does_not(tmp_path):
    assert run(tmp_path, "--methods", "draws,draws:dark,draws:left", "--no-controls", "--metrics", "composition") == 0
    fits = (tmp_path / "runs/tiny/cells/bars").glob("*/seed-0/train-*")
    assert {p.parent.parent.name for p in fits} == {"draws", "draws-left"}


def test_derived_rows_take_their_method_with_its_settings(tmp_path):
    assert run(tmp_path, "--methods", "resample[of=draws[shade=0.2,places=2]],draws", "--no-controls") == 0
    assert set(table(tmp_path).method) == {"resample[of=draws[places=2,shade=0.2]]", "draws"}


def test_bfloat16_gives_the_same_numbers_within_their_intervals(tmp_path):
    for precision in ("fp32", "bf16"):
        options = ["--no-controls", "--metrics", "composition,truth,effectiveness", "--precision", precision]
        assert run(tmp_path, "--methods", "deepscm[residual=none,lr=3e-4]", *options) == 0
    names = ["metric", "variable", "do", "questions"]
    tables = (table(tmp_path), table(tmp_path, "tiny-bf16"))
    one, two = (df[df.seed.astype(str) == "all"].set_index(names).sort_index() for df in tables)
    assert not one.value.equals(two.value), "the precision made no difference"
    assert ((one.low <= two.high) & (two.low <= one.high)).all()
    about = json.loads((tmp_path / "runs/tiny-bf16/run.json").read_text())
    assert about["precision"] == "bf16"


BROKEN = {
    "raises": ("failed", "this method cannot be fitted"),
    "holes": ("invalid", "not finite"),
    "loud": ("invalid", "out of [0, 1]"),
    "wide": ("invalid", "[2, 1, 8, 8], found [2, 1, 8, 9]"),
    "leaves": ("failed", "goodbye"),
    "diverges": ("failed", "mean is not finite"),
    "explodes": ("failed", "the loss is nan at stage toy, step 75"),
}


def test_broken_methods_stand_in_the_table_and_the_others_finish(tmp_path, capfd):
    assert run(tmp_path, "--methods", ",".join(["learns", *BROKEN]), "--no-controls") == 2
    errors = capfd.readouterr().err
    df = table(tmp_path)
    for method, (status, reason) in BROKEN.items():
        mine = df[df.method == method]
        assert mine.status.str.startswith(status).all(), mine.status.unique()
        assert any(reason in line for line in errors.splitlines() if f"bars {method} " in line), reason
        assert len(mine) == len(df[df.method == "learns"]) or status == "invalid"
    whole = df[(df.method == "learns") & (df.metric == "change.l1_factual")]
    assert (whole.coverage == 1).all()
    assert (whole.status == "ok").all()
    assert (df[df.method == "raises"].coverage == 0).all()
    assert df[df.method == "raises"].value.isna().all()
    part = df[(df.method == "holes") & (df.metric == "change.l1_factual") & (df.questions == "all")]
    assert part.coverage.between(0.01, 0.99).any()


def test_a_process_that_dies_is_a_crash_and_the_others_finish(tmp_path):
    assert run(tmp_path, "--methods", "learns,dies", "--no-controls", jobs="2") == 2
    df = table(tmp_path)
    assert df[df.method == "dies"].status.str.startswith("crashed").all()
    assert (df[(df.method == "learns") & (df.metric == "change.l1_factual")].status == "ok").all()


def test_failed_cells_are_tried_again_only_when_asked(tmp_path, capsys):
    assert run(tmp_path, "--methods", "raises", "--no-controls") == 2
    cell = tmp_path / "runs/tiny/cells/bars/raises/seed-0"
    assert run(tmp_path, "--methods", "raises", "--no-controls") == 2
    assert [p.name for p in cell.iterdir()] == ["failed-train-1"]
    assert run(tmp_path, "--methods", "raises", "--no-controls", "--only", "failed") == 2
    assert sorted(p.name for p in cell.iterdir()) == ["failed-train-1", "failed-train-2"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--methods", "know"], "unknown method 'know'; did you mean 'knows'?"),
        (["--datasets", "bar"], "unknown dataset 'bar'; did you mean 'bars'?"),
        (["--methods", "knows", "--set", "knows.dmi=1"], "knows has no setting 'dmi'; did you mean 'dim'?"),
        (["--methods", "knows[dim=red]"], "knows.dim takes float, found 'red'"),
        (["--methods", "knows[knob=1.5]"], "knows.knob takes int, found 1.5"),
        (["--methods", "knows:big"], "knows has no preset 'big'"),
        (["--datasets", "mnist", "--methods", "identity"], "cfbench prepare mnist"),
        (["--device", "cuda:9"], "no such CUDA device"),
        (["--device", "tpu"], "no device"),
        (["--preset", "quik"], "did you mean 'quick'?"),
        (["--plan", "schut", "--methods", "knows"], "no plan 'schut'"),
        (["--seeds", "a"], "no list of whole numbers"),
        (["--name", "../x"], "no plain name"),
        (["--nonsense"], "nonsense"),
        (["--methods", "resample"], "write resample[of=method]"),
        (["--methods", "resample[of=learns]"], "resample cannot answer through learns"),
        (["--methods", "resample[of=identity]"], "resample cannot answer through identity"),
        (["--methods", "resample[of=drawz]"], "unknown method 'drawz'; did you mean 'draws'?"),
        (["--methods", "resample[of=draws[shad=1]]"], "draws has no setting 'shad'; did you mean 'shade'?"),
        (["--plugin", "missing.py"], "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, capfd, args, says):
    assert run(tmp_path, *args) == 1
    out, err = capfd.readouterr()
    assert says in err
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["plan"], ["plan", "export"], ["show"], ["prepare"], ["new"], ["merge"]])
def test_a_command_that_needs_arguments_shows_its_help_without_them(capfd, words):
    """A usage error, whose text is the help in lines and not the one line of an error."""
    assert _main(words) == 1
    out, err = capfd.readouterr()
    assert out.startswith(f"Usage: {' '.join(['cfbench', *words])} [OPTIONS]")
    assert len(out.splitlines()) > 8
    assert err == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["new", "method"], "Missing argument 'NAME'; write cfbench new {method|dataset|metric} NAME; `cfbench new"),
        (["score", "a.npz"], "Missing option '--name'; write cfbench score ANSWERS.npz --name TEXT; `cfbench score"),
        (["merge", "--name", "ab"], "write cfbench merge RUN... --name TEXT"),
        (["run", "--nonsense"], "No such option '--nonsense'"),
        (["run", "--preset"], "Option '--preset' requires an argument; `cfbench run --help` says more"),
        (["plan", "export", "--plan"], "`cfbench plan export --help` says more"),
        (["list", "method"], "'methods', 'datasets', 'metrics', 'presets'; `cfbench list --help` says more"),
    ],
)
def test_a_command_with_wrong_words_is_one_line_that_says_what_to_write(capfd, words, says):
    assert _main(words) == 1
    out, err = capfd.readouterr()
    assert says in err
    assert err.count("\n") == 1, err
    assert out == ""


def test_a_run_root_that_cannot_be_written_is_one_line(tmp_path, capfd):
    (tmp_path / "runs").write_text("a file, no folder")
    assert run(tmp_path, "--methods", "knows") == 1
    err = capfd.readouterr().err
    assert "cannot be written" in err
    assert err.count("\n") == 1


def test_another_budget_under_the_same_name_is_refused(finished, capfd):
    assert run(finished, "--methods", "knows", "--name", "tiny", "--split", "valid") == 1
    assert "give this one another --name" in capfd.readouterr().err


def test_status_names_every_cell(finished, capsys):
    assert _main(["status", "tiny", "--run-root", str(finished / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["ok", "bars", "identity"] for line in lines)


def test_an_unknown_run_is_one_line(finished, capfd):
    assert _main(["leaderboard", "tin", "--run-root", str(finished / "runs")]) == 1
    assert "did you mean 'tiny'?" in capfd.readouterr().err
