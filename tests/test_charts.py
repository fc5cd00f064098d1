"""Charts of scores and of quality against cost: their size, references, sweeps, Pareto front and names."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from test_leaderboard import CONTROLS, build
from test_summary import NINE, skilled

from cfbench.plugins.spec import Spec
from cfbench.report.board import Board
from cfbench.report.charts.cost import FRONT, cost_axes, cost_pages, draw_costs, front
from cfbench.report.charts.figure import DPI, HEIGHT, WIDTH, drawing, looks, new_figure
from cfbench.report.charts.files import charts, write_plot
from cfbench.report.charts.labels import place_labels
from cfbench.report.charts.references import JUDGE, references
from cfbench.report.charts.scores import draw_page, pages_of
from cfbench.report.sweeps import sweeps
from cfbench.runs.chain import Status

STEPS, SAMPLERS = (6, 12, 25, 50), ("adams", "belm", "ddim")
SWEPT = {f"row {k}": {"steps": n, "sampler": s}
         for k, (s, n) in enumerate((s, n) for s in SAMPLERS for n in STEPS)}  # fmt: skip
"""Twelve rows under names that say nothing of their settings."""


def swept(more=("deepscm",), rows=SWEPT):
    """Results of a sweep, whose costs follow the steps and whose errors fall with them, and of other methods."""
    results = skilled((*rows, *more))
    cells = [
        replace(c, spec=Spec("diffscm", params=dict(rows[c.method], scale=2)), fit="diffscm") if c.method in rows
        else replace(c, spec=Spec(c.method), fit=c.method)
        for c in results.cells
    ]  # fmt: skip
    scores = []
    for s in results.scores:
        own = rows.get(s.method)
        if own and s.column in ("abduct_ms", "predict_ms"):
            s = replace(s, value=own["steps"] * (1 + 0.1 * SAMPLERS.index(own["sampler"])))
        elif own and s.column == "abs_error":
            values = s.values - s.values.mean() + 2 + 20 / own["steps"] + SAMPLERS.index(own["sampler"])
            s = replace(s, values=values, value=float(values.mean()))
        scores.append(s)
    return replace(results, cells=tuple(cells), scores=tuple(scores))


@pytest.fixture(scope="module")
def sweep_board():
    return Board(swept())


@pytest.fixture(scope="module")
def nine():
    return Board(skilled(NINE))


def drawn(board, page, **how):
    with drawing():
        figure = draw_costs(board, page, **how)
        figure.draw_without_rendering()
    return figure


def test_rows_of_a_fit_that_differ_in_answers_are_a_sweep_whatever_their_names_are(sweep_board):
    (sweep,) = sweeps(sweep_board)
    assert (sweep.name, sweep.settings) == ("diffscm", ("steps", "sampler"))
    assert sweep.label("row 5") == "12, belm"
    assert [[sweep.label(m) for m in path] for path in sweep.paths] == [[f"{n}, {s}" for n in STEPS] for s in SAMPLERS]


def test_rows_of_other_fits_or_of_unknown_specs_are_in_no_sweep():
    assert sweeps(Board(build())) == []
    apart = swept(rows={m: SWEPT[m] for m in ("row 0", "row 1")})
    cells = tuple(replace(c, fit=f"{c.fit}[{c.method}]") for c in apart.cells)
    assert sweeps(Board(replace(apart, cells=cells))) == []


def named(specs):
    """Results of rows with these specs, all of one fit."""
    results = swept(rows={m: {"steps": 1, "sampler": "adams"} for m in specs}, more=())
    cells = tuple(replace(c, spec=specs.get(c.method, c.spec)) for c in results.cells)
    return Board(replace(results, cells=cells))


def test_rows_that_give_other_settings_or_have_names_of_their_own_are_in_no_sweep():
    rows = {
        "diffscm": Spec("diffscm"),
        "official": Spec("diffscm", params={"steps": 4}, alias="official"),
        "mine": Spec("diffscm", params={"steps": 5}, alias="mine"),
        **{f"fast[steps={n}]": Spec("diffscm", params={"steps": n}, alias=f"fast[steps={n}]") for n in (6, 12)},
        **{f"diffscm[steps={n}]": Spec("diffscm", params={"steps": n}) for n in (25, 50)},
    }
    board = named(rows)
    assert [(s.name, [s.label(m) for m in s.rows]) for s in sweeps(board)] == [
        ("fast", ["6", "12"]),
        ("diffscm", ["25", "50"]),
    ]
    assert looks(board)["official"].name == "official"


def test_numbers_and_switches_of_a_sweep_have_their_names_where_they_could_be_mistaken():
    rows = {f"{k}": Spec("diffscm", params={"scale": a, "steps": b, "aligned": c, "sampler": d})
            for k, (a, b, c, d) in enumerate([(1, 6, True, "ddim"), (2.5, 12, None, "belm")])}  # fmt: skip
    (sweep,) = sweeps(named(rows))
    assert [sweep.label(m) for m in rows] == [
        "scale=1, steps=6, aligned=true, ddim",
        "scale=2.5, steps=12, aligned=none, belm",
    ]
    assert sweep.paths == []


def test_stored_cells_say_which_fit_they_answer_by():
    from cfbench.runs.job import Cell
    from cfbench.runs.reader import CellState

    fit = Spec("diffscm")
    cells = [Cell(Spec("strokes"), Spec("diffscm", params={"steps": n}), 0, fit) for n in (6, 12)]
    states = [CellState(c.method.label, 0, Status.OK, spec=c.method, fit=c.fitted.method.label) for c in cells]
    assert len({s.fit for s in states}) == 1


@pytest.mark.parametrize(
    ("points", "line"),
    [
        ({"a": (1, 5), "b": (2, 4), "c": (3, 4.5), "d": (4, 1)}, ["a", "b", "d"]),
        ({"a": (1, 5), "b": (1, 4)}, ["b"]),
        ({"a": (1, 5), "b": (2, 5)}, ["a"]),
        ({}, []),
    ],
)
def test_the_front_has_the_rows_that_none_beats(points, line):
    assert front(points) == line


def test_the_front_and_the_lines_of_a_sweep_are_drawn(sweep_board):
    page = cost_pages(sweep_board)[0]
    figure = drawn(sweep_board, page)
    ax = figure.axes[1]
    key = page.keys[1]
    assert (key.do, key.column, ax.get_xscale()) == ("digit", "abs_error", "log")
    (line,) = (x for x in ax.lines if x.get_color() == FRONT["color"])
    known = {m: (page.costs[m], sweep_board.estimates[m, key].value) for m in (*SWEPT, "deepscm")}
    cheaper_or_better = {
        m: [n for n, (d, f) in known.items() if d <= c and f <= e and n != m] for m, (c, e) in known.items()
    }
    best = {m for m, others in cheaper_or_better.items() if not others}
    assert set(zip(line.get_xdata(), line.get_ydata(), strict=True)) == {known[m] for m in best}
    assert len(best) > 2
    colour = looks(sweep_board)["row 0"].colour
    paths = [x for x in ax.lines if len(x.get_xdata()) == 4 and x.get_color() == colour]
    assert [list(x.get_xdata()) for x in paths] == [[page.costs[m] for m in list(SWEPT)[i : i + 4]] for i in (0, 4, 8)]
    assert {looks(sweep_board)[m].colour for m in SWEPT} == {colour} != {looks(sweep_board)["deepscm"].colour}


@pytest.mark.parametrize("controls", [False, True])
def test_every_point_has_its_name_and_none_overlaps_another_or_a_point(sweep_board, controls, capsys):
    from matplotlib.text import Annotation

    page = cost_pages(sweep_board)[0]
    figure = drawn(sweep_board, page, controls=controls)
    shown = [*SWEPT, "deepscm", *(CONTROLS if controls else ())]
    for ax in figure.axes:
        names = [t for t in ax.texts if isinstance(t, Annotation)]
        assert sorted(t.get_text() for t in names) == sorted(
            [f"{n}, {s}" for n in STEPS for s in SAMPLERS] + shown[len(SWEPT) :]
        )
        boxes = [t.get_window_extent() for t in names]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        points = [ax.transData.transform(t.xy) for t in names]
        assert not any(box.contains(*point) for box in boxes for point in points)
        frame = ax.get_window_extent()
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    assert capsys.readouterr().err == ""


def test_names_that_have_no_room_are_returned():
    with drawing():
        ax = new_figure(2, 2).subplots()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        left = place_labels(ax, [((0.5, 0.5), f"name {k}") for k in range(60)])
    assert 0 < len(left) < 60
    assert len(ax.texts) == 60 - len(left)


@pytest.mark.parametrize("name", ["effectiveness", "runtime", "quality-cost"])
def test_no_figure_is_larger_than_a_page(nine, sweep_board, name, tmp_path):
    from PIL import Image

    for board in (nine, sweep_board):
        with drawing():
            width, height = charts(board)[name]().get_size_inches()
        assert width <= WIDTH
        assert height <= HEIGHT
        saved = Image.open(write_plot(board, name, tmp_path))
        assert saved.size == (int(width * DPI), int(height * DPI)), "nothing is cut off or added"


def test_rows_that_do_not_fit_a_page_go_on_in_another_figure():
    many = Board(build(methods=[f"method {k}" for k in range(60)], factuals=20))
    pages = pages_of(many, "novel")
    assert len(pages) > 1
    assert {m for page in pages for m in page.methods} == {m for m in many.methods if not many.is_control(m)}
    with drawing():
        assert draw_page(many, pages[0]).get_size_inches()[1] <= HEIGHT


def test_all_columns_of_a_family_are_on_some_page(nine):
    for family in {k.metric for k in nine.columns}:
        keys = [key for page in pages_of(nine, family) for key in page.keys]
        assert sorted(map(str, keys)) == sorted(str(k) for k in nine.columns if k.metric == family)


def test_controls_are_lines_and_a_band_unless_they_are_asked_for(nine):
    page = pages_of(nine, "truth")[0]
    key = page.keys[0]
    with drawing():
        figure = draw_page(nine, page)
    ax = figure.axes[0]
    assert len(ax.get_yticks()) == len(NINE)
    values = {round(nine.estimates[m, key].value, 9) for m in CONTROLS}
    lines = {round(x.get_xdata()[0], 9) for x in ax.lines if len(x.get_xdata()) == 2 and x.get_ydata()[1] == 1}
    assert values <= lines
    (band,) = ax.patches
    assert band.get_x() == pytest.approx(nine.estimates["oracle", key].value)
    assert band.get_width() == pytest.approx(
        nine.estimates["identity", key].value - nine.estimates["oracle", key].value
    )
    (legend,) = figure.legends
    assert {t.get_text() for t in legend.texts} == {*CONTROLS, "identity to oracle"}
    (page, *_) = pages_of(nine, "truth", controls=True)
    assert page.methods == nine.methods
    assert charts(nine, controls=True).keys() >= {"truth", "quality-cost"}


def test_controls_that_answer_through_another_row_have_no_line(nine):
    cells = tuple(
        replace(c, spec=Spec("resample", params={"of": "hvae"})) if c.method == "untrained" else c
        for c in nine.results.cells
    )
    board = Board(replace(nine.results, cells=cells))
    key = pages_of(board, "truth")[0].keys[0]
    assert [r.name for r in references(board, key)] == ["identity", "nearest", "oracle"]


def test_a_control_under_another_name_still_ends_the_band(nine):
    scores = tuple(replace(s, method="unchanged") if s.method == "identity" else s for s in nine.results.scores)
    controls = tuple("unchanged" if c == "identity" else c for c in nine.results.controls)
    cells = tuple(replace(c, method="unchanged", spec=Spec("identity")) if c.method == "identity" else c
                  for c in nine.results.cells)  # fmt: skip
    board = Board(replace(nine.results, cells=cells, scores=scores, controls=controls))
    key = pages_of(board, "truth")[0].keys[0]
    assert {r.name for r in references(board, key) if r.end} == {"unchanged", "oracle"}


def test_the_judges_own_error_is_a_line_where_a_judge_reads(nine):
    card = (
        {"judge": "reader", "variable": "digit", "data": "real", "error": 0.25, "unit": "share", "n": 9, "good": True},
        {"judge": "reader", "variable": "slant", "data": "real", "error": 3.5, "unit": "", "n": 9, "good": False},
    )
    board = Board(replace(nine.results, card=card))
    found = {k: [r.value for r in references(board, k) if r.name == JUDGE] for k in board.columns}
    for key, values in found.items():
        known = {("accuracy", "digit"): [0.75], ("error", "slant"): [3.5]}
        assert values == (known.get((key.column, key.variable), []) if key.metric == "effectiveness" else []), key


def test_a_weak_judge_is_marked_on_the_panel_and_noted(nine):
    page = pages_of(nine, "effectiveness")[0]
    with drawing():
        figure = draw_page(nine, page)
    titles = {ax.get_title(loc="left") for ax in figure.axes} - {""}
    assert {"do(digit)*", "do(thickness)§"} <= titles
    assert any(ax.get_xlabel().startswith("error of thickness ↓§") for ax in figure.axes)
    assert "§ The judges of thickness are not good enough" in figure.get_supxlabel()
    board = Board(replace(nine.results, card=()))
    with drawing():
        figure = draw_page(board, pages_of(board, "effectiveness")[0])
    assert "§" not in figure.get_supxlabel() + "".join(ax.get_title(loc="left") for ax in figure.axes)


def test_what_has_no_score_is_said_quietly_and_what_failed_is_not():
    results = build(failed={("diffscm", 0)})
    scores = tuple(
        replace(s, value=np.nan, values=np.full(len(s.values), np.nan), finite=0)
        if (s.method, s.metric) == ("deepscm", "truth") else s
        for s in results.scores
    )  # fmt: skip
    board = Board(replace(results, scores=scores))
    with drawing():
        figure = draw_page(board, pages_of(board, "truth")[0])
    colours = {t.get_text(): t.get_color() for t in figure.axes[0].texts}
    assert colours == {"× failed": "#b02020", "no score": "#777777"}


def test_of_several_clocks_of_a_fit_one_is_drawn():
    results = build()
    like = [s for s in results.scores if s.column == "fit_s"]
    more = [replace(s, column="fit_cpu_s", value=7.0) for s in like]
    board = Board(replace(results, scores=(*more, *results.scores)))
    (label, costs) = cost_axes(board)[-1]
    assert label == "fit cpu [s]"
    assert costs["diffscm"] == 7.0


def test_rows_without_a_point_are_named_with_the_reason(nine):
    scores = tuple(
        replace(s, value=np.nan) if (s.method, s.column) == ("hvae", "abduct_ms") else s for s in nine.results.scores
    )
    cells = tuple(replace(c, status=Status.FAILED) if c.method == "deepscm" else c for c in nine.results.cells)
    scores = tuple(s for s in scores if s.method != "deepscm")
    board = Board(replace(nine.results, scores=scores, cells=cells))
    (legend,) = drawn(board, cost_pages(board)[0]).legends
    assert {"hvae (cost unknown)", "deepscm (failed)"} <= {t.get_text() for t in legend.texts}


def test_controls_alone_are_rows():
    results = build(methods=())
    board = Board(results)
    assert pages_of(board, "truth")[0].methods == board.methods
    figure = drawn(board, cost_pages(board)[0])
    assert {t.get_text() for t in figure.axes[0].texts} >= set(CONTROLS)


def test_a_name_that_is_cut_short_stands_below(nine):
    (long,) = (m for m in NINE if len(m) > 40)
    with drawing():
        figure = draw_page(nine, pages_of(nine, "truth")[0])
    note = " ".join(figure.get_supxlabel().split())
    assert f"diffscm…(1) is {long}".replace(" ", "") in note.replace(" ", "")
