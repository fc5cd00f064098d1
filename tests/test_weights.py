"""Weights that were made elsewhere take the place of a fit, and a row says so."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from small import toy_run

from cfbench.cli.main import _main as cfbench


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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{}", "does not say whose they are"),
        ("lern={}", "did you mean 'learns'"),
        ("learns=none.safetensors", "no safetensors file"),
        ("learns={pipe}", "it is a pipe or a device, no plain file"),
        ("learns=/dev/zero", "it is a pipe or a device, no plain file"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(tmp_path, capsys, given, says):
    save_file({"mean": torch.zeros(1, 8, 8)}, tmp_path / "w.safetensors")
    os.mkfifo(tmp_path / "pipe")
    given = given.format(tmp_path / "w.safetensors", pipe=tmp_path / "pipe")
    assert run(tmp_path, "--methods", "learns,knows", "--weights", given) == 1
    assert says in capsys.readouterr().err
