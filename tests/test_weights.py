"""Weights that were made elsewhere take the place of a fit, and a row says so."""

from __future__ import annotations

import os
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from small import toy_run
from torch import nn

from cfbench.cli.main import _main as cfbench
from cfbench.storage.weights import mismatch


def run(root, *more):
    return cfbench(toy_run(root, "--jobs", "1", "--no-plots", "--no-controls", "--metrics", "truth,runtime", *more))


def table(root):
    return pd.read_csv(root / "tiny" / "leaderboard" / "bars.csv").set_index(["method", "metric", "do"])


def test_a_fit_is_skipped_and_its_weights_answer_alike(tmp_path):
    assert run(tmp_path / "a", "--methods", "learns") == 0
    (weights,) = (tmp_path / "a").rglob("weights.safetensors")
    assert run(tmp_path / "b", "--methods", "learns", "--weights", str(weights)) == 0
    fitted, given = (table(tmp_path / name).loc["learns"] for name in "ab")
    truth = [i for i in fitted.index if i[0].startswith("truth")]
    pd.testing.assert_series_equal(fitted.loc[truth].value, given.loc[truth].value)
    assert fitted.loc["runtime.fit_s"].value.notna().all()
    assert given.loc["runtime.fit_s"].value.isna().all()
    text = (tmp_path / "b" / "tiny" / "leaderboard" / "bars.md").read_text()
    assert "no fit, weights from weights.safetensors (sha256" in text


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("draws[shade=0.2]", "draws[shade=0.2]"),
        ("draws[places=3,shade=0.2]", "draws[places=3,shade=0.2]"),
        ("pale one=draws[shade=0.2]", "pale one"),
        ("draws:dark,draws:left", "draws:left"),
    ],
)
def test_weights_of_a_row_take_the_place_of_its_fit(tmp_path, rows, named):
    save_file({"mean": torch.full((1, 8, 8), 0.25)}, tmp_path / "w.safetensors")
    assert run(tmp_path, "--methods", rows, "--weights", f"{named}={tmp_path / 'w.safetensors'}") == 0
    fits = table(tmp_path).value.xs("runtime.fit_s", level="metric")
    assert fits.isna().sum() == 1, "that fit alone is taken from the file"
    assert np.isnan(fits.loc[named].item())


def test_other_weights_give_another_row(tmp_path):
    for level in (0.0, 1.0):
        save_file({"mean": torch.full((1, 8, 8), level)}, tmp_path / "w.safetensors")
        assert run(tmp_path, "--methods", "learns", "--weights", f"learns={tmp_path / 'w.safetensors'}") == 0
    assert len(list(tmp_path.rglob("train-*"))) == 2


def test_weights_of_something_else_fail_in_their_row_alone(tmp_path, capsys):
    save_file({"other": torch.zeros(3)}, tmp_path / "w.safetensors")
    assert run(tmp_path, "--methods", "learns,draws", "--weights", f"learns={tmp_path / 'w.safetensors'}") == 2
    err = capsys.readouterr().err
    assert "bars learns seed 0: failed" in err
    assert "does not hold the weights of learns" in err
    assert "bars draws seed 0: failed" not in err


class Two(nn.Module):
    """A module with the weights a.weight, a.bias and b.weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 4, bias=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {f"module.{k}": v for k, v in w.items()}, "take 'module.' off its keys"),
        (lambda w: {f"net.inner.{k}": v for k, v in w.items()} | {"step": torch.zeros(1)}, "take 'net.inner.' off"),
        (lambda w: {k: v for k, v in w.items() if k != "a.bias"}, "1 of 3 keys are missing: a.bias; give the settings"),
        (lambda w: w | {"c": torch.zeros(1)}, "1 of 4 keys are unexpected: c; give the settings"),
        (
            lambda w: w | {"a.weight": torch.zeros(5, 2)},
            "1 of 3 have another shape: a.weight is [5, 2], the row's [3, 2];",
        ),
        (
            lambda w: {f"k{i}": torch.zeros(1) for i in range(50)},
            "50 of 50 keys are unexpected: k0, k1, k10, ...; give",
        ),
    ],
)
def test_weights_that_do_not_fit_are_told_by_key_and_prefix(change, says):
    module = Two()
    given = change(module.state_dict())
    with pytest.raises(RuntimeError):
        module.load_state_dict(given)
    assert says in mismatch(module, given)
    assert "\n" not in mismatch(module, given)


def test_a_prefix_that_is_lacking_is_told():
    module = nn.ModuleDict({"net": Two()})
    assert "put 'net.' before its keys" in mismatch(module, Two().state_dict())


def test_a_wrong_prefix_is_named_in_the_row_that_fails(tmp_path, capsys):
    save_file({"module.mean": torch.zeros(1, 8, 8)}, tmp_path / "w.safetensors")
    assert run(tmp_path, "--methods", "learns", "--weights", f"learns={tmp_path / 'w.safetensors'}") == 2
    err = capsys.readouterr().err
    says = "1 of 1 keys are missing: mean; 1 of 1 keys are unexpected: module.mean; take 'module.' off its keys"
    assert f"w.safetensors does not hold the weights of learns: {says}" in err


@pytest.mark.parametrize("wrap", [dict, lambda w: {"state_dict": w, "epoch": 3}])
def test_a_state_dict_of_torch_answers_as_safetensors_do(tmp_path, wrap):
    weights = {"mean": torch.rand(1, 8, 8)}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(wrap(weights), tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        assert run(tmp_path / f"of {name}", "--methods", "learns", "--weights", f"learns={tmp_path / name}") == 0
    one, two = (table(tmp_path / f"of {name}").loc["learns"].value for name in ("w.safetensors", "w.pt"))
    truth = [i for i in one.index if i[0].startswith("truth")]
    pd.testing.assert_series_equal(one.loc[truth], two.loc[truth])


class Evil:
    """Makes whoever unpickles it write a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w.bin"])
def test_nothing_in_a_pickle_is_executed(tmp_path, capsys, name):
    torch.save({"mean": torch.zeros(1, 8, 8), "x": Evil(tmp_path / "made")}, tmp_path / name)
    assert run(tmp_path, "--methods", "learns", "--weights", f"learns={tmp_path / name}") == 1
    err = capsys.readouterr().err
    assert "cannot be read as weights (UnpicklingError)" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "tiny").exists()
    with suppress(Exception):
        torch.load(tmp_path / name, weights_only=False)
    assert (tmp_path / "made").exists(), "a pickle that does something"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{}", "does not say whose they are"),
        ("lern={}", "did you mean 'learns'"),
        ("learns=none.safetensors", "no safetensors file"),
        ("learns={pipe}", "it is a pipe or a device, no plain file"),
        ("learns=/dev/zero", "it is a pipe or a device, no plain file"),
        ("learns={pipe}.pt", "it is a pipe or a device, no plain file"),
        ("learns=none.pt", "No such file"),
        ("learns={text}", "cannot be read as weights"),
        ("learns={numbers}", "holds no state dict but a dict of epoch, lr;"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(tmp_path, capsys, given, says):
    save_file({"mean": torch.zeros(1, 8, 8)}, tmp_path / "w.safetensors")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "numbers.pt")
    names = {name: tmp_path / f"{name}.pt" for name in ("text", "numbers")}
    given = given.format(tmp_path / "w.safetensors", pipe=tmp_path / "pipe", **names)
    assert run(tmp_path, "--methods", "learns,knows", "--weights", given) == 1
    assert says in capsys.readouterr().err
