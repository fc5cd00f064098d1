"""Data sets that cannot be prepared, and judges that cannot be trained: what rows say, and when a run tries again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from small import small_run

from cfbench.runs.manifest import read_manifest
from cfbench.runs.progress import read_events
from cfbench.runs.reader import cell_states

FLAKY = """
from pathlib import Path
from toys import Bars, Learns

class Flaky(Bars):
    def {step}(self, *args, **named):
        {body}
        return super().{step}(*args, **named)
"""
DOWN = "raise ConnectionError('no server')"
SOMETIMES = f"if Path(__file__).with_name('down').exists(): {DOWN}"
STAGES = {"prepare": "prepare", "oracle": "prepare", "judge_split": "judges"}
"""The stage that fails where a data set's method raises."""


def write(folder: Path, step: str, body: str) -> Path:
    """A plugin file with a data set whose method ``step`` begins with a line."""
    (folder / "toys.py").write_text(Path(__file__).with_name("toys.py").read_text())
    file = folder / "flaky.py"
    file.write_text(FLAKY.format(step=step, body=body))
    return file


def run(root: Path, file: Path, *args: str) -> int:
    more = ["--plugin", str(file), "--datasets", "flaky", "--methods", "learns,identity"]
    return small_run(root, "r", *more, *args, metrics="truth")


def states(root: Path) -> dict[str, tuple[str, str]]:
    """Status and reason of each cell, by its method."""
    found = cell_states(root / "r", read_manifest(root / "r"))
    return {cell.method.label: (str(state.status), state.reason) for cell, state in found}


def tried(root: Path) -> list[str]:
    """The tasks that the last command began, by their ids."""
    events = list(read_events(root / "r"))
    last = max(i for i, e in enumerate(events) if e["event"] == "begin")
    return [e["task"] for e in events[last:] if e["event"] == "start"]


@pytest.mark.parametrize("step", STAGES)
def test_what_a_data_set_raises_is_the_reason_in_all_its_rows(tmp_path, capsys, step):
    assert run(tmp_path, write(tmp_path, step, DOWN)) == 2
    err = capsys.readouterr().err
    reason = f"{STAGES[step]}: ConnectionError: no server (flaky.py line 7)"
    for method, (status, found) in states(tmp_path).items():
        assert status == "failed"
        assert found.startswith(reason)
        assert f"cfbench: flaky {method} seed 0: failed: {reason}" in err
    assert states(tmp_path).keys() == {"learns", "identity"}
    log = tmp_path / "r" / "failed" / "flaky" / f"failed-{STAGES[step]}-1" / "log.txt"
    assert "ConnectionError: no server" in log.read_text()
    table = tmp_path / "r" / "leaderboard" / "flaky.csv"
    if STAGES[step] == "prepare":
        assert "flaky has no plan yet, so there is no table of it" in err
        assert not table.exists()
    else:
        assert pd.read_csv(table).status.str.startswith(f"failed: {reason}").all()


@pytest.mark.parametrize("step", STAGES)
def test_it_is_tried_again_when_its_file_was_mended_and_not_before(tmp_path, step):
    file = write(tmp_path, step, DOWN)
    assert run(tmp_path, file) == 2
    assert run(tmp_path, file) == 2
    started = [e["task"] for e in read_events(tmp_path / "r") if e["event"] == "start"]
    assert started.count(f"{STAGES[step]} flaky") == 1
    assert run(tmp_path, write(tmp_path, step, "")) == 0
    assert set(states(tmp_path).values()) == {("ok", "")}


@pytest.mark.parametrize("step", STAGES)
def test_only_failed_finishes_what_waited_for_it_in_one_command(tmp_path, step):
    file = write(tmp_path, step, SOMETIMES)
    (tmp_path / "down").touch()
    assert run(tmp_path, file) == 2
    (tmp_path / "down").unlink()
    assert run(tmp_path, file) == 2, "a failure that was recorded stands until it is asked for"
    assert run(tmp_path, file, "--only", "failed") == 0
    assert f"{STAGES[step]} flaky" in tried(tmp_path)
    assert set(states(tmp_path).values()) == {("ok", "")}
