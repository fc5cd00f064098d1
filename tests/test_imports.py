"""Imports run in one direction, from the command line down to the contract, and to no plugin; read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = {"cfbench.contract", "cfbench.graph", "cfbench.rng"}
"""What a plugin needs to be written against: it rests on nothing else of cfbench."""
SLOW = {"torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "seaborn", "ray", "safetensors", "PIL", "zuko"}
QUICK = {
    "cfbench",
    "cfbench.cli.main",
    "cfbench.cli.plugins",
    "cfbench.plugins.registry",
    "cfbench.plugins.describe",
    "cfbench.conformance.command",
}
"""Modules that list, help and a mistyped option are answered by."""

NAMED = {"cfbench.engine.workers.transfer"}
"""Modules that name the folders of built-in plugins: one lays out the whole distribution for other machines."""
LAYERS = (
    ("version", "errors", "names", "rng", "graph", "images", "contract", "evidence", "nn"),
    ("storage", "plugins"),
    ("metrics", "judges", "evaluation"),
    ("runs",),
    ("engine", "report", "conformance"),
    ("exchange", "site"),
    ("cli", "api", "__main__"),
)
"""From the bottom up: what a module may import stands on its own floor or below."""
FLOOR = {name: number for number, names in enumerate(LAYERS) for name in names}
TOOLS = ("errors", "evidence", "names", "nn", "plugins.spec", "plugins.digest", "runs.environment", "storage.plain")
"""What built-in plugins take besides the contract."""
LAZY = {ROOT / "cfbench/__init__.py"}
"""Files that import by a name: the package's own, which loads what Python users take from it when they do."""


def module(file: Path, root: Path = ROOT) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module(f): f for f in (ROOT / "cfbench").rglob("*.py") if "templates" not in f.parts}


def imports(node: ast.AST, package: str, *, eager: bool = False) -> Iterator[str]:
    """What a piece of code imports, all names in full: ``from .a import b`` gives the package's ``a`` and ``a.b``.

    What only type checkers import is left out, and with ``eager`` what functions import when they are called.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (a.name for a in child.names)
        elif isinstance(child, ast.ImportFrom):
            kept = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            base = ".".join([*kept, *([child.module] if child.module else [])])
            yield base
            yield from (f"{base}.{a.name}" for a in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports(ast.Module(child.orelse, []), package, eager=eager)
        elif not (eager and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))):
            yield from imports(child, package, eager=eager)


@cache
def used(name: str, eager: bool = False) -> frozenset[str]:
    """All that a module of cfbench imports."""
    file = modules()[name]
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return frozenset(imports(ast.parse(file.read_text()), package, eager=eager))


def siblings(name: str, eager: bool = False) -> set[str]:
    """The modules of cfbench that one imports; of a package's module that means the module, not what it re-exports."""
    found = {u for u in used(name, eager) if u in modules()} - {name}
    deeper = {u for u in found if any(o.startswith(f"{u}.") for o in found)}
    return {u for u in found if u not in deeper or _takes_more(name, u, eager)}


def _takes_more(name: str, package: str, eager: bool) -> bool:
    """Whether something is imported from a package that is not one of its modules."""
    taken = {u for u in used(name, eager) if u.startswith(f"{package}.") and u.count(".") == package.count(".") + 1}
    return bool(taken - modules().keys())


def reached(name: str, eager: bool = False) -> set[str]:
    """The modules of cfbench that come with one."""
    seen, todo = set(), [name]
    while todo:
        if (each := todo.pop()) not in seen:
            seen.add(each)
            todo += siblings(each, eager)
    return seen


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach one another."""

    def below(name: str) -> set[str]:
        seen, todo = set(), list(graph[name])
        while todo:
            if (each := todo.pop()) not in seen:
                seen.add(each)
                todo += graph[each]
        return seen

    reach = {name: below(name) for name in graph}
    groups = {frozenset(o for o in reach[name] if name in reach[o]) for name in graph if name in reach[name]}
    return sorted(map(sorted, groups))


def test_a_cycle_would_be_found():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    tree = ast.parse(
        "from typing import TYPE_CHECKING\nfrom . import a\nif TYPE_CHECKING:\n    from .b import B\n"
        "def f():\n    from ..c import d\n    import e.f"
    )
    assert set(imports(tree, "top.mid")) == {
        "typing",
        "typing.TYPE_CHECKING",
        "top.mid",
        "top.mid.a",
        "top.c",
        "top.c.d",
        "e.f",
    }
    assert "top.c" not in set(imports(tree, "top.mid", eager=True))


def test_no_module_is_imported_by_what_it_imports():
    assert cycles({name: siblings(name) for name in modules()}) == []


def test_the_contract_rests_on_nothing_but_the_graph_and_the_streams():
    assert reached("cfbench.contract") <= CORE | {"cfbench"}
    assert {u.split(".")[0] for name in CORE for u in used(name)} & SLOW == {"torch"}


def layer(name: str) -> int:
    """The floor that a module stands on: what it is in the layers, the package's own front above all of them."""
    parts = name.split(".")
    return FLOOR[parts[1]] if len(parts) > 1 else len(LAYERS)


def test_imports_run_downward_through_the_layers():
    assert {name.split(".")[1] for name in modules() if "." in name} == FLOOR.keys()
    for name in modules():
        up = {u for u in siblings(name) - {"cfbench"} if layer(u) > layer(name)}
        assert not up, (name, up)


def test_packages_of_a_layer_import_each_other_in_one_direction_at_most():
    found: dict[str, set[str]] = {}
    for name in modules():
        for other in siblings(name) - {"cfbench"}:
            a, b = (each.split(".")[1] if "." in each else each for each in (name, other))
            if a != b and layer(name) == layer(other):
                found.setdefault(a, set()).add(b)
    graph = {name: found.get(name, set()) for name in {*found, *(b for each in found.values() for b in each)}}
    assert cycles(graph) == []


def test_inner_packages_import_each_other_in_one_direction_at_most():
    found: dict[str, set[str]] = {}
    for name in modules():
        for other in siblings(name):
            (a, inner), (b, beyond) = (each.rpartition(".")[0].rpartition(".")[::2] for each in (name, other))
            if a == b and a != "cfbench" and inner != beyond:
                found.setdefault(f"{a}.{inner}", set()).add(f"{a}.{beyond}")
    assert found["cfbench.conformance.checks"] == {"cfbench.conformance.subjects"}
    assert (
        cycles({name: found.get(name, set()) for name in {*found, *(b for each in found.values() for b in each)}}) == []
    )


def test_what_another_module_takes_is_public():
    for name, file in modules().items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for source, taken in from_imports(ast.parse(file.read_text()), package):
            if source in modules() and f"{source}.{taken}" not in modules() and source != "cfbench":
                assert taken in public(source), f"{name} takes {taken} from {source}, which does not list it"


def from_imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """The modules that a module takes something from, and what."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            kept = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*kept, *([node.module] if node.module else [])])
            yield from ((base, alias.name) for alias in node.names)


@cache
def public(name: str) -> frozenset[str]:
    """What a module lists in ``__all__``."""
    for node in ast.parse(modules()[name].read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@pytest.mark.parametrize("name", sorted(QUICK))
def test_what_answers_list_and_help_imports_nothing_slow(name):
    found = {u.split(".")[0] for each in reached(name, eager=True) for u in used(each, eager=True)}
    assert not found & SLOW


def test_plugins_are_imported_through_the_registry_alone():
    own = {f"cfbench_{folder}" for folder in ("methods", "datasets")}
    for name, file in modules().items():
        assert not {u.split(".")[0] for u in used(name)} & (own | {"methods", "datasets"}), file
        named = [part for part in own if part in file.read_text()]
        assert not named or name in NAMED, f"{file} names a folder of built-in plugins"
        if not name.startswith("cfbench.metrics"):
            assert not [u for u in used(name) if u.startswith("cfbench.metrics")], file


def test_no_module_is_loaded_by_a_name_that_is_made_up():
    for file in modules().values():
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        names = {ast.unparse(c.func) for c in calls}
        assert not names & {"__import__", "importlib.import_module", "import_module"} or file in LAZY, file


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_built_in_plugins_need_only_what_any_plugin_may_have(folder):
    tools = {f"cfbench.{name}" for name in TOOLS}
    for file in (ROOT / folder).rglob("*.py"):
        found = {u for u in imports(ast.parse(file.read_text()), f"cfbench_{folder}") if u in modules()}
        assert found <= {"cfbench"} | CORE | tools, file
