"""Files and words of every kind, drawn at random: each is read or refused in one line, soon and without a traceback."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import time
from pathlib import Path

import pytest
from cfbench_datasets.folder.graph_file import Declaration, read_declaration
from cfbench_datasets.folder.parents_table import read_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import small_run, stage
from test_folder import GRAPH as FOLDER_GRAPH

from cfbench import storage
from cfbench.errors import UserError
from cfbench.plugins.registry import Registry
from cfbench.plugins.spec import parse_settings, parse_specs
from cfbench.runs.manifest import read_manifest
from cfbench.runs.progress import read_events
from cfbench.runs.reader import read_results, read_run

LIMIT = 10.0
"""Seconds that nobody has to wait longer than."""
SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
GRAPH = 'mode = "grey"\nsize = [16, 16]\n' + FOLDER_GRAPH + "low = 0.0\nhigh = 255\n"
TABLE = 'image,kind,shade,split,note\nimg/1.png,cat,12.5,train,"x, y"\nimg/2.png,dog,3e1,test,z\n'

WORDS = st.sampled_from([
    "[", "]", "{", "}", "=", ",", ":", ".", '"', "'", "\n", "\t", "\r\n", "#", "\\", "\0", "\u00a0", "\ufeff", "\u2028",
    "e\u0301", "\x1b[2J", "nan", "inf", "-inf", "1e999", "-1", "0x", "1_0", "9" * 30, "9" * 5000, "true", "null", "../",
    "[" * 300, "[[" * 2000, "{a=" * 500, "a." * 600, '"' * 3, "image", "split", "Split", "kind", "variables", "/",
    "2020-01-01",
])  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
JSON = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=8
)


def edited(text: str) -> st.SearchStrategy[str]:
    """A text with a few parts replaced by others."""
    part = st.tuples(st.integers(0, len(text)), st.integers(0, 12), WORDS | st.text(max_size=6))
    return st.lists(part, min_size=1, max_size=4).map(lambda parts: _replaced(text, parts))


def _replaced(text: str, parts: list[tuple[int, int, str]]) -> str:
    for at, length, new in parts:
        text = text[:at] + new + text[at + length :]
    return text


@contextlib.contextmanager
def one_line():
    """Whatever is refused is refused in one line, and soon."""
    start = time.monotonic()
    try:
        yield
    except UserError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 6000
    assert time.monotonic() - start < LIMIT


REGISTRY = Registry()
SPECS = "deepscm:paper[beta=0.5,residual=none],resample[of=diffscm[scale=2,steps=50]],flowscm"


@given(text=edited(SPECS) | st.text(max_size=40))
@settings(max_examples=100, **SETTINGS)
def test_specs(text):
    with one_line():
        for spec in parse_specs(text):
            assert parse_specs(spec.label) == [spec]
            REGISTRY.resolve("method", spec)
    with one_line():
        parse_settings([text], parse_specs("deepscm,diffscm[scale=2]"))


@given(text=edited(GRAPH))
@settings(max_examples=100, **SETTINGS)
def test_graphs(text):
    with one_line():
        read_declaration(text.encode(errors="surrogatepass"), "graph.toml")


@given(data=st.binary(max_size=200))
@settings(max_examples=50, **SETTINGS)
def test_bytes_in_place_of_a_graph_or_a_table(data):
    with one_line():
        read_declaration(data, "graph.toml")
    with one_line():
        read_rows(data, read_declaration(GRAPH.encode(), "graph.toml"), "parents.csv")


@given(text=edited(TABLE))
@settings(max_examples=100, **SETTINGS)
def test_tables(text):
    declaration: Declaration = read_declaration(GRAPH.encode(), "graph.toml")
    with one_line():
        read_rows(text.encode(errors="surrogatepass"), declaration, "parents.csv")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    assert small_run(root, "r", "--methods", "learns,tunes", metrics="truth") == 0
    return root / "r"


def _places(value, path=()):
    """The paths to all values in nested lists and objects."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from _places(inner, (*path, key))


def changed(about, places, new, remove):
    """A copy of nested lists and objects with some values replaced, or removed."""
    about = copy.deepcopy(about)
    for path in places:
        try:
            *parents, last = path
            inner = about
            for key in parents:
                inner = inner[key]
            if remove:
                del inner[last]
            else:
                inner[last] = copy.deepcopy(new)
        except (LookupError, TypeError, ValueError):  # an earlier change took it away, or it is the whole
            continue
    return about


def _read(run: Path) -> None:
    """All that commands read of a run."""
    stored = read_run(run)
    for label in stored.manifest.datasets:
        read_results(stored, label)
    list(read_events(run))


@given(data=st.data(), new=JSON, remove=st.booleans())
@settings(max_examples=25, **SETTINGS)
def test_run_json(made, data, new, remove):
    path = made / "run.json"
    text = path.read_bytes()
    about = json.loads(text)
    places = data.draw(st.lists(st.sampled_from(list(_places(about))), min_size=1, max_size=3))
    try:
        path.write_text(json.dumps(changed(about, places, new, remove)))
        with one_line():
            read_manifest(made)
            _read(made)
    finally:
        path.write_bytes(text)


@given(data=st.data())
@settings(max_examples=10, **SETTINGS)
def test_run_json_that_is_no_json(made, data):
    path = made / "run.json"
    text = path.read_text()
    try:
        path.write_bytes(data.draw(edited(text)).encode(errors="surrogatepass"))
        with one_line():
            _read(made)
    finally:
        path.write_text(text)


FILES = ["cells/bars/tunes/seed-0/images-*/stage.json", "cells/bars/learns/seed-0/score-truth-*/stage.json",
         "cells/bars/learns/seed-0/score-truth-*/scores.json",
         "cells/bars/tunes/seed-0/tune-*/chosen.json", "cells/bars/tunes/seed-0/tune-*/remarks.json",
         "plans/bars-*/plan.json", "plans/bars-*/stage.json", "judges/bars-*/card.json"]  # fmt: skip


@pytest.mark.parametrize("pattern", FILES)
@given(data=st.data(), new=JSON, remove=st.booleans())
@settings(max_examples=4, **SETTINGS)
def test_manifests_and_tables_of_stages(made, pattern, data, new, remove):
    path = stage(made, pattern)
    manifest = path.parent / storage.MANIFEST
    before = {p: p.read_bytes() for p in (path, manifest)}
    about = json.loads(before[path])
    places = data.draw(st.lists(st.sampled_from(list(_places(about))), min_size=1, max_size=3))
    try:
        path.write_text(json.dumps(changed(about, places, new, remove)))
        if path != manifest:
            sealed = json.loads(before[manifest])
            sealed["files"][path.name] = storage.sha256(path)
            manifest.write_text(json.dumps(sealed))
        with one_line():
            _read(made)
        assert isinstance(storage.damaged_files(path.parent), list)
    finally:
        for file, text in before.items():
            file.write_bytes(text)


@given(lines=st.lists(JSON.map(json.dumps) | st.text(max_size=20) | WORDS, max_size=5))
@settings(max_examples=100, **SETTINGS)
def test_logs(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("log")
    (folder / "events.jsonl").write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    with one_line():
        list(read_events(folder))
    shutil.rmtree(folder)
