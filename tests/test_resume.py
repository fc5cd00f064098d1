"""A run that is killed continues with the same command and ends with the same table."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from small import timeless, toy_run

CFBENCH = [sys.executable, "-m", "cfbench"]
MORE = ["--methods", "slow,knows", "--no-plots"]


def start(root: Path, jobs: int) -> subprocess.Popen:
    command = [*CFBENCH, *toy_run(root, *MORE, "--jobs", str(jobs))]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, **quiet, start_new_session=True)


def stages(root: Path) -> dict[Path, int]:
    """When each finished stage was written."""
    return {p.parent.relative_to(root): p.stat().st_mtime_ns for p in root.rglob("stage.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    begun = time.monotonic()
    assert start(root, 1).wait() == 0
    return root, time.monotonic() - begun


@pytest.mark.parametrize("jobs", [1, 2])
def test_kills_at_random_moments_lose_nothing_that_was_finished(undisturbed, tmp_path, jobs):
    root, seconds = undisturbed
    moments = random.Random(jobs)
    for _ in range(3):
        process = start(tmp_path, jobs)
        try:
            process.wait(timeout=moments.uniform(0.2, 0.8) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        before = stages(tmp_path)
        drafts = [p for p in tmp_path.rglob(".*") if p.is_dir() and p.name != ".progress"]
        assert not [d for d in drafts if (d / "stage.json").exists() and d.name[1:] in {p.name for p in before}]
    assert start(tmp_path, jobs).wait() == 0
    after = stages(tmp_path)
    assert {path: when for path, when in after.items() if path in before} == before
    pd.testing.assert_frame_equal(timeless(tmp_path), timeless(root), check_exact=True)


def test_an_interrupt_ends_with_130_and_the_same_command_continues(tmp_path):
    process = start(tmp_path, 1)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("cells/bars/slow/seed-0/.train-*")) and not list(tmp_path.rglob(".progress/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert start(tmp_path, 1).wait() == 0


WAITS = """
import time
from cfbench.contract import Method

class Waits(Method):
    def abduct(self, x, pa, rng):
        return x

    def predict(self, u, pa, rng):
        time.sleep(3600)
"""


def test_what_a_killed_run_left_incomplete_is_removed_by_the_next_command(tmp_path):
    (tmp_path / "waits.py").write_text(WAITS)
    command = [*CFBENCH, *toy_run(tmp_path, "--no-plots", "--jobs", "1", "--no-controls", "--metrics", "truth")]
    asked = [*command, "--plugin", str(tmp_path / "waits.py"), "--methods", "waits"]
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (drafts := list(tmp_path.rglob("cells/bars/waits/seed-0/.images-*"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert [d for d in drafts if d.exists()] == drafts
    for path in (*drafts[0].rglob("*"), drafts[0]):
        os.utime(path, (0, 0))
    assert subprocess.run([*command, "--methods", "knows"], capture_output=True).returncode == 0
    assert not [d for d in drafts if d.exists()]


def test_a_damaged_stage_is_computed_again(undisturbed):
    root, _ = undisturbed
    answers = next(root.rglob("cells/bars/knows/seed-0/images-*/answers.safetensors"))
    whole = answers.read_bytes()
    answers.write_bytes(whole[:-4] + b"\0\0\0\1")
    assert start(root, 1).wait() == 0
    assert next(root.rglob("cells/bars/knows/seed-0/images-*/answers.safetensors")).read_bytes() == whole
