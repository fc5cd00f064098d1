"""What is nested without end, in specs, settings, tables and folders, ends in one line."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from cfbench_datasets.folder.graph_file import read_declaration
from small import doctor, small_run, stage

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.errors import UserError
from cfbench.exchange.verify import damaged_stages
from cfbench.plugins.registry import Registry
from cfbench.plugins.spec import parse_specs
from cfbench.runs.progress import read_events

DEEP = 1200


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("nested")
    assert small_run(root, "r", "--methods", "learns", metrics="truth") == 0
    return root


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "r", tmp_path / "r")
    yield tmp_path / "r"
    storage.remove_tree(tmp_path / "r")  # pytest could not


def refused(run, capsys, command="status"):
    capsys.readouterr()
    assert _main([command, "r", "--run-root", str(run.parent)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("cfbench: error: ")
    assert err.count("\n") == 1
    return err


def nest(folder, depth=DEEP):
    """Folders in folders; made from within, as the whole path is longer than the system takes at once."""
    here = os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)


@pytest.mark.parametrize("depth", [9, 400, 10**5])
def test_specs_in_specs_have_an_end(depth):
    text = "resample[of=" * depth + "diffscm" + "]" * depth
    with pytest.raises(UserError, match="more than 8 others; write fewer") as error:
        parse_specs(text)
    assert len(str(error.value)) < 200
    with pytest.raises(UserError):
        Registry().parse("method", text)


def test_two_specs_in_a_spec_are_no_trouble():
    (spec,) = parse_specs("a[of=b[of=c[of=d[x=1]]]]")
    assert parse_specs(spec.label) == [spec]


@pytest.mark.parametrize("depth", [33, 600, 10**5])
def test_lists_in_a_setting_have_an_end(run, capsys, depth):
    text = (run / "run.json").read_text()
    nested = "[" * depth + "]" * depth
    (run / "run.json").write_text(text.replace('"params": {}', f'"params": {{"knob": {nested}}}', 1))
    assert "is no JSON" in refused(run, capsys)


def test_lists_in_a_field_of_a_newer_version_have_an_end(run, capsys):
    doctor(run, lambda about: about.update(newer=json.loads("[" * 500 + "]" * 500)))
    assert "nested more than 32 deep" in refused(run, capsys)


@pytest.mark.parametrize("depth", [40, DEEP])
def test_folders_in_a_stage_have_an_end(run, capsys, depth):
    images = stage(run, "cells/bars/learns/seed-0/images-*")
    nest(images, depth)
    assert "a folder too deep" in refused(run, capsys)
    assert storage.damaged_files(images) == ["/".join("d" * 32)]
    assert images in damaged_stages(run)[1]
    storage.remove_damaged(images)
    assert not images.exists()


def test_a_run_goes_on_where_a_draft_or_a_stage_has_folders_without_end(run, made, capsys):
    images = stage(run, "cells/bars/learns/seed-0/images-*")
    nest(images)
    draft = run / f".x-draft-{'0' * 8}-1-abcdefgh"
    draft.mkdir()
    nest(draft)
    assert storage.remove_abandoned(run) == []
    os.utime(draft, (0, 0))
    assert small_run(run.parent, "r", "--methods", "learns", "--data-root", str(made), metrics="truth") == 0
    storage.remove_tree(draft)  # pytest could not


def test_folders_are_removed_however_deep_they_are(tmp_path):
    (tmp_path / "x").mkdir()
    nest(tmp_path / "x")
    (tmp_path / "x" / "file").write_text("")
    os.symlink(tmp_path, tmp_path / "x" / "link")
    storage.remove_tree(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_lines_of_a_log_have_an_end(tmp_path):
    (tmp_path / "events.jsonl").write_text("[" * 10**5 + "\n" + '{"event": "end"}\n')
    assert list(read_events(tmp_path)) == [{"event": "end"}]


NESTED = {
    "lists": "classes = " + "[" * 2000 + "]" * 2000,
    "some lists": "classes = " + "[" * 200 + "]" * 200,
    "tables": "kind = " + "{a = " * 2000 + "1" + "}" * 2000,
    "keys": "kind" + ".a" * 2000 + " = 1",
    "a key": "unit" + ".a" * 2000 + " = 1\nkind = 'continuous'",
    "digits": "kind = 'continuous'\nlow = " + "1" * 5000,
}


@pytest.mark.parametrize("name", NESTED)
def test_what_is_nested_in_a_graph_has_an_end(name):
    with pytest.raises(UserError) as error:
        read_declaration(f"[variables.shade]\n{NESTED[name]}\n".encode(), "graph.toml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", ["[1]", "{a = 1}", "1", "true", "2020-01-01"])
@pytest.mark.parametrize("key", ["kind", "unit", "parents", "classes", "low"])
def test_values_of_another_type_are_named(key, value):
    text = f"[variables.a]\nkind = 'categorical'\n{key} = {value}\n".replace(
        "kind = 'categorical'\nkind", "kind"
    )  # fmt: skip
    if key == "low":
        text = text.replace("categorical", "continuous")
    if (key, value) in {("parents", "[1]"), ("classes", "[1]"), ("low", "1")}:
        return
    with pytest.raises(UserError):
        read_declaration(text.encode(), "graph.toml")
