"""The package holds all code folders, and claims no name at the top level that belongs to others."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import wheels

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"cfbench": "cfbench", "methods": "cfbench_methods", "datasets": "cfbench_datasets"}


def modules(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*.py") if "__pycache__" not in f.parts]


def code_folders(root: Path) -> set[str]:
    """The packages that a checkout has code for, by the names that they are imported by."""
    files = ((package, f.relative_to(root / top)) for top, package in FOLDERS.items() for f in modules(root / top))
    return {".".join([package, *file.parent.parts]) for package, file in files}


def test_every_folder_with_code_is_declared():
    assert code_folders(ROOT) == set(CONFIG["tool"]["setuptools"]["packages"])


def test_a_folder_that_is_not_declared_would_be_found(tmp_path):
    for top in FOLDERS:
        (tmp_path / top / "inner" / "deep").mkdir(parents=True)
        (tmp_path / top / "inner" / "deep" / "code.py").write_text("")
    assert code_folders(tmp_path) == {f"{package}.inner.deep" for package in FOLDERS.values()}


def test_the_wheel_holds_every_module():
    with zipfile.ZipFile(wheels.checkout()) as wheel:
        packed = {name for name in wheel.namelist() if name.endswith(".py")}
    files = ((package, f.relative_to(ROOT / top)) for top, package in FOLDERS.items() for f in modules(ROOT / top))
    assert packed == {f"{package}/{file.as_posix()}" for package, file in files}


def test_the_wheel_holds_what_a_page_is_made_from():
    with zipfile.ZipFile(wheels.checkout()) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("cfbench/site/")}
    folders = (ROOT / "cfbench" / "site" / name for name in ("static", "templates"))
    files = {f"cfbench/site/{f.parent.name}/{f.name}" for folder in folders for f in folder.iterdir()}
    assert len(files) > 5
    assert files <= packed


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_folders_of_plugins_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("folder", ["methods", "datasets"])
def test_what_plugins_share_lies_in_packages_with_a_charter(folder):
    for inner in {f.parent for f in modules(ROOT / folder)} - {ROOT / folder}:
        tree = ast.parse((inner / "__init__.py").read_text())
        assert ast.get_docstring(tree), inner
        assert len(tree.body) == 1, f"{inner} imports something that not everybody needs"


def test_the_folder_of_methods_shows_methods_and_nothing_else():
    points = CONFIG["project"]["entry-points"]
    targets = (points["cfbench.methods"] | points["cfbench.controls"]).values()
    registered = {target.partition(":")[0] for target in targets}
    assert {f"cfbench_methods.{file.stem}" for file in (ROOT / "methods").glob("*.py")} == registered


def test_built_in_plugins_import_their_siblings_relatively():
    for folder in ("methods", "datasets"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert not [n for n in names if n.split(".")[0] in ("cfbench_methods", "cfbench_datasets")], file


def test_the_harness_imports_no_built_in():
    for file in (ROOT / "cfbench").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("cfbench_methods", "cfbench_datasets")], file
            if "metrics" not in file.parts:
                assert not [n for n in names if n.startswith(("metrics.", "cfbench.metrics"))], file


WORDS = {"change", "composition", "digits", "folder", "measured", "oracle", "resample", "truth"}
"""Names of built-ins that are words of the harness too: the oracle of a data set, the folder of a run."""
DEFAULTS = {"cfbench/runs/budget.py", "cfbench/report/summary/headline.py", "cfbench/report/agreement.py"}
"""Where it stands what a run asks for unless it says otherwise, and which columns a summary shows."""
ROLES = ("contract", "report/charts/references", "report/columns", "report/judge_card", "report/score_table")
"""Where the role of a column stands, the only word of the harness that is the name of a metric."""
EXAMPLES = {
    "cfbench/plugins/scaffold.py",
    "cfbench/plugins/spec.py",
    *(f"cfbench/cli/{name}.py" for name in ("exchange", "main", "plugins")),
}
"""Modules whose texts for users show commands."""


def literals(file: Path) -> Iterator[str]:
    """The strings of a module, docstrings left out."""
    tree = ast.parse(file.read_text())
    notes = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node.value


def test_the_harness_names_no_built_in():
    points = CONFIG["project"]["entry-points"]
    names = {name for group in points.values() for name in group} - WORDS
    assert {"diffscm", "identity", "strokes", "effectiveness", "cld", "runtime"} <= names
    found = {}
    for file in modules(ROOT / "cfbench"):
        path = file.relative_to(ROOT).as_posix()
        if path.startswith("cfbench/metrics/") or path in DEFAULTS | EXAMPLES:
            continue
        words = {word for text in literals(file) for word in re.findall(r"[\w-]+", text)}
        found |= {path: words & names} if words & names else {}
    roles = {f"cfbench/{file}.py": {"effectiveness"} for file in ROLES}
    recorded = {"cfbench/engine/health.py": {"effectiveness"}}  # a column of the guidance tables that methods record
    assert found == roles | recorded, "the role of a column is the only word that stands for a metric"


def test_tables_and_charts_name_no_column():
    points = CONFIG["project"]["entry-points"]["cfbench.metrics"]
    metrics = [EntryPoint(name, target, "cfbench.metrics").load() for name, target in points.items()]
    columns = {column for metric in metrics for column in metric.columns}
    columns -= {"accuracy", "error", "parameters", "images_seen"}  # of judges, cards, units and costs
    assert len(columns) > 25
    for file in modules(ROOT / "cfbench" / "report"):
        if file.relative_to(ROOT).as_posix() in DEFAULTS:
            continue
        words = {word for text in literals(file) for word in re.findall(r"[\w-]+", text)}
        assert not words & columns, file


@pytest.mark.parametrize("args", [["list"], ["--help"], ["run", "--help"], ["--version"]])
def test_help_and_list_import_neither_torch_nor_plugins(args):
    code = (
        "import sys; from cfbench.cli.main import _main; code = _main(sys.argv[1:]);"
        "bad = [m for m in sys.modules if m.split('.')[0] in"
        " ('torch', 'ray', 'numpy', 'pandas', 'cfbench_methods', 'cfbench_datasets')];"
        "sys.exit(f'{code} {bad}' if code or bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
