"""Whatever a run declares can be read again, or is refused before anything is written; and what is read is the same."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import toys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import TOYS

from cfbench.cli.main import _main
from cfbench.conformance.subjects.toy import BARS
from cfbench.contract import Dataset
from cfbench.engine import launch as launching
from cfbench.engine.launch import declare, launch
from cfbench.engine.request import Request
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.plugins.registry import Registry
from cfbench.plugins.spec import Spec, parse_settings, parse_specs
from cfbench.runs.context import Run
from cfbench.runs.folders import check_run_name
from cfbench.runs.manifest import read_manifest

SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


class Takes(toys.Knows):
    """Takes texts, numbers and anything."""

    answer_params = frozenset()

    def __init__(self, graph, word: str = "", number: float = 1.0, count: int = 1, thing: object = None):
        super().__init__(graph)


class Bars(toys.Bars):
    """Bars whose names are drawn, and whose folder has a name."""

    first, unit, low = "kind", "", 0.2

    def __init__(self, path: str = ""):
        kind, level = BARS.graph.variables
        variables = replace(kind, name=self.first, unit=self.unit), replace(level, parents=(self.first,), low=self.low)
        self.graph = CausalGraph(variables, (1, 8, 8))


ODD = st.sampled_from(["\n", "\t", "\u00a0", "\u2028", "\x1b[2J", "\ufeff", "\ud800", "é", "e\u0301", " ", "nan", "inf",
                       "1e400", "1" * 25, "null", "none", "true",
                       "-", ",", "=", "[", "]", "|", "/", "'", '"', "x" * 999])  # fmt: skip
TEXT = st.lists(ODD | st.text(max_size=4), max_size=4).map("".join)
VALUE = TEXT | st.floats().map(str) | st.integers().map(str)
METHODS = st.builds("takes[{}={}]{}".format, st.sampled_from(["word", "number", "count", "thing", "wrd"]), VALUE, TEXT)


@pytest.fixture(scope="module", autouse=True)
def without_git():
    """Asking git for the revision takes most of the time of declaring a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "git_state", lambda: {"revision": None, "dirty": None})
        yield


@pytest.fixture(scope="module")
def declared():
    """A run whose cells and keys are taken for others, as keys take long."""
    with tempfile.TemporaryDirectory() as folder:
        yield _request(Path(folder), "takes", "bars", Bars).run()


def _elsewhere(run: Run, folder: Path, **changes) -> Run:
    """The run in another folder, with the same keys."""
    job = replace(run.job, folder=folder / "r")
    loaded = replace(run.loaded, job=job)
    vars(loaded)["keys"] = run.loaded.keys
    return replace(run, job=job, loaded=loaded, **changes)


def _request(folder: Path, methods: str, datasets: str, data: type[Dataset], **options) -> Request:
    classes = {"takes": Takes, "bars": data}
    fixed = {"controls": False, "metrics": "truth", "preset": "tiny", "run_root": folder, "data_root": folder}
    return Request(methods=methods, datasets=datasets, classes=classes, **{"name": "r", **fixed, **options})


def _is_one_line(error: UserError) -> None:
    assert "\n" not in str(error)


def _is_empty(folder: Path) -> None:
    assert not list(folder.iterdir())


def _check(run, argv, folder: Path) -> bool:
    """Whether a run is declared; if so it is read again as it was."""
    try:
        declare(run, argv)
    except UserError as error:
        _is_one_line(error)
        _is_empty(folder)
        return False
    manifest = read_manifest(folder / "r")
    assert [c.label for c in manifest.cells] == [c.label for c in run.cells]
    assert [c.path for c in manifest.cells] == [c.path for c in run.cells]
    declare(run, argv)
    assert read_manifest(folder / "r") == manifest
    return True


@given(text=METHODS | TEXT, path=VALUE, argv=st.lists(TEXT, max_size=3))
@settings(max_examples=60, **SETTINGS)
def test_specs_that_are_accepted_can_be_read_again(declared, text, path, argv):
    registry = Registry(classes={"takes": Takes, "bars": Bars})
    (cell,) = declared.cells
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            rows = registry.parse("method", f"takes,{text}")
            (data,) = registry.parse("dataset", f"bars[path={path}]")
            for kind, spec in (*(("method", row) for row in rows), ("dataset", data)):
                if spec.name in ("takes", "bars"):
                    registry.resolve(kind, spec)
        except UserError as error:
            _is_one_line(error)
            return
        cells = tuple(replace(cell, method=row, fit=row) for row in rows)
        _check(_elsewhere(declared, folder, cells=cells), tuple(argv), folder)


@given(first=TEXT, unit=TEXT, low=st.floats(), name=TEXT, seeds=st.lists(st.integers(), min_size=1, max_size=2))
@settings(max_examples=8, **SETTINGS)
def test_runs_that_are_accepted_can_be_read_again(first, unit, low, name, seeds):
    with tempfile.TemporaryDirectory() as folder:
        data = type("Bars", (Bars,), {"first": first or "kind", "unit": unit, "low": low})
        try:
            check_run_name(name)
            run = _request(Path(folder), "takes", "bars", data, seeds=",".join(map(str, seeds))).run()
        except UserError as error:
            _is_one_line(error)
            _is_empty(Path(folder))
            return
        _check(run, ("run",), Path(folder))


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\u00a0b", "\x1b[0m"])
def test_what_cannot_be_printed_is_refused_before_anything_is_computed(tmp_path, capsys, text):
    for words in (["--methods", f"knows[knob={text}]"], ["--methods", "knows", "--name", text],
                  ["--methods", "knows", "--datasets", f"bars[x={text}]"], ["--methods", f"kn{text}ows"]):  # fmt: skip
        assert _main(["run", "--plugin", TOYS, "--datasets", "bars", "--run-root", str(tmp_path), *words]) == 1
        err = capsys.readouterr().err
        assert err.startswith("cfbench: error: ")
        assert err.count("\n") == 1
        assert err.rstrip("\n").isprintable()
    assert not list(tmp_path.iterdir())


def test_lines_between_specs_and_settings_are_blanks(declared, tmp_path):
    assert parse_specs("a[x=1,\n  y=2],\n\tb") == [Spec("a", params={"x": 1, "y": 2}), Spec("b")]
    assert _check(_elsewhere(declared, tmp_path), ("run", "--methods", "a[x=1,\n  y=2],\n\tb", "c\u00a0d"), tmp_path)
    assert read_manifest(tmp_path / "r").commands == (("run", "--methods", "a[x=1, y=2], b", "c d"),)


@pytest.mark.parametrize(("low", "says"), [(float("nan"), "nan is no finite number"), (-float("inf"), "-inf is no")])
def test_a_range_that_is_none_is_refused_also_by_a_dry_run(tmp_path, low, says):
    run = _request(tmp_path, "takes", "bars", type("Bars", (Bars,), {"low": low})).run()
    for dry in (True, False):
        with pytest.raises(UserError, match=says):
            launch(run, ("run",), dry_run=dry)
    assert not list(tmp_path.iterdir())


NUMBERS = {"nan": "is not a number", "NaN": "is not a number", "1e400": "too large a number", "9" * 400: "too large",
           "-9223372036854775808000": "too large"}  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_that_nothing_can_be_computed_with_are_refused(text):
    for given_ in (f"m[beta={text}]", f"m[of=n[beta={text}]]"):
        with pytest.raises(UserError, match=NUMBERS[text]):
            parse_specs(given_)
    with pytest.raises(UserError, match=NUMBERS[text]):
        parse_settings([f"m.beta={text}"], [Spec("m")])


def test_infinity_is_a_number_where_somebody_writes_it():
    (spec,) = parse_specs("m[beta=-inf]")
    assert spec.params == {"beta": -float("inf")}
    assert parse_specs(spec.label) == [spec]


TEXTS = ["2024", "1e5", "1E5", "true", "True", "nan", "inf", "None", "null", "007", "1_000", "1e400", "0x10"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_setting_that_takes_a_text_gets_it_as_it_is_written(text):
    registry = Registry(classes={"takes": Takes, "bars": Bars})
    (data,) = registry.parse("dataset", f"bars[path={text}]")
    assert data.params == {"path": text}
    assert data.label == f"bars[path={text}]"
    assert registry.resolve("dataset", data)[1] == {"path": text}
    assert registry.parse("dataset", data.label) == [data]
    (row,) = parse_settings([f"takes.word={text}"], [Spec("takes")], registry.takes_text("method"))
    assert row.params == {"word": text}
    if text not in ("nan", "1e400"):
        assert registry.parse("method", f"takes[thing={text}]")[0].params != {"thing": text} or text == "0x10"


def test_a_data_set_whose_folder_has_the_name_of_a_number_is_found_again(tmp_path):
    for text in ("1e5", "nan"):
        run = _request(tmp_path, "takes", f"bars[path={text}]", Bars, name=f"r-{text}").run()
        declare(run, ("run",))
        manifest = read_manifest(tmp_path / f"r-{text}")
        assert manifest.label_of(tmp_path, f"bars[path={text}]") == f"bars[path={text}]"
        assert manifest.spec_of(f"bars[path={text}]") == run.datasets[0]
        assert _request(tmp_path, "takes", f"bars[path={text}]", Bars, name="again").run().cells == run.cells
