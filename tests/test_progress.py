"""What a run says while it goes on, here and in another terminal: rates, times left, and nothing that is not so."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from disturbs import children
from rich.console import Console
from small import TOYS, toy_run

from cfbench.cli.follow import monitor_of, status_lines
from cfbench.cli.main import _main
from cfbench.conformance.subjects.toy import BARS, ROOT
from cfbench.contract import Dataset, Fit
from cfbench.engine import display
from cfbench.engine.display import CellProgress, RunMonitor, draw_table, headline, progress_lines
from cfbench.engine.estimates import TimeLeft
from cfbench.engine.prepare import prepare
from cfbench.engine.request import Request
from cfbench.plugins.spec import Spec
from cfbench.report.charts.curves import scalars, write_scalars
from cfbench.runs import progress
from cfbench.runs.chain import Outcome, Status, cell_tasks
from cfbench.runs.console import forward_progress, print_progress
from cfbench.runs.context import Context
from cfbench.runs.job import Cell
from cfbench.runs.progress import (
    ProgressReporter,
    TaskProgress,
    is_active,
    log_event,
    run_lock,
    tasks_in_progress,
)

CFBENCH = [sys.executable, "-c", "from cfbench.cli.main import main; main()"]
KEYS = {"train": "a" * 12, "tune": "b" * 12, "images": "c" * 12}


class Clock:
    """A time that advances only when the test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "time", lambda: self.now)

    def __call__(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def cell(method, seed=0, dataset="bars", fit=None):
    spec = Spec(method) if isinstance(method, str) else method
    return Cell(Spec(dataset), spec, seed, fit or spec, KEYS, {"truth": "d" * 12})


def ended(folder, task, seconds, status="done"):
    log_event(folder, "end", task=task, status=status, seconds=seconds)


def doing(folder, task, clock, *, stage="fit", done=0, total=100, first=0, spent=10.0):
    note = TaskProgress(task, stage, done, total, None, clock.now - spent, clock.now - spent, first, clock.now)
    path = folder / ".progress" / f"{len(list(folder.glob('.progress/*.json')))}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(note)))


def outlook(folder, *cells, controls=()):
    found = RunMonitor(folder, cells, controls)
    found.update()
    return found


def test_a_rate_counts_from_where_a_stage_began(tmp_path, clock):
    with ProgressReporter(tmp_path, "train a") as report:
        report("fit", 500, 1000)
        clock(10)
        report("fit", 520, 1000, 0.25)
        (state,) = tasks_in_progress(tmp_path)
        assert state.rate == pytest.approx(2.0)
        assert state.left(clock.now) == pytest.approx(240)
        assert state.left(clock.now + 40) == pytest.approx(200)
        assert str(state) == "fit 520/1000, 2.0/s, 4:00 left, loss 0.25"
        report("fit", 0, 1000)
        (state,) = tasks_in_progress(tmp_path)
        assert (state.first, state.rate) == (0, None)
        clock(2)
        report("second", 7, 9)
        clock(2)
        report("second", 8, 9)
        assert str(tasks_in_progress(tmp_path)[0]) == "second 8/9, 0.5/s, 0:02 left"
    assert tasks_in_progress(tmp_path) == []


def test_a_fit_that_goes_on_from_a_checkpoint_has_the_rate_of_what_it_does_itself(tmp_path, clock):
    class Kept:
        def begin(self, run, stage, steps, size, keep):
            run.seen = 500 * size
            return 500, torch.empty(0, dtype=torch.long)

        def step(self, run, done, steps, queue, keep):
            clock(1.0)

    train = BARS.split(ROOT, "train")
    with ProgressReporter(tmp_path, "train a") as report:
        fit = Fit(train, train, 1000, torch.device("cpu"), torch.Generator(), progress=report, keeper=Kept())
        batches = fit.batches(1000, 1, keep={"x": []})
        for _ in range(11):
            next(batches)
        (state,) = tasks_in_progress(tmp_path)
        assert state.done == 510
        assert state.rate == pytest.approx(1.0)


def test_a_full_disk_ends_no_work(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with ProgressReporter(tmp_path, "train a", interval=0) as report:
        report("fit", 1, 2)
    assert tasks_in_progress(tmp_path) == []


def test_untrusted_notes_are_checked(tmp_path, clock):
    doing(tmp_path, "train \x1b[2J", clock, stage="\x07" * 500)
    notes = tmp_path / ".progress"
    (tmp_path / "elsewhere.json").write_text((notes / "0.json").read_text())
    (notes / "link.json").symlink_to(tmp_path / "elsewhere.json")
    (notes / "large.json").write_text("[" * 10**6)
    (notes / "list.json").write_text("[1]")
    os.mkfifo(notes / "pipe.json")
    os.mkfifo(tmp_path / "events.jsonl")
    assert outlook(tmp_path, cell("mine")).seconds == {}
    (notes / "text.json").write_text((notes / "0.json").read_text().replace("1000.0", '"x"'))
    (state,) = tasks_in_progress(tmp_path)
    assert str(state).isprintable()
    assert state.task.isprintable()
    assert len(state.stage) <= 60


def test_a_run_is_going_as_long_as_its_process_lives(tmp_path):
    assert not is_active(tmp_path)
    code = "import sys, time; from pathlib import Path; from cfbench.runs.progress import *\n"
    code += "folder = Path(sys.argv[1])\n"
    code += "with run_lock(folder), ProgressReporter(folder, 'train a'): print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert is_active(tmp_path)
    with run_lock(tmp_path):
        assert [d.task for d in tasks_in_progress(tmp_path)] == ["train a"], "another driver's notes must stay"
    process.kill()
    process.wait()
    process.stdout.close()
    assert not is_active(tmp_path)
    assert tasks_in_progress(tmp_path), "a kill leaves the note"
    with run_lock(tmp_path):
        assert is_active(tmp_path)
        assert tasks_in_progress(tmp_path) == []
    assert not is_active(tmp_path)


def test_what_has_not_begun_takes_what_the_same_stage_of_the_same_method_took(tmp_path, clock):
    cells = [cell("mine"), cell("mine", 1), cell("mine", 2), cell("other"), cell("identity")]
    ended(tmp_path, "train bars mine seed 0", 100)
    ended(tmp_path, "train bars identity seed 0", 0.5)
    found = outlook(tmp_path, *cells, controls=["identity"])
    usual = found.usual("train bars mine seed 1")
    assert 50 < usual.low < 100 < usual.high < 200
    assert found.usual("train bars other seed 0") is None, "of another method nothing is known"
    assert found.usual("images bars mine seed 0") is None, "no images were made yet"
    ended(tmp_path, "train bars mine seed 1", 300)
    ended(tmp_path, "train bars other seed 0", 7)
    ended(tmp_path, "train bars mine seed 1", 9999, "failed")
    assert found.update()
    assert found.update() is False
    usual = found.usual("train bars mine seed 2")
    assert 50 < usual.low < 100 < 300 < usual.high < 600, "both of the same method"
    assert 4 < found.usual("train bars other seed 0").low < 7
    ended(tmp_path, "scores bars mine seed 0", 20)
    found.update()
    assert 10 < found.usual("scores bars other seed 0").low < 20 < found.usual("scores bars identity seed 0").high


def test_the_time_left_of_a_cell_is_that_of_its_stages(tmp_path, clock):
    cells = [cell("mine"), cell("mine", 1), cell("mine", 2)]
    for stage, seconds in (("train", 100), ("tune", 1), ("images", 20), ("scores", 9)):
        ended(tmp_path, f"{stage} bars mine seed 0", seconds)
    doing(tmp_path, "train bars mine seed 1", clock, done=20, spent=10)
    found = outlook(tmp_path, *cells)
    found.done |= {t.id for t in (*cell_tasks(cells[0]), *found.shared)}
    first, second, third = found.rows()
    assert (first.status, first.left, first.seconds) == ("ok", None, 130)
    assert (second.status, second.left.complete) == ("running", True)
    usual = found.usual("train bars mine seed 2")
    assert second.left.high - third.left.high == pytest.approx(-10), "what the whole fit takes, where the stage says 40"
    assert third.left.low == pytest.approx(usual.low * 130 / 100)
    assert second.about == "train fit 20/100, 2.0/s, 0:40 left"
    one = found.total()
    assert one.low == pytest.approx(second.left.low + third.left.low)
    found.slots = 2
    two = found.total()
    assert two.low == pytest.approx(third.left.low), "the longer of two chains"
    assert third.left.high < two.high < one.high
    (tmp_path / ".progress/0.json").unlink()
    log_event(tmp_path, "resume", task="train bars mine seed 1", stage="fit", step=70, total=100, seconds=66.0)
    doing(tmp_path, "train bars mine seed 1", clock, done=90, first=70, spent=10)
    found.update()
    rest = found.rows()[1].left
    assert rest.high == pytest.approx(third.left.high - 76), "it continued from a checkpoint"
    ended(tmp_path, "train bars mine seed 1", 34)
    found.update()
    assert found.usual("train bars mine seed 2") == usual, "a part of a fit says nothing of a whole one"


def test_where_a_fit_continues_is_said_in_its_row_and_on_a_line(tmp_path, clock, monkeypatch, capsys):
    log_event(tmp_path, "begin", tasks=1, jobs=1)
    log_event(tmp_path, "resume", task="train bars mine seed 0", stage="old", step=1, steps=2, seconds=1)
    log_event(tmp_path, "start", task="train bars mine seed 0")
    doing(tmp_path, "train bars mine seed 0", clock, done=90, first=70, spent=10)
    found = outlook(tmp_path, cell("mine"))
    assert "continued" not in found.rows()[0].about
    log_event(tmp_path, "resume", task="train bars mine seed 0", stage="\x07fit", step=70, steps=1000, seconds="x")
    found.update()
    assert found.rows()[0].about == "train fit 90/100, 2.0/s, 0:05 left, continued from step 70 of 1,000 (\ufffdfit)"
    outcome = Outcome(found.tasks["train bars mine seed 0"], Status.DONE, seconds=3.0)
    assert found.outcome_line(outcome) == "train bars mine seed 0: 3.0 s, continued from step 70 of 1,000 (\ufffdfit)"
    monkeypatch.setattr(progress, "EVERY", 0.02)
    with display.live_display(found):
        doing(tmp_path, "train bars mine seed 0", clock, done=90, first=70, spent=10)
        output = ""
        while "2.0/s" not in output:
            time.sleep(0.02)
            output += capsys.readouterr().err
    assert output.splitlines()[0] == "train bars mine seed 0: continues from step 70 of 1,000 (\ufffdfit)"
    assert output.count("continues") == 1


def test_a_time_that_is_not_known_in_full_is_marked_as_a_lower_bound(tmp_path, clock):
    doing(tmp_path, "train bars mine seed 0", clock, done=50, spent=10)
    found = outlook(tmp_path, cell("mine"), cell("mine", 1))
    running_, pending = found.rows()
    assert (running_.left.low, running_.left.complete, running_.remaining) == (10, False, "0:10+")
    assert (pending.left.unknown, pending.remaining) == (True, "")
    assert headline(found).endswith("at least 10 seconds left")
    (tmp_path / ".progress/0.json").unlink()
    found.update()
    assert headline(found).endswith("time left unknown yet")


def test_a_task_that_takes_longer_than_usual_has_no_end_that_is_known(tmp_path, clock):
    ended(tmp_path, "images bars mine seed 1", 9)
    doing(tmp_path, "images bars mine seed 0", clock, done=50, spent=100)
    found = outlook(tmp_path, cell("mine"), cell("mine", 1))
    assert (found._left("images bars mine seed 0").low, found.rows()[0].left.complete) == (100, False)


def test_rows_that_share_a_fit_both_show_it(tmp_path, clock):
    fit = Spec("mine")
    cells = [cell(Spec("mine", params={"scale": s}), fit=fit) for s in (1, 2)]
    doing(tmp_path, "train bars mine seed 0", clock)
    found = outlook(tmp_path, *cells)
    assert [r.status for r in found.rows()] == ["running", "running"]
    task = found.tasks["train bars mine seed 0"]
    found.end(Outcome(task, Status.FAILED, "raises"))
    found.update()
    assert [(r.status, r.about) for r in found.rows()] == [("failed", "raises")] * 2


def test_the_log_of_an_earlier_command_counts_for_times_and_not_as_done(tmp_path, clock):
    log_event(tmp_path, "begin", tasks=3, jobs=2)
    ended(tmp_path, "train bars mine seed 0", 5)
    log_event(tmp_path, "begin", tasks=8, jobs=1)
    (tmp_path / "events.jsonl").open("a").write('{"event": "end", "task": "train bars mine se')
    found = outlook(tmp_path, cell("mine"))
    assert (found.total_tasks, found.slots, found.logged_ends, found.done) == (8, 1, set(), set())
    assert found.rows()[0].status == "pending"
    assert found.usual("train bars mine seed 0").low < 5 < found.usual("train bars mine seed 0").high
    assert found.rows()[0].remaining.endswith("+"), "the other stages are unknown"


def printed(renderable, width=120):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return out.getvalue()


def test_every_cell_has_a_row_and_of_many_those_that_matter(tmp_path, clock):
    cells = [cell(Spec("mine", params={"scale": 2}), seed) for seed in range(30)]
    doing(tmp_path, "images bars mine[scale=2] seed 20", clock)
    found = outlook(tmp_path, *cells)
    found.done |= {t.id for c in cells[:10] for t in cell_tasks(c)}
    found.failures["train bars mine[scale=2] seed 12"] = ("failed", "raises")
    wide = printed(draw_table(found, "head", 100))
    assert all(c.label in wide for c in cells)
    text = printed(draw_table(found, "head", 14))
    assert len(text.splitlines()) <= 13
    for row in ("running  bars mine[scale=2] seed 20", "failed   bars mine[scale=2] seed 12"):
        assert row in text
    assert "and 10 ok, 11 pending" in text
    assert max(map(len, printed(draw_table(found, "head", 14), 60).splitlines())) <= 60


def test_without_a_terminal_a_task_is_reported_at_intervals(tmp_path, clock, monkeypatch, capsys):
    doing(tmp_path, "train bars mine seed 0", clock, done=50, spent=10)
    found = outlook(tmp_path, cell("mine"))
    assert progress_lines(found)[0] == "  train bars mine seed 0: fit 50/100, 5.0/s, 0:10 left"
    assert len(progress_lines(found)) == 2
    monkeypatch.setattr(progress, "EVERY", 0.02)
    with display.live_display(found) as say:
        doing(tmp_path, "train bars mine seed 0", clock, done=50, spent=10)
        output = ""
        while "5.0/s" not in output:
            time.sleep(0.02)
            output += capsys.readouterr().err
        say("train [bold]")
    assert "train [bold]\n" in capsys.readouterr().err


def run(folder, *args):
    more = ["--jobs", "1", "--no-plots", "--no-controls", "--metrics", "truth", "--data-root", str(folder)]
    return toy_run(folder, *more, *args)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert _main(run(folder, "--methods", "patient,raises,loud")) == 2
    return folder


def test_status_tells_status_seconds_and_reason(finished, capsys):
    assert _main(["status", "tiny", "--run-root", str(finished)]) == 0
    top, *rows = capsys.readouterr().out.partition("\n\noptions:")[0].splitlines()
    assert top.split()[:3] == ["status", "cell", "seconds"]
    assert [r.split()[0] for r in rows] == ["ok", "failed", "invalid"]
    assert "train: ArithmeticError: this method cannot be fitted" in rows[1]
    assert float(rows[0].split()[-1]) > 0


def test_following_a_run_that_is_not_going_says_so(finished, capsys):
    assert _main(["status", "tiny", "--follow", "--run-root", str(finished)]) == 0
    out, err = capsys.readouterr()
    assert "ok       bars patient seed 0" in out
    assert "no process is at work" in err


def test_a_note_that_a_kill_left_is_nothing_under_way(finished, clock):
    doing(finished / "tiny", "train bars patient seed 0", clock)
    assert [r.status for r in monitor_of(finished / "tiny").rows()] == ["ok", "failed", "invalid"]


def descendants(pid):
    return [pid, *(each for child in children(pid) for each in descendants(child))]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_is_followed_from_another_process_until_it_stops(tmp_path):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = {**os.environ, "PATIENCE": "0.02"}
    driver = subprocess.Popen([*CFBENCH, *run(tmp_path, "--methods", "patient,knows")], env=env, **quiet)
    try:
        deadline = time.monotonic() + 120
        while not any(d.stage == "fit" for d in tasks_in_progress(tmp_path / "tiny")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        at_work = descendants(driver.pid)
        for pid in at_work:  # they are going, and get nowhere until both have looked
            os.kill(pid, signal.SIGSTOP)
        follow = [*CFBENCH, "status", "tiny", "--follow", "--run-root", str(tmp_path)]
        pipes = {"stdout": subprocess.PIPE, "text": True}
        leaver, stayer = subprocess.Popen(follow, **pipes), subprocess.Popen(follow, **pipes)
        firsts = [f.stdout.readline() for f in (leaver, stayer)]
        assert all(f.startswith("running  bars patient seed 0") for f in firsts), firsts
        leaver.send_signal(signal.SIGINT)
        assert leaver.wait() in (0, 130)
        leaver.stdout.close()
        for pid in at_work:
            os.kill(pid, signal.SIGCONT)
        assert driver.wait() == 0
        output = stayer.communicate()[0].partition("\n\noptions:")[0].splitlines()
        assert stayer.returncode == 0
    finally:
        driver.kill()
        driver.wait()
    assert any("train bars patient seed 0: fit" in line for line in output)
    assert [line.split()[:3] for line in output[-2:]] == [["ok", "bars", "patient"], ["ok", "bars", "knows"]]


def test_lines_are_as_wide_as_their_cells():
    text = status_lines(
        [
            CellProgress("a", Status.OK, "", 1.5),
            CellProgress("longer", Status.RUNNING, "fit", 0.0, TimeLeft(61.0, 61.0, False)),
        ]
    )
    assert text[1] == "ok       a           1.5"
    assert text[2] == "running  longer           fit; 1:01+ left"


def test_data_sets_report_while_they_are_prepared_and_only_then(tmp_path):
    places = {"run_root": tmp_path / "runs", "data_root": tmp_path, "plugins": (Path(TOYS),)}
    loaded, output = Request(methods="", controls=False, datasets="bars", preset="tiny", **places).loaded, []
    dataset = loaded.dataset(Spec("bars"))
    usual = type(dataset).oracle

    def oracle(root, split, index, cf_pa):
        dataset.progress("drawing", 0, len(index))
        return usual(dataset, root, split, index, cf_pa)

    dataset.oracle = oracle
    prepare(Context(loaded, lambda *report, **_: output.append(report)), Spec("bars"))
    assert ("drawing", 0, 12) in output
    assert dataset.progress is Dataset.progress
    assert dataset.progress("drawing", 0, 1) is None


def test_a_data_set_whose_attributes_cannot_be_set_stays_silent():
    @dataclass(frozen=True)
    class Frozen(Dataset):
        size: int = 3

    frozen = Frozen()
    with forward_progress(frozen, print):
        assert frozen.progress is Dataset.progress


def test_morphomnist_reports_while_it_draws(data_root, monkeypatch):
    from cfbench_datasets.morphomnist import published, renderer

    if not published.has_sources(data_root):
        pytest.skip("no raw MNIST under the data root")
    monkeypatch.setattr(renderer, "CHUNK", 3)
    output, made = [], renderer.Renderer(data_root, False)
    parents = torch.tensor([[0.0, 3.0, 200.0]]).repeat(7, 1)
    images = made.render(torch.arange(7), parents, lambda done, total: output.append((done, total)))
    assert output == [(0, 7), (3, 7), (6, 7), (7, 7)]
    monkeypatch.setattr(renderer, "CHUNK", 100)
    assert torch.equal(images, made.render(torch.arange(7), parents))


def test_long_work_is_reported_and_short_work_is_not(capsys):
    with print_progress("preparing a", delay=30):
        pass
    assert capsys.readouterr().err == ""
    output = ""
    with print_progress("preparing [a]", delay=0.01, every=0.01) as report:
        report("drawing", 1000, 70_000)
        while "drawing 1,000/70,000" not in output:
            time.sleep(0.01)
            output += capsys.readouterr().err
    assert output.startswith("preparing [a]")


def test_numbers_of_a_log_become_scalars():
    rows = [
        {"stage": "flow", "step": 10, "loss": 0.5, "note": "x", "good": True},
        {"loss": 0.25, "images": 64},
    ]
    assert list(scalars(rows)) == [("flow/loss", 0.5, 10), ("loss", 0.25, 1), ("images", 64.0, 1)]


def test_tensorboard_that_is_missing_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert _main(run(tmp_path, "--methods", "knows", "--tensorboard")) == 1
    err = capfd.readouterr().err
    assert "pip install 'cfbench-scm[tensorboard]'" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_the_training_log(finished):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cells = [Cell.from_dict(c) for c in json.loads((finished / "tiny/run.json").read_text())["cells"]]
    (out,) = write_scalars(finished / "tiny", cells)
    assert write_scalars(finished / "tiny", cells) == []
    log = next((finished / "tiny/cells/bars/patient").rglob("log.jsonl")).read_text().splitlines()
    found = EventAccumulator(str(out)).Reload().Scalars("loss")
    assert [s.value for s in found] == pytest.approx([json.loads(row)["loss"] for row in log])


def test_status_has_no_columns_without_entries_and_no_table_without_rows():
    assert status_lines([]) == ["no rows yet: `cfbench run` adds methods, `cfbench score` answers made elsewhere"]
    pending = CellProgress("bars learns seed 0", Status.PENDING)
    done = CellProgress("bars long-name seed 0", Status.OK, seconds=12.34)
    assert status_lines([pending]) == ["status   cell", "pending  bars learns seed 0"]
    assert status_lines([pending, done]) == [
        "status   cell                   seconds",
        "pending  bars learns seed 0",
        "ok       bars long-name seed 0     12.3",
    ]
