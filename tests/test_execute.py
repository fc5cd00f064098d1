"""Tasks start when what they need is done, and never when it is lost."""

from __future__ import annotations

from pathlib import Path

from cfbench.engine.execute import Schedule
from cfbench.engine.request import Request
from cfbench.plugins.spec import Spec
from cfbench.runs.chain import Outcome, Status, Task, input_folders, tasks_of
from cfbench.runs.job import Cell

DATA = Spec("d")
TOYS = Path(__file__).with_name("toys.py")


def chain(seed=0):
    cell = Cell(DATA, Spec("m"), seed, Spec("m"))
    train = Task("train", DATA, cell)
    images = Task("images", DATA, cell, needs=(train.id,))
    return train, images, Task("scores", DATA, cell, needs=(images.id,))


def test_a_chain_runs_in_order():
    train, images, scores = chain()
    schedule = Schedule([scores, images, train], ())
    for task in (train, images, scores):
        assert schedule.ready(4) == [task]
        assert schedule.ready(4) == []
        schedule.end(Outcome(task, Status.DONE))
    assert not schedule.waiting


def test_no_more_than_the_slots_are_under_way():
    tasks = [chain(seed)[0] for seed in range(5)]
    schedule = Schedule(tasks, ())
    assert schedule.ready(2) == tasks[:2]
    schedule.end(Outcome(tasks[0], Status.DONE))
    assert schedule.ready(2) == [tasks[2]]


def test_what_needs_a_failed_task_is_skipped_to_the_end_of_the_chain():
    train, images, scores = chain()
    other = chain(1)[0]
    schedule = Schedule([train, images, scores, other], ())
    schedule.ready(1)
    assert schedule.skip() == []
    schedule.end(Outcome(train, Status.FAILED, "why"))
    assert [(o.task.id, o.status) for o in schedule.skip()] == [(images.id, "skipped"), (scores.id, "skipped")]
    assert schedule.ready(4) == [other]


def test_a_task_whose_need_failed_in_an_earlier_run_is_skipped():
    _, images, _ = chain()
    schedule = Schedule([images], ())
    assert [o.status for o in schedule.skip()] == ["skipped"]


def test_a_task_whose_need_was_done_before_starts():
    train, images, _ = chain()
    assert Schedule([images], {train.id}).ready(1) == [images]


def test_a_task_needs_all_that_it_reads(tmp_path):
    asked = {"datasets": "bars", "methods": "deepscm", "seeds": "0,1", "preset": "tiny", "metrics": "truth"}
    run = Request(**asked, plugins=(TOYS,), run_root=tmp_path, data_root=tmp_path).run()
    loaded, tasks = run.loaded, tasks_of(run)
    makes = {
        task.id: {"prepare": loaded.plan_folder, "judges": loaded.judge_folder}[task.stage](task.dataset)
        if task.cell is None
        else run.job.folder / task.cell.stage(task.stage)
        for task in tasks
        if task.stage != "scores"
    }
    assert {"resample[of=deepscm]"} <= {t.cell.method.label for t in tasks if t.cell}
    for task in tasks:
        assert set(input_folders(loaded, task)) <= {makes[name] for name in task.needs}, task.id
