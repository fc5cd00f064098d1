"""Charts of losses, guidance and predictors: what is drawn of what methods recorded, and what is left out."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.image
import numpy as np
import pytest

from cfbench import storage
from cfbench.errors import UserError
from cfbench.plugins.spec import Spec
from cfbench.report.charts import curves
from cfbench.report.charts.curves import write_curves
from cfbench.report.charts.figure import HEIGHT, WIDTH
from cfbench.runs.job import Cell
from cfbench.runs.reader import StoredRun, read_run

GUIDANCE = [
    {"contrast": c, "scale": s, "effectiveness": 0.2 * s - 0.1 * c, "change": 0.01 * s, "composition": 0.0, "cld": 1.0,
     "chosen": (c, s) == (0.5, 2.0)}
    for c in (0.0, 0.5) for s in (3.0, 1.0, 2.0)
]  # fmt: skip
LABELS = {"effectiveness": "effectiveness\n[share]", "change": "change asked for", "composition": "change unasked",
          "cld": "CLD"}  # fmt: skip
PREDICTOR = [{"t": t, "digit": 1 - t / 1000, "width": 1 - t / 500} for t in (-1, 0, 100, 200)]


def cell(label, seed=0, dataset="strokes", fit=None, external=False):
    keys = {} if external else {s: f"{s}key" for s in ("train", "tune", "images")}
    return Cell(Spec(dataset), Spec(label), seed, Spec(fit or label), keys, external=external)


@pytest.fixture
def run(tmp_path):
    """Makes a run of cells, with what each left in its stages: {(method, seed, stage): {file name: content}}.

    Its manifest has what curves look at, which is less than what makes it whole.
    """

    def make(cells, left):
        manifest = SimpleNamespace(cells=tuple(cells), titles={c.method.label: c.method.title for c in cells})
        for (method, seed, stage), files in left.items():
            folder = tmp_path / "cells" / "strokes" / method / f"seed-{seed}" / f"{stage}-{stage}key"
            folder.mkdir(parents=True)
            for name, content in files.items():
                (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
            storage.write_json(folder / storage.MANIFEST, {"files": {}})
        return StoredRun(tmp_path, manifest)

    return make


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written, by file name, kept open."""
    kept = {}

    def keep(figure, path):
        figure.savefig(path)
        kept[path.name] = figure
        return path

    monkeypatch.setattr(curves, "save_figure", keep)
    return kept


def log(stage="fit", n=20, **more):
    rows = [{"stage": stage, "step": k, "images": 64 * (k + 1), "loss": 3 - 0.1 * k, **more} for k in range(n)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def shown(figure):
    return [ax for ax in figure.axes if ax.axison]


def test_a_guidance_table_becomes_a_line_of_panels(run, figures):
    recorded = run(
        [cell("diffscm")],
        {("diffscm", 0, "tune"): {"guidance.json": GUIDANCE, "labels.json": LABELS, "chosen.json": {}}},
    )
    assert [p.name for p in write_curves(recorded, "strokes", recorded.folder)] == ["strokes-guidance.png"]
    axes = shown(figures["strokes-guidance.png"])
    assert [ax.get_title(loc="left").split("\n")[0] for ax in axes] == [
        "effectiveness",
        "change asked for",
        "change unasked",
        "CLD",
    ]
    assert {ax.texts[0].get_text() for ax in axes[2:]} == {
        "guidance does not\nchange it: 0",
        "guidance does not\nchange it: 1",
    }, "a column that no scale changes"
    lines = axes[0].lines
    assert [line.get_label() for line in lines if line.get_label()[0] != "_"] == ["contrast 0", "contrast 0.5"]
    first = next(line for line in lines if line.get_label() == "contrast 0")
    np.testing.assert_allclose(first.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(first.get_ydata(), [0.2, 0.4, 0.6])
    (ring,) = (line for line in lines if line.get_markersize() == 8)
    assert (ring.get_xdata()[0], round(ring.get_ydata()[0], 6)) == (2, 0.35)


def test_parts_of_an_output_are_drawn_where_there_are_several(run, figures):
    parts = [
        {**row, "effectiveness/digit": row["scale"], "effectiveness/width": -row["scale"], "scales": [1, 2]}
        for row in GUIDANCE
    ]
    one = [{**row, "effectiveness/digit": 0.5} for row in GUIDANCE]
    left = {
        ("many", 0, "tune"): {"guidance.json": parts, "labels.json": LABELS},
        ("one", 0, "tune"): {"guidance.json": one, "labels.json": LABELS},
    }
    recorded = run([cell("many"), cell("one")], left)
    write_curves(recorded, "strokes", recorded.folder)
    many, one = (part.axes for part in figures["strokes-guidance.png"].subfigs)
    assert titles(many) == [*names(LABELS), "effectiveness/digit", "effectiveness/width"]
    assert titles(one) == names(LABELS), "one part is the whole"
    rings = [[line.get_xdata()[0] for line in ax.lines if line.get_markersize() == 8] for ax in many[:6]]
    assert rings == [[2], [2], [], [], [1], [2]]  # each variable's own scale in the panels about it


def titles(axes):
    return [ax.get_title(loc="left") for ax in axes if ax.axison]


def names(labels):
    return [labels[name] for name in ("effectiveness", "change", "composition", "cld")]


def test_a_method_has_panels_of_its_own_outputs_only(run, figures):
    less = [{k: v for k, v in row.items() if k in ("scale", "change", "chosen")} for row in GUIDANCE[:3]]
    left = {
        ("many", 0, "tune"): {"guidance.json": GUIDANCE, "labels.json": LABELS},
        ("less", 0, "tune"): {"guidance.json": less, "labels.json": LABELS},
    }
    recorded = run([cell("many"), cell("less")], left)
    write_curves(recorded, "strokes", recorded.folder)
    many, less = figures["strokes-guidance.png"].subfigs
    assert titles(many.axes) == names(LABELS)
    assert titles(less.axes) == [LABELS["change"]]
    assert less.get_suptitle() == "less"


def test_what_does_not_fit_a_page_goes_on_in_another_file(run, figures):
    rows = [f"method {k}" for k in range(9)]
    left = {(m, 0, "tune"): {"guidance.json": GUIDANCE, "labels.json": LABELS} for m in rows}
    left |= {(m, 0, "train"): {"log.jsonl": log() + log("b") + log("c"), "predictor.json": PREDICTOR} for m in rows}
    recorded = run([cell(m) for m in rows], left)
    written = [p.name for p in write_curves(recorded, "strokes", recorded.folder)]
    assert written == [
        *("strokes-training.png", "strokes-training-2.png"),
        *("strokes-guidance.png", "strokes-guidance-2.png", "strokes-guidance-3.png", "strokes-predictor.png"),
    ]
    assert [p.get_suptitle() for name in written[2:5] for p in figures[name].subfigs] == rows
    for figure in figures.values():
        width, height = figure.get_size_inches()
        assert width <= WIDTH
        assert height <= HEIGHT


def test_each_method_and_seed_has_its_line_and_shared_stages_are_drawn_once(run, figures):
    cells = [cell("a", 0), cell("a", 1), cell("b", 0, fit="a"), cell("b", 1, fit="a"), cell("c", 0, dataset="mnist")]
    left = {(m, s, "tune"): {"guidance.json": GUIDANCE, "labels.json": LABELS} for m in "ab" for s in (0, 1)}
    left |= {("a", s, "train"): {"log.jsonl": log()} for s in (0, 1)}
    recorded = run(cells, left)
    write_curves(recorded, "strokes", recorded.folder)
    titles = [part.get_suptitle() for name in ("guidance", "guidance-2") if f"strokes-{name}.png" in figures
              for part in figures[f"strokes-{name}.png"].subfigs]  # fmt: skip
    assert titles == ["a\nseed 0", "a\nseed 1", "b\nseed 0", "b\nseed 1"]
    fits = [ax.get_title(loc="left") for ax in shown(figures["strokes-training.png"])]
    assert fits == ["a, seed 0\nfit", "a, seed 1\nfit"]


def test_losses_are_drawn_over_the_images_seen(run, figures):
    left = {
        ("counts", 0, "train"): {"log.jsonl": log() + log("second", 30)},
        ("steps", 0, "train"): {
            "log.jsonl": "".join(json.dumps({"step": 9 + 10 * k, "loss": -k}) + "\n" for k in range(5)),
            "costs.json": {"images_seen": 1000.0},
        },
    }
    recorded = run([cell("counts"), cell("steps")], left)
    write_curves(recorded, "strokes", recorded.folder)
    axes = {ax.get_title(loc="left"): ax for ax in shown(figures["strokes-training.png"])}
    assert list(axes) == ["counts\nfit", "counts\nsecond", "steps\nfit"]
    np.testing.assert_allclose(axes["counts\nfit"].lines[0].get_xdata(), 64 * np.arange(1, 21))
    np.testing.assert_allclose(axes["steps\nfit"].lines[0].get_xdata(), [200, 400, 600, 800, 1000])
    np.testing.assert_allclose(axes["steps\nfit"].lines[0].get_ydata(), [0, -1, -2, -3, -4])


def test_a_predictor_is_drawn_by_noise_level(run, figures):
    recorded = run([cell("diffscm")], {("diffscm", 0, "train"): {"predictor.json": PREDICTOR}})
    assert [p.name for p in write_curves(recorded, "strokes", recorded.folder)] == ["strokes-predictor.png"]
    (ax,) = shown(figures["strokes-predictor.png"])
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["digit"].get_xdata(), [0, 100, 200])
    np.testing.assert_allclose(lines["width"].get_ydata(), [1, 0.8, 0.6])


def test_tables_of_other_shapes_are_drawn_where_they_are_curves(run, figures):
    tables = {
        "mine.json": [{"scale": 1, "score": 0.5, "note": "x"}, {"scale": 2, "score": 0.7, "sampler": "b"}],
        "one.json": [{"scale": 1, "score": 0.5}],
        "words.json": [{"scale": "much", "score": 0.5}, {"scale": "more", "score": 0.6}],
        "flat.json": {"bits_per_dim": 2.0},
        "numbers.json": [1, 2, 3],
        "holes.json": [{"scale": 1, "score": None}, {"scale": 2, "score": math.nan}, {"scale": True, "score": 1}],
        "broken.json": "{",
        "null.json": "null",
        "labels.json": ["score"],
    }
    recorded = run([cell("plugin")], {("plugin", 0, "tune"): tables})
    assert [p.name for p in write_curves(recorded, "strokes", recorded.folder)] == ["strokes-guidance.png"]
    (ax,) = shown(figures["strokes-guidance.png"])
    assert ax.get_title(loc="left") == "score"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.7])


def test_nothing_recorded_makes_no_chart(run):
    left = {
        ("silent", 0, "train"): {"costs.json": {"images_seen": 10}},
        ("odd", 0, "train"): {"log.jsonl": 'not json\n[1]\n{"loss": "none"}\n{"step": 1}\n{"loss": NaN}\n'},
    }
    recorded = run([cell("silent"), cell("odd"), cell("absent"), cell("keyless", external=True)], left)
    assert write_curves(recorded, "strokes", recorded.folder) == []
    assert write_curves(recorded, "unknown", recorded.folder) == []


def test_losses_of_every_sign_and_length_are_drawn(run):
    rows = {
        "single": [{"loss": 1.0}],
        "constant": [{"loss": 0.0, "step": k} for k in range(40)],
        "negative": [{"loss": -float(k), "step": k} for k in range(40)],
        "huge": [{"loss": 10.0 ** (20 - k), "step": k} for k in range(40)],
    }
    left = {(m, 0, "train"): {"log.jsonl": "".join(json.dumps(r) + "\n" for r in own)} for m, own in rows.items()}
    recorded = run([cell(m) for m in rows], left)
    (path,) = write_curves(recorded, "strokes", recorded.folder / "out")
    image = matplotlib.image.imread(path)
    assert image.shape[0] > 200
    assert image.std() > 0.05


FORMULA = "$x_{$"


def test_no_text_of_a_run_is_taken_for_a_formula(run, figures):
    table = [{"scale": s, FORMULA: s} for s in (1, 2)]
    row = {"loss": 1.0, "stage": FORMULA}
    left = {
        ("a", 0, "train"): {"log.jsonl": "".join(json.dumps({**row, "loss": 10.0**-k}) + "\n" for k in range(20))},
        ("a", 0, "tune"): {"guidance.json": table, "labels.json": {FORMULA: f"label {FORMULA}"}},
    }
    recorded = run([cell("a")], left)
    assert len(write_curves(recorded, "strokes", recorded.folder)) == 2
    (losses,) = shown(figures["strokes-training.png"])
    assert losses.get_title(loc="left") == f"a\n{FORMULA}"
    assert titles(shown(figures["strokes-guidance.png"])) == [f"label {FORMULA}"]
    ticks = "".join(t.get_text() for t in losses.get_yticklabels())
    assert losses.get_yscale() == "log"
    assert "1e" in ticks
    assert "$" not in ticks, "a formula that is not drawn as one"


HOSTILE = {
    "nested": "[" * 100_000,
    "no text": "\x00\x1b]0;x\x07",
    "a number beyond floats": '{"loss": 1' + "0" * 400 + "}",
    "a number of 10,000 digits": '{"loss": ' + "9" * 10_000 + "}",
    "near the greatest float": '{"loss": 1.7e308}\n{"loss": -1.7e308}\n{"loss": 1.6e308}',
    "images beyond floats": '{"loss": 1, "images": 1e308}\n{"loss": 2, "images": -1e308}',
    "steps before the first": '{"loss": 1, "step": -1}',
    "half a letter": '{"loss": 1, "stage": "\\ud800\\u0000\\u001b[2J"}',
    "a mapping as a stage": '{"loss": 1, "stage": {"a": [1]}}',
    "a stage without end": '{"loss": 1, "stage": "' + "x" * 10**6 + '"}',
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_line_of_a_log_takes_no_other_line_with_it(run, figures, line):
    recorded = run([cell("a")], {("a", 0, "train"): {"log.jsonl": log("good") + line + "\n" + log("more")}})
    assert [p.name for p in write_curves(recorded, "strokes", recorded.folder)] == ["strokes-training.png"]
    figure = figures["strokes-training.png"]
    panels = {ax.get_title(loc="left"): ax for ax in shown(figure)}
    np.testing.assert_allclose(panels["a\ngood"].lines[0].get_ydata(), 3 - 0.1 * np.arange(20))
    np.testing.assert_allclose(panels["a\nmore"].lines[0].get_ydata(), 3 - 0.1 * np.arange(20))
    assert figure.get_tightbbox().width < 20  # inches


def test_lines_that_hold_no_record_are_counted_in_a_note(run, capsys):
    recorded = run([cell("a")], {("a", 0, "train"): {"log.jsonl": log() + "half a li\n[1]\n"}})
    write_curves(recorded, "strokes", recorded.folder)
    assert "log.jsonl: 2 lines that hold no record left out" in capsys.readouterr().err


def test_what_is_drawn_of_a_log_is_bounded(run, figures, capsys):
    names = "".join(json.dumps({"stage": f"net {k}", "loss": k}) + "\n" for k in range(400))
    left = {("many", 0, "train"): {"log.jsonl": names}, ("long", 0, "train"): {"log.jsonl": log(n=9000)}}
    recorded = run([cell("many"), cell("long")], left)
    write_curves(recorded, "strokes", recorded.folder)
    axes = {ax.get_title(loc="left"): ax for figure in figures.values() for ax in shown(figure)}
    assert list(axes) == [*(f"many\nnet {k}" for k in range(12)), "long\nfit"]
    images = axes["long\nfit"].lines[0].get_xdata()
    assert len(images) == 1800
    assert images[-1] > 0.99 * 64 * 9000
    assert "the first 12 of 400 stages of the fit of many are drawn" in capsys.readouterr().err


def test_what_is_drawn_of_a_table_is_bounded(run, figures, capsys):
    wide = [{"scale": s, **{f"column {k}": k * s for k in range(300)}} for s in (1, 2)]
    many = [{"scale": s, "contrast": c, "y": s} for c in range(40) for s in (1, 2)]
    left = {("a", 0, "tune"): {"wide.json": wide}, ("b", 0, "tune"): {"many.json": many}}
    recorded = run([cell("a"), cell("b")], left)
    write_curves(recorded, "strokes", recorded.folder)
    wide, many = figures["strokes-guidance.png"].subfigs
    assert titles(wide.axes) == [f"column {k}" for k in range(12)]
    assert len(many.axes[0].lines) == 12
    err = capsys.readouterr().err
    assert "the first 12 of 300 recorded columns are drawn" in err
    assert "the first 12 of 40 contrasts are drawn" in err


def test_scalars_of_a_hostile_log_are_those_that_can_be_read():
    rows = [{"loss": 10**400, "step": math.nan}, {"loss": 1.0, "step": "x"}, {"loss": 2, "step": 7, "stage": "fit"}]
    assert list(curves.scalars(rows)) == [("loss", math.inf, 0), ("loss", 1.0, 1), ("fit/loss", 2.0, 7)]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path)
