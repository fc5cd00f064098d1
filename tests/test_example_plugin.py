"""A distribution that is not ours, with cfbench from its wheel, in an empty folder: the commands of its README."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import wheels

PLUGINS = {"method": "additive", "dataset": "skies", "metric": "sharpness"}


class Place:
    """An empty folder, and an installation that a process started in it finds before the checkout."""

    def __init__(self, folder: Path, installed: Path) -> None:
        self.folder, self.installed = folder, installed

    def python(self, *args: str) -> str:
        """What Python prints; it must end well."""
        return self._out([sys.executable, *args])

    def cfbench(self, *args: str) -> str:
        """What the command prints; it must end well."""
        return self.python("-m", "cfbench", *args)

    def script(self, *args: str) -> str:
        """The same by the script that is installed."""
        return self._out([str(self.installed / "bin" / "cfbench"), *args])

    def _out(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=wheels.surroundings(self.installed), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    installed = tmp_path_factory.mktemp("installed")
    wheels.install(installed, wheels.checkout(), wheels.example())
    return Place(tmp_path_factory.mktemp("empty"), installed)


WHERE = """
import importlib, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    print(module.__spec__.origin or module.__path__[0])
"""


def test_what_runs_is_the_wheel(place):
    names = "cfbench", "cfbench.conformance", "cfbench_methods", "cfbench_methods.identity", "cfbench_datasets"
    for line in place.python("-c", WHERE, *names).splitlines():
        assert Path(line).is_relative_to(place.installed), line
    assert place.script("--version") == place.cfbench("--version")


def test_its_plugins_are_listed_beside_the_built_in_ones(place):
    listed = place.script("list")
    for name in PLUGINS.values():
        assert f"\n  {name:<16} cfbench-example-plugin 0.1.0" in listed
    assert "\n  deepscm          cfbench-scm" in listed


@pytest.mark.parametrize("name", PLUGINS.values())
def test_its_plugins_conform(place, name):
    assert f"{name}: " in place.cfbench("check", name)


def test_its_own_tests_pass(place):
    shutil.copytree(wheels.EXAMPLE / "tests", place.folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    assert " passed" in place.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "tests")


def test_a_new_method_stands_beside_them_in_a_leaderboard(place):
    assert "wrote mine.py" in place.cfbench("new", "method", "mine")
    assert "mine: " in place.cfbench("check", "mine.py")
    asked = ["--methods", "mine,additive", "--datasets", "skies", "--metrics", "sharpness,truth", "--plugin", "mine.py"]
    said = place.cfbench("run", *asked, "--preset", "tiny", "--jobs", "1", "--no-plots")
    again = place.cfbench("leaderboard", "tiny")
    for line in (said, again):
        assert "mine" in line
    leaderboard = place.folder / "runs" / "tiny" / "leaderboard"
    assert "| sharpness to truth →1 |" in (leaderboard / "skies.md").read_text()
    assert {"skies-sharpness.png", "skies-truth.png"} <= {f.name for f in leaderboard.iterdir()}
    table = pd.read_csv(leaderboard / "skies.csv")
    scores = table[(table["metric"] == "sharpness.sharpness") & (table["questions"] == "all")]
    assert {"mine", "additive", "oracle"} <= set(scores["method"])
    assert scores[scores["method"] == "oracle"]["value"].eq(1).all()
    assert set(table["status"]) == {"ok"}
