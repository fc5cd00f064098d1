"""Times of the processor beside those of the clock, and the memory of a task rather than of its process."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from small import small_run
from test_leaderboard import build, terminal

from cfbench.conformance.subjects.toy import BARS, ROOT
from cfbench.contract import Column, Fit
from cfbench.engine.checkpoints import Checkpoints
from cfbench.evaluation.clock import cpu_time
from cfbench.report.board import Board
from cfbench.report.charts.cost import cost_axes
from cfbench.report.summary.headline import clocks
from cfbench.report.summary.rows import of_board
from cfbench.runs.environment import load_training_libraries, peak_memory

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def used(megabytes: int) -> float:
    """The peak that is measured of a block that holds so many megabytes for a moment."""
    with peak_memory(CPU) as peak:
        torch.ones(megabytes * 2**18).sum()
    return peak["peak_mb"]


@linux
def test_the_peak_of_a_task_is_its_own_whatever_its_process_did_before():
    load_training_libraries()
    used(16)
    held = torch.ones(2**26)  # 256 MB, as another task's
    assert [pytest.approx(n, abs=24) for n in (64, 400, 64, 128)] == [used(n) for n in (64, 400, 64, 128)]
    del held
    assert used(64) == pytest.approx(64, abs=24)


def test_a_peak_that_cannot_be_measured_is_none(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    assert math.isnan(used(1))
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_text", lambda *_: 1)  # as where the kernel takes it and does nothing
    torch.ones(2**26)
    assert math.isnan(used(1))


def test_the_processor_s_time_holds_work_and_no_waiting():
    start, clock = cpu_time(), time.perf_counter()
    time.sleep(0.2)
    waited = cpu_time() - start
    assert waited < (time.perf_counter() - clock) / 2
    start = cpu_time()
    subprocess.run([sys.executable, "-S", "-c", "sum(range(3_000_000))"], check=True)
    assert cpu_time() - start > 0.01, "of a child that has ended"


def test_a_fit_that_was_killed_has_the_processor_s_time_of_all_its_processes(tmp_path):
    def keeper():
        train, found = BARS.split(ROOT, "train"), Checkpoints(tmp_path, [], interval=0)
        fit = Fit(train, train, 64, CPU, torch.Generator().manual_seed(0), keeper=found)
        found.start()
        return fit, found

    fit, first = keeper()
    first.cpu_begun -= 100
    batches = fit.batches(4, 16, keep={"x": [torch.zeros(1)]})
    next(batches), next(batches)
    fit, second = keeper()
    next(fit.batches(4, 16, keep={"x": [torch.zeros(1)]}))
    assert 100 <= second.cpu_seconds < 200
    assert second.seconds < 100


def test_a_run_records_both_clocks_and_prints_the_processor_s_first(tmp_path, capsys):
    assert small_run(tmp_path, "one", "--methods", "slow", "--details", metrics="truth,runtime") == 0
    out = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "one/leaderboard/bars.csv").set_index("metric").value
    assert table["runtime.fit_cpu_s"] < table["runtime.fit_s"] / 2, "it sleeps most of the time"
    for step in ("abduct", "predict"):
        assert table[f"runtime.{step}_cpu_ms"] > 0
    assert "fit CPU" in out
    heads = (tmp_path / "one/leaderboard/bars.md").read_text()
    assert 0 < heads.index("| fit cpu ↓ [s] |") < heads.index("| fit ↓ [s] |")
    if sys.platform == "linux":
        assert table["runtime.peak_mb"] < 500


def test_the_first_clock_that_was_recorded_counts_everywhere():
    assert clocks({"runtime.fit_s", "runtime.abduct_ms", "runtime.predict_ms"}) == (
        "runtime.fit_s", "runtime.abduct_ms", "runtime.predict_ms"
    )  # fmt: skip
    results = build()
    both = [
        replace(s, column=new, value=s.value / 2, about=Column("", "lower", s.about.unit, 0.0, role=s.about.role))
        for s in results.scores
        for old, new in (("fit_s", "fit_cpu_s"), ("abduct_ms", "abduct_cpu_ms"), ("predict_ms", "predict_cpu_ms"))
        if s.column == old
    ]
    wall, cpu = Board(results), Board(replace(results, scores=(*results.scores, *both)))
    for (_, before), (label, after) in zip(cost_axes(wall), cost_axes(cpu), strict=True):
        assert "cpu" in label.lower()
        assert after["diffscm"] == pytest.approx(before["diffscm"] / 2)
    first, second = of_board(wall), of_board(cpu)
    assert (first.is_cpu, second.is_cpu) == (False, True)
    assert second.cells["diffscm", second.answer].value == pytest.approx(first.cells["diffscm", first.answer].value / 2)
    assert "by the clock" in terminal(wall, details=False)
    assert "of the processor" in terminal(cpu, details=False)
