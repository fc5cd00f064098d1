"""Tasks executed by Ray, several at once, on this machine or on a cluster, and the share of a GPU that each gets."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import UserError
from ..runs.chain import Outcome, Status, Task
from ..runs.context import load_job
from ..runs.job import Job
from ..runs.progress import log_event, remove_note, tasks_in_progress
from .ray_session import (
    authentication,
    cluster_authentication,
    import_ray,
    join_cluster,
    private_folder,
    start_ray,
    write_token,
)  # fmt: skip
from .tasks import record_failure, run_task
from .transfer import RemoteResult, StageSender, pack_code, remove_node_folder, run_remotely

__all__ = ["gpu_share", "peak_memory_of", "ray_executor"]


HEADROOM = 1.25
"""Memory to reserve relative to the peak of a method, for allocators and contexts."""


def gpu_share(folder: Path, task: Task, slots: int, memory_mb: float | None) -> float:
    """The part of a GPU, above 0 and at most 1, that a task asks Ray for.

    An equal share, or more where an earlier fit of the same method and data set took more memory; all of it for
    answers, whose times are in the table.

    Args:
        folder: of the run.
        slots: tasks that may share a GPU.
        memory_mb: of the GPU; None where it is unknown.
    """
    if task.stage == "images":
        return 1.0
    peak = peak_memory_of(folder, task) if memory_mb else None
    return min(1.0, max(1 / slots, HEADROOM * peak / memory_mb if peak and memory_mb else 0.0))


def peak_memory_of(folder: Path, task: Task) -> float | None:
    """The peak memory [MiB] of the same fit over all seeds that are finished; None where none is."""
    if task.cell is None or task.stage != "train":
        return None
    peaks = []
    for path in (folder / task.cell.fitted.path).parent.glob("seed-*/train-*/costs.json"):
        try:
            peaks.append(float(storage.read_json(path).get("train_peak_mb") or 0))
        except (UserError, TypeError, ValueError, AttributeError):
            continue
    return max(peaks, default=0.0) or None


WATCH, GRACE = 0.5, 10.0
"""Seconds between checks of the tasks in flight, and those that a worker may take to start and to stop."""
START = 60.0
"""Seconds that the workers on this machine have to start before a line says that they did not."""
CLEANUP = 10.0
"""Seconds that the nodes of a cluster have to remove their folders."""


@dataclass(frozen=True)
class Submission:
    """A task submitted to Ray: whether it is tried again, and when it was submitted."""

    task: Task
    again: bool = False
    begun: float = 0.0


class RayExecutor:
    """Executes tasks in Ray workers; one whose process dies, or is out of memory, is tried once more, alone.

    Fits share a GPU as far as the peak memory of their methods allows; answers, which are timed, have a GPU each.
    """

    def __init__(self, ray: Any, job: Job, slots: int, gpus: float, sender: StageSender | None = None) -> None:
        self.ray, self.job, self.slots, self.sender = ray, job, slots, sender
        self.each = math.ceil(slots / gpus) if gpus else 0
        self.memory_mb = _memory(job) if gpus else None
        self.remote = ray.remote(max_retries=0)(run_remotely if sender else _in_worker)
        self.in_flight: dict[Any, Submission] = {}
        self.waiting: list[Submission] = []
        self.ended = 0.0
        self.starting: list[Any] = []
        self.logs, self.begun = Path(), 0.0

    def warm_up(self, logs: Path) -> None:
        """Let all workers import their libraries while the first task, which the others wait for, is executed."""
        self.starting = [self.ray.remote(max_retries=0)(_warm_up).remote() for _ in range(self.slots)]
        self.logs, self.begun = logs, time.monotonic()

    def _check_start(self) -> None:
        """Print a line where workers have not started in time, as Ray says nothing and tries for ever."""
        if not self.starting or time.monotonic() - self.begun < START:
            return
        _, missing = self.ray.wait(self.starting, num_returns=len(self.starting), timeout=0)
        if missing:
            print(
                f"cfbench: {len(missing)} of {len(self.starting)} workers of Ray have not started within {START:g} s; "
                f"while this run waits, Ray's logs are in {self.logs}",
                file=sys.stderr,
            )
        self.starting = []

    def start(self, task: Task) -> None:
        submission = Submission(task)
        if self.waiting or any(s.again for s in self.in_flight.values()):
            self.waiting.append(submission)
        else:
            self._submit(submission)

    def _submit(self, submission: Submission) -> None:
        sent = () if self.sender is None else (self.sender.token, self.sender.needed(submission.task))
        ref = self.remote.options(**self._share(submission)).remote(self.job, submission.task, *sent)
        self.in_flight[ref] = replace(submission, begun=time.time())

    def _share(self, submission: Submission) -> dict[str, float]:
        """The resources that a task asks Ray for: cores, and a share of a GPU, all of one when tried again."""
        share = {"num_cpus": float(self.job.threads if self.sender else 1)}
        if self.each:
            part = gpu_share(self.job.folder, submission.task, self.each, self.memory_mb)
            share["num_gpus"] = 1.0 if submission.again else part
        return share

    def wait(self) -> list[Outcome]:
        self._check_start()
        ready, _ = self.ray.wait(list(self.in_flight), num_returns=1, timeout=WATCH)
        outcomes = [o for o in (self._outcome(ref, self.in_flight.pop(ref)) for ref in ready) if o]
        self.ended = time.time() if ready else self.ended
        outcomes += self._overdue()
        self._next()
        return outcomes

    def _next(self) -> None:
        """Start waiting tasks: one that is tried again once no other is in flight, the others after it."""
        self.waiting.sort(key=lambda s: not s.again)
        while self.waiting and not any(s.again for s in self.in_flight.values()):
            if self.waiting[0].again and self.in_flight:
                return
            self._submit(self.waiting.pop(0))

    def _overdue(self) -> list[Outcome]:
        """Kill a task beyond its time limit that did not end itself, as native code is not interrupted by an alarm."""
        if not self.job.timeout:
            return []
        begun = {note.task: note.begun for note in tasks_in_progress(self.job.folder)}
        for ref, submission in self.in_flight.items():
            if submission.task.cell and time.time() - self._since(submission, begun) > self.job.timeout + GRACE:
                self.ray.cancel(ref, force=True)
                del self.in_flight[ref]
                self.ended = time.time()
                reason = f"took longer than {self.job.timeout:g} s (--timeout) and had to be killed"
                return [record_failure(self.job, submission.task, Status.TIMEOUT, reason)]
        return []

    def _since(self, submission: Submission, begun: Mapping[str, float]) -> float:
        """When a task began, after waiting for a GPU; infinite while other tasks report progress, and it does not.

        Where a cluster does not share the folder, no task does: then a task is taken to have begun when it was
        submitted or when the last other task ended, whichever is later.
        """
        unknown = math.inf if begun else max(submission.begun, self.ended)
        return max(submission.begun, begun.get(submission.task.id, unknown))

    def _outcome(self, ref: Any, submission: Submission) -> Outcome | None:
        try:
            done = self.ray.get(ref)
            done = done.unpack(self.job.folder) if isinstance(done, RemoteResult) else done
            return None if done.status is Status.OOM and self._again(submission, "oom") else done
        except self.ray.exceptions.RayTaskError as error:
            return record_failure(self.job, submission.task, Status.FAILED, f"{type(error).__name__}: {error}")
        except self.ray.exceptions.RayError as error:
            name = type(error).__name__
            if self._again(submission, name):
                return None
            memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
            status, why = (Status.OOM, "took all memory") if memory else (Status.CRASHED, "died")
            return record_failure(self.job, submission.task, status, f"its process {why} twice ({name})")

    def _again(self, submission: Submission, reason: str) -> bool:
        """Log a crash or an out-of-memory error; whether the task is tried once more, alone, as it was not yet."""
        remove_note(self.job.folder, submission.task.id)
        log_event(self.job.folder, "crash", task=submission.task.id, reason=reason, again=submission.again)
        if not submission.again:
            self.waiting.append(Submission(submission.task, again=True))
        return not submission.again

    def remove_node_folders(self) -> None:
        """Cancel the tasks in flight on a cluster, and remove the folders in which its nodes executed tasks.

        Nodes that do not answer within `CLEANUP` seconds keep theirs.
        """
        if self.sender is None:
            return
        with suppress(Exception):  # all results have been received: a folder that stays on a node is no error
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            for ref in self.in_flight:
                self.ray.cancel(ref, force=True)
            remove = self.ray.remote(num_cpus=0, max_retries=0)(remove_node_folder)
            nodes = (NodeAffinitySchedulingStrategy(n["NodeID"], soft=False) for n in self.ray.nodes() if n["Alive"])
            removals = [remove.options(scheduling_strategy=node).remote(self.sender.token) for node in nodes]
            self.ray.wait(removals, num_returns=len(removals), timeout=CLEANUP)


def _in_worker(job: Job, task: Task) -> Outcome:
    return run_task(job, task, load_job(job))


def _warm_up() -> None:
    """Do nothing: a worker that finds this function has imported the libraries."""


@contextmanager
def ray_executor(job: Job, slots: int, address: str | None = None) -> Iterator[RayExecutor]:
    """Context manager that starts Ray, or connects to a cluster at an address, for ``slots`` tasks at once.

    With 0 slots, a cluster executes as many tasks as it has cores. It gets the code of cfbench and the plugin files;
    data are read under each node's own CFBENCH_DATA_ROOT, by default under the same path as here. Where the nodes do
    not share the run's folder, stages are sent through Ray.

    Raises:
        UserError: there is no Ray at the address, or it has no token authentication.
        RayUnavailable: Ray does not start on this machine.
    """
    ray = import_ray()
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        if address is None:
            gpus = _gpus(job)
            stack.enter_context(authentication("token", write_token(folder)))
            logs = start_ray(ray, folder, slots, gpus, threads)
            stack.callback(ray.shutdown)
        else:
            stack.enter_context(cluster_authentication(ray, address))
            join_cluster(ray, address, {"env_vars": threads, "working_dir": str(pack_code(folder, job.plugins))})
            stack.callback(ray.shutdown)
            gpus = ray.cluster_resources().get("GPU", 0) if job.device.startswith("cuda") else 0
        slots = slots or max(1, int(ray.cluster_resources().get("CPU", 1)) // job.threads)
        executor = RayExecutor(ray, job, slots, gpus, StageSender(ray, job) if address else None)
        stack.callback(executor.remove_node_folders)
        if address is None:
            executor.warm_up(logs)
        yield executor


def _memory(job: Job) -> float | None:
    """The memory of a GPU of this machine in MiB; None where there is no GPU."""
    import torch

    return torch.cuda.get_device_properties(job.device).total_memory / 2**20 if torch.cuda.is_available() else None


def _gpus(job: Job) -> int:
    if not job.device.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.device_count()
