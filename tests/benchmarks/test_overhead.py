"""What a run costs beside the methods' and judges' own computing, in CPU-seconds, and what a second worker gains.

With ``--benchmark-enable`` and ``-m 'slow or not slow'`` the figures stand under ``extra_info`` of
``--benchmark-json``; else few cells run, once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.serial
LONG = (pytest.mark.slow, pytest.mark.timeout(3600))
TOYS = Path(__file__).parents[1] / "toys.py"
STOPWATCH = Path(__file__).with_name("stopwatch.py")
STEADY = """
import torch
from cfbench.contract import Method

class Steady(Method):
    def __init__(self, graph, products: int = 1):
        super().__init__(graph)
        self.products = products
        self.register_buffer("state", torch.eye(256))

    def fit(self, run):
        for _ in range(self.products):
            self.state = torch.nn.functional.normalize(self.state @ self.state.T + 1)

    def abduct(self, x, pa, rng):
        return x

    def predict(self, u, pa, rng):
        return u
"""


def command(root, methods, seeds, *more, dataset="bars", preset="tiny", metrics="truth", plugins=(TOYS,)):
    common = ["run", "--datasets", dataset, "--methods", methods, "--seeds", ",".join(map(str, seeds))]
    common += ["--preset", preset, "--no-plots", "--no-controls", "--run-root", str(root), *more]
    common += [part for plugin in plugins for part in ("--plugin", str(plugin))]
    return [*common, *(["--metrics", metrics] if metrics else [])]


def python(*line):
    """What a process of Python prints."""
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *line], capture_output=True, text=True, env=one)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(argv, plugin="", ray=False):
    """CPU-seconds of a run, and of what is not the harness in it."""
    asked = json.dumps({"argv": argv, "plugin": str(plugin), "ray": ray})
    return json.loads(python(str(STOPWATCH), asked).splitlines()[-1])


def rest(spent):
    return spent["total"] - sum(spent[kind] for kind in ("method", "dataset", "metric", "judges"))


@pytest.mark.benchmark(group="one cell")
@pytest.mark.parametrize(
    ("preset", "dataset", "method"),
    [
        ("tiny", "digits", "deepscm"),  # built-in plugins run in the command's own process, where they are watched
        pytest.param("quick", "strokes", "deepscm", marks=LONG),
        pytest.param("standard", "strokes", "deepscm", marks=LONG),
    ],
)
def test_the_share_of_the_harness_in_one_cell(benchmark, tmp_path, preset, dataset, method):
    places = "--jobs", "1", "--data-root", str(tmp_path / "data")
    asked = command(tmp_path, method, [0], *places, dataset=dataset, preset=preset, metrics="", plugins=())
    spent = benchmark.pedantic(measured, (asked,), rounds=1)
    benchmark.extra_info.update({**spent, "harness": rest(spent), "share": rest(spent) / spent["total"]})
    assert 0 < spent["loading"] < rest(spent) < spent["total"]
    assert min(spent["method"], spent["judges"], spent["dataset"]) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.benchmark(group="eight equal cells")
def test_what_a_second_worker_gains(benchmark, tmp_path):
    """On two idle cores the seconds tell the gain; on others the CPU-seconds tell what the second worker costs."""
    plugin, spent = tmp_path / "steady.py", {}
    plugin.write_text(STEADY)

    def run():
        for jobs in ("1", "2"):
            method = f"steady[products={os.environ.get('CFBENCH_TEST_PRODUCTS', '60000')}]"
            begun = time.perf_counter()
            python("-m", "cfbench", *command(tmp_path / jobs, method, range(8), "--jobs", jobs, plugins=[TOYS, plugin]))
            spent[jobs] = time.perf_counter() - begun

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update({"one": spent["1"], "two": spent["2"], "gain": spent["1"] / spent["2"]})
    tables = [(tmp_path / jobs / "tiny" / "leaderboard" / "bars-wide.csv").read_text() for jobs in ("1", "2")]
    assert len(tables[0].splitlines()) == len(tables[1].splitlines())


@pytest.mark.benchmark(group="tiny cells")
@pytest.mark.parametrize("where", ["in process", pytest.param("one Ray worker", marks=LONG)])
def test_what_a_tiny_cell_costs(benchmark, tmp_path, where):
    """Between a run of few cells and one of many, so that loading and judges count for nothing."""
    few, many = 2, (202 if benchmark.enabled else 8)
    ray = where != "in process"

    def run():
        return [measured(command(tmp_path / str(n), "knows", range(n), "--jobs", "1"), TOYS, ray) for n in (few, many)]

    one, other = benchmark.pedantic(run, rounds=1)
    own = (other["method"] + other["dataset"] + other["metric"]) - (one["method"] + one["dataset"] + one["metric"])
    each = (other["total"] - one["total"] - own) / (many - few)
    benchmark.extra_info.update({"a cell's": each, "own": own / (many - few), "few": one, "many": other})
    assert each < other["total"]
    assert ray or min(one["dataset"], other["dataset"]) > 0  # all else of plugins is in processes of their own
