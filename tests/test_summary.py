"""The summary: its columns, width and height, ties, order, files over several data sets, and weak judges."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import test_leaderboard
from small import small_run
from test_leaderboard import build

from cfbench.contract import Column
from cfbench.metrics.truth import Skill
from cfbench.plugins.spec import brief
from cfbench.report.board import Board
from cfbench.report.columns import MEAN
from cfbench.report.format import Entry
from cfbench.report.latex import latex, latex_appendix
from cfbench.report.markup import tex_number
from cfbench.report.render import html, markdown, render, write_tables
from cfbench.report.sheet import contact_sheet
from cfbench.report.summary.rows import Cell, of_board, of_frames, short_names
from cfbench.report.summary.tables import latex_summary, markdown_summary
from cfbench.report.summary.verdict import verdict
from cfbench.report.summary.write import write_summary

VARIABLES = ("digit", "thickness", "intensity", "slant")
LONG = "diffscm[aligned=false,clip=normalise,contrast=0,sampler=ddim,start=0.75,steps=75]"
NINE = ("diffscm", LONG, "deepscm", "deepscm[residual=none]", "flowscm", "hvae", "diffscm-cfg", "flowmatching",
        "flowmatching:carried")  # fmt: skip
CONTROLS = ("identity", "nearest", "oracle", "untrained", "resample[of=diffscm]", "resample[of=deepscm]")


def skilled(methods, variables=VARIABLES, seeds=(0,)):
    """Results in which later methods have less skill."""
    results = build(methods=methods, variables=variables, seeds=seeds)
    like, rng, about = (
        next(s for s in results.scores if s.column == "fid_real"),
        np.random.default_rng(0),
        Skill.columns,
    )
    scores = []
    for k, cell in enumerate(results.cells):
        for do in variables:
            values = np.ones(120) if cell.is_truth else rng.normal(0.9 - 0.1 * k, 0.1, 120)
            named = {"method": cell.method, "seed": cell.seed, "metric": "skill", "column": "skill", "do": do}
            scores.append(replace(like, **named, value=float(values.mean()), values=values, about=about["skill"]))
    truth = dict.fromkeys(variables, "exact") | {"digit": "convention"}
    return replace(results, scores=(*results.scores, *scores), truth=truth)


def printed(board, width=80):
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(render(board, width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.fixture
def default_controls(monkeypatch):
    monkeypatch.setattr(test_leaderboard, "CONTROLS", CONTROLS)


@pytest.fixture(scope="module")
def nine():
    return Board(skilled(NINE))


def test_the_summary_of_the_default_run_fits_a_terminal_of_80_by_40(default_controls):
    lines = printed(Board(skilled(("diffscm", "deepscm"))))
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 40
    assert not any("continued" in line or "…" in line.partition("Rows:")[0][20:] for line in lines)
    text = "\n".join(lines)
    for part in ("skill↑", "mean", "compos-", "fit wall", "answer", "1. Best: ", "2. Skill", "resample[of=diffscm]"):
        assert part in text, part


@pytest.mark.parametrize("methods", [NINE[:6], NINE])
def test_nine_methods_with_long_specs_fit_80_columns_in_one_table(methods):
    lines = printed(Board(skilled(methods)))
    assert max(map(len, lines)) <= 80
    assert not any("continued" in line for line in lines)
    text = re.sub(r"\s+", "", "".join(lines))
    assert all(m in text for m in methods), "what is shortened stands in the legend"


NARROWER = 0.875
"""The width of a digit of Helvetica, which GitHub's fonts are like, over that of DejaVu Sans."""


def github_width(table: str) -> float:
    """The pixels of a table on GitHub: text of 16 px, bold in the head, in cells padded by 13 px on both sides."""
    from matplotlib import font_manager
    from PIL import ImageFont

    def font(weight: str, size: int):
        return ImageFont.truetype(font_manager.findfont(f"DejaVu Sans:{weight}"), size)

    head, body, small = font("bold", 16), font("normal", 16), font("normal", 12)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|") and "---" not in line]

    def width(cell: str, text=body) -> float:
        parts = (re.sub(r"\\(.)", r"\1", part.replace("**", "")) for part in cell.split("<br>"))
        return max((small if "<sub>" in p else text).getlength(re.sub(r"</?sub>", "", p)) for p in parts)

    columns = list(zip(*(row + [""] * (len(rows[0]) - len(row)) for row in rows), strict=True))
    return sum(NARROWER * max(width(top, head), *map(width, rest)) + 27 for top, *rest in columns)


def test_the_markdown_table_fits_a_column_of_github(nine):
    text = markdown_summary(of_board(nine))
    assert 500 < github_width(text) <= 900
    assert len(text.splitlines()[0].strip("| ").split(" | ")) == 9
    assert markdown(nine).index("## Summary") < markdown(nine).index("## mean of do()")


def test_the_latex_table_fits_a_text_width_and_intervals_stand_apart(nine):
    summary, intervals = (latex_summary(of_board(nine), intervals=i) for i in (False, True))
    assert "\\begin{table*}" in summary
    assert "[" not in re.sub(r"\\\[|\{\[\}|\{\]\}", "", summary).replace("fit [s]", "")
    rows = [row for row in summary.splitlines() if row.count("&") == 10]
    cells = [re.sub(r"\\[a-z]+|[${}\\]", "", row).split("&") for row in rows]
    widths = [max(len(cell.strip()) for cell in column) for column in zip(*cells, strict=True)]
    assert 4.3 * sum(widths) + 6 * len(widths) < 496, "points: letters of 8 pt, and 3 pt on both sides of a column"
    assert "{[}" in intervals
    assert "$-$8" not in latex(nine) + latex_appendix(nine)
    assert tex_number("-0.5 #1–8") == "$-$0.5 \\#1--8"
    assert tex_number("-.5") == "$-$.5"


def test_rows_are_sorted_by_skill_and_ties_follow_the_corrected_rule(nine):
    s = of_board(nine)
    assert s.methods[: len(NINE)] == NINE
    assert set(s.methods[len(NINE) :]) == s.controls
    assert s.keys[0].do == MEAN
    for key in s.scored:
        assert {m for m in s.methods if s.cells[m, key].best} == nine.best[key]
        for m in NINE:
            assert s.cells[m, key].rank.removeprefix("#") == Entry.of(nine, m, key).rank
    turned = Board(replace(nine.results, methods=NINE[::-1], cells=nine.results.cells[::-1]))
    assert of_board(turned).methods[: len(NINE)] == NINE


def test_at_most_eight_columns_stand_beside_the_name():
    many = (*VARIABLES, "a", "b", "c")
    s = of_board(Board(skilled(("diffscm", "deepscm"), many)))
    assert len(s.scored) + 1 == 8
    assert [k.path for k in s.scored[-2:]] == ["effectiveness.accuracy", "composition.composition_1"]
    assert "Left out for want of room or scores: do(a, b, c)" in " ".join(printed(Board(skilled(("diffscm",), many))))


def test_without_truth_the_summary_says_so_and_shows_what_is_there():
    results = build(methods=("diffscm", "deepscm"))
    kept = tuple(s for s in results.scores if not s.about.privileged)
    board = Board(replace(results, scores=kept, truth=dict.fromkeys(results.variables, "none")))
    paths = [k.path for k in of_board(board).keys]
    assert paths == [
        "effectiveness.accuracy", "effectiveness.error", "cld.cld", "cld.cld", "composition.composition_1",
        "runtime.fit_s", "cost.answer_ms",
    ]  # fmt: skip
    assert "No intervention has a known truth" in " ".join(printed(board))


def test_seconds_of_the_processor_are_shown_where_they_are_recorded(nine):
    (like,) = (s for s in nine.results.scores if (s.method, s.column) == ("diffscm", "fit_s"))
    cpu = replace(like, column="fit_cpu_s", value=7.0, about=Column("", "lower", "s", 0.0, role="fit-cost"))
    s = of_board(Board(replace(nine.results, scores=(*nine.results.scores, cpu))))
    assert s.is_cpu
    assert s.costs("diffscm")[0] == "7 s"
    assert "fit wall" in "\n".join(printed(nine))


def test_columns_of_weak_judges_carry_no_bold_and_no_rank():
    board = Board(build())  # the judge of thickness is not good enough
    key = next(k for k in board.columns if k.column == "error" and k.variable == k.do == "thickness")
    assert board.best[key] == frozenset()
    assert board.ranks[key] == {}
    assert all(not Entry.of(board, m, key).rank for m in board.methods)
    line = next(line for line in markdown(board).splitlines() if "error ↓§" in line)
    assert line
    good = next(k for k in board.columns if k.column == "accuracy" and k.variable == k.do == "digit")
    assert board.ranks[good]
    rows = board.tidy[(board.tidy.metric == key.path) & (board.tidy.variable == "thickness")]
    assert rows.rank_low.isna().all()


@pytest.mark.parametrize(
    ("cell", "number", "half"),
    [
        (Cell(0.732, 0.72, 0.745), ".73", "±.01"),
        (Cell(-0.76, -0.88, -0.62), "-.76", "±.13"),
        (Cell(13.6, 12.5, 14.7), "13.6", "±1.1"),
        (Cell(123.4, 100.0, 150.0), "123", "±25"),
        (Cell(-0.0013, -0.0014, -0.0012), "0", ""),
        (Cell(word="failed"), "failed", ""),
    ],
)
def test_entries_have_few_digits(cell, number, half):
    assert (cell.number, cell.half) == (number, half)


def test_short_names_are_unique_and_short():
    found = short_names([*NINE, *(f"{LONG}{k}" for k in range(12))], 10)
    assert len(set(found.values())) == len(found)
    assert max(map(len, found.values())) <= 10
    assert found["hvae"] == "hvae"


def test_html_has_the_summary_first_and_the_details_folded(nine):
    page = html(nine)
    assert page.index("strokes: summary") < page.index("<details>") < page.index("<b>strokes, mean of do()</b>")


def test_summary_files_are_about_all_data_sets_of_a_folder(nine, tmp_path):
    write_tables(nine, tmp_path)
    other = build(methods=("hvae", "deepscm"), failed={("deepscm", 0)})
    write_tables(Board(replace(other, dataset="other")), tmp_path)
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    (tmp_path / "mine-wide.csv").write_text("a\n1\n")
    assert {p.name for p in write_summary(tmp_path)} == {"summary.csv", "summary.md"}
    table = pd.read_csv(tmp_path / "summary.csv", keep_default_na=False)
    assert list(table.dataset) == ["other"] * 6 + ["strokes"] * len(nine.methods)
    row = table[(table.dataset == "strokes") & (table.method == "flowscm")].iloc[0]
    e = nine.estimates["flowscm", next(k for k in nine.columns if k.do == MEAN)]
    assert float(row["mean of do() skill.skill"]) == pytest.approx(e.value)
    assert float(row["mean of do() skill.skill low"]) == pytest.approx(e.low)
    assert row["mean of do() skill.skill rank_low"] == "5.0"
    assert float(row["cost.answer_ms"]) == pytest.approx(13)
    text = (tmp_path / "summary.md").read_text()
    assert text.index("[other](other.md)") < text.index("[strokes](strokes.md)")
    assert "failed" in text
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    write_summary(tmp_path)
    assert before == {p: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_summary_of_files_is_that_of_the_board(nine, tmp_path):
    files = write_tables(nine, tmp_path)
    frames = [pd.read_csv(files[kind], dtype=str, keep_default_na=False) for kind in ("csv", "wide")]
    for name in ("value", "low", "high", "coverage", "rank_low", "rank_high"):
        frames[0][name] = pd.to_numeric(frames[0][name])
    read, made = of_frames(*frames), of_board(nine)
    assert read.keys == made.keys
    assert read.methods == made.methods
    for at in made.cells:
        assert (read.cells[at].number, read.cells[at].rank, read.cells[at].best) == (
            made.cells[at].number, made.cells[at].rank, made.cells[at].best
        ), at  # fmt: skip


def test_a_folder_with_a_damaged_table_keeps_its_other_data_sets(nine, tmp_path, capsys):
    write_tables(nine, tmp_path)
    (tmp_path / "bad-wide.csv").write_text("method,role\n")
    (tmp_path / "bad.csv").write_bytes(b'"\xff\x00')
    write_summary(tmp_path)
    assert "bad.csv is left out of the summary" in capsys.readouterr().err
    assert "[strokes]" in (tmp_path / "summary.md").read_text()


def test_no_method_is_grey_as_controls_are_and_times_have_logarithmic_axes(nine):
    from cfbench.report.charts.figure import CONTROL, drawing, looks
    from cfbench.report.charts.scores import draw_page, pages_of

    colours = {m: look.colour for m, look in looks(nine).items()}
    for method in NINE:
        red, green, blue = (int(colours[method][i : i + 2], 16) for i in (1, 3, 5))
        assert max(red, green, blue) - min(red, green, blue) > 30
    assert colours["identity"] == CONTROL
    for family, scale in (("runtime", "symlog"), ("truth", "linear")):
        with drawing():
            figure = draw_page(nine, pages_of(nine, family)[0])
            figure.draw_without_rendering()
        assert figure.axes[0].get_xscale() == scale
        ticks = figure.axes[0].get_xticklabels()
        assert not any("$" in label.get_text() for label in ticks), "no text is a formula"


def test_a_truth_that_is_not_known_is_a_pale_tile_without_a_cross(tmp_path):
    from PIL import Image

    nothing = np.full((2, 1, 14, 14), np.nan)
    for unknown, crossed in (((), True), (("truth",), False)):
        path = contact_sheet(tmp_path / "sheet.png", ["do(a=1)", "do(a=2)"], {"truth": nothing}, unknown=unknown)
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert (picture == (200, 30, 30)).all(-1).any() == crossed
        assert ((picture == (240, 240, 240)).all(-1).sum() < 500) == crossed


def test_the_first_note_says_which_method_is_best_and_by_how_much_as_the_pairs_do(nine):
    (text,) = verdict(nine, of_board(nine))
    parts = text.removeprefix("Best: ").removesuffix(".").split("; ")
    found = {do: says for where, _, says in (part.partition(": ") for part in parts) for do in where.split(", ")}
    assert set(found) == {"mean", "do(digit)", "do(thickness)", "do(intensity)", "do(slant)"}, text
    pairs = nine.pairs[(nine.pairs.metric == "skill.skill") & (nine.pairs.do == "slant")]
    own = [m for m in nine.methods if not nine.is_control(m)]
    skill = {
        m: nine.estimates[m, key].value
        for key in nine.columns
        for m in own
        if key.path == "skill.skill" and key.do == "slant"
    }
    leader, second = sorted(skill, key=skill.__getitem__)[-2:][::-1]
    (pair,) = pairs[pairs["first"].isin([leader, second]) & pairs["second"].isin([leader, second])].itertuples()
    assert pair.better == leader
    assert found["do(slant)"].startswith(f"{leader}, by {abs(pair.difference):.2f}".replace("0.", ".", 1))
    assert f"over {brief(second)} (p<.001)" in found["do(slant)"]


def test_methods_that_may_be_as_good_are_level_and_a_leader_below_0_is_not_praised():
    board = Board(skilled(("a", "a2", "oracle"), ("slant",)))
    (text,) = verdict(board, of_board(board))
    assert re.search(r"a, by [.\d]+±[.\d]+ over a2", text)
    results = board.results
    bad = tuple(
        replace(s, value=s.value - 2, values=s.values - 2) if s.metric == "skill" and s.method != "oracle" else s
        for s in results.scores
    )
    (text,) = verdict(Board(replace(results, scores=bad)), of_board(Board(replace(results, scores=bad))))
    assert "though worse than the factual" in text
    same = {s.seed: s for s in results.scores if s.metric == "skill" and s.method == "a"}
    noise = np.random.default_rng(1).normal(0, 0.1, 120)
    level = tuple(
        replace(s, value=float((same[s.seed].values + noise).mean()), values=same[s.seed].values + noise)
        if s.metric == "skill" and s.method == "a2" else s
        for s in results.scores
    )  # fmt: skip
    board = Board(replace(results, scores=level))
    assert re.fullmatch(r"Best: .*: (a and a2|a2 and a) level\.", *verdict(board, of_board(board)))


def test_a_run_without_scores_has_a_sentence_in_place_of_a_table(tmp_path, capsys):
    assert small_run(tmp_path, "bad", "--methods", "raises", metrics="truth") == 2
    out = capsys.readouterr().out
    assert "bars: no row has a score" in out
    assert "1. raises: failed: train: ArithmeticError" in out
    assert not any(text in out for text in ("summary\n", "±", "Bold", "no intervention has a known truth"))
    board = tmp_path / "bad" / "leaderboard"
    first = (board / "bars.md").read_text().split("## ")[1]
    assert first.startswith("Summary\n\nno row has a score\n")
    assert "| method |" not in first
    assert "% no row has a score" in (board / "bars.tex").read_text()
    assert "no row has a score" in (board / "summary.md").read_text()


def test_a_run_by_metrics_without_truth_does_not_deny_that_there_is_one(tmp_path, capsys):
    assert small_run(tmp_path, "few", "--methods", "knows", metrics="effectiveness") == 0
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "No column compares with the truth: nothing here says which answer is right." in out


@pytest.mark.parametrize("stem", ["folder_path_a_", "folder_path_a_-12345678"])
def test_a_table_that_an_earlier_version_named_is_not_counted_twice(tmp_path, stem):
    assert small_run(tmp_path, "once", "--methods", "knows", metrics="truth") == 0
    board = tmp_path / "once" / "leaderboard"
    for end in ("", "-wide"):
        table = (board / f"bars{end}.csv").read_text().replace("bars,", "folder[path=a],")
        for name in (stem, stem.replace("a_", "a")):
            (tmp_path / f"{name}{end}.csv").write_text(table)
    write_summary(tmp_path)
    assert (tmp_path / "summary.md").read_text().count("\n## ") == 1
    assert f"({stem.replace('a_', 'a')}.md)" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ({}, "2 seeds, for any training. None"),
        ({"a": (1,)}, "2 seeds, for any training, but for this training only in rows of 1 seed. None"),
        ({"a": (1,), "b": (1,)}, "1 seed, for this training only. None"),
    ],
)
def test_the_note_on_intervals_says_which_rows_they_hold_for_any_training_of(dropped, words):
    results = skilled(("a", "b"), seeds=(0, 1))
    kept = tuple(c for c in results.cells if c.seed not in dropped.get(c.method, ()))
    scores = tuple(s for s in results.scores if s.seed not in dropped.get(s.method, ()))
    text = re.sub(r"\s+", " ", " ".join(printed(Board(replace(results, cells=kept, scores=scores)))))
    assert words in text
