"""Tasks start when what they need is done, and never when it is lost."""

from __future__ import annotations

from cfbench.cells import Cell
from cfbench.schedule import Schedule
from cfbench.spec import Spec
from cfbench.work import Outcome, Task

DATA = Spec("d")


def chain(seed=0):
    cell = Cell(DATA, Spec("m"), seed, Spec("m"))
    train = Task("train", DATA, cell)
    images = Task("images", DATA, cell, (train.id,))
    return train, images, Task("scores", DATA, cell, (images.id,))


def test_a_chain_runs_in_order():
    train, images, scores = chain()
    schedule = Schedule([scores, images, train], ())
    for task in (train, images, scores):
        assert schedule.ready(4) == [task]
        assert schedule.ready(4) == []
        schedule.end(Outcome(task.id, "done"))
    assert not schedule.waiting


def test_no_more_than_the_slots_are_under_way():
    tasks = [chain(seed)[0] for seed in range(5)]
    schedule = Schedule(tasks, ())
    assert schedule.ready(2) == tasks[:2]
    schedule.end(Outcome(tasks[0].id, "done"))
    assert schedule.ready(2) == [tasks[2]]


def test_what_needs_a_failed_task_is_skipped_to_the_end_of_the_chain():
    train, images, scores = chain()
    other = chain(1)[0]
    schedule = Schedule([train, images, scores, other], ())
    schedule.ready(1)
    assert schedule.skip() == []
    schedule.end(Outcome(train.id, "failed", "why"))
    assert [(o.task, o.status) for o in schedule.skip()] == [(images.id, "skipped"), (scores.id, "skipped")]
    assert schedule.ready(4) == [other]


def test_a_task_whose_need_failed_in_an_earlier_run_is_skipped():
    _, images, _ = chain()
    schedule = Schedule([images], ())
    assert [o.status for o in schedule.skip()] == ["skipped"]


def test_a_task_whose_need_was_done_before_starts():
    train, images, _ = chain()
    assert Schedule([images], {train.id}).ready(1) == [images]
