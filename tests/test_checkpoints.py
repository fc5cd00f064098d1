"""A fit that is killed continues from its checkpoint, and ends with the weights of one that was not interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cfbench_methods.nn import validation
from safetensors.torch import load_file
from small import toy_run

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.conformance.subjects.toy import Bars
from cfbench.contract import Control, Derived, Fit
from cfbench.engine.checkpoints import Checkpoints
from cfbench.plugins.registry import Registry
from cfbench.storage.tensors import load_state, save_state

REGISTRY, BARS, ROOT = Registry(), Bars(), Path()
LEARNED = [
    n
    for n in REGISTRY.names("method")
    if not issubclass(REGISTRY.load("method", n), (Control, Derived)) and n not in ("identity", "untrained")
]


class Killed(BaseException):
    pass


def fit(name, folder=None, kill_at=None, **params):
    """The weights, log and kept steps of a fit that is killed when so many images were seen."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = REGISTRY.load("method", name)(BARS.graph, **params).train()
        rng, rows = torch.Generator().manual_seed(1), []
        run = Fit(BARS.split(ROOT, "train"), BARS.split(ROOT, "valid"), 1024, torch.device("cpu"), rng, rows.append)
        if folder:
            run.keeper = Checkpoints(folder, rows, interval=0)
        begun = []

        def progress(stage, done, total, loss=None):
            if done < total:
                begun.append(run.seen)
            if kill_at is not None and run.seen >= kill_at:
                raise Killed

        run.progress = progress
        method.fit(run)
    return method.state_dict(), rows, begun


@pytest.mark.parametrize(
    ("name", "params"),
    [*((n, {}) for n in LEARNED), ("hvae", {"finetuned": 0.4})],
    ids=str,
)
def test_a_fit_that_is_killed_twice_ends_with_the_same_weights_and_log(tmp_path, monkeypatch, name, params):
    monkeypatch.setattr(validation, "FEWEST", 2)  # so that so short a fit is validated
    weights, rows, _ = fit(name, **params)
    assert any(row.get("kept") for row in rows) or name == "diffscm"
    for kill_at in (300, 800):
        with pytest.raises(Killed):
            fit(name, tmp_path, kill_at, **params)
    again, log, begun = fit(name, tmp_path, **params)
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert log == rows
    assert next(n for n in begun if n) >= 800 - 256, "the fit did not go on where it was"


def test_a_damaged_checkpoint_is_not_used(tmp_path):
    weights, _, _ = fit("deepscm")
    with pytest.raises(Killed):
        fit("deepscm", tmp_path, 800)
    (file,) = tmp_path.glob("*.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    again, _, begun = fit("deepscm", tmp_path)
    assert begun[1] < 300
    assert all(torch.equal(weights[k], again[k]) for k in weights)


def test_states_of_optimisers_survive_without_pickle(tmp_path):
    net = torch.nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(net.parameters(), fused=True)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimiser.step()
    save_state({"optimiser": optimiser.state_dict(), "more": [1, None, "text", {"x": (2.5, True)}]}, tmp_path / "s")
    found = load_state(tmp_path / "s")
    assert found["more"] == [1, None, "text", {"x": [2.5, True]}]
    assert found["optimiser"]["param_groups"][0]["lr"] == 1e-3
    assert torch.equal(found["optimiser"]["state"][0]["exp_avg"], optimiser.state[net.weight]["exp_avg"])
    with pytest.raises(TypeError, match="found object"):
        save_state({"x": object()}, tmp_path / "t")


def test_a_run_that_is_killed_inside_a_fit_continues_from_its_checkpoint_and_says_so(tmp_path, capsys):
    more = ["--methods", "patient", "--jobs", "1", "--no-plots", "--no-controls", "--metrics", "truth"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def begin(root, streams=quiet, **env):
        return subprocess.Popen(
            [sys.executable, "-m", "cfbench", *toy_run(root, *more)],
            **streams,
            start_new_session=True,
            env={**os.environ, **env},
        )

    disturbed, calm = begin(tmp_path / "a", CFBENCH_CHECKPOINT_S="0", PATIENCE="0.05"), None
    deadline = time.monotonic() + 300
    # A checkpoint counts from when the JSON names it, which is after its tensors are there.
    while not any(storage.read_json(p)["step"] >= 16 for p in tmp_path.rglob(".train-*-checkpoints/[0-9].json")):
        assert time.monotonic() < deadline
        assert disturbed.poll() is None
        time.sleep(0.02)
    os.killpg(disturbed.pid, signal.SIGKILL)
    disturbed.wait()
    calm = begin(tmp_path / "b")
    assert calm.wait() == 0
    capsys.readouterr()
    assert _main(["status", "tiny", "--run-root", str(tmp_path / "a")]) == 0
    assert _main(toy_run(tmp_path / "a", *more, "--dry-run")) == 0
    status, planned = capsys.readouterr().out.split("run ")
    step = re.search(r"train continues from step (\d+) of 64 \(fit\)", status)
    assert int(step[1]) >= 16
    assert f"bars patient seed 0: train (continues from step {step[1]} of 64 (fit)), tune, images" in planned
    again = begin(tmp_path / "a", {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}, CFBENCH_CHECKPOINT_S="0")
    err = again.communicate()[1].decode()
    assert again.returncode == 0
    assert re.search(rf"train bars patient seed 0: [\d.]+ s, continued from step {step[1]} of 64 \(fit\)\n", err)
    one, two = (load_file(next((tmp_path / n).rglob("train-*/weights.safetensors"))) for n in "ab")
    assert all(torch.equal(one[k], two[k]) for k in two)
    steps = next((tmp_path / "a").rglob("train-*/log.jsonl")).read_text().splitlines()
    assert len(steps) == 64
    assert sum('"process": 0' in line for line in steps) >= 16
    assert not list(tmp_path.rglob("*-checkpoints"))
