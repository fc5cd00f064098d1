"""Runs of untrusted sources, or other versions, are read without executing, following or trusting their contents."""

from __future__ import annotations

import ast
import csv
import json
import os
import pickle
import re
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from small import doctor, seal, small_run, stage, tree

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.report.publish import load_board
from cfbench.report.render import html
from cfbench.runs.reader import read_run

PACKAGE = Path(__file__).parents[1]
CELL = "cells/bars/learns/seed-0"
OPENED: list[str] | None = None


def _listen(event: str, args: tuple) -> None:
    if OPENED is not None and event == "open" and isinstance(args[0], (str, os.PathLike)):
        OPENED.append(os.fspath(args[0]))


sys.addaudithook(_listen)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    assert small_run(root, "r", "--methods", "learns,tunes") == 0
    return root


@pytest.fixture
def run(made, tmp_path):
    """A run, and outside of it a file that is none of its business."""
    shutil.copytree(made / "r", tmp_path / "r")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "stage.json").write_text('{"files": {}}')
    (tmp_path / "secret" / "scores.json").write_text('{"columns": {}, "rows": []}')
    return tmp_path / "r"


def cfbench(run, command, *args):
    return _main([command, "r", "--run-root", str(run.parent), *args])


def refused(run, capsys, *says, commands=("leaderboard", "status")):
    """Each command ends with one line and 1; nothing outside the run is opened or changed."""
    global OPENED
    outside = tree(run.parent / "secret")
    for command in commands:
        capsys.readouterr()
        OPENED = []
        try:
            assert cfbench(run, command, *(["--no-plots"] if command == "leaderboard" else [])) == 1, command
        finally:
            opened, OPENED = OPENED, None
        err = capsys.readouterr().err
        assert err.startswith("cfbench: error: "), err
        assert err.count("\n") == 1, err
        assert err.rstrip("\n").isprintable(), "a terminal would act on it"
        for text in says:
            assert text in err
        assert not [p for p in opened if p.startswith(("/etc/passwd", str(run.parent / "secret")))]
    assert tree(run.parent / "secret") == outside
    assert sorted(p.name for p in run.parent.iterdir()) == ["r", "secret"]


class Bomb:
    """What a pickle may hold: a command that runs when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def bomb(run):
    return pickle.dumps(Bomb(run.parent / "executed"))


def first_cell(**values):
    return lambda about: about["cells"][0].update(values)


def keys(**values):
    return lambda about: about["cells"][0]["keys"].update(values)


def data(**values):
    return lambda about: about["datasets"]["bars"].update(values)


def method(**values):
    return lambda about: about["cells"][0]["method"].update(values)


def variable(**values):
    return lambda about: about["datasets"]["bars"]["variables"][0].update(values)


def without(*path):
    def change(about):
        for part in path[:-1]:
            about = about[part]
        del about[path[-1]]

    return change


EDITS = {
    "a plan that leaves": (data(plan="../secret"), "'../secret' is no path inside the run"),
    "a plan far away": (data(plan="/etc"), "'/etc' is no path inside the run"),
    "judges that leave": (data(judges="judges/../../secret"), "no path inside the run"),
    "mechanisms that leave": (data(mechanisms="../secret"), "no path inside the run"),
    "a folder that leaves": (data(folder="../secret"), "no name of a folder"),
    "a method that leaves": (method(name="../../../secret"), "no plain name"),
    "a preset that leaves": (method(preset="/../../../../secret"), "no preset"),
    "a fit that leaves": (first_cell(fit={"name": "../x"}), "no plain name"),
    "a key that leaves": (keys(images="x/../../../../../secret"), "no key"),
    "a metric that leaves": (first_cell(scores={"../../x": "0" * 12}), "no metric"),
    "a metric's key that leaves": (first_cell(scores={"truth": "../x"}), "no key"),
    "a seed that leaves": (first_cell(seed="0/../../../../secret"), "no whole number"),
    "a negative seed": (first_cell(seed=-1), "no whole number"),
    "a seed that is true": (first_cell(seed=True), "no whole number"),
    "an infinite seed": (first_cell(seed=float("inf")), "no whole number"),
    "a setting that is no number": (method(params={"knob": float("nan")}), "no value of a setting"),
    "a setting with orders to the terminal": (method(params={"knob": "\x1b[2J"}), "no line of text"),
    "a setting of two lines": (method(params={"knob": "a\nb"}), "no line of text"),
    "a variable without end": (variable(name="x" * 10**6), "no line of text"),
    "a variable of half a letter": (variable(name="\ud800"), "no line of text"),
    "a number for a name": (variable(name=3), "no line of text"),
    "a truth that is none": (variable(truth="perhaps"), "'perhaps' is none of exact"),
    "an image without end": (data(shape=[1, 10**12, 8]), "no whole number"),
    "a budget of NaN": (lambda a: a["budget"].update(judge=float("nan")), "nan is no finite number"),
    "a budget that is a text": (lambda a: a.update(budget="tiny"), "'tiny' is no mapping"),
    "cells that are no list": (lambda a: a.update(cells={}), "cells: {} is no list"),
    "cells of numbers": (lambda a: a.update(cells=[1]), "cells: 0: 1 is no mapping"),
    "a list": (lambda a: [a], "is no mapping"),
    "a data set that is not described": (lambda a: a.update(datasets={}), "datasets does not describe"),
    "plugins that are numbers": (lambda a: a.update(plugins=[7]), "plugins: 0: 7 is no line"),
    "no cells": (without("cells"), "'cells' is missing"),
    "no datasets": (without("datasets"), "'datasets' is missing"),
    "no budget": (without("budget"), "'budget' is missing"),
    "no split": (without("split"), "'split' is missing"),
    "no format": (without("format"), "'format' is missing"),
    "no plan": (without("datasets", "bars", "plan"), "'plan' is missing"),
    "no method": (without("cells", 0, "method"), "'method' is missing"),
    "no name": (without("cells", 0, "dataset", "name"), "'name' is missing"),
    "no seed": (without("cells", 0, "seed"), "'seed' is missing"),
    "no key": (without("cells", 0, "keys", "images"), "'images' is missing"),
    "a format in words": (lambda a: a.update(format="one"), "'one' is no whole number"),
    "a format that is true": (lambda a: a.update(format=True), "no whole number"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_run_json_may_not_say_is_refused(run, capsys, name):
    edit, says = EDITS[name]
    doctor(run, edit)
    refused(run, capsys, "run.json is damaged", says)


TEXTS = {
    "a pickle": (bomb, "no JSON"),
    "nothing": (lambda run: b"", "no JSON"),
    "half": (lambda run: (run / "run.json").read_bytes()[:99], "no JSON"),
    "brackets without end": (lambda run: b"[" * 10**6, "no JSON"),
    "objects without end": (lambda run: b'{"a":' * 10**6, "no JSON"),
    "digits without end": (lambda run: b"1" * 10**6, "no JSON"),
    "no letters": (lambda run: b'{"format": "\xff\xfe\xff"}', "no JSON"),
    "a number": (lambda run: b"1", "no mapping"),
    "null": (lambda run: b"null", "no mapping"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_run_json_that_is_none_is_refused(run, capsys, name):
    make, says = TEXTS[name]
    (run / "run.json").write_bytes(make(run))
    refused(run, capsys, says)


def test_files_that_are_far_too_large_are_not_read(run, capsys):
    for path in (run / "run.json", stage(run, f"{CELL}/score-truth-*/scores.safetensors")):
        whole = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(2**40)
        refused(run, capsys, "bytes, more than the", commands=("leaderboard",))
        path.write_bytes(whole)


def tensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HEADERS = {
    "a pickle": (bomb, "no safetensors file"),
    "nothing": (lambda run: b"", "no safetensors file"),
    "a header of exabytes": (lambda run: tensors(b"{}", length=2**62), "no safetensors file"),
    "a header of brackets": (lambda run: tensors(b"[" * 10**5), "no safetensors file"),
    "more than all memory": (
        lambda run: tensors({"x": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 0]}}),
        "no safetensors file",
    ),
    "sizes without numbers": (
        lambda run: tensors({"x": {"dtype": "F64", "shape": [1 << 40, 8], "data_offsets": [0, 4]}}, b"1234"),
        "no safetensors file",
    ),
    "a negative size": (
        lambda run: tensors({"x": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 0]}}),
        "no safetensors file",
    ),
}


@pytest.mark.parametrize("file", ["score-truth-*/scores.safetensors", "plan.safetensors"])
@pytest.mark.parametrize("name", HEADERS)
def test_tensors_that_are_none_are_refused(run, capsys, name, file):
    path = stage(run, f"plans/bars-*/{file}" if file.startswith("plan") else f"{CELL}/{file}")
    make, says = HEADERS[name]
    path.write_bytes(make(run))
    seal(path.parent)
    refused(run, capsys, says, commands=("leaderboard",))


def rewrite(pattern, change):
    """A change to the tensors or the JSON of one file, sealed."""

    def meddle(run):
        path = stage(run, pattern)
        if path.suffix == ".json":
            value = json.loads(path.read_text())
            path.write_text(json.dumps(change(value) or value))
        else:
            value = storage.read_tensors(path)
            storage.write_tensors(path, change(value) or value)
        if path.name != storage.MANIFEST:
            seal(path.parent)

    return meddle


def each(rows, **values):
    for row in rows:
        row.update(values)


SCORES, VALUES = f"{CELL}/score-truth-*/scores.json", f"{CELL}/score-truth-*/scores.safetensors"
PLAN = "plans/bars-*/plan.safetensors"
SPOILT = {
    "another number of scores": rewrite(VALUES, lambda t: {k: x[:-1] for k, x in t.items()}),
    "scores of an absurd shape": rewrite(VALUES, lambda t: {k: x.reshape(*[1] * 70, -1) for k, x in t.items()}),
    "scores of nothing": rewrite(VALUES, lambda t: {k: torch.zeros(0, 2**61) for k in t}),
    "scores in bits": rewrite(VALUES, lambda t: {k: x > 0 for k, x in t.items()}),
    "scores in eight bits": rewrite(VALUES, lambda t: {k: x.to(torch.float8_e4m3fn)[:3] for k, x in t.items()}),
    "no scores": rewrite(VALUES, lambda t: {"x": torch.zeros(1)}),
    "rows that are no list": rewrite(SCORES, lambda s: s.update(rows=5)),
    "rows without a column": rewrite(SCORES, lambda s: each(s["rows"], column="other")),
    "rows about nothing": rewrite(SCORES, lambda s: each(s["rows"], do="other")),
    "rows of another kind": rewrite(SCORES, lambda s: each(s["rows"], kind="other")),
    "values in words": rewrite(SCORES, lambda s: each(s["rows"], value="many")),
    "fewer than none": rewrite(SCORES, lambda s: each(s["rows"], asked=-5)),
    "orders to the terminal": rewrite(SCORES, lambda s: each(s["rows"], variable="\x1b[2J")),
    "a direction of no kind": rewrite(SCORES, lambda s: each(s["columns"].values(), direction="sideways")),
    "a target of NaN": rewrite(SCORES, lambda s: each(s["columns"].values(), target=float("nan"))),
    "columns that are numbers": rewrite(SCORES, lambda s: s.update(columns={"abs_error": 1})),
    "a list of scores": rewrite(SCORES, lambda s: [s]),
    "questions about far factuals": rewrite(PLAN, lambda t: {**t, "factual/kind": t["factual/kind"] + 10**9}),
    "questions about negative factuals": rewrite(PLAN, lambda t: {**t, "factual/kind": t["factual/kind"] - 10**9}),
    "questions in fractions": rewrite(PLAN, lambda t: {**t, "factual/kind": t["factual/kind"] + 0.5}),
    "parents of another width": rewrite(PLAN, lambda t: {**t, "pa": t["pa"].repeat(1, 3)}),
    "questions without an answer": rewrite(PLAN, lambda t: {k: x for k, x in t.items() if k != "supported/level"}),
    "a plan about other variables": rewrite("plans/bars-*/plan.json", lambda p: p["variables"].update(other=3)),
    "a plan of numbers": rewrite("plans/bars-*/plan.json", lambda p: 5),
    "a card of numbers": rewrite("judges/bars-*/card.json", lambda c: [1]),
    "a card of errors in words": rewrite("judges/bars-*/card.json", lambda c: each(c, error="small")),
    "wrong answers in words": rewrite(f"{CELL}/images-*/stage.json", lambda m: m.update(wrong="all")),
    "a machine that leaves": rewrite(f"{CELL}/images-*/stage.json", lambda m: m.update(env="../../secret/stage")),
    "a manifest of numbers": rewrite(f"{CELL}/images-*/stage.json", lambda m: 5),
    "a machine of numbers": rewrite("env/*.json", lambda m: 5),
    "choices that are a list": rewrite("cells/bars/tunes/seed-0/tune-*/chosen.json", lambda c: [1]),
    "remarks that are none": rewrite("cells/bars/tunes/seed-0/tune-*/remarks.json", lambda r: {"a": 1}),
}
for _name in ("a machine of numbers",):
    SPOILT[_name] = lambda run: stage(run, "env/*.json").write_text("5")


@pytest.mark.parametrize("name", SPOILT)
def test_what_stages_may_not_say_is_refused(run, capsys, name):
    SPOILT[name](run)
    refused(run, capsys, commands=("leaderboard",))


@pytest.mark.parametrize(
    "pattern",
    [SCORES, "plans/bars-*/plan.json", "judges/bars-*/card.json", f"{CELL}/images-*/stage.json", "env/*.json"],
)
def test_a_pickle_in_place_of_json_is_refused(run, capsys, pattern):
    path = stage(run, pattern)
    path.write_bytes(bomb(run))
    if path.name != storage.MANIFEST and (path.parent / storage.MANIFEST).exists():
        seal(path.parent)
    refused(run, capsys, "no JSON", commands=("leaderboard",))


LINKS = {
    "a file": f"{CELL}/score-truth-*/scores.json",
    "another file": f"{CELL}/images-*/answers.safetensors",
    "a manifest": f"{CELL}/images-*/stage.json",
    "a stage": f"{CELL}/score-truth-*",
    "a cell": CELL,
    "all cells": "cells",
    "the plan": "plans/bars-*",
    "the judges": "judges/bars-*",
    "the tables": "leaderboard",
    "a machine": "env/*.json",
}


@pytest.mark.parametrize("what", LINKS)
def test_links_are_not_followed(run, capsys, what):
    path = stage(run, LINKS[what])
    target = run.parent / "secret" / path.name
    shutil.move(path, target)
    path.symlink_to(target)
    refused(run, capsys, f"{path.name} is a link", commands=("leaderboard",))


def test_a_pipe_does_not_hold_up_the_reader(run, capsys):
    path = stage(run, f"{CELL}/score-truth-*/scores.json")
    path.unlink()
    os.mkfifo(path)
    refused(run, capsys, "no plain file", commands=("leaderboard",))


def test_failures_that_are_none_are_refused(run, capsys):
    shutil.rmtree(stage(run, f"{CELL}/images-*"))
    failed = run / CELL / "failed-train-first"
    with storage.write_stage(failed, stage="train", status="failed", reason="", key="") as draft:
        (draft / "log.txt").touch()
    assert cfbench(run, "status") == 0
    assert "pending  bars learns seed 0" in capsys.readouterr().out, "a folder of another name is no failure"
    failed.rename(failed.with_name("failed-train-1"))
    storage.write_json(failed.with_name("failed-train-1") / "stage.json", {"files": {}})
    refused(run, capsys)
    shutil.rmtree(failed.with_name("failed-train-1"))
    failed.with_name("failed-train-1").symlink_to(run.parent / "secret")
    refused(run, capsys, "is a link")


def test_a_manifest_reaches_no_file_outside(run, capsys):
    images = stage(run, f"{CELL}/images-*")
    for name in ("../../../../../secret/stage.json", str(run.parent / "secret" / "stage.json")):
        about = storage.read_json(images / storage.MANIFEST)
        about["files"][name] = storage.sha256(run.parent / "secret" / "stage.json")
        storage.write_json(images / storage.MANIFEST, about)
        assert storage.damaged_files(images) == [name]
        assert _main(["merge", "r", "--name", "copy", "--run-root", str(run.parent)]) == 2
        assert not list((run.parent / "copy" / CELL).glob("images-*"))
        about["files"].pop(name)
        storage.write_json(images / storage.MANIFEST, about)


def test_names_that_charts_cannot_draw_are_one_line(run, capsys):
    rename(run, "kind", r"$\frac$ \x")
    assert cfbench(run, "leaderboard", "--no-plots") == 0
    capsys.readouterr()
    assert cfbench(run, "leaderboard") in (0, 1)
    assert capsys.readouterr().err.count("\n") <= 1


def test_scores_that_their_manifest_does_not_know_make_no_table(run, capsys):
    path = stage(run, f"{CELL}/score-truth-*/scores.json")
    path.write_text(path.read_text() + " ")
    refused(run, capsys, "scores.json does not match its manifest", commands=("leaderboard",))


def test_discarding_a_link_leaves_what_it_points_to(run):
    link = run / CELL / "train-000000000000"
    link.symlink_to(run.parent / "secret")
    assert not storage.is_intact(link)
    assert storage.remove_damaged(link)
    assert not link.is_symlink()
    assert (run.parent / "secret" / "stage.json").is_file()


def test_code_that_came_with_a_run_is_no_plugin_of_it(run, capsys):
    evil = run / "evil.py"
    evil.write_text(f"import os\nos.mkdir({str(run.parent / 'executed')!r})\n")
    doctor(run, lambda about: about.update(plugins=[str(evil), "r/evil.py", str(run / "cells" / ".." / "evil.py")]))
    for command in ("leaderboard", "status", "verify"):
        cfbench(run, command, *(["--no-plots"] if command == "leaderboard" else []))
    cfbench(run, "leaderboard")
    _main(["score", str(evil), "--name", "x", "--run", "r", "--run-root", str(run.parent)])
    assert not (run.parent / "executed").exists()


FORMULA = '=HYPERLINK("http://x.org?a="&A1,"<script>alert(1)</script>")'
TEX = r"\input{/etc/passwd} $x$ %& #_^~ [a](javascript:alert(1)) `|`"


def rename(run, before, after):
    """Call a variable by another name in all that a run holds."""
    doctor(run, lambda about: variable(name=after)(about))
    doctor(run, lambda about: about["datasets"]["bars"]["variables"][1].update(parents=[after]))
    rewrite("plans/bars-*/plan.json", lambda p: p.update(variables={after: 12, "level": 12}))(run)

    def at(tensors, sep):
        swapped = {k: sep.join(after if p == before else p for p in k.split(sep)) for k in tensors}
        return {swapped[k]: x for k, x in tensors.items()}

    images = [str(p.relative_to(run)) for p in run.glob("cells/bars/*/seed-0/images-*/answers.safetensors")]
    for pattern in (PLAN, "plans/bars-*/truth.safetensors", *images):
        rewrite(pattern, lambda t: at(t, "/"))(run)

    def called(row):
        return {k: after if k in ("do", "variable") and v == before else v for k, v in row.items()}

    for path in run.glob("cells/bars/*/seed-0/score-*"):
        pattern = str(path.relative_to(run))
        rewrite(f"{pattern}/scores.safetensors", lambda t: at(t, "|"))(run)
        rewrite(f"{pattern}/scores.json", lambda s: s.update(rows=[called(r) for r in s["rows"]]))(run)


@pytest.mark.parametrize("text", [FORMULA, TEX, "+1", "@SUM(A1)", "-2+3"])
def test_formulas_and_markup_in_names_and_reasons_stay_text(run, text, capsys):
    rename(run, "kind", text)
    doctor(run, variable(unit=text))
    rewrite("cells/bars/tunes/seed-0/images-*/stage.json", lambda m: m.update(residual=text))(run)
    rewrite(f"{CELL}/images-*/stage.json", lambda m: m.update(wrong={text: 3}))(run)
    rewrite("judges/bars-*/card.json", lambda c: each(c, judge=text, unit=text))(run)
    assert cfbench(run, "leaderboard", "--no-plots") == 0
    out = run / "leaderboard"
    for path in out.glob("*.csv"):
        rows = list(csv.reader(path.open()))
        cells = [c for row in rows for c in row]
        assert any(text in c for c in cells), path
        assert not [c for c in cells if re.match(r"[=+\-@\t\r]", c) and not re.fullmatch(r"-|-?[\d.e+-]+", c)]
    markdown = (out / "bars.md").read_text()
    tex = (out / "bars.tex").read_text() + (out / "bars-appendix.tex").read_text()
    page = html(load_board(read_run(run), "bars"))
    assert "<script>" not in page
    assert not re.search(r"(?<!\\)<script", markdown)
    assert "](javascript" not in markdown
    assert r"\input" not in tex
    assert "$x$" not in tex
    assert cfbench(run, "leaderboard", "--out", str(run.parent / "pictures")) == 0


def test_orders_to_the_terminal_in_reasons_are_replaced(run, capsys):
    shutil.rmtree(stage(run, f"{CELL}/images-*"))
    key = json.loads((run / "run.json").read_text())["cells"][0]["keys"]["train"]
    reason = "\x1b[2J\x1b]0;mine\x07 =1+1 <script> \N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 10**5
    with storage.write_stage(
        run / CELL / "failed-train-1", stage="train", status="failed", reason=reason, key=key
    ) as draft:
        (draft / "log.txt").touch()
    assert cfbench(run, "status") == 0
    out = capsys.readouterr().out
    assert "failed" in out
    assert all(line.isprintable() for line in out.splitlines())
    assert max(map(len, out.splitlines())) < 2000
    assert cfbench(run, "leaderboard", "--no-plots") == 0
    text = "".join(p.read_text() for p in (run / "leaderboard").iterdir())
    assert "\x1b" not in text
    assert "\x07" not in text


def table(run, capsys):
    assert cfbench(run, "leaderboard", "--no-plots") == 0
    capsys.readouterr()
    return {p.name: p.read_text() for p in (run / "leaderboard").iterdir() if p.suffix in (".csv", ".md", ".tex")}


def everywhere(value):
    """JSON with a name more in every mapping that has names of its own."""
    if isinstance(value, dict):
        found = {k: everywhere(v) if k not in ("params", "keys", "scores", "files") else v for k, v in value.items()}
        named = {"bars", "abs_error"} & value.keys()
        return found if named else {**found, "newer": {"than": [1, None]}}
    return [everywhere(v) for v in value] if isinstance(value, list) else value


def test_what_a_newer_version_says_more_is_passed_over(run, capsys):
    before = table(run, capsys)
    doctor(run, lambda about: everywhere(about))
    for path in run.rglob("scores.json"):
        value = json.loads(path.read_text())
        each([*value["rows"], *value["columns"].values()], newer=1)
        path.write_text(json.dumps({**value, "newer": 1}))
        seal(path.parent)
    for path in run.rglob("stage.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "newer": {"than": 1}}))
    assert table(run, capsys) == before
    assert small_run(run.parent, "r", "--methods", "learns,tunes") == 0
    assert "0 of 10 tasks to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (2, "was written in format 2 by cfbench 9.9, this cfbench reads format 1; update cfbench"),
        (0, "was written in format 0 by cfbench 9.9, this cfbench reads format 1; read it with cfbench 9.9"),
    ],
)
def test_another_format_is_reported_in_a_sentence(run, capsys, number, says):
    doctor(run, lambda about: {"format": number, "cfbench": "9.9", "everything": "else"})
    refused(run, capsys, says, commands=("leaderboard", "status", "verify"))
    assert _main(["merge", "r", "--name", "x", "--run-root", str(run.parent)]) == 1
    assert small_run(run.parent, "r", "--methods", "learns") == 1
    assert says in capsys.readouterr().err


UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "jsonpickle"}
UNSAFE_CALLS = re.compile(
    r"(torch\.(load|jit\.load|hub\.load\w*)|(yaml|ruamel\.yaml)\.(unsafe_|full_)?load(_all)?"
    r"|(pd|pandas)\.read_(pickle|hdf)|(builtins\.)?(eval|exec)|joblib\.load|shelve\.open"
    r"|(np|numpy)\.core\.multiarray\._reconstruct|torch\.serialization\.\w+|yaml\.Loader|yaml\.UnsafeLoader)"
)


def unsafe(source: str) -> list[str]:
    """What in a source could execute what it reads; ``torch.load(..., weights_only=True)`` cannot."""
    found = []
    nodes = list(ast.walk(ast.parse(source)))
    loads = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    safe = {id(n.func) for n in loads if "weights_only=True" in map(ast.unparse, n.keywords)}
    for node in (n for n in nodes if id(n) not in safe):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names += [f"{node.module}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else []
            found += [n for n in names if n.split(".")[0] in UNSAFE_MODULES or UNSAFE_CALLS.fullmatch(n)]
        elif isinstance(node, (ast.Name, ast.Attribute)) and UNSAFE_CALLS.fullmatch(ast.unparse(node)):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            found += [ast.unparse(node)] if value is not (node.arg == "weights_only") else []
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "from torch import load",
        "eval('1')", "exec('1')", "run = eval", "import builtins\nbuiltins.eval('1')", "import yaml\nyaml.load(x)",
        "np.load(x, allow_pickle=True)", "np.load(x, allow_pickle=flag)", "import marshal, json", "import shelve",
        "import torch\ntorch.load(x, weights_only=False)", "import torch\ntorch.load(x, weights_only=flag)",
        "import joblib", "from pandas import read_pickle", "import pandas as pd\npd.read_pickle(x)",
    ],
)  # fmt: skip
def test_what_could_execute_data_would_be_found(line):
    assert unsafe(line)


def test_ordinary_code_is_not_taken_for_it():
    assert not unsafe(
        "method.eval()\nnp.load(x, allow_pickle=False)\nimport json\njson.load(file)\nspec.exec_module(m)\n"
        "torch.load(file, weights_only=True)"
    )


@pytest.mark.parametrize("folder", ["cfbench", "methods", "datasets"])
def test_nothing_in_the_package_executes_what_it_reads(folder):
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files
    assert {str(f.relative_to(PACKAGE)): found for f in files if (found := unsafe(f.read_text()))} == {}
