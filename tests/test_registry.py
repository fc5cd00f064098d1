"""Plugins by name, their keywords, and the digests of their sources."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest

from cfbench import digest
from cfbench.errors import UserError
from cfbench.registry import Plugin, Registry
from cfbench.spec import parse_specs

TOYS = Path(__file__).with_name("toys.py")


def test_built_ins_come_through_entry_points():
    registry = Registry()
    assert {"diffscm", "deepscm", "identity", "nearest", "oracle", "untrained"} <= set(registry.names("method"))
    assert {"strokes", "digits", "mnist"} <= set(registry.names("dataset"))
    assert all(p.entry is not None for p in registry.plugins.values())


def test_every_built_in_loads():
    registry = Registry()
    for kind, name in registry.plugins:
        assert registry.load(kind, name).__name__


def test_a_file_adds_its_classes():
    registry = Registry([TOYS])
    assert {"knows", "learns"} <= set(registry.names("method"))
    assert registry.load("dataset", "bars").__name__ == "Bars"


def test_two_origins_of_one_name_are_an_error():
    registry = Registry()
    with pytest.raises(UserError, match="two plugins claim the method 'deepscm'"):
        registry._add(Plugin("method", "deepscm", "other 1.0", "other:DeepSCM"))


def test_a_plugin_that_cannot_be_imported_lists_but_does_not_load():
    registry = Registry()
    broken = EntryPoint("broken", "no.such.module:Thing", "cfbench.methods")
    registry._add(Plugin("method", "broken", "other 1.0", broken.value, entry=broken))
    assert "broken" in registry.names("method")
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError"):
        registry.load("method", "broken")


def test_a_plugin_of_the_wrong_kind_is_refused():
    registry = Registry()
    wrong = EntryPoint("wrong", "pathlib:Path", "cfbench.methods")
    registry._add(Plugin("method", "wrong", "other 1.0", wrong.value, entry=wrong))
    with pytest.raises(UserError, match="is not a Method or Control"):
        registry.load("method", "wrong")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def broken(:", "SyntaxError"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("x = 1", "defines no Method, Control, Dataset or Metric"),
    ],
)
def test_a_file_that_is_no_plugin_is_told_so(tmp_path, source, says):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(UserError, match=says):
        Registry([file])


def test_presets_and_settings_become_keywords(tmp_path):
    file = tmp_path / "tuned.py"
    file.write_text(
        "from typing import Literal\n"
        "from cfbench.contract import Method\n"
        "class Tuned(Method):\n"
        "    presets = {'paper': {'scale': 0.7, 'rule': 'cld'}}\n"
        "    def __init__(self, graph, scale: float | None = None, steps: int = 25,"
        " rule: Literal['cld', 'best', 'none'] = 'best', on: bool = True): super().__init__(graph)\n"
    )
    registry = Registry([file])

    def resolve(text):
        return registry.resolve("method", parse_specs(text)[0])[1]

    assert resolve("tuned") == {}
    assert resolve("tuned:paper[scale=2]") == {"scale": 2, "rule": "cld"}
    assert resolve("tuned[scale=none]") == {"scale": None}
    assert resolve("tuned[rule=none]") == {"rule": "none"}
    for bad in ("tuned[steps=2.5]", "tuned[rule=worst]", "tuned[on=1]", "tuned[steps=true]", "tuned[scale=x]"):
        with pytest.raises(UserError, match="takes"):
            resolve(bad)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose module `a` imports its sibling `b`; loads the class anew after every edit."""
    folder = tmp_path / "digested"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "b.py").write_text("def f():\n    return 1\n")
    (folder / "c.py").write_text("unused = 1\n")
    (folder / "a.py").write_text('from .b import f\n\nclass A:\n    """Doc."""\n    x = 1\n')
    monkeypatch.syspath_prepend(str(tmp_path))

    def load():
        for name in [m for m in sys.modules if m.split(".")[0] == "digested"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        spec = importlib.util.find_spec("digested.a")
        module = importlib.util.module_from_spec(spec)
        sys.modules["digested.a"] = module
        spec.loader.exec_module(module)
        return module.A

    return folder, load


EDIT = Literal["same", "other"]


@pytest.mark.parametrize(
    ("file", "old", "new", "effect"),
    [
        ("a.py", "x = 1", "x = 2", "other"),
        ("a.py", "x = 1", "x  =  1  # a comment", "same"),
        ("a.py", "Doc.", "Another sentence.", "same"),
        ("b.py", "return 1", "return 2", "other"),
        ("b.py", "return 1", "return 1  # why", "same"),
        ("c.py", "unused = 1", "unused = 2", "same"),
    ],
)
def test_digests_follow_code_and_not_comments(package, file, old, new, effect: EDIT):
    folder, load = package
    before = digest.source_digest(load())
    text = (folder / file).read_text()
    (folder / file).write_text(text.replace(old, new) + "\n")
    digest._bare.cache_clear()
    after = digest.source_digest(load())
    assert (after == before) == (effect == "same")
