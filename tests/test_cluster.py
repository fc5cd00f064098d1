"""A run on a Ray cluster of two nodes, with a shared run folder and without one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from small import TOYS, toy_run

from cfbench import storage
from cfbench.cli.main import _main as cfbench
from cfbench.engine.workers import transfer
from cfbench.engine.workers.transfer import RemoteResult
from cfbench.errors import UserError
from cfbench.plugins.spec import Spec
from cfbench.runs.chain import Outcome, Status, Task
from cfbench.runs.progress import read_events


def command(root, *more):
    return toy_run(root, "--methods", "learns,raises", "--no-plots", "--metrics", "truth,composition", *more)


def numbers(root):
    table = pd.read_csv(root / "tiny" / "leaderboard" / "bars.csv")
    return table.drop(columns=["status"])


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    assert cfbench(command(root, "--jobs", "1")) == 2
    return numbers(root)


def test_a_cluster_gives_the_same_table_and_code_and_plugins_travel(tmp_path, cluster, alone, capsys):
    assert cfbench(command(tmp_path, "--address", cluster.address)) == 2
    assert f"--address {cluster.address}: this cluster has no authentication" in capsys.readouterr().err
    pd.testing.assert_frame_equal(numbers(tmp_path), alone)


def test_stages_come_back_where_the_folder_is_not_shared(tmp_path, cluster, alone, monkeypatch):
    monkeypatch.setattr(transfer, "TOKEN", ".token-that-only-the-driver-writes")
    assert cfbench(command(tmp_path, "--address", cluster.address)) == 2
    pd.testing.assert_frame_equal(numbers(tmp_path), alone)
    wrote = [e["stage"] for e in read_events(tmp_path / "tiny") if e["event"] == "wrote"]
    assert len(wrote) == len(set(wrote)) >= 10
    assert not [f for stage in wrote for f in storage.damaged_files(tmp_path / "tiny" / stage)]
    (record,) = (tmp_path / "tiny").rglob("failed-*")
    assert "this method cannot be fitted" in (record / "log.txt").read_text()
    ends = [e for e in read_events(tmp_path / "tiny") if e["event"] == "end"]
    assert len(ends) == len({e["task"] for e in ends})
    (failed,) = [e for e in ends if e["status"] == "failed"]
    assert failed["task"] == "train bars raises seed 0"
    assert failed["reason"].startswith("ArithmeticError: this method cannot be fitted (toys.py line ")
    token = (tmp_path / "tiny" / transfer.TOKEN).read_text()
    assert not (Path(tempfile.gettempdir()) / f"cfbench-{token}").exists()


MINE = """
import helpers
from toys import Learns

class Mine(Learns):
    def fit(self, run):
        super().fit(run)
        run.log({"step": helpers.STEP, "where": helpers.__file__})
"""


def test_what_a_plugin_file_imports_from_its_folder_travels(tmp_path, cluster):
    own = {"mine": MINE, "helpers": "from kit.steps import STEP\n", "kit/steps": "STEP = 99\n", "unused": ""}
    for name, text in (own | {"toys": Path(TOYS).read_text()}).items():
        (tmp_path / "lab" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lab" / f"{name}.py").write_text(text)
    more = ["--methods", "mine", "--plugin", str(tmp_path / "lab" / "mine.py"), "--no-controls"]
    assert cfbench(command(tmp_path, *more, "--address", cluster.address)) == 0
    log = next((tmp_path / "tiny").rglob("train-*/log.jsonl")).read_text()
    assert '"step": 99' in log
    where = Path(json.loads(log.splitlines()[-1])["where"])
    assert where.parent.parent.name == "cfbench-plugins"
    assert {p.name for p in where.parent.iterdir()} == {"mine.py", "helpers.py", "kit", "toys.py"}


def test_a_missing_cluster_is_reported_in_a_line(tmp_path, capsys):
    assert cfbench(command(tmp_path, "--address", "127.0.0.1:1")) == 1
    assert "--address 127.0.0.1:1: no Ray there" in capsys.readouterr().err


DONE = Task("prepare", Spec("t"))


def test_stages_that_leave_the_folder_or_are_damaged_are_refused(tmp_path):
    for place, files in (("../out", {}), ("/out", {}), ("a", {"../../x": b""})):
        with pytest.raises(UserError, match="leaves the run's folder"):
            RemoteResult(Outcome(DONE, Status.DONE), {place: files}).unpack(tmp_path)
    damaged = {"stage.json": b'{"files": {"x": "0"}}', "x": b"1"}
    with pytest.raises(UserError, match="damaged"):
        RemoteResult(Outcome(DONE, Status.DONE), {"a": damaged}).unpack(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_end_of_a_task_without_new_stages_is_logged_with_its_reason(tmp_path):
    for status, reason in ((Status.DONE, ""), (Status.OOM, "OutOfMemoryError: CUDA out of memory")):
        outcome = Outcome(DONE, status, reason, 1.5)
        assert RemoteResult(outcome).unpack(tmp_path) == outcome
        end = [*read_events(tmp_path)][-1]
        assert (end["event"], end["task"], end["status"]) == ("end", "prepare t", status)
        assert (end["reason"], end["seconds"]) == (reason, 1.5)


def test_the_folder_of_a_node_is_removed_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("cfbench-ab", "cfbench-abc", "cfbench-"):
        (tmp_path / name / "cells").mkdir(parents=True)
    for _ in range(2):
        transfer.remove_node_folder("ab")
        assert {p.name for p in tmp_path.iterdir()} == {"cfbench-abc", "cfbench-"}


def test_packed_code_is_an_installation(tmp_path):
    folder = transfer.pack_code(tmp_path / "bag", [Path(TOYS)])
    (packed,) = (folder / "cfbench-plugins").glob("*/toys.py")
    output = subprocess.run(
        [sys.executable, "-m", "cfbench", "list", "--plugin", str(packed)],
        cwd=folder, env={"PYTHONPATH": str(folder), "PATH": ""}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "diffscm" in output
    assert "knows" in output
