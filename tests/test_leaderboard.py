"""The leaderboard's tables, plots and contact sheet, from synthetic scores."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cfbench.contract import Column
from cfbench.metrics.effectiveness import Effectiveness
from cfbench.metrics.minimality import CLD, FactualDistance
from cfbench.metrics.realism import Realism
from cfbench.metrics.runtime import Runtime
from cfbench.metrics.soundness import Composition, Reversibility
from cfbench.metrics.truth import TEA, Skill, TrueError
from cfbench.report.board import TIDY, Board, tidy, wide
from cfbench.report.charts.cost import cost_axes, quality_keys
from cfbench.report.charts.files import charts, write_plots
from cfbench.report.charts.scores import draw_page, pages_of
from cfbench.report.columns import MEAN
from cfbench.report.format import number
from cfbench.report.judge_card import card_line, card_table, judge_card
from cfbench.report.latex import latex, latex_appendix
from cfbench.report.notes import detail_notes
from cfbench.report.render import csv, html, markdown, render, write_tables
from cfbench.report.sheet import contact_sheet
from cfbench.runs.chain import Status
from cfbench.runs.reader import CellState, Results, Score

ABOUT = {
    "effectiveness.accuracy": Effectiveness.columns["accuracy"],
    "effectiveness.error": Effectiveness.columns["error"],
    "truth.abs_error": TrueError.columns["abs_error"],
    "tea.tea_effectiveness": TEA.columns["tea_effectiveness"],
    "reversibility.reversibility": Reversibility.columns["reversibility"],
    "cld.cld": CLD.columns["cld"],
    "cld.cld_weighted": CLD.columns["cld_weighted"],
    "realism.fid_real": Realism.columns["fid_real"],
    "realism.kid_real": Realism.columns["kid_real"],
    "change.l1_factual": FactualDistance.columns["l1_factual"],
    "novel.sparkle": Column("a plugin's own", "higher", "sparks"),
    "novel.glitter": Column("a plugin's second", "lower", "sparks"),
    "composition.composition_1": Composition.columns["composition_1"],
    "composition.composition_10": Composition.columns["composition_10"],
    "runtime.fit_s": Runtime.columns["fit_s"],
    "runtime.abduct_ms": Runtime.columns["abduct_ms"],
    "runtime.predict_ms": Runtime.columns["predict_ms"],
    "runtime.parameters": Runtime.columns["parameters"],
    "runtime.peak_mb": Runtime.columns["peak_mb"],
}
SETS = ("realism.fid_real", "realism.kid_real")
# How good each row is in each column: mean and spread; all else 1 and .3.
QUALITY = {
    "diffscm": 1.0,
    "diffscm[contrast=0]": 1.25,
    "deepscm": 1.6,
    "=cmd()": 1.6,
    "identity": 2.2,
    "nearest": 1.9,
    "oracle": 0.0,
    "untrained": 3.0,
}
CARD = tuple(
    dict(zip(("judge", "variable", "data", "error", "unit", "n", "good"), row, strict=True))
    for row in (
        ("classifier", "digit", "held-out", 0.0123, "share", 2000, True),
        ("regressor", "thickness", "held-out", 0.31, "px", 2000, False),
    )
)
CONTROLS = ("identity", "nearest", "oracle", "untrained")
METHODS = tuple(m for m in QUALITY if m not in CONTROLS)


def build(seeds=(0,), factuals=120, methods=METHODS, failed=(), variables=("digit", "thickness"), noise=0.3, sets=200):
    """Results of synthetic methods, better and worse; cells in ``failed`` (method, seed) have no score."""
    factual = {v: np.arange(factuals) for v in variables}
    rng = np.random.default_rng(0)
    shared = {v: rng.normal(0, 1, factuals) for v in (*variables, "null")}
    scores, cells = [], []
    for method in (*methods, *CONTROLS):
        own = seeds[:1] if method in CONTROLS else seeds
        for seed in own:
            bad = (method, seed) in failed
            keys = {} if bad else {"images": "a1b2c3d4e5f6", "score-cld": "0123456789ab"}
            reason = "ValueError: loss is NaN at step 12" if bad else ""
            residual = "-" if method in CONTROLS else "full"
            notes = {"device": "cpu", "chosen": {"scale": 2.5} if method == "diffscm" else {}}
            status = Status.FAILED if bad else Status.OK
            cells.append(CellState(method, seed, status, reason, residual, method == "oracle", keys=keys, notes=notes))
            scores += [] if bad else list(_scores(method, seed, variables, shared, noise, sets))
    return Results(
        "strokes", "quick", tuple(methods), tuple(seeds), tuple(variables), factuals, factual,
        {v: np.arange(factuals) % 4 > 0 for v in variables}, {"digit": "convention", "thickness": "exact"},
        "0123456789abcdef" * 2, tuple(cells), tuple(scores),
        CARD,
        CONTROLS, {"budget": {"name": "quick", "images": 200000, "seeds": [0]}, "split": "test"},
    )  # fmt: skip


def _scores(method, seed, variables, shared, noise, sets):
    quality = QUALITY.get(method, 1.0)
    for name, about in ABOUT.items():
        metric, column = name.split(".")
        scope = "null" if metric == "composition" else "cell" if metric == "runtime" else None
        for do in (scope,) if scope else variables:
            for variable in variables if metric == "effectiveness" else ("",):
                if metric == "effectiveness" and (variable == "digit") != (column == "accuracy"):
                    continue
                rng = np.random.default_rng([len(method), ord(method[0]), seed, len(name), ord(do[0])])
                values = np.empty(0)
                n = len(shared[variables[0]])
                if scope == "cell":
                    value, kind = (
                        {"fit_s": 30, "abduct_ms": 4, "predict_ms": 9, "parameters": 1.3e6, "peak_mb": 800}[column]
                        * (quality if method not in CONTROLS else 0),
                        "cell",
                    )
                elif name in SETS:
                    value, kind = 3 * quality, "set"
                    values = value + 1 + rng.normal(0, noise, sets)
                else:
                    kind = "image"
                    hard = shared[do] + rng.normal(quality, noise, n) + 5
                    values = hard if about.direction == "lower" else 1 / (1 + quality) + rng.normal(0, 0.05, n)
                    if name == "effectiveness.accuracy":
                        values = (rng.random(n) < 1 / (1 + quality / 8)).astype(float)
                    if about.subset:
                        values[32:] = np.nan
                    value = float(np.nanmean(values))
                asked = 32 if about.subset else n if kind != "cell" else 1
                known = value, asked, asked, about, values, scope or "do"
                yield Score(method, seed, metric, column, variable, do, kind, *known)


@pytest.fixture(scope="module")
def board():
    """Three seeds, one of deepscm's trainings failed."""
    return Board(build(seeds=(0, 1, 2), failed={("deepscm", 1)}))


@pytest.fixture(scope="module")
def failed():
    """One seed, and deepscm failed."""
    return Board(build(failed={("deepscm", 0)}))


def terminal(thing, width=120, details=True):
    from rich.console import Console

    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(thing, width, details=details))
    return console.export_text()


def test_tidy_has_a_row_for_every_method_column_and_intervention(failed):
    table = failed.tidy
    assert list(table.columns) == TIDY
    groups = table.groupby(["metric", "variable", "do", "questions"])["method"].agg(list)
    assert all(sorted(names) == sorted(failed.methods) for names in groups)
    assert {(k.path, k.variable, k.do) for k in failed.columns} == set(groups.index.droplevel("questions"))
    assert set(table.do) == {"digit", "thickness", "none", ""}


def test_a_failed_cell_is_a_row_with_its_reason_and_no_number(failed):
    rows = failed.tidy[failed.tidy.method == "deepscm"]
    assert rows.value.isna().all()
    assert rows.low.isna().all()
    assert (rows.coverage == 0).all()
    assert (rows.n == 0).all()
    assert rows.rank_low.isna().all()
    assert (rows.status == "failed: ValueError: loss is NaN at step 12").all()
    assert "failed" in terminal(failed)
    _, line, *_ = (line for line in markdown(failed).splitlines() if line.startswith("| deepscm"))
    assert line.count("failed") == len(failed.sections[0].keys)
    assert "loss is NaN at step 12" in markdown(failed)
    assert "loss is NaN at step 12" in latex_appendix(failed)


def test_a_run_without_any_score_still_names_every_method():
    everything = {(m, 0) for m in QUALITY}
    table = tidy(build(failed=everything))
    assert sorted(table.method) == sorted(QUALITY)
    assert table.status.str.startswith("failed").all()
    assert (table.coverage == 0).all()
    terminal(build(failed=everything))


def test_pooled_rows_and_a_row_for_each_seed(board):
    rows = board.tidy.query("method == 'diffscm' and metric == 'truth.abs_error' and do == 'digit'")
    rows = rows[rows.questions == "all"].set_index("seed")
    assert list(rows.index) == ["all", "0", "1", "2"]
    assert rows.value["all"] == pytest.approx(rows.value[["0", "1", "2"]].mean())
    assert rows.n["all"] == 360
    assert rows.n["0"] == 120
    control = board.tidy.query("method == 'identity' and metric == 'truth.abs_error' and do == 'digit'")
    assert set(control.seed) == {"all"}


def test_one_failed_seed_lowers_coverage_and_is_named(board):
    rows = board.tidy.query("method == 'deepscm' and metric == 'truth.abs_error' and do == 'digit' and seed == 'all'")
    row = rows[rows.questions == "all"].iloc[0]
    assert row.coverage == pytest.approx(2 / 3)
    assert row.status == "2 of 3 seeds ok; seed 1 failed: ValueError: loss is NaN at step 12"
    assert "(67%)" in terminal(board)


def test_supported_questions_have_their_own_rows(failed):
    score = next(s for s in failed.results.scores if (s.method, s.column, s.do) == ("diffscm", "abs_error", "digit"))
    rows = failed.tidy.query("method == 'diffscm' and metric == 'truth.abs_error' and do == 'digit'")
    rows = rows.set_index("questions")
    inside = failed.results.supported["digit"]
    assert rows.value["all"] == pytest.approx(score.values.mean())
    assert rows.value["supported"] == pytest.approx(score.values[inside].mean())
    assert rows.n["supported"] == inside.sum()
    part = failed.tidy.query("method == 'diffscm' and metric == 'reversibility.reversibility' and do == 'digit'")
    assert list(part.coverage) == [1.0, 1.0]
    assert list(part.n) == [32, inside[:32].sum()]


def test_numbers_do_not_depend_on_the_order_of_methods_and_cells(failed):
    r = failed.results
    turned = replace(r, methods=r.methods[::-1], cells=r.cells[::-1], scores=r.scores[::-1], controls=r.controls[::-1])
    keys = ["method", "metric", "variable", "do", "questions", "seed"]
    a, b = (t.sort_values(keys).reset_index(drop=True) for t in (failed.tidy, Board(turned).tidy))
    pd.testing.assert_frame_equal(a, b)


def test_ranks_and_bold_are_for_methods_only(failed):
    rows = failed.tidy.query("metric == 'truth.abs_error' and do == 'digit' and questions == 'all'").set_index("method")
    assert (rows.rank_low["diffscm"], rows.rank_high["diffscm"]) == (1, 1)
    assert (rows.rank_low["=cmd()"], rows.rank_high["=cmd()"]) == (3, 3)
    assert rows.rank_low[list(CONTROLS)].isna().all()
    key = next(k for k in failed.columns if k.column == "abs_error" and k.do == "digit")
    assert failed.best[key] == {"diffscm"}
    lines = [line for line in markdown(failed).splitlines() if line.startswith("| *")]
    assert len(lines) == len(CONTROLS) * 2 * len(failed.sections)
    assert not any("**" in line for line in lines)


def test_wide_has_controls_last_and_every_column(failed):
    table = failed.wide
    assert list(table.method) == [*METHODS, *CONTROLS]
    assert list(table.role) == ["method"] * len(METHODS) + ["control"] * len(CONTROLS)
    assert {k.name for k in failed.columns} <= set(table.columns)
    assert wide(failed.results).shape == table.shape


def test_printed_columns_are_derived_and_hold_a_plugins_own_metric(failed):
    columns = [k.column for k in failed.sections[0].keys]
    assert columns[0] == "accuracy"
    assert {"abs_error", "cld", "cld_weighted", "fid_real", "kid_real", "l1_factual", "reversibility"} <= set(columns)
    assert columns[-1] == "sparkle", "of a metric that does not say what is printed, the first column is"
    assert "tea_effectiveness" not in columns
    assert failed.sections[1].keys[0].column == "error"
    assert [k.column for k in failed.sections[-1].keys][:2] == ["composition_1", "composition_10"]


def shown(results, column, **how):
    """Results in which a column says how it is shown."""
    scores = (replace(s, about=replace(s.about, **how)) if s.column == column else s for s in results.scores)
    return Board(replace(results, scores=tuple(scores)))


def test_a_plugins_column_is_printed_where_and_as_it_says(failed):
    board = shown(failed.results, "glitter", printed=True, order=15, heading="Glitter index")
    assert [k.column for k in board.sections[0].keys][:3] == ["accuracy", "glitter", "abs_error"]
    assert "sparkle" not in {k.column for k in board.sections[0].keys}, "the metric says which are printed"
    for text in (markdown(board), latex_appendix(board), html(board)):
        assert "Glitter index" in text
    assert "Glitter index ↓" in terminal(board)
    none = shown(failed.results, "sparkle", printed=False)
    assert not {"sparkle", "glitter"} & {k.column for s in none.sections for k in s.keys}
    assert {"sparkle", "glitter"} <= {k.column for k in none.columns}


def test_a_description_is_printed_only_where_its_metric_says_so(failed):
    assert "sparkle" not in {k.column for k in shown(failed.results, "sparkle", direction="none").sections[0].keys}
    board = shown(failed.results, "sparkle", direction="none", printed=True)
    assert board.sections[0].keys[-1].column == "sparkle"


def test_a_plugins_column_is_charted_by_its_role(failed):
    names = set(charts(failed))
    assert {"novel", "quality-cost"} <= names
    assert [k.column for k in quality_keys(failed)] == ["abs_error", "abs_error"]
    own = shown(failed.results, "sparkle", order=0, role="error")
    assert [k.column for k in quality_keys(own)] == ["sparkle", "sparkle"], "of several the first that is printed"


def test_costs_of_one_unit_are_added_up(failed):
    axes = dict(cost_axes(failed))
    assert list(axes) == ["abduct + predict [ms an image]", "fit [s]"]
    assert axes["abduct + predict [ms an image]"]["diffscm"] == pytest.approx(13)
    board = shown(failed.results, "peak_mb", role="fit-cost", heading="memory")
    assert [label for label, _ in cost_axes(board)] == ["abduct + predict [ms an image]", "fit [s]", "memory [MB]"]


def test_a_plugins_effectiveness_stands_in_the_table_of_all_variables(failed):
    assert {k.column for k in failed.matrix} == {"accuracy", "error"}
    assert shown(failed.results, "accuracy", role="").matrix == tuple(k for k in failed.matrix if k.column == "error")


def test_a_column_with_a_footnote_is_noted_and_not_charted(failed):
    board = shown(failed.results, "glitter", footnote="Glitter was seen in answers", printed=False)
    (note,) = (n for n in detail_notes(board) if n.startswith("Glitter"))
    assert note.startswith("Glitter was seen in answers: diffscm (up to ")
    assert "identity" not in note, "controls are left out"
    assert "glitter" not in {k.column for page in pages_of(board, "novel") for k in page.keys}


def test_a_column_with_a_caveat_is_marked_and_the_notes_say_why(failed):
    for text in (markdown(failed), terminal(failed), latex_appendix(failed)):
        words = " ".join(text.replace("\\n", " ").split())
        assert "CLD, CLD weighted: one uniform or mean image for all questions" in words
    assert "CLD ↓†" in markdown(failed)
    assert r"\textsuperscript{$\dagger$}" in latex_appendix(failed)


def test_a_mean_that_one_answer_makes_is_marked_and_noted_with_the_median():
    results = build(methods=("diffscm", "deepscm"), factuals=128, variables=("digit",))
    rng = np.random.default_rng(0)

    def im2(method, black):
        values = rng.uniform(0.05, 0.07, 128)
        values[0] = 58_000 if black else values[0]
        about = Column("im2", "lower", "", 0.0, heading="IM2", printed=True)
        return Score(method, 0, "im", "im2", "", "digit", "image", float(values.mean()), 128, 128, about, values)

    for black in (False, True):
        scores = (*results.scores, im2("diffscm", black), im2("deepscm", False))
        board = Board(replace(results, scores=scores))
        notes = [n for n in detail_notes(board) if "A single answer" in n]
        assert ("IM2 ↓†" in markdown(board)) == black
        assert len(notes) == black
    assert "im.im2, do(digit), diffscm (453.2, median 0.0" in notes[0]
    assert "deepscm" not in notes[0]


def test_a_metric_that_the_oracle_does_not_win_is_flagged(failed):
    assert failed.flagged == {}
    scores = tuple(
        replace(s, value=0.0, values=np.zeros_like(s.values))
        if (s.method, s.column) == ("identity", "l1_factual")
        else s
        for s in failed.results.scores
    )
    board = Board(replace(failed.results, scores=scores))
    assert {(k.column, k.do) for k in board.flagged} == {("l1_factual", "digit"), ("l1_factual", "thickness")}
    assert set(board.flagged.values()) == {"identity"}
    for text in (markdown(board), terminal(board)):
        assert "L1 factual ↓‡" in text
        assert "oracle does not win" in text


def test_truth_judges_seeds_plan_and_device_are_noted(failed, board):
    text = terminal(failed)
    assert "do(digit)*, truth by convention" in text
    assert "do(thickness)§, exact truth" in text
    for part in (
        "judges of thickness are not good enough",
        "One training seed (0)",
        "0123456789ab",
        "device: cpu.",
        "images 200,000",
        "diffscm chose scale=2.5 on validation data.",
    ):
        assert part in re.sub(r"\s+", " ", text)
    assert "Training seeds 0, 1, 2" in terminal(board)


def test_times_that_were_taken_while_other_tasks_ran_are_noted(failed):
    def notes_of(**others):
        (like,) = (s for s in failed.results.scores if (s.method, s.column) == ("diffscm", "fit_s"))
        more = [
            replace(like, method=m, column=c, value=float(n), about=Runtime.columns[c])
            for c, of in others.items()
            for m, n in of.items()
        ]
        notes = detail_notes(Board(replace(failed.results, scores=(*failed.results.scores, *more))))
        return [n for n in notes if n.startswith("Times")]

    assert notes_of() == notes_of(fit_others={"diffscm": 0}, answer_others={"diffscm": 0, "oracle": 3}) == []
    assert notes_of(fit_others={"diffscm": 2, "deepscm": 0}) == [
        "Times of fit were taken while other tasks ran on the same device: diffscm (up to 2)."
    ]
    assert notes_of(answer_others={"diffscm": 1}) == [
        "Times of answers were taken while other tasks ran on the same device: diffscm (up to 1)."
    ]


def test_the_number_of_other_tasks_is_no_cost_that_is_drawn(failed):
    (like,) = (s for s in failed.results.scores if (s.method, s.column) == ("diffscm", "fit_s"))
    counted = replace(like, column="fit_others", about=Runtime.columns["fit_others"])
    drawn = pages_of(Board(replace(failed.results, scores=(*failed.results.scores, counted))), "runtime")
    columns = {key.column for page in drawn for key in page.keys}
    assert "fit_s" in columns
    assert "fit_others" not in columns


@pytest.mark.parametrize("width", [120, 80])
def test_terminal_tables_keep_within_their_width(board, width):
    lines = terminal(board, width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert any(line.strip().startswith("diffscm[contrast=0]") for line in lines)


def test_files_come_back_through_pandas(failed, tmp_path):
    files = write_tables(failed, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in files.values())
    back = pd.read_csv(files["csv"], keep_default_na=False, na_values={"value": "", "low": "", "high": ""})
    numbers = ["value", "low", "high", "coverage"]
    pd.testing.assert_frame_equal(back[numbers], failed.tidy[numbers])
    assert list(back.status) == list(failed.tidy.status)
    assert len(pd.read_csv(files["wide"])) == len(failed.methods)
    assert set(pd.read_csv(files["pairs"]).better.dropna()) <= {
        m.replace("=", "'=", 1) if m[0] == "=" else m for m in QUALITY
    }


def test_a_write_that_fails_leaves_the_old_file(failed, tmp_path, monkeypatch):
    files = write_tables(failed, tmp_path)
    before = {p: p.read_bytes() for p in files.values()}
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_tables(Board(build(factuals=40)), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_runs_nothing(name):
    text = csv(pd.DataFrame({"method": [name, "-", "fine"], "value": [-1.5, 2.0, np.nan]}))
    back = pd.read_csv(__import__("io").StringIO(text))
    assert back.method[0] == f"'{name}"
    assert list(back.method[1:]) == ["-", "fine"]
    assert back.value[0] == -1.5


def test_latex_is_escaped_and_balanced():
    methods = ("a_b&c%d#e$f{g}h~i^j\\k", "diffscm[contrast=0]")
    board = Board(build(methods=methods))
    text = (latex(board) + latex_appendix(board)).replace(r"\allowbreak{}", "")
    assert r"a\_b\&c\%d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k" in text
    bare = re.sub(r"\\.", "", re.sub(r"^%.*$", "", text, flags=re.M))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"[#%~^_]", bare)
    assert text.isascii()
    for body in re.findall(r"\\begin\{tabular\}\{(l[rl]*)\}(.*?)\\end\{tabular\}", text, flags=re.S):
        rows = [row for row in body[1].split("\\\\\n") if "&" in row]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(body[0]) - 1}


@pytest.mark.parametrize(
    ("x", "low", "high", "text"),
    [
        (0.91234, 0.8912, 0.9335, "0.912"),
        (123.456, 101.0, 147.0, "123"),
        (12.3456, np.nan, np.nan, "12.3"),
        (1.3132617, 1.3132617, 1.3132617, "1.313"),
        (1234567.0, np.nan, np.nan, "1.23M"),
        (0.0000123, np.nan, np.nan, "1.2e-5"),
        (-0.00001, -0.2, 0.2, "0.00"),
        (0.0, np.nan, np.nan, "0"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_allows(x, low, high, text):
    assert number(x, low, high)(x) == text


def test_a_metric_that_could_not_score_a_cell_does_not_make_a_column(failed):
    stand_in = Score("deepscm", 0, "effectiveness", "accuracy", "", "digit", "image", np.nan, 120, 0,
                     ABOUT["effectiveness.accuracy"], np.full(120, np.nan))  # fmt: skip
    board = Board(replace(failed.results, scores=(stand_in, *failed.results.scores)))
    assert list(board.columns) == list(failed.columns)


def test_scores_that_do_not_match_the_questions_are_refused(failed):
    bad = replace(failed.results.scores[0], values=np.zeros(7))
    with pytest.raises(ValueError, match="7 scores for 120 questions"):
        _ = Board(replace(failed.results, scores=(bad, *failed.results.scores[1:]))).tidy


def test_plots_show_every_family_and_the_failures(failed, tmp_path):
    from matplotlib.image import imread

    files = write_plots(failed, tmp_path)
    families = {k.metric for k in failed.columns}
    assert {p.name for p in files} == {f"strokes-{f}.png" for f in families} | {
        "strokes-quality-cost.png",
        "strokes-quality-cost-2.png",
    }
    for path in files:
        picture = imread(path)
        assert picture.shape[0] > 150
        assert picture.shape[1] > 500
        assert picture.std() > 0.02


def test_a_failed_method_stands_in_its_line(failed):
    page = pages_of(failed, "truth", controls=True)[0]
    ax = draw_page(failed, page).axes[0]
    assert [t.get_text().replace("\n", "") for t in ax.get_yticklabels()] == list(failed.methods)
    assert "× failed" in [t.get_text() for t in ax.texts]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_shows_images_as_they_are(tmp_path, channels):
    from PIL import Image

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (3, channels, 14, 14), dtype=np.uint8)
    broken = grey / 255.0
    broken[1] = np.nan
    columns = ["do(digit=3)", "do(digit=5)", "do(thickness=2.5)"]
    path = contact_sheet(tmp_path / "sheet.png", columns, {"factual": grey, "method": broken}, tile=42)
    picture = np.asarray(Image.open(path).convert("RGB"))
    tile = np.broadcast_to(grey[0], (3, 14, 14)).transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
    found = [
        (y, x)
        for y, x in np.argwhere((picture == tile[0, 0]).all(-1))
        if picture[y : y + 42, x : x + 42].shape == tile.shape and (picture[y : y + 42, x : x + 42] == tile).all()
    ]
    assert len(found) == 2
    assert found[0][1] == found[1][1]
    assert ((picture == (200, 30, 30)).all(-1)).sum() > 100
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_a_contact_sheet_refuses_rows_of_another_length(tmp_path):
    with pytest.raises(ValueError, match="needs 2 images"):
        contact_sheet(tmp_path / "s.png", ["a", "b"], {"factual": np.zeros((3, 1, 8, 8))})
    assert list(tmp_path.iterdir()) == []


def test_intervals_of_set_scores_keep_within_the_columns_range(failed):
    rows = failed.tidy.query("metric == 'realism.fid_real' and method == 'oracle'")
    assert (rows.value == 0).all()
    assert (rows.low == 0).all()
    assert (rows.high > 0).all()
    assert (failed.tidy.query("metric == 'realism.kid_real' and method == 'oracle'").low < 0).all()


def test_an_incomplete_method_is_never_bold(failed):
    def spoil(s):
        if (s.method, s.column) != ("diffscm", "fid_real"):
            return s
        return replace(s, value=0.0, values=s.values - s.values.mean(), finite=s.asked // 2)

    board = Board(replace(failed.results, scores=tuple(map(spoil, failed.results.scores))))
    key = next(k for k in board.columns if k.column == "fid_real")
    assert board.ranks[key]["diffscm"][0] == 1
    assert board.best[key] == {"diffscm[contrast=0]"}


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (9_999, "9999"),
        (10_000, "10k"),
        (84_518, "84.5k"),
        (845_184, "845k"),
        (999_600, "1000k"),
        (1_250_000, "1.25M"),
        (3.2e9, "3.2G"),
    ],
)
def test_large_numbers_keep_their_size(x, text):
    assert number(x)(x) == text


def test_the_mean_over_interventions_of_a_column_that_has_one_stands_first():
    results, rng = build(), np.random.default_rng(0)
    like = next(s for s in results.scores if s.column == "fid_real")
    pseudo = {(c.method, do): rng.normal(0.5, 0.1, 120) for c in results.cells for do in ("digit", "thickness")}
    skill = Skill.columns["skill"]
    scores = [
        replace(like, method=m, metric="skill", column="skill", do=do, value=float(v.mean()), values=v, about=skill)
        for (m, do), v in pseudo.items()
    ]
    board = Board(replace(results, scores=(*results.scores, *scores)))
    (key,) = (k for k in board.columns if k.do == MEAN)
    means = np.mean([pseudo["deepscm", do] for do in ("digit", "thickness")], axis=0)
    e = board.estimates["deepscm", key]
    assert e.value == pytest.approx(means.mean())
    assert e.high - e.low == pytest.approx(2 * 1.98 * means.std(ddof=1) / 120**0.5, rel=0.02)
    assert (board.sections[0].title, board.sections[0].keys) == (MEAN, (key,))
    assert board.ranks[key].keys() == set(METHODS)
    assert board.tidy.query("do == @MEAN").method.tolist() == list(board.methods)
    assert "mean of do()" in terminal(board)
    assert [k.do for k in quality_keys(board)] == [MEAN, "digit", "thickness"]
    without = Board(
        replace(results, scores=(*results.scores, *(s for s in scores if s.method != "deepscm" or s.do == "digit")))
    )
    assert np.isnan(without.estimates["deepscm", key].value), "one intervention has no score"


def test_the_judge_card_ends_with_the_controls_of_real_images():
    results = build()
    assert judge_card(results) == list(CARD)
    cells = [replace(cell, is_real=cell.method == "nearest") for cell in results.cells]
    real = replace(results, cells=tuple(cells))
    *card, row = judge_card(real)
    assert card == list(CARD)
    assert "nearest" in list(card_table(real)["data"])
    assert f"nearest {number(row['error'])(row['error'])} (n=120)" in card_line(real)
    (accuracy,) = [
        s.value for s in results.scores
        if (s.method, s.column, s.variable, s.do) == ("nearest", "accuracy", "digit", "digit")
    ]  # fmt: skip
    assert row.keys() == CARD[0].keys()
    assert (row["judge"], row["variable"], row["data"], row["n"]) == ("reader", "digit", "nearest", 120)
    assert row["error"] == 1 - accuracy
