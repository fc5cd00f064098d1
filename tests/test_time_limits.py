"""Stages that take too long end with the reason in their row, and the others go on."""

from __future__ import annotations

import time

import pandas as pd
import pytest
from small import toy_run

from cfbench.cli.main import _main as cfbench
from cfbench.engine.failures import time_limit
from cfbench.errors import TaskTimeout


def stubborn(ends: list[TaskTimeout], often: int) -> None:
    """Code that ignores so many requests to end."""
    while True:
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)
        except TaskTimeout as error:
            ends.append(error)
            if len(ends) == often:
                raise


@pytest.mark.parametrize("often", [1, 3])
def test_a_block_ends_though_it_does_not_want_to(often):
    begun, ends = time.monotonic(), list[TaskTimeout]()
    with pytest.raises(TaskTimeout, match=r"longer than 0\.2 s"), time_limit(0.2):
        stubborn(ends, often)
    assert len(ends) == often
    assert time.monotonic() - begun < 50


def test_a_block_in_time_is_left_alone():
    with time_limit(0.2):
        pass
    time.sleep(0.4)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_method_that_hangs_loses_its_own_row_only(tmp_path, capsys, jobs):
    more = ["--jobs", jobs, "--no-plots", "--no-controls", "--metrics", "truth", "--timeout", "20"]
    assert cfbench(toy_run(tmp_path, *more, "--methods", "hangs,knows")) == 2
    assert "bars hangs seed 0: timeout: train: took longer than 20 s" in capsys.readouterr().err
    rows = pd.read_csv(tmp_path / "tiny" / "leaderboard" / "bars.csv").set_index("method")
    assert set(rows.loc["hangs"].status.str.partition(":")[0]) == {"timeout"}
    assert (rows.loc["knows"].status == "ok").all()
