"""Plugins by name, their keywords, and the digests of their sources."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest
from cfbench_methods.identity import Identity

from cfbench.errors import PluginError, UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.plugins import digest
from cfbench.plugins.discovery import Plugin
from cfbench.plugins.registry import Registry
from cfbench.plugins.spec import parse_specs

TOYS = Path(__file__).with_name("toys.py")
MINE = (
    "from cfbench.contract import Method\n"
    "class Mine(Method):\n"
    "    def abduct(self, x, pa, rng): return x\n"
    "    def predict(self, u, pa, rng): return u\n"
)


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


def claim(name: str, target: str, origin: str = "other 1.0") -> Plugin:
    entry = EntryPoint(name, target, "cfbench.methods")
    return Plugin("method", name, origin, target, entry=entry)


def test_two_origins_of_one_name_are_told_when_it_is_asked_for():
    registry = Registry()
    registry._add(claim("deepscm", "other:DeepSCM"))
    registry._add(claim("deepscm", "third:DeepSCM", "third 2.0"))
    assert registry.names("method").count("deepscm") == 1
    for ask in (registry.find, registry.load):
        with pytest.raises(PluginError, match="three plugins claim the method 'deepscm'") as told:
            ask("method", "deepscm")
        assert "other:DeepSCM of other 1.0" in str(told.value)
        assert "third:DeepSCM of third 2.0" in str(told.value)
    assert registry.load("method", "identity").__name__ == "Identity"


def test_the_same_target_twice_is_no_collision():
    registry = Registry([TOYS, TOYS])
    registry._add(claim("deepscm", registry.find("method", "deepscm").target))
    assert registry.rivals == {}
    assert registry.load("method", "knows").__name__ == "Knows"


def test_two_files_that_define_one_name_collide(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(MINE)
    registry = Registry([tmp_path / "a/mine.py", tmp_path / "b/mine.py"])
    with pytest.raises(PluginError, match="two plugins claim the method 'mine'"):
        registry.find("method", "mine")


def test_a_plugin_that_cannot_be_imported_lists_but_does_not_load():
    registry = Registry()
    registry._add(claim("broken", "no.such.module:Thing"))
    assert "broken" in registry.names("method")
    with pytest.raises(PluginError, match="cannot be imported: ModuleNotFoundError"):
        registry.load("method", "broken")


def test_a_plugin_of_the_wrong_kind_is_refused():
    registry = Registry()
    registry._add(claim("wrong", "pathlib:Path"))
    with pytest.raises(PluginError, match="is not a Method or Control"):
        registry.load("method", "wrong")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x = 1\ndef broken(:", r"SyntaxError: .* \(mine.py line 2\)"),
        ("\n\nimport no_such_module", r"No module named 'no_such_module' \(mine.py line 3\)"),
        ("import sys; sys.exit(3)", r"SystemExit: calls sys.exit\(3\) \(mine.py line 1\)"),
        ("x = 1", "defines no Method, Control, Dataset or Metric"),
        ("from cfbench.contract import Method\nclass Mine(Method):\n    name = 'my own'", "is named 'my own'"),
    ],
)
def test_a_file_that_is_no_plugin_is_told_when_a_name_is_missing(tmp_path, source, says):
    file = tmp_path / "mine.py"
    file.write_text(source)
    registry = Registry([file])
    assert [b.origin for b in registry.broken] == [str(file)]
    with pytest.raises(PluginError, match=f"unknown method 'mine', and .*mine.py cannot be loaded: .*{says}"):
        registry.load("method", "mine")
    assert registry.load("method", "identity").__name__ == "Identity"


def test_of_many_broken_files_those_that_have_the_name_are_told(tmp_path):
    for name in ("mine", "yours", "theirs"):
        (tmp_path / f"{name}.py").write_text(f"class {name.capitalize()}(:\n")
    registry = Registry(sorted(tmp_path.glob("*.py")))
    with pytest.raises(PluginError, match=r"unknown method 'yours', and \S+yours.py cannot be loaded: [^;]*$"):
        registry.load("method", "yours")
    with pytest.raises(PluginError, match=r"mine.py cannot .*theirs.py cannot .*yours.py cannot"):
        registry.load("method", "nobody")


def test_a_file_that_does_not_exist_is_an_error_at_once(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Registry([tmp_path / "mine.py"])


def test_a_file_that_changed_is_loaded_anew(tmp_path):
    file = tmp_path / "fresh.py"
    for state, dim in enumerate((1, 2)):
        file.write_text(f"{MINE}    dim = {dim}\n")
        os.utime(file, (state, state))
        assert Registry([file]).load("method", "mine").dim == dim


def test_classes_and_instances_of_this_session_have_the_names_they_are_given():
    class Local(Identity):
        pass

    graph = CausalGraph((Variable("digit", "categorical", size=10),), (1, 8, 8))
    made = Local(graph)
    registry = Registry((), {"mine": Local, "made": made, "identity": Identity})
    assert registry.load("method", "mine") is Local
    assert registry.find("method", "mine").origin == "this session"
    assert registry.load("method", "made") is Local
    assert registry.find("method", "made").cls is made
    assert registry.load("method", "identity") is Identity, "the installed class under its own name is no collision"
    with pytest.raises(UserError, match="is an instance"):
        registry.resolve("method", parse_specs("made[dim=1]")[0])
    with pytest.raises(UserError, match="'path' is a int; give a Method"):
        Registry((), {"path": 3})
    with pytest.raises(PluginError, match="two plugins claim the method 'deepscm'"):
        Registry((), {"deepscm": Local}).load("method", "deepscm")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def abduct(self, x, pa, rng): ...", r"Mine defines no predict; write def predict\(self, u, pa, rng\)"),
        (
            "def abduct(self, x, pa, rng): ...\n    def predict(self, u): ...",
            r"Mine.predict takes \(u\), the contract calls predict\(u, pa, rng\): too many positional arguments",
        ),
        (
            "def abduct(self, x, pa, rng, more): ...\n    def predict(self, u, pa, rng): ...",
            r"Mine.abduct takes \(x, pa, rng, more\), .*: missing a required argument: 'more'",
        ),
        ("abduct = 3\n    def predict(self, u, pa, rng): ...", r"Mine.abduct is a int, the contract calls abduct\("),
        ("{both}def __init__(self, width=3): ...", r"Mine.__init__ takes \(width=3\), .* with graph and settings"),
        ("{both}def fit(self): ...", r"Mine.fit takes \(\), the contract calls fit\(run\)"),
        ("{both}def sample(self, pa): ...", r"Mine.sample takes \(pa\), the contract calls sample\(pa, rng\)"),
        ("{both}answer_params = frozenset({'x'})", "Mine.answer_params names 'x', which __init__ does not take"),
        ("{both}answer_params = ['x']", "Mine.answer_params is a list"),
    ],
)
def test_a_class_that_the_contract_cannot_call_is_refused(tmp_path, body, says):
    both = "def abduct(self, x, pa, rng): ...\n    def predict(self, u, pa, rng): ...\n    "
    file = tmp_path / "mine.py"
    file.write_text(
        "from cfbench.contract import Method\nclass Mine(Method):\n    "
        "def __init__(self, graph, width=1): super().__init__(graph)\n    " + body.replace("{both}", both) + "\n"
    )
    with pytest.raises(PluginError, match=says):
        Registry([file]).load("method", "mine")


@pytest.mark.parametrize(
    "body",
    [
        "@cache\n    def split(self, root, name): ...",
        "@staticmethod\n    def split(root, name): ...",
        "@classmethod\n    def split(cls, root, name): ...",
        "def _any(self, how, root, name): ...\n    split = partialmethod(_any, 'fast')",
        "def split(self, *args, **more): ...",
        "@property\n    def split(self): raise RuntimeError('called')",
        "split = Rows()",
    ],
)
def test_methods_may_be_made_in_any_way(tmp_path, body):
    file = tmp_path / "mine.py"
    file.write_text(
        "from functools import cache, partialmethod\nfrom cfbench.contract import Dataset\n"
        "class Rows:\n    def __call__(self, root, name): ...\n"
        f"class Mine(Dataset):\n    {body}\n"
    )
    assert Registry([file]).load("dataset", "mine").__name__ == "Mine"


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ("class Mine(Dataset): ...", "dataset", "Mine defines no split"),
        ("class Mine(Control): ...", "method", "Mine defines no answer"),
        ("class Mine(Metric):\n    def __call__(self, evidence): ...", "metric", "Mine.columns must tell"),
        (
            "class Mine(Metric):\n    columns = {'d': Column('x', 'up')}\n    def __call__(self, evidence): ...",
            "metric",
            "Mine.columns: 'd' has direction 'up'",
        ),
        (
            "class Mine(Metric):\n    columns = {'d': Column('x', 'lower')}\n    def __call__(self): ...",
            "metric",
            r"Mine.__call__ takes \(\), the contract calls __call__\(evidence\)",
        ),
    ],
)
def test_data_sets_controls_and_metrics_too(tmp_path, source, kind, says):
    file = tmp_path / "mine.py"
    file.write_text(f"from cfbench.contract import Column, Control, Dataset, Metric\n{source}\n")
    with pytest.raises(PluginError, match=says):
        Registry([file]).load(kind, "mine")


def test_a_setting_without_a_default_must_be_given(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"{MINE}    def __init__(self, graph, width: int): super().__init__(graph)\n")
    registry = Registry([file])
    with pytest.raises(UserError, match=r"mine needs a value for width; write mine\[width=...\]"):
        registry.resolve("method", parse_specs("mine")[0])
    assert registry.resolve("method", parse_specs("mine[width=3]")[0])[1] == {"width": 3}


def test_types_that_only_type_checkers_import_are_no_obstacle(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        f"from __future__ import annotations\n{MINE}"
        "    def __init__(self, graph: CausalGraph, dim: float = 1.0): super().__init__(graph)\n"
    )
    assert Registry([file]).resolve("method", parse_specs("mine[dim=2]")[0])[1] == {"dim": 2.0}


def test_presets_and_settings_become_keywords(tmp_path):
    file = tmp_path / "tuned.py"
    file.write_text(
        "from typing import Literal\n"
        + MINE.replace("Mine", "Tuned")
        + "    presets = {'paper': {'scale': 0.7, 'rule': 'cld'}}\n"
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


def test_a_decorated_function_has_the_digest_of_its_own_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "from contextlib import contextmanager\n\n@contextmanager\ndef f():\n    yield {}\n"
    found = []
    for name, value in (("decorated_one", 1), ("decorated_two", 2)):
        (tmp_path / f"{name}.py").write_text(text.format(value))
        found.append(digest.source_digest(importlib.import_module(name).f))
    assert found[0] != found[1]


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
