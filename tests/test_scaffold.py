"""`cfbench new`: what it writes lints, conforms and runs as it is, and nothing that is there gets lost."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pandas as pd
import pytest
import torch

from cfbench.cli.main import _main
from cfbench.conformance import checks, subject
from cfbench.contract import Fit, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.plugins.registry import Registry
from cfbench.plugins.scaffold import New, new_command
from cfbench.rng import Streams

ROOT = Path(__file__).parents[1]
KINDS = ("method", "dataset", "metric")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with ``my-KIND.py`` and a distribution of each kind."""
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        for package in (False, True):
            assert new_command(kind, f"my-{kind}", package=package, out=folder / "made here") == 0
    return folder / "made here"


@pytest.fixture(scope="module", params=KINDS)
def plugin(request, written):
    """The class in a written file."""
    return Registry([written / f"my-{request.param}.py"]).load(request.param, f"my-{request.param}")


def test_everything_written_is_formatted_linted_and_named(written):
    config = str(ROOT / "pyproject.toml")
    for command in (["format", "--check"], ["check", "--ignore=I"]):  # whose imports these are depends on the place
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", config, "--no-cache", str(written)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    for path in (p for p in written.rglob("*") if p.is_file()):
        assert not re.search(r"\bmine\b|\bMine\b|\$|cfbench\.templates", path.read_text()), path


def test_everything_written_conforms(plugin):
    asked = subject(plugin)
    assert len(checks(asked)) > 3
    for check in checks(asked):
        check(asked)


def test_everything_written_runs_as_it_is(written, tmp_path):
    files = [f"--plugin={written}/my-{kind}.py" for kind in KINDS]
    asked = ["--methods", "my-method,my-method[keep=0]", "--datasets", "my-dataset", "--metrics", "my-metric,truth"]
    where = ["--preset", "tiny", "--jobs", "1", "--no-controls", "--no-plots", "--run-root", str(tmp_path)]
    assert _main(["run", *asked, *where, *files]) == 0
    table = pd.read_csv(tmp_path / "tiny" / "leaderboard" / "my-dataset.csv")
    scores = table[table["metric"] == "my-metric.l2"]
    assert set(scores["method"]) == {"my-method", "my-method[keep=0]"}
    assert scores["value"].between(0, 255).all()
    assert len(list(tmp_path.glob("tiny/cells/*/*/*/train-*"))) == 1


def load(folder: Path, kind: str):
    """The class that a distribution's entry point names, and the distribution's configuration."""
    config = tomllib.loads((folder / "pyproject.toml").read_text())
    ((name, target),) = config["project"]["entry-points"][f"cfbench.{kind}s"].items()
    return EntryPoint(name, target, f"cfbench.{kind}s").load(), config


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_names_what_it_holds(written, kind, monkeypatch):
    folder = written / f"cfbench-{kind}-my-{kind}"
    monkeypatch.syspath_prepend(str(folder / "src"))
    cls, config = load(folder, kind)
    assert cls.name == f"my-{kind}"
    assert config["project"]["name"] == folder.name
    assert config["project"]["dependencies"] == ["cfbench-scm"]
    assert f"--{kind}s my-{kind}" in (folder / "README.md").read_text() or kind == "metric"
    text = Path(sys.modules[cls.__module__].__file__).read_text()
    assert "--plugin" not in text
    assert f"cfbench check my-{kind}\n" in text


def test_the_test_in_a_distribution_runs_the_suite(written):
    folder = written / "cfbench-metric-my-metric"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    plugin = Registry([written / "my-metric.py"]).load("metric", "my-metric")
    assert f"{len(checks(plugin))} passed" in done.stdout


def test_the_written_method_suits_any_graph_and_any_image(written):
    variables = (
        Variable("kind", "categorical", size=3),
        Variable("constant", "continuous", low=2, high=3),
        Variable("far", "continuous", low=1e4, high=2e4, parents=("kind",)),
    )
    graph, rng = CausalGraph(variables, (3, 5, 7)), torch.Generator().manual_seed(0)
    kind = torch.randint(3, (256,), generator=rng).float()
    pa = torch.stack([kind, torch.full((256,), 2.5), 1e4 * (1 + torch.rand(256, generator=rng))], 1)
    images = torch.randint(256, (256, 3, 5, 7), generator=rng, dtype=torch.uint8)
    split = Split(images, pa, torch.arange(256))
    method = Registry([written / "my-method.py"]).load("method", "my-method")(graph, width=16)
    method.fit(Fit(split, split, 640, torch.device("cpu"), rng))
    with torch.no_grad():
        u = method.abduct(split.x, pa, Streams(range(256)))
        null = method.predict(u, pa, Streams(range(256)))
        wild = method.predict(u, pa * torch.tensor([1, -50, 50]), Streams(range(256)))
    torch.testing.assert_close(null, split.x)
    assert wild.shape == split.x.shape
    assert wild.min() >= 0
    assert wild.max() <= 1


@pytest.mark.parametrize(("package", "file"), [(False, "again.py"), (True, "cfbench-metric-again/README.md")])
def test_nothing_is_overwritten(tmp_path, package, file):
    new_command("metric", "again", package=package, out=tmp_path)
    (tmp_path / file).write_text("precious")
    with pytest.raises(UserError, match="exists and is left as it is"):
        new_command("metric", "again", package=package, out=tmp_path)
    assert (tmp_path / file).read_text() == "precious"


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("methods", "x", "unknown kind 'methods'; did you mean 'method'"),
        ("method", "", "is no name for a method"),
        ("method", "../up", "is no name for a method"),
        ("method", "-dash", "is no name for a method"),
        ("dataset", "has space", "is no name for a data set"),
        ("method", "3d", "is no name for a method"),
        ("method", "naïve", "is no name for a method"),
        (
            "method",
            "class",
            "'class' is no name for a method: it is a word of Python",
        ),
        ("metric", "match", "write my-match"),
        (
            "method",
            "My-Method",
            "it has capitals, and files that differ in these alone overwrite each other somewhere; write my-method",
        ),
        (
            "dataset",
            "nan",
            "'nan' is no name for a data set: it is a word that readers of tables",
        ),
        ("method", "deepscm", "there is a method 'deepscm' already, of cfbench-scm"),
        ("metric", "torch", "would hide the Python module 'torch'"),
        ("metric", "random", "would hide the Python module 'random'"),
    ],
)
def test_a_name_that_would_not_do_is_refused(tmp_path, kind, name, says):
    with pytest.raises(UserError, match=re.escape(says)):
        new_command(kind, name, package=False, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        new_command("metric", "fine", package=False, out=tmp_path / "file")


@pytest.mark.parametrize(
    ("kind", "name", "cls"),
    [
        ("method", "mine", "Mine"),
        ("method", "my-vae_2", "MyVae2"),
        ("method", "method", "MethodMethod"),
        ("method", "f", "FMethod"),
        ("dataset", "split", "SplitDataset"),
        ("metric", "true", "TrueMetric"),
        ("metric", "l2", "L2"),
        ("metric", "class", "Class"),
    ],
)
def test_a_class_is_named_without_clashes(kind, name, cls):
    new = New(kind, name)
    assert new.cls == cls
    for path, text in {**new.files(), "file.py": new.file()}.items():
        if path.endswith(".py"):
            tree = ast.parse(text)
            names = [n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
            assert names in ([], [cls])
            assert len(re.findall(rf"import .*\b{cls}\b", text)) == ("import" in text and "test" in path)


def test_a_file_is_written_in_no_time_without_torch(tmp_path):
    code = (
        "import sys; from cfbench.cli.main import _main; code = _main(['new', 'method', 'quickly']);"
        "heavy = {m.partition('.')[0] for m in sys.modules} & {'torch', 'numpy', 'pandas', 'ray', 'cfbench_methods'};"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote quickly.py: a small conditional VAE")
    for line in done.stdout.splitlines()[1:]:
        assert line.split()[:2] in (["cfbench", "check"], ["cfbench", "run"])
        assert "quickly.py" in line
    assert (tmp_path / "quickly.py").is_file()
