"""Rows at several budgets: how they are written, which fits they share, their curves, their table and the warning."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import TOYS, doctor, small_run
from test_summary import skilled

import cfbench
from cfbench.cli.main import _main
from cfbench.engine.estimates import Workload
from cfbench.engine.request import Request
from cfbench.errors import UserError
from cfbench.plugins.budgets import parse_budgets, spell_budget
from cfbench.plugins.spec import at_budgets, parse_specs
from cfbench.report.board import Board
from cfbench.report.budgets import budget_table, budget_warnings, curves, followed
from cfbench.report.charts.budgets import budget_pages, draw_budgets
from cfbench.report.charts.figure import HEIGHT, WIDTH, drawing
from cfbench.report.charts.files import charts
from cfbench.report.columns import MEAN
from cfbench.report.render import markdown, write_tables
from cfbench.report.summary.rows import short_names
from cfbench.report.sweeps import sweeps
from cfbench.runs.budget import Budget
from cfbench.runs.chain import cell_tasks
from cfbench.runs.manifest import read_manifest


@pytest.mark.parametrize(
    ("text", "images", "spelt"),
    [("32k", 32_000, "32k"), ("2M", 2_000_000, "2M"), ("2000k", 2_000_000, "2M"), ("1.5M", 1_500_000, "1500k"),
     ("2048", 2048, "2048"), ("130000", 130_000, "130k"), ("1", 1, "1")],
)  # fmt: skip
def test_a_budget_is_spelt_in_one_way(text, images, spelt):
    (spec,) = parse_specs(f"m:p[a=1]@{text}")
    assert (spec.images, spec.label) == (images, f"m:p[a=1]@{spelt}")
    assert parse_specs(spec.label) == [spec]
    assert spell_budget(images) == spelt
    assert parse_budgets(f" {text} ,{spelt}") == (images,)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1K", "2m", "1e3", "k", "many", "0.0001k", "9" * 17, "1٣"])
def test_what_is_no_budget_is_refused_in_one_line(text):
    for read in (parse_specs, lambda given: parse_budgets(given.partition("@")[2])):
        with pytest.raises(UserError, match="training images; write 32k") as error:
            read(f"m@{text}")
        assert "\n" not in str(error.value)


def test_names_of_rows_get_the_budget_and_own_budgets_stay():
    specs = parse_specs("fast=m[a=1|2],official=n@2M,n,n@1k,o", rows=True)
    found = at_budgets(specs, (1000, 2000), lambda spec: spec.name != "o")
    titles = ["fast[a=1]@1k", "fast[a=1]@2k", "fast[a=2]@1k", "fast[a=2]@2k", "official", "n@1k", "n@2k", "o"]
    assert [s.title for s in found] == titles
    assert found[4].label == "n@2M"
    assert parse_specs("resample[of=m@2000]")[0].label == "resample[of=m@2k]"


def request(root, methods, **options):
    asked = {"datasets": "bars", "plugins": (Path(TOYS),), "device": "cpu", "preset": "tiny", "metrics": "truth"}
    return Request(**{**asked, "run_root": root, "data_root": root, "methods": methods, **options})


def test_every_method_that_is_fitted_has_a_row_at_each_budget_and_all_else_one(tmp_path):
    asked = request(tmp_path, "learns,draws[shade=0.2]@99,knows,identity,resample[of=draws]", budgets="2k,512")
    run = asked.run()
    assert run.job.folder.name == "tiny-budgets"
    rows = [c.method.label for c in run.cells]
    assert rows == ["learns@512", "learns@2k", "draws[shade=0.2]@99", "knows", "identity", "resample[of=draws]",
                    "nearest", "oracle", "untrained", "resample[of=draws[shade=0.2]@99]"]  # fmt: skip


def test_a_derived_control_answers_through_the_largest_budget(tmp_path):
    for methods, budgets, of in (
        ("draws", "512,4k,1k", ["draws@4k"]),
        ("draws@512,draws,draws:left@1k", None, ["draws", "draws:left@1k"]),
        ("draws:dark,draws[shade=0.3]", "512,1k", ["draws:dark@1k"]),
    ):
        run = request(tmp_path, methods, budgets=budgets).run()
        found = [c for c in run.cells if c.method.name == "resample"]
        assert [c.method.params["of"] for c in found] == of
        assert [c.fitted.method.images for c in found] == [parse_specs(o)[0].images for o in of]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": "identity@1k"}, "identity@1k: identity is not fitted and has no budget; write identity"),
        ({"methods": "nearest@1k"}, "nearest is not fitted"),
        ({"methods": "resample[of=draws]@1k"}, "by the fit of another row; write resample[of=method@1k]"),
        ({"methods": "learns", "datasets": "bars@1k"}, "bars@1k: bars is not fitted and has no budget; write bars"),
        ({"methods": "learns", "budgets": "1k,"}, "--budgets '1k,': '' is no number of training images"),
        ({"methods": "learns,one=learns@1k", "budgets": "1k"}, "learns@1k is asked for as"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(tmp_path, options, says):
    with pytest.raises(UserError) as error:
        request(tmp_path, **options).run()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_budget_that_is_the_runs_shares_the_fit_and_others_have_their_own(tmp_path):
    run = request(tmp_path, "learns,learns@2048,learns@1k,draws[shade=0.2]@1k,draws[shade=0.3]@1k").run()
    cell = {c.method.label: c for c in run.cells}
    plain, same, other = (cell[label] for label in ("learns", "learns@2048", "learns@1k"))
    assert plain.stage("train") == same.stage("train")
    assert plain.keys["images"] == same.keys["images"]
    assert plain.stage("images") != same.stage("images")
    assert len({c.keys["train"] for c in (plain, other)}) == 2
    assert other.fitted.method.label == "learns@1k"
    one, two = (cell[f"draws[shade=0.{n}]@1k"] for n in (2, 3))
    assert one.stage("train") == two.stage("train")
    assert one.fitted.method.label == "draws@1k"


def test_the_time_of_a_fit_grows_with_the_budget_of_its_row(tmp_path):
    run = request(tmp_path, "learns,learns@2048,learns@1k").run()
    work = Workload(run.job.budget, {"bars": 2})
    sizes = {c.method.label: [work.of(t) for t in cell_tasks(c)] for c in run.cells if c.method.name == "learns"}
    assert [each[0] for each in sizes.values()] == [2048, 2048, 1000]
    assert len({tuple(each[1:]) for each in sizes.values()}) == 1


METRICS = "truth,skill,composition,effectiveness,runtime"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a method that a larger budget makes worse, and of one that it leaves as it is."""
    root = tmp_path_factory.mktemp("made")
    rows = ["--methods", "darkens,darkens@512,one=learns@512,learns,resample[of=draws@512]"]
    assert small_run(root, "r", *rows, metrics=METRICS) == 0
    return root


@pytest.fixture(scope="module")
def board(made):
    run = cfbench.load(made / "r")
    return run, pd.read_csv(made / "r" / "leaderboard" / "bars-budgets.csv")


def test_a_fit_sees_the_images_of_its_row(made):
    seen = {}
    for cell in read_manifest(made / "r").cells:
        folder = made / "r" / cell.stage("train")
        seen[cell.method.label] = json.loads((folder / "costs.json").read_text())["images_seen"]
    assert (seen["darkens@512"], seen["darkens"]) == (512, 2048)
    lights = {p.parts[-4]: float(load_file(p)["light"]) for p in made.glob("r/cells/bars/darkens*/*/train-*/w*")}
    assert lights == {"darkens@512": pytest.approx(1 - 0.0512), "darkens": pytest.approx(1 - 0.2048)}


def test_the_table_of_budgets_holds_the_values_of_the_board(made):
    folder = made / "r" / "leaderboard"
    found, wide = pd.read_csv(folder / "bars-budgets.csv"), pd.read_csv(folder / "bars-wide.csv").set_index("method")
    assert found[["method", "row", "budget"]].values.tolist() == [
        ["darkens", "darkens@512", 512], ["darkens", "darkens", 2048],
        ["learns", "one", 512], ["learns", "learns", 2048],
    ]  # fmt: skip
    assert found.images_seen.tolist() == [512, 2048, 64, 64]
    assert found.fit_cpu_s.notna().all()
    columns = [c for c in found if c not in ("method", "row", "budget", "images_seen", "fit_cpu_s")]
    assert [c for c in columns if not c.endswith((" low", " high"))] == [
        f"{MEAN} skill.skill", "do(kind) effectiveness.accuracy/kind", "no intervention composition.composition_1",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(found[columns], wide.loc[found.row, columns].reset_index(drop=True))
    text = (folder / "bars.md").read_text()
    assert "## Budgets" in text
    assert text.index("## Summary") < text.index("## Budgets") < text.index("## Judge card")
    section = text[text.index("## Budgets") :].split("\n## ")[0]
    assert re.search(r"^\| darkens \| 512 \| 512 ", section, re.M)
    assert re.search(r"^\| learns \| 2,048 \| 64 ", section, re.M)
    assert _main(["leaderboard", "r", "--check", "--run-root", str(made)]) == 0


def test_a_method_that_more_images_made_worse_is_told_and_an_equal_one_is_not(made, capsys):
    assert _main(["leaderboard", "r", "--run-root", str(made), "--no-plots"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    warned = re.findall(r"\d\. (\S+) is surely worse at a larger budget \(these trainings\): (.*?\.) \d\. ", out)
    assert [name for name, _ in warned] == ["darkens"]
    wide = pd.read_csv(made / "r" / "leaderboard" / "bars-wide.csv").set_index("method")
    for column, name in ((f"{MEAN} skill.skill", MEAN), ("do(level) skill.skill", "do(level)")):
        small, large = wide.loc[["darkens@512", "darkens"], column]
        values = re.search(
            rf"skill, {re.escape(name)}, from (-?[\d.]+) at 512 to (-?[\d.]+) at 2048 images", warned[0][1]
        )
        assert [float(v) for v in values.groups()] == [pytest.approx(v, abs=0.01) for v in (small, large)]


def test_a_run_is_read_merged_and_verified_with_such_rows(made, tmp_path, capsys):
    shutil.copytree(made / "r", tmp_path / "r")
    for part in ("plans", "judges"):
        shutil.copytree(made / "r" / part, tmp_path / "s" / part)
    assert small_run(tmp_path, "s", "--methods", "darkens@1k,learns@512", metrics=METRICS) == 0
    assert _main(["merge", "r", "s", "--name", "both", "--run-root", str(tmp_path)]) == 0
    capsys.readouterr()
    labels = [c.method.label for c in read_manifest(tmp_path / "both").cells]
    assert sorted(labels) == sorted(
        ["darkens", "darkens@512", "learns@512", "learns", "resample[of=draws@512]", "darkens@1k"]
    )
    base = ["--run-root", str(tmp_path), "--data-root", str(tmp_path)]
    assert _main(["verify", "both", *base, "--plugin", TOYS, "--cells", "9"]) == 0
    assert capsys.readouterr().out.count(": equal to the bit") == 6
    assert _main(["leaderboard", "both", "--run-root", str(tmp_path), "--no-plots"]) == 0
    found = pd.read_csv(tmp_path / "both" / "leaderboard" / "bars-budgets.csv")
    assert found[found.method == "darkens"].budget.tolist() == [512, 1000, 2048]


def test_run_json_holds_the_budget_of_a_row_and_is_checked(made, tmp_path):
    shutil.copytree(made / "r", tmp_path / "r")
    about = json.loads((tmp_path / "r" / "run.json").read_text())
    marks = {c["method"]["name"]: c["method"].get("images") for c in about["cells"] if "images" in c["method"]}
    assert marks == {"darkens": 512, "learns": 512}
    assert not any("images" in c["dataset"] for c in about["cells"])

    def spoil(value):
        return lambda about: about["cells"][0]["method"].update(images=value)

    for value in (0, -1, 1.5, "512", True, 2**60):
        doctor(tmp_path / "r", spoil(value))
        with pytest.raises(UserError, match="is damaged"):
            read_manifest(tmp_path / "r")


def test_settings_and_weights_reach_rows_with_budgets(tmp_path):
    save_file({"mean": torch.full((1, 8, 8), 0.25)}, tmp_path / "w.safetensors")
    rows = ["--methods", "draws,mine=draws@1k", "--set", "draws.places=3"]
    rows += ["--weights", f"mine={tmp_path / 'w.safetensors'}"]
    assert small_run(tmp_path, "r", *rows, metrics="truth,runtime") == 0
    table = pd.read_csv(tmp_path / "r" / "leaderboard" / "bars-wide.csv").set_index("method")
    assert table.spec.to_dict() == {"draws[places=3]": "draws[places=3]", "mine": "draws[places=3]@1k"}
    assert table["runtime.fit_s"].isna().to_dict() == {"draws[places=3]": False, "mine": True}
    assert not (tmp_path / "r" / "leaderboard" / "bars-budgets.csv").exists(), "weights of a file have no budget"
    kept = ["--methods", "draws,draws@1k", "--keep-fit", "draws", "--dry-run"]
    assert small_run(tmp_path, "r", *kept) == 1, "neither fit is stored"


def test_python_and_files_of_options_take_budgets(tmp_path, capsys):
    assert small_run(tmp_path, "r", "--methods", "learns", "--budgets", "512,1k", "--save-config",
                     str(tmp_path / "c.toml"), "--dry-run") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "2,048 training images a method where its row has no @" in out
    assert "to do  bars learns@1k seed 0" in out
    assert 'budgets = "512,1k"' in (tmp_path / "c.toml").read_text()
    assert _main(["run", "--config", str(tmp_path / "c.toml"), "--dry-run"]) == 0
    assert "learns@512" in capsys.readouterr().out
    result = cfbench.run(
        "learns", "bars", "tiny", budgets=[512, "1k"], plugins=TOYS, metrics="truth", controls=False, jobs=1,
        run_root=tmp_path, data_root=tmp_path, progress=False, device="cpu",
    )  # fmt: skip
    assert result.folder.name == "tiny-budgets"
    assert [c.method.label for c in result.manifest.cells] == ["learns@512", "learns@1k"]
    fitted = cfbench.load_method(result, "learns@1000")
    assert fitted.mean.any()
    assert "budgets" in result.plots


BUDGETS = (32_000, 130_000, 520_000)
MARKS = ("32k", "130k", "520k")


def at(results, better=(), worse=(), by=0.1, spread=0.0):
    """Results whose methods ``m@32k`` ... have equal skill, but those that rise or fall by ``by`` with each budget.

    ``spread`` is the deviation of whole trainings.
    """
    cells = []
    for c in results.cells:
        specs = parse_specs(c.method) if c.method not in results.controls else [None]
        cells.append(replace(c, spec=specs[0], fit=c.method if specs[0] else ""))
    rng, scores = np.random.default_rng(1), []
    shared = rng.normal(0.5, 0.2, 120)
    seeds = {(c.method, c.seed): rng.normal(0, spread) for c in results.cells}
    for s in results.scores:
        base, _, mark = s.method.partition("@")
        if s.metric == "skill" and mark in MARKS:
            step = MARKS.index(mark) * by
            drift = step * ((base in better) - (base in worse)) + seeds[s.method, s.seed]
            values = shared + drift + rng.normal(0, 0.05, 120)
            s = replace(s, values=values, value=float(values.mean()))
        scores.append(s)
    return replace(results, cells=tuple(cells), scores=tuple(scores))


def rows_of(*names):
    return tuple(f"{name}@{mark}" for name in names for mark in MARKS)


def test_curves_are_rows_of_one_method_that_differ_in_their_budget():
    board = Board(at(skilled(("a@130k", "a", "a@32k", "b@32k", "b[x=1]", "b[x=1]@1k", "c@1k"))))
    assert [(c.name, dict(c.rows)) for c in curves(board)] == [
        ("a", {32_000: "a@32k", 130_000: "a@130k", 200_000: "a"}),
        ("b[x=1]", {1000: "b[x=1]@1k", 200_000: "b[x=1]"}),
    ]
    assert sweeps(board) == []
    assert curves(Board(at(skilled(("a", "b"))))) == []
    assert budget_pages(Board(at(skilled(("a", "b"))))) == []


def test_sweeps_at_several_budgets_are_sweeps_of_their_own():
    results = at(skilled(("m[s=1]@32k", "m[s=2]@32k", "m[s=1]@130k", "m[s=2]@130k")))
    cells = tuple(replace(c, fit=c.method.replace("[s=1]", "").replace("[s=2]", "")) for c in results.cells)
    assert [s.name for s in sweeps(Board(replace(results, cells=cells)))] == ["m@32k", "m@130k"]


def test_only_methods_that_fall_are_warned_of():
    board = Board(at(skilled(rows_of("up", "down", "flat")), better=("up",), worse=("down",)))
    (text,) = budget_warnings(board)
    assert text.startswith("down is surely worse at a larger budget (these trainings): skill, mean of do(), ")
    e = {m: board.estimates[m, followed(board)[0]].value for m in ("down@32k", "down@520k")}
    assert f"{e['down@32k']:.3f} at 32k to {e['down@520k']:.3f} at 520k images" in text
    assert text.count("at 520k") == 5, "the mean and four interventions"


def test_the_correction_is_over_all_pairs_of_budgets_and_columns(monkeypatch):
    board = Board(at(skilled(rows_of("a", "b")), worse=("a",), by=0.004))
    asked = []
    monkeypatch.setattr("cfbench.report.budgets.holm", lambda p: asked.append(p) or p)
    list(budget_warnings(board))
    assert [len(p) for p in asked] == [15, 15], "three pairs and five columns of each method"
    names = {c: (c.first, c.second) for key in board.columns if key.path == "skill.skill"
             for c in board.family(key).comparisons()}  # fmt: skip
    own = {frozenset(pair) for pair in combinations(rows_of("a"), 2)}
    expected = sorted(c.p for c, pair in names.items() if frozenset(pair) in own)
    assert sorted(asked[0]) == pytest.approx(expected), "the p-values are those of the paired comparisons"


def test_false_alarms_are_rare():
    rng = np.random.default_rng(0)
    results = at(skilled(rows_of("a"), variables=("digit", "slant")))
    warned = 0
    for _ in range(100):
        scores = []
        for s in results.scores:
            if s.metric == "skill" and "@" in s.method:
                values = rng.normal(0.5, 0.1, 120)
                s = replace(s, values=values, value=float(values.mean()))
            scores.append(s)
        warned += bool(list(budget_warnings(Board(replace(results, scores=tuple(scores))))))
    assert warned <= 9


def test_several_seeds_count_their_spread():
    one = at(skilled(rows_of("a")), worse=("a",), by=0.1)
    assert list(budget_warnings(Board(one)))
    several = at(skilled(rows_of("a"), seeds=(0, 1, 2)), worse=("a",), by=0.1, spread=0.3)
    assert not list(budget_warnings(Board(several))), "trainings differ by more than budgets"
    steady = at(skilled(rows_of("a"), seeds=(0, 1, 2)), worse=("a",), by=0.1, spread=0.001)
    (text,) = budget_warnings(Board(steady))
    assert "(any training)" in text


def test_a_table_of_some_rows_warns_of_these_alone():
    board = Board(at(skilled(rows_of("a", "b")), worse=("a", "b")))
    shown = board.showing({"a@32k", "a@130k", "b@520k"})
    (text,) = budget_warnings(shown)
    assert text.startswith("a is surely worse")
    assert "520k" not in text


def test_the_chart_fits_a_page_and_names_each_curve(tmp_path):
    board = Board(at(skilled(rows_of("deepscm", "flowmatching", "diffscm[steps=12,sampler=ddim]")), worse=("deepscm",)))
    assert "budgets" in charts(board)
    (page,) = budget_pages(board)
    with drawing():
        figure = draw_budgets(board, page)
        figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    assert width <= WIDTH
    assert height <= HEIGHT
    panels = figure.axes
    assert len(panels) == len(followed(board)) * 2
    for ax in panels:
        texts = [t.get_text() for t in ax.texts if t.get_text()]
        assert sorted(texts)[0] == "deepscm"
        assert len(texts) == 3
    skill = panels[0]
    lines = [line for line in skill.lines if len(line.get_xdata()) == 3]
    (deepscm,) = [line for line in lines if np.allclose(line.get_ydata(), [
        board.estimates[m, followed(board)[0]].value for m in rows_of("deepscm")])]  # fmt: skip
    assert list(deepscm.get_xdata()) == list(BUDGETS), "of a fit whose images are not recorded, its budget"
    many = Board(at(skilled(rows_of(*"abcdefghijkl"))))
    assert [len(page) for page in budget_pages(many)] == [6, 6]


def test_files_of_a_board_with_budgets(tmp_path):
    board = Board(at(skilled(rows_of("a", "b"))))
    files = write_tables(board, tmp_path)
    assert files["budgets"].name == "strokes-budgets.csv"
    assert len(budget_table(board)) == len(pd.read_csv(files["budgets"])) == 6
    assert "## Budgets" in markdown(board)
    plain = Board(at(skilled(("a", "b"))))
    assert "budgets" not in write_tables(plain, tmp_path / "plain")
    assert "## Budgets" not in markdown(plain)


def test_short_names_keep_the_budget():
    names = short_names(["flowmatching@130k", "flowmatching@32k", "a@1k"], 14)
    assert len(set(names.values())) == 3
    assert all(len(short) <= 14 and short.endswith(long.partition("@")[2]) for long, short in names.items())


def test_the_preset_for_an_hour_on_a_cpu():
    long = Budget.named("long")
    assert (long.images, long.factuals, long.rounds, long.seeds, long.judge) == (1_000_000, 512, 64, (0,), 1.0)
