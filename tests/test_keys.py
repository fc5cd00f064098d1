"""Every edit recomputes the stages that depend on it, and no others: a table of edits and what they reach."""

from __future__ import annotations

import ast
import compileall
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cfbench.conformance.subjects.toy import Bars
from cfbench.contract import Column, Metric
from cfbench.engine.request import Request
from cfbench.engine.workers.transfer import pack_code
from cfbench.runs.context import LoadedJob

TOYS = Path(__file__).with_name("toys.py")

PROBE = """
import json, os, sys
from pathlib import Path
sys.dont_write_bytecode = True
import numpy, pandas, safetensors.torch, scipy.interpolate, scipy.ndimage, torch, zuko  # once for all edits

def keys(options):
    from cfbench.engine.request import Request
    run = Request(**options, plugins=(Path("files/mine.py"),), run_root=Path("runs"), data_root=Path("data")).run()
    loaded, found = run.loaded, {}
    for d in run.datasets:
        shared = "data", "plan", "judges", "mechanisms"
        found |= {f"{s} {d.name}": getattr(loaded.keys, s)(d) for s in shared}
    for c in run.cells:
        stages = {**{s: c.keys[s] for s in ("train", "tune", "images")}, **c.scores}
        found |= {f"{s} {c.dataset.name} {c.method.label}": key for s, key in stages.items()}
    return found

answers = {}
for name, edit in json.load(sys.stdin).items():
    before = {path: (Path(path).read_text(), Path(path).stat().st_mtime_ns) for path in edit["files"]}
    for path, text in edit["files"].items():
        Path(path).write_text(text)
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, json.dumps(keys(edit["options"])).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answers[name] = json.loads(pipe.read() or "null")
    os.wait()
    for path, (text, when) in before.items():
        Path(path).write_text(text)
        os.utime(path, ns=(when, when))  # so that what is compiled counts again
json.dump(answers, sys.stdout)
"""

THEIRS = {
    "otherlab/__init__.py": "",
    "otherlab/theirs.py": """
        from cfbench_methods.identity import Identity

        from otherlab.parts import scale
        from otherlab import more
        from otherlab.inner import deep


        class Theirs(Identity):
            pass
    """,
    "otherlab/parts.py": "def scale(x):\n    return x\n",
    "otherlab/more.py": "MORE = 1\n",
    "otherlab/inner/__init__.py": "",
    "otherlab/inner/deep.py": "DEEP = 1\n",
    "otherlab/unused.py": "UNUSED = 1\n",
    "otherlab-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: otherlab\nVersion: 1.0\n",
    "otherlab-1.0.dist-info/entry_points.txt": "[cfbench.methods]\ntheirs = otherlab.theirs:Theirs\n",
    "files/mine.py": """
        from pathlib import Path

        import beside
        import kit.deep.last
        from cfbench.conformance.subjects import toy
        from cfbench.contract import Method
        from cfbench_methods.nn.unet import UNet
        from kit import tools


        class Bars(toy.Bars):
            def fingerprint(self, root):
                return (Path(__file__).parent / "data.txt").read_text()


        class Own(Method):
            def abduct(self, x, pa, rng):
                return x

            def predict(self, u, pa, rng):
                from lazily import late

                return late(u)


        class Other(beside.Base):
            pass
    """,
    "files/beside.py": """
        from cfbench.contract import Method


        class Base(Method):
            def abduct(self, x, pa, rng):
                return x

            def predict(self, u, pa, rng):
                return u
    """,
    "files/lazily.py": "from names.spaced import late\n",
    "files/names/spaced.py": "late = abs\n",
    "files/kit/__init__.py": "from . import first\n",
    "files/kit/first.py": "FIRST = 1\n",
    "files/kit/deep/__init__.py": "",
    "files/kit/deep/last.py": "from ..more import MORE\n",
    "files/kit/more.py": "MORE = 1\n",
    "files/kit/unused.py": "UNUSED = 1\n",
    "files/kit/tools.py": "from .small import tool\n",
    "files/kit/small.py": "tool = 1\n",
    "files/unused.py": "UNUSED = 1\n",
    "files/data.txt": "first",
}
ROWS = ["diffscm", "deepscm", "theirs", "resample[of=diffscm]", "own", "identity"]
SETS = ["bars", "strokes"]
METRICS = ["truth", "cld", "effectiveness"]
"""Of three modules, of which the first two share a sibling."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """An installation that may be edited, with another laboratory's distribution and a plugin file next to it."""
    folder = tmp_path_factory.mktemp("copy")
    pack_code(folder, [])
    for name, text in THEIRS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))
    (folder / "README.md").write_text("read me")
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "other.safetensors").write_bytes(b"others")
    return folder


def appended(text: str) -> str:
    return f"{text}\n_ADDED = 1\n"


def commented(text: str) -> str:
    """Another docstring, and comments and blank lines between all statements of the module."""
    text = text.replace('"""', '"""Also: ', 1) if text.startswith('"""') else f'"""New."""\n{text}'
    lines, tree = text.splitlines(), ast.parse(text)
    for node in reversed(tree.body):
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        lines.insert(start - 1, "\n# a comment\n")
    return "\n".join(lines)


def inside(name: str, statement: str = "added = 1"):
    """An edit inside of a function or class."""

    def edit(text: str) -> str:
        node = next(n for n in ast.walk(ast.parse(text)) if getattr(n, "name", None) == name)
        last, lines = node.body[-1], text.splitlines()
        lines.insert(last.lineno - 1, " " * last.col_offset + statement)
        return "\n".join(lines) + "\n"

    return edit


def swapped(old: str, new: str):
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


def reach(*roots: str, sets: Iterable[str] = SETS, rows: Iterable[str] = ROWS) -> set[str]:
    """What depends on something: the keys that an edit changes by itself, and those of all that is made from it."""
    after: dict[str, list[str]] = {}
    for d in sets:
        after[f"data {d}"] = [f"{s} {d}" for s in ("plan", "judges", "mechanisms")] + [f"train {d} {r}" for r in rows]
        after[f"plan {d}"] = [f"images {d} {r}" for r in rows]
        after[f"judges {d}"] = [f"{m} {d} {r}" for r in rows for m in METRICS]
        for r in rows:
            after[f"train {d} {r}"] = [f"tune {d} {r}"]
            after[f"tune {d} {r}"] = [f"images {d} {r}"]
            after[f"images {d} {r}"] = [f"{m} {d} {r}" for m in METRICS]
        if "resample[of=diffscm]" in rows:
            after[f"train {d} diffscm"].append(f"train {d} resample[of=diffscm]")
    found = list(roots)
    for key in found:
        found += [k for k in after.get(key, []) if k not in found]
    return set(found)


def of(stages: str, *names: str) -> list[str]:
    """Stages of those rows on both data sets, of all rows by default; or of the data sets themselves."""
    shared = {"data", "plan", "judges", "mechanisms"}
    return [
        f"{s} {d}{r}"
        for s in stages.split()
        for d in SETS
        for r in ([""] if s in shared else [f" {name}" for name in names or ROWS])
    ]


SCORES = of(" ".join(METRICS))
OWN = of("train", "own")
BESIDE = ["data bars", *OWN]
EDITS = {
    "README": ("README.md", appended, []),
    "a method's comments, docstring and layout": ("cfbench_methods/diffscm.py", commented, []),
    "a method's code": ("cfbench_methods/diffscm.py", appended, of("train", "diffscm")),
    "a method's local variable": ("cfbench_methods/deepscm.py", inside("predict"), of("train", "deepscm")),
    "a network module": ("cfbench_methods/nn/vae.py", appended, of("train", "deepscm")),
    "a network module's comments": ("cfbench_methods/nn/vae.py", commented, []),
    "a network that a plugin file uses too": (
        "cfbench_methods/nn/unet.py", appended, [*of("train", "diffscm"), *BESIDE]
    ),
    "an encoder of several methods": (
        "cfbench/nn.py", appended, [*of("train", "diffscm", "deepscm"), *BESIDE]
    ),
    "a method that is not in the run": ("cfbench_methods/hvae.py", appended, []),
    "a control that another distribution extends": (
        "cfbench_methods/identity.py", appended, of("train", "identity", "theirs")
    ),
    "a derived row": ("cfbench_methods/resample.py", appended, of("images", "resample[of=diffscm]")),
    "a data set's code": ("cfbench_datasets/strokes/dataset.py", appended, ["data strokes"]),
    "a data set's sibling": ("cfbench_datasets/strokes/pen.py", appended, ["data strokes"]),
    "what data sets share": ("cfbench_datasets/common/thickness.py", appended, ["data strokes"]),
    "what other data sets share": ("cfbench_datasets/common/checksums.py", appended, []),
    "a data set's comments": ("cfbench_datasets/strokes/pen.py", commented, []),
    "a charter of a folder": ("cfbench_datasets/strokes/__init__.py", commented, []),
    "another data set": ("cfbench_datasets/mnist.py", appended, []),
    "the data's fingerprint": ("files/data.txt", appended, ["data bars"]),
    "a judge's network": ("cfbench/judges/reader.py", appended, of("judges")),
    "a judge's training": ("cfbench/judges/training.py", appended, of("judges")),
    "the judges' card": ("cfbench/judges/report.py", appended, of("judges")),
    "the judges' comments": ("cfbench/judges/training.py", commented, []),
    "a metric": ("cfbench/metrics/truth.py", appended, of("truth")),
    "a metric's comments": ("cfbench/metrics/truth.py", commented, []),
    "a metric's sibling": ("cfbench/metrics/pixels.py", appended, of("truth cld")),
    "the path by which a metric imports": (
        "cfbench/metrics/truth.py", swapped("from ..evidence import", "from cfbench.evidence import"), []
    ),
    "the path by which the plan's code imports": (
        "cfbench/evaluation/plan.py", swapped("from ..rng import", "from cfbench.rng import"), []
    ),
    "another metric": ("cfbench/metrics/realism.py", appended, []),
    "what metrics look at": (
        "cfbench/evidence.py", appended, SCORES
    ),
    "how scores are made": ("cfbench/evaluation/scoring.py", appended, SCORES),
    "how set scores are left out": ("cfbench/evaluation/jackknife.py", appended, SCORES),
    "other statistics": ("cfbench/report/statistics/ranking.py", inside("holm"), []),
    "the plan": ("cfbench/evaluation/plan.py", appended, of("plan")),
    "the truth": ("cfbench/engine/prepare.py", inside("prepare"), of("plan")),
    "the judges' stage": ("cfbench/engine/prepare.py", inside("judges"), of("judges")),
    "the mechanisms": ("cfbench/evaluation/mechanisms.py", appended, of("mechanisms")),
    "how answers are asked for": ("cfbench/evaluation/answers.py", appended, of("images")),
    "who calls a method": ("cfbench/evaluation/answers.py", appended, of("images")),
    "how methods are fitted": ("cfbench/engine/fit.py", inside("train"), of("train")),
    "how methods are tuned": ("cfbench/engine/fit.py", inside("tune"), of("tune")),
    "the images' stage": ("cfbench/engine/fit.py", inside("images"), of("images")),
    "what a fit is given": ("cfbench/contract.py", inside("Fit"), of("train")),
    "what a metric declares": ("cfbench/contract.py", inside("Column"), []),
    "the streams of random numbers": ("cfbench/rng.py", appended, of("data")),
    "the graph": ("cfbench/graph.py", appended, of("data")),
    "how tables are drawn": ("cfbench/report/board.py", appended, []),
    "the command line": ("cfbench/cli/main.py", appended, []),
    "the version of cfbench": (
        "cfbench_scm-0.1.0.dist-info/METADATA", swapped("Version: 0.1.0", "Version: 0.2.0"),
        ["data strokes", *of("train", "diffscm", "deepscm", "identity"), *of("images", "resample[of=diffscm]"), *SCORES]
    ),
    "another distribution's code": ("otherlab/theirs.py", appended, of("train", "theirs")),
    "its module, imported by its full name": ("otherlab/parts.py", appended, of("train", "theirs")),
    "its module, imported from the package": ("otherlab/more.py", appended, of("train", "theirs")),
    "its module, imported from a package in it": ("otherlab/inner/deep.py", appended, of("train", "theirs")),
    "the path by which it imports": (
        "otherlab/theirs.py", swapped("from otherlab import more", "from . import more"), []
    ),
    "the name that it gives to an import": (
        "otherlab/theirs.py", swapped("import scale", "import scale as by"), of("train", "theirs")
    ),
    "its module that the method does without": ("otherlab/unused.py", appended, []),
    "its version": (
        "otherlab-1.0.dist-info/METADATA", swapped("Version: 1.0", "Version: 1.1"), of("train", "theirs")
    ),
    "a plugin file": ("files/mine.py", appended, BESIDE),
    "a plugin file's comments": ("files/mine.py", commented, []),
    "a module next to a plugin file": ("files/beside.py", appended, BESIDE),
    "its comments": ("files/beside.py", commented, []),
    "a module that it imports from a package next to it": ("files/kit/small.py", appended, BESIDE),
    "the package itself": ("files/kit/__init__.py", appended, BESIDE),
    "a module that the package takes from itself": ("files/kit/first.py", appended, BESIDE),
    "a package in the package, on the way to a module": ("files/kit/deep/__init__.py", appended, BESIDE),
    "a module in that package": ("files/kit/deep/last.py", appended, BESIDE),
    "what that imports from the package above": ("files/kit/more.py", appended, BESIDE),
    "a module next to it that a function imports": ("files/lazily.py", appended, BESIDE),
    "what that imports from a folder without a package": ("files/names/spaced.py", appended, BESIDE),
    "a module next to it that it does without": ("files/unused.py", appended, []),
    "a module of the package next to it that it does without": ("files/kit/unused.py", appended, []),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(copy):
    """The keys before and after each edit, each from a process that has seen no other."""
    options = {
        "datasets": ",".join(SETS), "methods": ",".join(ROWS), "seeds": "0",
        "controls": False, "metrics": ",".join(METRICS), "device": "cpu",
    }  # fmt: skip
    questions = {"nothing": {"files": {}, "options": options}}
    for name, (file, edit, _) in EDITS.items():
        questions[name] = {"files": {file: edit((copy / file).read_text())}, "options": options}
    compileall.compile_dir(copy, quiet=1)
    done = subprocess.run(
        [sys.executable, "-c", PROBE], input=json.dumps(questions), capture_output=True, text=True, cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(found.values()), done.stderr
    return found


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_recomputes_what_depends_on_it_and_nothing_else(answers, name):
    before, after = answers["nothing"], answers[name]
    assert set(before) == set(after)
    assert {key for key in before if before[key] != after[key]} == reach(*EDITS[name][2])


def keys(rows="learns,draws", change=lambda job: job, **options):
    """The keys of a run of toys, whose job is changed."""
    asked = {"datasets": "bars", "methods": rows, "seeds": "0", "controls": False, "metrics": ",".join(METRICS)}
    run = Request(**{**asked, "plugins": (TOYS,), "device": "cpu", "preset": "tiny", **options}).run()
    loaded, d = LoadedJob(change(run.job), run.loaded.classes), run.datasets[0]
    found = {f"{s} bars": getattr(loaded.keys, s)(d) for s in ("data", "plan", "mechanisms")}
    found |= {"judges bars": loaded.keys.judges(d)}
    assert len({cell.method.name for cell in run.cells}) == len(run.cells)
    for cell in (loaded.keys.cell(c.dataset, c.method, c.seed, [*c.scores]) for c in run.cells):
        row = cell.method.name
        found |= {f"{s} bars {row}": cell.keys[s] for s in ("train", "tune", "images")}
        found |= {f"{m} bars {row}": key for m, key in cell.scores.items()}
    return found


def budget(**more):
    return lambda job: replace(job, budget=replace(job.budget, **more))


TOY_ROWS = ["learns", "draws"]
EACH = [f"train bars {row}" for row in TOY_ROWS]
SETTINGS = {
    "threads": ({"threads": 2}, []),
    "time limit": ({"timeout": 5.0}, []),
    "name and places": ({"name": "other", "run_root": Path("elsewhere"), "data_root": Path("there")}, []),
    "device": ({"change": lambda job: replace(job, device="cuda")}, []),
    "precision": ({"precision": "bf16"}, EACH),
    "seed": ({"seeds": "1"}, EACH),
    "split": ({"split": "valid"}, ["plan bars"]),
    "plan": ({"plan": "force-change"}, ["plan bars"]),
    "learned parents": ({"action": "learned"}, ["plan bars"]),
    "images to train on": ({"change": budget(images=99)}, EACH),
    "a budget of a row": ({"rows": "learns,draws@99"}, ["train bars draws"]),
    "a budget of a row that is the run's": ({"rows": "learns@2048,draws"}, []),
    "budgets of all rows": ({"budgets": "1k"}, EACH),
    "questions": ({"change": budget(factuals=5)}, ["plan bars"]),
    "rounds": ({"change": budget(rounds=2)}, [f"images bars {row}" for row in TOY_ROWS]),
    "the judges' training": ({"change": budget(judge=0.5)}, ["judges bars"]),
    "other seeds and the preset's name": ({"change": budget(name="other", seeds=(1, 2))}, []),
    "a parameter of the fit": ({"rows": "learns,draws[places=3]"}, ["train bars draws"]),
    "a parameter of the answers": ({"rows": "learns,draws[shade=0.3]"}, ["tune bars draws"]),
    "a preset of the answers": ({"rows": "learns,draws:dark"}, ["tune bars draws"]),
    "a preset of the fit": ({"rows": "learns,draws:left"}, ["train bars draws"]),
}


@pytest.fixture(scope="module")
def usual():
    return keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_recomputes_what_depends_on_it_and_nothing_else(usual, name):
    options, roots = SETTINGS[name]
    after = keys(**options)
    assert {key for key in usual if usual[key] != after[key]} == reach(*roots, sets=["bars"], rows=TOY_ROWS)


def test_a_row_that_is_given_weights_depends_on_them(usual, tmp_path):
    found = []
    for value in (1.0, 2.0, 1.0):
        save_file({"mean": torch.full((1, 8, 8), value)}, tmp_path / "given.safetensors")
        found.append(keys(weights=(f"learns={tmp_path / 'given.safetensors'}",)))
    one, two, again = found
    expected = reach("train bars learns", sets=["bars"], rows=TOY_ROWS)
    assert one == again
    for other in (one, two):
        assert {key for key in usual if usual[key] != other[key]} == expected
    assert {key for key in one if one[key] != two[key]} == expected


def test_a_metric_instance_depends_on_its_settings():
    class Scaled(Metric):
        columns = {"scaled": Column("scaled", "lower", "1")}

        def __init__(self, by=1):
            self.by = by

        def __call__(self, evidence):
            return {"scaled": evidence.answer.mean((1, 2, 3)) * self.by}

    one, two, again = (keys(metrics="scaled", classes={"scaled": Scaled(by)}) for by in (1, 2, 1))
    assert one == again
    assert {key for key in one if one[key] != two[key]} == {f"scaled bars {row}" for row in TOY_ROWS}


def test_keys_of_a_data_set_that_was_given_as_an_object_are_computed_once(monkeypatch):
    class Large(Bars):
        def __init__(self):
            self.held = torch.zeros(1000)

    asked = {"methods": "identity", "controls": False, "metrics": "truth", "device": "cpu", "preset": "tiny"}
    request = Request(datasets="large", classes={"large": Large()}, **asked)
    run, digested = request.run(), []
    monkeypatch.setattr("cfbench.runs.keys.object_digest", lambda thing: digested.append(thing) or "other")
    loaded, spec = run.loaded, run.datasets[0]
    before = [run.cells[0].keys[s] for s in ("plan", "judges")]
    assert [loaded.keys.plan(spec), loaded.keys.judges(spec)] == before
    assert loaded.keys.mechanisms(spec)
    assert not digested
    fresh = LoadedJob(run.job, run.loaded.classes)
    assert [fresh.keys.plan(spec), fresh.keys.judges(spec)] != before
    assert len(digested) == 1
