"""Names that users choose: which are refused, and that none is taken for a word of the harness or of a reader."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from small import small_run

from cfbench import run, storage
from cfbench.cli.main import _main
from cfbench.conformance.subjects.toy import BARS
from cfbench.contract import Column
from cfbench.engine.fit import TrainingLog
from cfbench.engine.request import Request
from cfbench.errors import PluginError, UserError
from cfbench.evaluation.plan import make_plan
from cfbench.evaluation.scoring import evidences, score
from cfbench.graph import CausalGraph, Variable
from cfbench.metrics.minimality import FactualDistance
from cfbench.metrics.runtime import Runtime
from cfbench.metrics.soundness import Composition
from cfbench.names import file_stem, name_error
from cfbench.plugins.registry import Registry
from cfbench.plugins.signatures import contract_errors
from cfbench.report import sheet
from cfbench.report.publish import write_sheet
from cfbench.report.render import csv
from cfbench.runs.reader import read_results, read_run

CELLS = '''
import torch
from cfbench.conformance.subjects import toy
from cfbench.graph import CausalGraph, Variable


class Cells(toy.Bars):
    """Bars whose variables are called as scopes of metrics are."""

    graph = CausalGraph(
        (Variable("cell", "categorical", size=2, truth="exact"),
         Variable("do", "continuous", low=0.2, high=1.0, parents=("cell",), truth="exact")),
        (1, 8, 8),
    )

    def act(self, pa, do, rng):
        new = self.graph.set(pa, do)
        if "do" not in do:
            new[:, 1] += 0.2 * (new[:, 0] - pa[:, 0])
        return new
'''


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A run on a data set with a variable ``cell``."""
    root = tmp_path_factory.mktemp("cells")
    (root / "cells.py").write_text(CELLS)
    words = ["--methods", "knows", "--plugin", str(root / "cells.py"), "--datasets", "cells"]
    assert small_run(root, "r", *words, metrics="truth,composition,runtime") == 0
    return root / "r"


def test_a_variable_called_cell_keeps_its_scores(cells):
    df = pd.read_csv(cells / "leaderboard" / "cells.csv")
    truth = df[(df.metric == "truth.abs_error") & (df.questions == "all")].set_index("do")
    assert set(truth.index) == {"cell", "do"}
    assert (truth.value < 0.01).all()
    assert np.isfinite(truth.low).all()
    assert set(df[df.metric == "composition.composition_1"].do) == {"none"}
    assert df[df.metric == "runtime.parameters"].do.isna().all()
    notes = (cells / "leaderboard" / "cells.md").read_text()
    assert "do(cell)" in notes


def test_scopes_are_told_apart_whatever_a_variable_is_called():
    variables = (replace(BARS.graph["kind"], name="null"), replace(BARS.graph["level"], name="cell", parents=("null",)))
    data = type(BARS)()
    data.graph = CausalGraph(variables, (1, 8, 8))
    plan = make_plan(data, None, name="marginal", split="test", factuals=8, act=_act)
    pool = data.split(None, "test")
    x = pool.x[plan.rows]
    images = {"null": x, "do/null": x[plan.asked["null"].factual], "do/cell": x[plan.asked["cell"].factual]}
    found = list(evidences(data, plan, pool, images, {}, None, 0, {"fit_s": 1.0}))
    assert [(e.do, e.scope) for e in found if e.scope == "do"] == [("null", "do"), ("cell", "do")]
    rows = {
        type(metric).__name__: [
            r for e in found if e.scope == metric.scope for r in score(metric, e, np.arange(len(e)), plan, 0)
        ]
        for metric in (FactualDistance(), Runtime())
    }
    assert {(r.do, r.kind) for r in rows["FactualDistance"]} == {("null", "image"), ("cell", "image")}
    assert {r.kind for r in rows["Runtime"]} == {"cell"}
    assert Composition.scope == "null"


def _act(pa, do, rng):
    pa = pa.clone()
    for name, value in do.items():
        pa[:, ["null", "cell"].index(name)] = value
    return pa


def test_scores_that_an_older_version_wrote_are_read(cells, tmp_path):
    results = read_results(read_run(cells), "cells")
    for stage in cells.glob("cells/cells/knows/seed-0/score-composition-*"):
        about = json.loads((stage / "scores.json").read_text())
        assert {row.pop("scope") for row in about["rows"]} == {"null"}
        storage.write_json(stage / "scores.json", about)
        manifest = storage.read_json(stage / storage.MANIFEST)
        manifest["files"]["scores.json"] = storage.sha256(stage / "scores.json")
        storage.write_json(stage / storage.MANIFEST, manifest)
    again = read_results(read_run(cells), "cells")
    assert [(s.metric, s.do, s.scope) for s in again.scores] == [(s.metric, s.do, s.scope) for s in results.scores]


TAKEN = ["null", "none", "None", "NA", "N/A", "nan", "NaN", "true", "inf", "", "2theta", "a/b", "a|b", "a\nb", "a\tb",
         "a\u00a0b", "mean of do()", "a ", "x" * 101, "\ud800"]  # fmt: skip
FREE = ["cell", "do", "all", "supported", "größe", "gro\u0308ße", "उम्र", "T", "_x", "a-b", "a.b", "naive", "nana"]


@pytest.mark.parametrize("name", TAKEN)
def test_names_that_mean_something_else_are_refused(name):
    assert name_error(name)


@pytest.mark.parametrize("name", FREE)
def test_other_names_are_not(name):
    assert not name_error(name)


class Named(toys.Bars):
    """Bars with other names, given to the constructor so that each test has its own."""

    def __init__(self, first: str = "kind", unit: str = ""):
        kind, level = BARS.graph.variables
        parents = (first,)
        self.graph = CausalGraph((replace(kind, name=first, unit=unit), replace(level, parents=parents)), (1, 8, 8))


def request(tmp_path, data, **options):
    given = {"methods": "knows", "controls": False, "metrics": "truth", "preset": "tiny", "name": "r"}
    classes = {"knows": toys.Knows, "named": data}
    roots = {"run_root": tmp_path, "data_root": tmp_path}
    return Request(**given | {"datasets": "named", "classes": classes} | roots | options)


@pytest.mark.parametrize(("name", "unit", "says"), [
    ("null", "", "variable 'null' is a word that readers of tables take for a missing value"),
    ("none", "", "variable 'none' is a word"),
    ("a|b", "", "variable 'a|b' has '|' in it"),
    ("kind", "a\nb", r"unit 'a\nb' of kind"),
    ("kind", "10\u00a0mm", "unit '10\\xa0mm' of kind"),
])  # fmt: skip
def test_a_data_set_with_such_a_name_is_refused_before_anything_is_written(tmp_path, name, unit, says):
    with pytest.raises(UserError) as error:
        request(tmp_path, Named(name, unit)).run()
    assert says in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["null", "NA", "true", "x" * 200])
def test_a_plugin_with_such_a_name_is_refused(tmp_path, name):
    (tmp_path / "mine.py").write_text(
        f"from cfbench.contract import Method\nclass Mine(Method):\n    name = {name!r}\n"
        "    def abduct(self, x, pa, rng):\n        return x\n    def predict(self, u, pa, rng):\n        return u\n"
    )
    with pytest.raises(PluginError, match="is named"):
        Registry((tmp_path / "mine.py",)).find("method", name)
    with pytest.raises(UserError, match="is named"):
        Registry(classes={name: toys.Knows})


MISSING = ["NA", "N/A", "#N/A", "null", "NULL", "None", "nan", "NaN", "n/a", "<NA>", "-nan", "1.#QNAN"]


@pytest.mark.parametrize("text", MISSING)
def test_text_that_readers_take_for_missing_is_kept_in_tables(text):
    table = pd.DataFrame({"method": ["a", "b"], "unit": [text, ""], "value": [1.0, np.nan]})
    read = pd.read_csv(io.StringIO(csv(table)))
    assert read.unit[0] == f"'{text}"
    assert np.isnan(read.value[1])
    assert read.unit.isna().tolist() == [False, True]


LABELS = [
    "cell",
    "do",
    "t",
    "nana",
    "none-of-them",
    "mine[tag=NA]",
    "mine[tag=null]",
    "mine:na",
    "größe",
    "naïve",
    "E5",
]


@pytest.mark.parametrize("label", LABELS)
def test_labels_that_are_accepted_survive_a_reader(label):
    read = pd.read_csv(io.StringIO(csv(pd.DataFrame({"method": [label], "do": [label], "value": [1.0]}))))
    assert read.method.tolist() == read.do.tolist() == [label]


def test_a_column_of_nothing_but_t_and_f_holds_no_truth_values():
    table = pd.DataFrame({"method": ["T", "F", "a"], "do": ["T", "", "T"]})
    assert csv(table) == "method,do\nT,'T\nF,\na,'T\n"


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_labels_that_are_accepted_survive_r(tmp_path):
    labels = [*LABELS, "T", "F", *MISSING]
    for number, label in enumerate(labels):
        (tmp_path / f"{number}.csv").write_text(csv(pd.DataFrame({"method": [label, label], "do": [label, ""]})))
    code = f"for (i in 0:{len(labels) - 1}) with(read.csv(sprintf('%d.csv', i)), writeLines(paste(method[1], do[1])))"
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    command = ["Rscript", "--vanilla", "-e", code]
    read = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ, check=True).stdout
    marked = [label if label in LABELS else f"'{label}" for label in labels]
    assert read.splitlines() == [f"{label} {label}" for label in marked]


def test_files_of_data_sets_whose_labels_look_alike_are_apart():
    labels = ["folder[path=a b]", "folder[path=a_b]", "x", "x-wide", "X-pairs", "y", "Summary", "x-appendix"]
    stems = [file_stem(label, labels) for label in labels]
    files = [f"{stem}{end}".lower() for stem in stems for end in ("", "-wide", "-pairs", "-appendix")]
    assert len(set(files)) == len(files)
    assert "summary" not in files
    assert stems[2] == "x"
    assert stems[5] == "y"
    assert file_stem("folder[path=a b]") == "folder_path_a_b"
    assert file_stem("folder[path=/data/faces]") == "folder_path_data_faces"
    long = [file_stem(f"folder[path=/{'deep/' * 40}{name}]") for name in "ab"]
    assert len(set(long)) == 2
    assert all(len(stem) < 100 for stem in long)


@pytest.mark.parametrize("name", ["costs", "chosen", "stage", "Costs", "../x", "a/b", "", ".x"])
def test_a_method_may_not_record_over_files_of_the_harness(name):
    with pytest.raises(ValueError, match="is taken or no plain name"):
        TrainingLog().record(name, [])


def test_what_a_method_records_can_be_read_again(tmp_path):
    log = TrainingLog()
    with pytest.raises(TypeError, match="remarks are a list"):
        log.record("remarks", "one sentence")
    log.record("remarks", ["one sentence"])
    log.write(tmp_path)
    assert storage.read_json(tmp_path / "remarks.json") == ["one sentence"]


def test_a_metric_called_as_a_stage_does_not_hide_its_key(tmp_path):
    class Images(FactualDistance):
        """A metric with the name of a stage."""

    result = run(toys.Knows, toys.Bars, metrics={"images": Images}, controls=False, preset="tiny", name="r",
                 run_root=tmp_path, data_root=tmp_path, jobs=1)  # fmt: skip
    keys = result.scores.iloc[0]["keys"]
    (cell,) = result.stored.manifest.cells
    assert keys == f"images={cell.keys['images'][:8]} score={cell.scores['images'][:8]}"


@pytest.mark.parametrize(("name", "about", "says"), [
    ("a/b", Column("x", "lower"), "'a/b'"),
    ("a|b", Column("x", "lower"), "'a|b'"),
    ("a\n", Column("x", "lower"), "'a\\n'"),
    ("x", Column("x", "lower", low=-np.inf), "low is -inf"),
    ("x", Column("x", "lower", target=np.nan), "target is nan"),
])  # fmt: skip
def test_columns_that_could_not_be_read_again_break_the_contract(name, about, says):
    cls = type("Mine", (FactualDistance,), {"columns": {name: about}})
    assert says in "; ".join(contract_errors(cls, "metric"))


def test_a_row_called_factual_does_not_take_the_place_of_the_factuals(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sheet, "contact_sheet", lambda path, labels, rows, **more: drawn.append(rows) or path)
    result = run({"factual": toys.Knows}, toys.Bars, metrics="truth", controls=False, preset="tiny", name="r",
                 run_root=tmp_path, data_root=tmp_path, jobs=1)  # fmt: skip
    write_sheet(result.stored, "bars", tmp_path)
    assert list(drawn[-1]) == ["factual", "truth", "factual (row)"]
    assert not torch.equal(drawn[-1]["factual"], drawn[-1]["factual (row)"])


def test_the_command_line_names_the_variable(tmp_path, capsys):
    (tmp_path / "cells.py").write_text(CELLS.replace('"cell"', '"null"').replace('"do"', '"level"'))
    words = ["run", "--methods", "knows", "--plugin", toys.__file__, "--plugin", str(tmp_path / "cells.py")]
    assert _main([*words, "--datasets", "cells", "--preset", "tiny", "--run-root", str(tmp_path / "runs")]) == 1
    assert capsys.readouterr().err.startswith("cfbench: error: cells: the variable 'null' is a word")
    assert Variable("null", "continuous").name == "null"
