"""Fits that break are found: from synthetic logs, and in every table of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cfbench.cli.main import _main
from cfbench.engine import fit
from cfbench.engine.fit import TrainingLog
from cfbench.engine.health import findings_of_fit, findings_of_tuning, jump
from cfbench.runs.findings import Finding, read_findings, write_findings
from tests.small import small_run

BREAKS = """
import math
from tests.toys import Learns


class Breaks(Learns):
    def fit(self, run):
        super().fit(run)
        for i in range(100):
            loss = 100 - 0.5 * i + 3 * math.sin(40 * i * i) + 60 * (i > 60)
            run.log({"stage": "fit", "step": i, "images": 1000 * (i + 1), "loss": loss})


class Dead(Learns):
    def fit(self, run):
        super().fit(run)
        run.record("likelihood", {"bits_per_dim": 2.0, "kl": 0.0})
"""


def logged(loss, **columns):
    rows = [{"stage": "fit", "step": i, "images": 100 * (i + 1), "loss": float(v)} for i, v in enumerate(loss)]
    return [row | {name: float(v[i]) for name, v in columns.items()} for i, row in enumerate(rows)]


def noisy(n, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=n)


def falling(n):
    return 20 * np.exp(-6 * np.linspace(0, 1, n))


def kinds(rows, tables=None):
    return [f.kind for f in findings_of_fit(rows, tables or {})]


@pytest.mark.parametrize("offset", [0, -50, 1000])
@pytest.mark.parametrize("n", [60, 164, 3000])
def test_a_loss_that_jumps_and_stays_is_told_with_its_place(n, offset):
    loss = falling(n) + noisy(n) + offset + 10 * (np.arange(n) >= n // 2)
    (found,) = findings_of_fit(logged(loss, kl=np.where(np.arange(n) < n // 2, 8.0, 2.0)), {})
    assert (found.kind, found.stage) == ("jump", "fit")
    assert abs(found.images - 100 * (n // 2)) < 100 * n / 10
    assert "kl from 8 to 2" in found.sentence
    assert found.numbers["loss_after"] - found.numbers["loss_before"] > 5


def test_spikes_that_come_back_slow_rises_and_short_logs_are_no_jumps():
    n = 164
    spike, t = falling(n) + noisy(n), np.linspace(0, 1, n)
    spike[80:90] += 40
    assert kinds(logged(spike)) == []
    assert kinds(logged(noisy(n) + np.where(t < 0.8, 20 * t, 16))) == [], "a weight that is raised"
    assert kinds(logged([5.0] * 100)) == []
    assert kinds(logged([*[1.0] * 15, *[9.0] * 15])) == []
    assert kinds([{"stage": "fit", "step": 1}, {"loss": "none"}]) == []


@pytest.mark.parametrize("n", [42, 164, 400])
@pytest.mark.parametrize(
    "trend", [lambda n: np.zeros(n), falling, lambda n: -falling(n)[::-1]], ids=["flat", "exp", "0"]
)
def test_noise_alone_gives_false_alarms_in_fewer_than_one_log_of_two_hundred(n, trend):
    alarms = sum(jump(trend(n) + noisy(n, seed)) is not None for seed in range(400))
    assert alarms < 2


def test_a_latent_that_died_is_told():
    assert kinds([], {"likelihood": {"kl": 0.4}}) == ["collapse"]
    assert kinds([], {"valid": {"kl": [0.2, 0.3]}}) == ["collapse"]
    assert kinds([], {"valid": {"kl": [0.2, 20.0]}}) == []
    assert kinds([], {"likelihood": {"bits_per_dim": 1.0}}) == []


def test_guidance_that_steers_nothing_is_told():
    tried = [
        {"scale": s, "effectiveness": 0.1 + 0.2 * s, "effectiveness/a": 0, "effectiveness/b": 0} for s in (0, 1, 2)
    ]
    (found,) = findings_of_tuning({"scale": [2.0, 0.0]}, {"guidance": tried})
    assert (found.kind, "of b" in found.sentence, "of a" in found.sentence) == ("unguided", True, False)
    assert findings_of_tuning({"scale": 2.0}, {"guidance": tried}) == []
    flat = [row | {"effectiveness": 0.1} for row in tried]
    assert [f.kind for f in findings_of_tuning({"scale": 2.0}, {"guidance": flat})] == ["unguided"]
    assert findings_of_tuning({"dim": 0}, {}) == []


def test_a_validation_loss_that_rises_is_told_with_the_weights_that_were_kept():
    rows = [
        {"stage": "fit validation", "images": 1000 * (i + 1), "loss": v, "se": 0.1}
        for i, v in enumerate([5.0, 3.0, 3.1, 4.0])
    ]
    kept = {**rows[1], "kept": True}
    (found,) = findings_of_fit([*rows, kept], {})
    assert (found.kind, found.stage, found.images) == ("overfitting", "fit", 2000)
    assert found.sentence.endswith("the weights of 2,000 images were kept")
    assert kinds(rows[:3]) == [], "within its noise"
    without = [{k: v for k, v in row.items() if k != "se"} for row in rows]
    assert kinds(without) == ["overfitting"]
    assert kinds([*without[:2], {**without[2], "loss": 3.02}]) == []


def test_findings_are_read_as_they_were_written(tmp_path):
    assert read_findings(tmp_path) is None
    found = findings_of_fit(logged(falling(90) + noisy(90) + 20 * (np.arange(90) > 50)), {"valid": {"kl": 0.0}})
    assert len(found) == 2
    write_findings(tmp_path, found)
    assert list(map(str, read_findings(tmp_path))) == list(map(str, found))
    write_findings(tmp_path, [Finding("overfitting", "fit", np.nan, "it rose", {"kept": np.nan, "last": 2.0})])
    (odd,) = read_findings(tmp_path)
    assert (str(odd.images), odd.numbers) == ("nan", {"last": 2.0}), "what is not finite is left out"
    write_findings(tmp_path, [])
    assert read_findings(tmp_path) == ()


def test_the_name_of_the_file_is_taken_and_a_broken_detector_fails_no_fit(tmp_path, capsys):
    with pytest.raises(ValueError, match="taken"):
        TrainingLog().record("health", [])

    def broken() -> list[Finding]:
        raise ZeroDivisionError("no rows")

    fit._write_health(tmp_path, broken)
    assert "no rows" in capsys.readouterr().err
    assert read_findings(tmp_path) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("health")
    (root / "breaks.py").write_text(BREAKS)
    args = ["--plugin", str(root / "breaks.py"), "--methods", "breaks,dead,learns", "--seeds", "0,1"]
    assert small_run(root, "one", *args) == 0
    return root


def test_every_table_marks_the_row_and_says_what_happened(run, capsys):
    files, jumped = run / "one" / "leaderboard", "the loss jumped at"
    capsys.readouterr()
    assert _main(["leaderboard", "one", "--details", "--run-root", str(run)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in (out, " ".join((files / "bars.md").read_text().split())):
        assert "breaks !" in text
        assert "dead !" in text
        assert "learns !" not in text
        assert f"! breaks seed 0: {jumped}" in text
        assert f"! breaks seed 1: {jumped}" in text
        assert "! dead seed 1: the latent carries 0 nats" in text
    assert "breaks !" in (files / "bars.tex").read_text()
    assert set(pd.read_csv(files / "bars.csv").method) == {"breaks", "dead", "learns"}
    wide = pd.read_csv(files / "bars-wide.csv").set_index("method")
    assert wide.health.to_dict() == {
        "breaks": "jump (seed 0); jump (seed 1)", "dead": "collapse (seed 0); collapse (seed 1)", "learns": "ok",
    }  # fmt: skip
    assert (files / "bars-training.png").is_file()
    (sound,) = run.glob("one/cells/bars/learns/seed-0/train-*/health.json")
    assert json.loads(sound.read_text()) == []


def test_status_and_the_page_say_it(run, capsys):
    capsys.readouterr()
    assert _main(["status", "one", "--run-root", str(run)]) == 0
    out = capsys.readouterr().out
    assert "! bars breaks seed 0: the loss jumped at" in out
    assert "learns seed 0:" not in out
    assert _main(["site", str(run / "one"), "--out", str(run / "page")]) == 0
    pages = "".join(p.read_text() for p in Path(run / "page").rglob("*.html"))
    assert "breaks !" in pages
    assert "the loss jumped at" in pages
    assert "learns !" not in pages
