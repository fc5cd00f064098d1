"""Tasks share a GPU as far as they fit, and have it alone when they are tried again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from cfbench.engine.workers.ray_executor import EngineDied, RayExecutor, gpu_share, peak_memory_of
from cfbench.plugins.spec import Spec
from cfbench.runs import progress
from cfbench.runs.budget import Budget
from cfbench.runs.chain import Outcome, Status, Task
from cfbench.runs.context import LoadedJob
from cfbench.runs.job import Cell, Job
from cfbench.runs.progress import read_events

DATA = Spec("bars")


def task(method, seed=0, stage="train"):
    row = Spec(method)
    return Task(stage, DATA, Cell(DATA, row, seed, row, dict.fromkeys(("train", "tune", "images"), "0" * 12)))


def seen(folder, method, seed, stage, **costs):
    path = folder / f"cells/bars/{method}/seed-{seed}/{stage}-{'0' * 12}/costs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(costs))


@pytest.mark.parametrize(
    ("peak", "slots", "share"), [(None, 4, 0.25), (1000, 4, 0.25), (32_000, 4, 0.5), (79_000, 4, 1.0), (32_000, 1, 1.0)]
)
def test_a_share_is_equal_or_what_memory_asks_for(tmp_path, peak, slots, share):
    if peak:
        seen(tmp_path, "big", 0, "train", train_peak_mb=peak)
    assert gpu_share(tmp_path, task("big", seed=1), slots, 80_000) == pytest.approx(share)


def test_answers_have_a_gpu_alone_so_that_their_times_are_their_own(tmp_path):
    assert gpu_share(tmp_path, task("m", stage="images"), 4, 80_000) == 1.0
    assert gpu_share(tmp_path, task("m", stage="scores"), 4, 80_000) == 0.25


def test_a_peak_is_the_largest_of_all_seeds(tmp_path):
    for seed, peak in enumerate((10.0, 30.0, 20.0)):
        seen(tmp_path, "m", seed, "train", train_peak_mb=peak)
    assert peak_memory_of(tmp_path, task("m", 7)) == 30
    assert peak_memory_of(tmp_path, task("other")) is None
    assert peak_memory_of(tmp_path, Task("judges", DATA)) is None
    (tmp_path / f"cells/bars/m/seed-1/train-{'0' * 12}/costs.json").write_text("[")
    assert peak_memory_of(tmp_path, task("m", 7)) == 20


class Reference:
    """What Ray gives for a task that it has."""

    def __init__(self, task):
        self.task = task


class Ray:
    """Takes tasks, does nothing, and tells what was asked of it."""

    exceptions = SimpleNamespace(
        RayTaskError=KeyError,
        RayError=OSError,
        OutOfMemoryError=MemoryError,
        NodeDiedError=ConnectionError,
        LocalRayletDiedError=BrokenPipeError,
    )

    def __init__(self, *ends):
        self.ends, self.asked, self.cancelled = list(ends), [], []

    def cancel(self, reference, force):
        assert force
        self.cancelled.append(reference.task.id)

    def remote(self, **options):
        def options_of(**share):
            self.asked.append(share)
            return SimpleNamespace(remote=lambda job, task, group: Reference(task))

        return lambda function: SimpleNamespace(options=options_of)

    def wait(self, flying, num_returns, timeout):
        return (flying[:1], flying[1:]) if self.ends else ([], flying)

    def get(self, reference):
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return Outcome(reference.task, Status(end))


def workers(tmp_path, ray, slots=4, gpus=1):
    return RayExecutor(ray, LoadedJob(Job(tmp_path, tmp_path, Budget.named("tiny"), device="cuda")), slots, gpus)


def test_four_small_tasks_share_a_gpu(tmp_path):
    ray = Ray()
    mine = workers(tmp_path, ray)
    for seed in range(4):
        mine.start(task("m", seed))
    assert [a["num_gpus"] for a in ray.asked] == [0.25] * 4


@pytest.mark.parametrize("end", ["oom", OSError("died")])
def test_what_runs_out_of_memory_or_dies_has_the_gpu_alone_before_that_is_its_end(tmp_path, end):
    ray = Ray(end, "done", "done", "done")
    mine = workers(tmp_path, ray, slots=2)
    mine.start(task("m", 0))
    mine.start(task("m", 1))
    assert mine.wait() == []
    mine.start(task("m", 2))
    assert len(ray.asked) == 2, "a task was started next to one that must be alone"
    assert [o.task.id for o in mine.wait()] == ["train bars m seed 1"]
    assert ray.asked[2]["num_gpus"] == 1.0
    assert [o.task.id for o in mine.wait()] == ["train bars m seed 0"]
    assert ray.asked[3]["num_gpus"] == 0.5
    assert [o.task.id for o in mine.wait()] == ["train bars m seed 2"]
    assert [e["again"] for e in read_events(tmp_path) if e["event"] == "crash"] == [False]


def test_a_second_time_is_the_end(tmp_path):
    mine = workers(tmp_path, Ray("oom", "oom"))
    mine.start(task("m"))
    assert mine.wait() == []
    assert [o.status for o in mine.wait()] == ["oom"]


@pytest.fixture
def clock(monkeypatch):
    """Seconds that stand still until a test moves them."""
    now = [1000.0]
    monkeypatch.setattr("cfbench.engine.workers.ray_executor.time.time", lambda: now[0])
    return now


def under_way(folder, method, begun):
    path = folder / progress.FOLDER / f"{method}.json"
    path.parent.mkdir(exist_ok=True)
    times = dict.fromkeys(("done", "total", "stage_begun", "first", "now"), 0.0)
    note = {"task": task(method).id, "stage": "fit", "loss": None, "begun": begun, **times}
    path.write_text(json.dumps(note))


def limited(tmp_path, ray):
    job = Job(tmp_path, tmp_path, Budget.named("tiny"), device="cuda", timeout=100.0)
    mine = RayExecutor(ray, LoadedJob(job), 4, 1)
    for name in "ab":
        mine.start(task(name))
    return mine


def test_a_task_that_waits_for_a_gpu_is_not_over_its_time(tmp_path, clock):
    ray = Ray()
    mine = limited(tmp_path, ray)
    clock[0] += 50
    under_way(tmp_path, "b", clock[0])
    clock[0] += 105
    assert mine.wait() == []
    clock[0] += 10
    assert [(o.task.id, o.status) for o in mine.wait()] == [("train bars b seed 0", "timeout")]
    (tmp_path / progress.FOLDER / "b.json").unlink()
    under_way(tmp_path, "a", clock[0])
    clock[0] += 105
    assert mine.wait() == []
    clock[0] += 10
    assert [o.task.id for o in mine.wait()] == ["train bars a seed 0"]
    assert ray.cancelled == ["train bars b seed 0", "train bars a seed 0"]


def test_the_note_of_an_earlier_attempt_does_not_count(tmp_path, clock):
    mine = limited(tmp_path, Ray())
    under_way(tmp_path, "a", clock[0] - 500)
    clock[0] += 90
    assert mine.wait() == []


def test_where_no_note_says_what_began_one_task_after_the_other_is_over_its_time(tmp_path, clock):
    mine = limited(tmp_path, Ray())
    clock[0] += 120
    assert [o.task.id for o in mine.wait()] == ["train bars a seed 0"]
    assert mine.wait() == []
    clock[0] += 120
    assert [o.task.id for o in mine.wait()] == ["train bars b seed 0"]


class Silent(Ray):
    """A cluster that has nodes, and answers nothing more."""

    def nodes(self):
        raise OSError("gone")


def test_a_cluster_that_does_not_remove_its_folders_fails_nothing(tmp_path):
    ray = Silent()
    mine = workers(tmp_path, ray)
    mine.start(task("m"))
    mine.remove_node_folders()
    assert ray.cancelled == [], "on this machine there are no folders of nodes"
    mine.sender = SimpleNamespace(token="ab")
    mine.remove_node_folders()
    assert ray.cancelled == ["train bars m seed 0"]


class Engine(Ray):
    """Ray with processes on this machine, of which some have ended."""

    def __init__(self, *ends, dead=()):
        super().__init__(*ends)
        node = SimpleNamespace(dead_processes=lambda: [(kind, None) for kind in dead])
        self._private = SimpleNamespace(worker=SimpleNamespace(_global_node=node))


@pytest.mark.parametrize("dead", ["raylet", "gcs_server"])
def test_the_death_of_the_engine_is_no_failure_of_a_task(tmp_path, dead):
    mine = workers(tmp_path, Engine(dead=[dead, "log_monitor"]))
    mine.start(task("m"))
    with pytest.raises(EngineDied, match=f"Ray's {dead} ended unexpectedly; the same command continues"):
        mine.wait()


def test_the_death_of_another_process_of_the_engine_disturbs_nothing(tmp_path):
    mine = workers(tmp_path, Engine("done", dead=["log_monitor"]))
    mine.start(task("m"))
    assert [o.status for o in mine.wait()] == ["done"]


def test_a_task_that_loses_its_node_is_pending_however_often(tmp_path):
    mine = workers(tmp_path, Ray(*[ConnectionError("node"), BrokenPipeError("raylet")] * 3))
    for _ in range(6):
        mine.start(task("m"))
        assert [o.status for o in mine.wait()] == ["pending"]


def test_while_a_run_is_stopped_nothing_is_tried_again(tmp_path):
    ray = Ray(OSError("died"), OSError("died"))
    mine = workers(tmp_path, ray)
    mine.start(task("m", 0))
    mine.start(task("m", 1))
    mine.stop()
    ended = [*mine.wait(), *mine.wait()]
    assert [(o.task.id, o.status) for o in ended] == [(task("m", seed).id, "pending") for seed in (0, 1)]
    assert len(ray.asked) == 2
