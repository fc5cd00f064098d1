"""The package holds all code folders, and claims no name at the top level that belongs to others."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"cfbench": "cfbench", "methods": "cfbench_methods", "datasets": "cfbench_datasets"}


def test_every_folder_with_code_is_declared():
    found = set()
    for top, package in FOLDERS.items():
        for file in (ROOT / top).rglob("*.py"):
            found.add(".".join([package, *file.parent.relative_to(ROOT / top).parts]))
    assert found == set(CONFIG["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("folder", ["methods", "datasets", "leaderboard"])
def test_folders_of_plugins_are_no_packages(folder):
    assert not list((ROOT / folder).rglob("__init__.py"))


def test_the_harness_imports_no_built_in():
    for file in (ROOT / "cfbench").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("cfbench_methods", "cfbench_datasets")], file
            if "metrics" not in file.parts:
                assert not [n for n in names if n.startswith(("metrics.", "cfbench.metrics"))], file


def test_nothing_that_is_read_can_run_code():
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    assert not {a.name for a in node.names} & {"pickle", "dill", "joblib", "shelve"}, file
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func)
                    assert name not in ("eval", "exec", "torch.load", "pickle.load", "pickle.loads"), file


@pytest.mark.parametrize("args", [["list"], ["--help"], ["run", "--help"], ["--version"]])
def test_help_and_list_import_neither_torch_nor_plugins(args):
    code = (
        "import sys; from cfbench.cli import _main; code = _main(sys.argv[1:]);"
        "bad = [m for m in sys.modules if m.split('.')[0] in"
        " ('torch', 'ray', 'numpy', 'pandas', 'cfbench_methods', 'cfbench_datasets')];"
        "sys.exit(f'{code} {bad}' if code or bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
