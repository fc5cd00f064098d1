"""Whatever breaks while a run goes on, the same command ends with the table of a run that nobody disturbed."""

from __future__ import annotations

import shutil
import sys

import chaos
import pytest

from cfbench.cli.main import _main as cfbench
from cfbench.engine.workers.isolated_executor import IsolatedExecutor

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("chaos")
    with chaos.moods(place):
        yield place


@pytest.fixture(scope="module")
def expected(folder):
    return chaos.undisturbed(folder)


@linux
@pytest.mark.parametrize(("seed", "how"), [(6, "alone"), (27, "alone"), (22, "two workers")])
def test_a_run_survives_what_its_seed_does_to_it(folder, expected, seed, how):
    chaos.survive(folder, seed, how, expected)


@pytest.fixture(scope="module")
def nodes(folder):
    two = chaos.Nodes()
    yield two
    two.cluster.shutdown()


@linux
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(30))
def test_thirty_runs_survive_what_their_seeds_do_to_them(folder, expected, nodes, seed):
    how = list(chaos.KINDS)[seed % len(chaos.KINDS)]
    chaos.survive(folder, seed, how, expected, nodes)


def test_the_watch_notices_a_stage_that_is_made_again_lost_or_spoilt(folder, expected, tmp_path):
    stage = chaos.Stage(folder / "undisturbed", "alone")
    chaos.check(stage)
    copy = chaos.Stage(tmp_path / "copy", "alone", finished=dict(stage.finished))
    shutil.copytree(stage.root, copy.root)
    with pytest.raises(AssertionError, match="computed again"):
        chaos.check(copy)
    copy.finished = {}
    next(copy.run.rglob("train-*/weights.safetensors")).write_bytes(b"spoilt")
    with pytest.raises(AssertionError, match="spoilt"):
        chaos.check(copy)
    log = copy.run / "events.jsonl"
    log.write_text(log.read_text() * 2)
    with pytest.raises(AssertionError, match="too often"):
        chaos.counted(copy)


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])])
def test_a_stage_that_is_spoilt_while_the_run_goes_on_is_not_used(tmp_path, monkeypatch, capsys, spoil):
    def damaging(executor):
        outcomes = wait(executor)
        for outcome in outcomes:
            if outcome.task.stage == "train":
                spoil(executor.job.folder / outcome.task.cell.stage("train") / "weights.safetensors")
        return outcomes

    wait = IsolatedExecutor.wait
    toys = str(chaos.HERE.with_name("toys.py"))
    line = ["run", "--plugin", toys, "--datasets", "bars", "--methods", "learns", "--preset", "tiny", "--no-plots"]
    line += ["--no-controls", "--metrics", "truth", "--jobs", "1", "--run-root", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(IsolatedExecutor, "wait", damaging)
        assert cfbench(line) == 2
    assert "weights.safetensors is missing or does not match its manifest" in capsys.readouterr().err
    assert not list(tmp_path.rglob("tune-*"))
    assert not list(tmp_path.rglob("failed-*"))
    assert cfbench(line) == 0
