"""The time left that a run says is near what it will be, at every moment of a kind of run that was made before."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict

import pytest
from test_progress import Clock

from cfbench.engine.display import RunMonitor, headline
from cfbench.engine.estimates import CLOSE, History, TimeLeft, Workload, earlier_runs, parallel, tasks_by_id
from cfbench.graph import Variable
from cfbench.plugins.spec import Spec
from cfbench.runs.budget import Budget
from cfbench.runs.chain import KEYS as STAGE_KEYS
from cfbench.runs.chain import Task
from cfbench.runs.job import Cell
from cfbench.runs.manifest import DatasetEntry, Manifest, write_manifest
from cfbench.runs.progress import TaskProgress, log_event

KEYS = {name: letter * 12 for name, letter in zip(STAGE_KEYS, "abcdef", strict=False)}
VARIABLES = tuple(Variable(n, "continuous", 1, 0.0, 1.0, "", ()) for n in "abc")
MEASURED = {
    "prepare strokes": 18.8, "train strokes diffscm seed 0": 34.8, "tune strokes diffscm seed 0": 18.7,
    "images strokes diffscm seed 0": 55.8, "train strokes deepscm seed 0": 21.5, "tune strokes deepscm seed 0": 0.3,
    "images strokes deepscm seed 0": 1.0, "judges strokes": 33.3, "scores strokes diffscm seed 0": 5.0,
    "scores strokes deepscm seed 0": 6.5, "train strokes identity seed 0": 0.1, "tune strokes identity seed 0": 0.04,
    "images strokes identity seed 0": 0.1, "scores strokes identity seed 0": 6.1,
}  # fmt: skip
"""Seconds of the tasks of a run of the tiny budget, in their order."""
PACES = (0.75, 1.3, 1.1, 0.85, 1.25, 0.9, 1.2)
"""How much slower or faster the same task is another time."""


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def cells_of(*methods: str) -> list[Cell]:
    return [Cell(Spec("strokes"), Spec(m), 0, Spec(m), KEYS, {"truth": "d" * 12}) for m in methods]


def manifest(cells, preset="tiny") -> Manifest:
    entry = DatasetEntry(
        "strokes", "plans/s-" + "e" * 12, "e" * 12, "judges/s-" + "f" * 12, "exact", VARIABLES, (1, 8, 8)
    )
    budget = Budget.named(preset)
    return Manifest(
        "0", budget, "test", "marginal", None, "fp32", {"strokes": entry}, tuple(cells), controls=("identity",)
    )


def run_before(root, name, seconds, clock, *, preset="tiny", **begin):
    """A run that has ended, with its log."""
    folder = root / name
    folder.mkdir()
    write_manifest(folder, manifest(cells_of("diffscm", "deepscm", "identity"), preset))
    log_event(folder, "begin", tasks=len(seconds), jobs=1, **begin)
    for task, took in seconds.items():
        log_event(folder, "start", task=task)
        clock(took)
        log_event(folder, "end", task=task, status="done", seconds=took)


def monitor_of(folder, *methods, preset="tiny") -> RunMonitor:
    about = manifest(cells_of(*methods), preset)
    work, history = Workload.of_run(about), earlier_runs(folder, "cpu")
    return RunMonitor(folder, about.cells, about.controls, work=work, history=history)


def replayed(folder, monitor, seconds, clock):
    """Yield the time left that is said and the time left that is so, five times a task, as a log of it grows."""
    folder.mkdir()
    (folder / ".progress").mkdir()
    log_event(folder, "begin", tasks=len(seconds), jobs=1)
    end = clock.now + sum(seconds.values())
    for task, took in seconds.items():
        begun, note = clock.now, folder / ".progress" / "note.json"
        for part in range(5):
            clock.now = begun + took * part / 5
            done = TaskProgress(task, "first of two", part, 3, None, begun, begun, 0, clock.now)
            note.write_text(json.dumps(asdict(done)))
            monitor.update()
            yield monitor.total(), end - clock.now
        clock.now = begun + took
        note.unlink()
        log_event(folder, "end", task=task, status="done", seconds=took)
        monitor.done.add(task)
        monitor.ended.add(task)


@pytest.mark.parametrize("runs", [1, 3])
def test_of_a_kind_of_run_that_was_made_before_the_time_left_is_right_within_a_factor_of_two(tmp_path, clock, runs):
    paces = itertools.cycle(PACES)
    for number in range(runs):
        run_before(tmp_path, f"before-{number}", {t: s * next(paces) for t, s in MEASURED.items()}, clock)
    monitor = monitor_of(tmp_path / "now", "diffscm", "deepscm", "identity")
    total, wrong = sum(MEASURED.values()), []
    for said, so in replayed(tmp_path / "now", monitor, MEASURED, clock):
        if so < total / 50:
            break
        wrong += [] if said.low / 2 <= so <= said.high * 2 and said.high <= 4 * said.low + total / 10 else [(said, so)]
        if so > total / 4:
            assert said.complete, so
    assert not wrong


def test_of_a_kind_of_run_that_was_made_with_a_smaller_budget_the_range_holds_what_is_so(tmp_path, clock):
    """Seconds of fits and answers grow with the budget, those of scores and judges less."""
    run_before(tmp_path, "before", MEASURED, clock)
    growth = {"train": 55.0, "images": 9.0, "judges": 6.0, "scores": 3.0}
    now = {t: s * growth.get(t.split()[0], 1.0) for t, s in MEASURED.items()}
    monitor = monitor_of(tmp_path / "now", "diffscm", "deepscm", "identity", preset="quick")
    for said, so in itertools.islice(replayed(tmp_path / "now", monitor, now, clock), 20):
        assert said.low / 1.5 <= so <= said.high * 1.5
        assert said.high < 12 * said.low


def test_of_what_was_never_done_a_lower_bound_is_said_or_nothing(tmp_path, clock):
    monitor, said = monitor_of(tmp_path / "now", "diffscm", "deepscm", "identity"), []
    for left, so in replayed(tmp_path / "now", monitor, MEASURED, clock):
        said.append(headline(monitor))
        assert left is None or left.complete or left.low <= 1.2 * so
        if "scores" not in "".join(monitor.ended):
            assert not left.complete
    assert said[0].endswith("time left unknown yet")
    assert any("at least" in line for line in said)
    assert not any(" 0 " in line for line in said)


@pytest.mark.parametrize("begin", [{"device": "cuda"}, {"host": "elsewhere"}], ids=str)
def test_other_machines_and_devices_say_nothing(tmp_path, clock, begin):
    run_before(tmp_path, "before", MEASURED, clock, **begin)
    assert monitor_of(tmp_path / "now", "diffscm").usual("train strokes diffscm seed 0") is None


def test_runs_that_cannot_be_read_say_nothing(tmp_path, clock):
    for name, text in (("empty", ""), ("list", "[]"), ("deep", "[" * 5000)):
        run_before(tmp_path, name, MEASURED, clock)
        (tmp_path / name / "run.json").write_text(text)
    assert monitor_of(tmp_path / "now", "diffscm").usual("judges strokes") is None


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (TimeLeft(0, 0, False), "time left unknown yet"),
        (TimeLeft(31, 31, False), "at least 30 seconds left"),
        (TimeLeft(240, 540), "4 to 9 minutes left"),
        (TimeLeft(290, 310), "about 5 minutes left"),
        (TimeLeft(40, 200), "40 seconds to 3 minutes left"),
        (TimeLeft(0, 20), "up to 20 seconds left"),
        (TimeLeft(5400, 12000), "90 minutes to 3.3 hours left"),
        (TimeLeft(0, 0.2), "up to 1 second left"),
        (TimeLeft(0.2, 90, False), "at least 1 second left"),
    ],
)
def test_the_time_left_in_words(left, says):
    assert str(left) == says


def test_tasks_at_once_take_what_the_longest_chain_takes_at_least():
    tasks = tasks_by_id(cells_of("a", "b"))
    left = {name: TimeLeft(10, 20) for name in tasks}
    one, many = parallel(tasks, left, 1), parallel(tasks, left, 100)
    assert (one.low, one.high) == (100, 200)
    assert many.low == 50, "prepare, train, tune, images, scores"
    assert 100 <= many.high < 110
    assert parallel(tasks, {}, 2) == TimeLeft()


def test_a_range_covers_the_durations_that_were_seen():
    history, task = History(), Task("judges", Spec("d"))
    assert history.estimate(task, 1.0) is None
    for seconds in (10.0, 30.0):
        history.add(task, seconds, 1.0)
    found = history.estimate(task, 1.0)
    assert 10 / CLOSE < found.low < 10 < 30 < found.high < 30 * CLOSE
