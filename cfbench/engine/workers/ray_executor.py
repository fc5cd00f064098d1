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

from ... import storage
from ...errors import UserError, one_line
from ...runs.chain import Outcome, Status, Task
from ...runs.context import LoadedJob
from ...runs.job import Job
from ...runs.progress import log_event, remove_note, tasks_in_progress
from ..tasks import until_interrupted
from .fork_server import ADDRESS, listen
from .isolation import Group, group_of, is_pristine
from .plugin_processes import run_in_group
from .ray_session import (
    VITAL,
    authentication,
    cluster_authentication,
    dead_processes,
    import_ray,
    join_cluster,
    marked,
    private_folder,
    start_ray,
    starting_ray,
    stopping_ray,
    write_token,
)  # fmt: skip
from .transfer import RemoteResult, StageSender, pack_code, remove_node_folder, run_remotely

__all__ = ["EngineDied", "gpu_share", "peak_memory_of", "ray_executor"]


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
    return max(filter(math.isfinite, peaks), default=0.0) or None


WATCH, GRACE = 0.5, 10.0
"""Seconds between checks of the tasks in flight, and those that a worker may take to start and to stop."""
START = 60.0
"""Seconds that the workers on this machine have to start before a line says that they did not."""
CLEANUP = 10.0
"""Seconds that the nodes of a cluster have to remove their folders."""


class EngineDied(UserError):
    """Ray's own processes have ended, for which no task is to blame."""


@dataclass(frozen=True)
class Submission:
    """A task submitted to Ray: whether it is tried again, and when it was submitted."""

    task: Task
    again: bool = False
    begun: float = 0.0


class RayExecutor:
    """Executes tasks in Ray workers; one whose process dies, or is out of memory, is tried once more, alone.

    No worker runs code of plugins that are not built in: they have processes of their own, which end with the worker's.

    Fits share a GPU as far as the peak memory of their methods allows; answers, which are timed, have a GPU each.
    """

    def __init__(self, ray: Any, loaded: LoadedJob, slots: int, gpus: float, sender: StageSender | None = None) -> None:
        self.ray, self.loaded, self.job, self.slots, self.sender = ray, loaded, loaded.job, slots, sender
        job = loaded.job
        self.each = math.ceil(slots / gpus) if gpus else 0
        self.memory_mb = _memory(job) if gpus else None
        self.remote = ray.remote(max_retries=0)(run_remotely if sender else _in_worker)
        self.in_flight: dict[Any, Submission] = {}
        self.waiting: list[Submission] = []
        self.ended, self.stopped = 0.0, False
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
        group = group_of(self.loaded, submission.task)
        job = group.job(self.job)
        ref = self.remote.options(**self._share(submission)).remote(job, submission.task, group, *sent)
        self.in_flight[ref] = replace(submission, begun=time.time())

    def _share(self, submission: Submission) -> dict[str, float]:
        """The resources that a task asks Ray for: cores, and a share of a GPU, all of one when tried again."""
        share = {"num_cpus": float(self.job.threads if self.sender else 1)}
        if self.each:
            part = gpu_share(self.job.folder, submission.task, self.each, self.memory_mb)
            share["num_gpus"] = 1.0 if submission.again else part
        return share

    def stop(self) -> None:
        self.stopped = True

    def wait(self) -> list[Outcome]:
        """Wait a while; the outcomes of the tasks that ended meanwhile.

        Raises:
            EngineDied: Ray does not work any more.
        """
        self._check_engine()
        self._check_start()
        outcomes: list[Outcome] = []
        if self.in_flight:
            ready, _ = self.ray.wait(list(self.in_flight), num_returns=1, timeout=WATCH)
            outcomes += [o for o in (self._outcome(ref, self.in_flight.pop(ref)) for ref in ready) if o]
            self.ended = time.time() if ready else self.ended
        outcomes += self._overdue()
        if self.stopped:
            outcomes += [Outcome(s.task, Status.PENDING) for s in self.waiting]
            self.waiting.clear()
        self._next()
        return outcomes

    def _check_engine(self) -> None:
        """Raise unless Ray's processes that this one started are alive."""
        if dead := sorted(VITAL & dead_processes(self.ray)):
            time.sleep(WATCH)  # the same signal may be on its way to this process
            raise EngineDied(f"Ray's {' and '.join(dead)} ended unexpectedly; the same command continues")

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
                return [Outcome(submission.task, Status.TIMEOUT, reason, log=reason)]
        return []

    def _since(self, submission: Submission, begun: Mapping[str, float]) -> float:
        """When a task began, after waiting for a GPU; infinite while other tasks report progress, and it does not.

        Where a cluster does not share the folder, no task does: then a task is taken to have begun when it was
        submitted or when the last other task ended, whichever is later.
        """
        unknown = math.inf if begun else max(submission.begun, self.ended)
        return max(submission.begun, begun.get(submission.task.id, unknown))

    def _outcome(self, ref: Any, submission: Submission) -> Outcome | None:
        known = self.ray.exceptions
        try:
            done: Outcome | RemoteResult = self.ray.get(ref)
            outcome = done.unpack(self.job.folder) if isinstance(done, RemoteResult) else done
            if outcome.status is Status.CRASHED:
                return self._after_crash(submission, "ProcessDied")
            return None if outcome.status is Status.OOM and self._again(submission, "oom") else outcome
        except known.RayTaskError as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            return Outcome(submission.task, Status.FAILED, reason, log=str(error))
        except known.RayError as error:
            self._check_engine()
            name = type(error).__name__
            if isinstance(error, (known.NodeDiedError, known.LocalRayletDiedError)):
                log_event(self.job.folder, "crash", task=submission.task.id, reason=name, again=submission.again)
                return Outcome(submission.task, Status.PENDING)
            return self._after_crash(submission, name, memory=isinstance(error, known.OutOfMemoryError))

    def _after_crash(self, submission: Submission, name: str, *, memory: bool = False) -> Outcome | None:
        """Try a task whose process died once more; how it ended, the second time."""
        if self._again(submission, name):
            return None
        status, why = (Status.OOM, "took all memory") if memory else (Status.CRASHED, "died")
        reason = f"its process {why} twice ({name})"
        return Outcome(submission.task, status, reason, log=reason)

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


def _in_worker(job: Job, task: Task, group: Group) -> Outcome:
    return until_interrupted(task, lambda: run_in_group(job, task, group))


def _warm_up() -> None:
    """Do nothing: a worker that finds this function has imported the libraries."""


@contextmanager
def ray_executor(loaded: LoadedJob, slots: int, address: str | None = None) -> Iterator[RayExecutor]:
    """Context manager that starts Ray, or connects to a cluster at an address, for ``slots`` tasks at once.

    With 0 slots, a cluster executes as many tasks as it has cores. It gets the code of cfbench and the plugin files;
    data are read under each node's own CFBENCH_DATA_ROOT, by default under the same path as here. Where the nodes do
    not share the run's folder, stages are sent through Ray.

    Raises:
        UserError: there is no Ray at the address, or it has no token authentication.
        RayUnavailable: Ray does not start on this machine.
    """
    ray, job = import_ray(), loaded.job
    variables = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        if address is None:
            gpus = _gpus(job)
            stack.enter_context(authentication("token", write_token(folder)))
            stack.enter_context(stopping_ray(ray, folder))
            if not is_pristine(loaded):
                variables[ADDRESS] = str(folder / "plugins")
                listen(folder / "plugins")
            with marked(folder), starting_ray():
                logs = start_ray(ray, folder, slots, gpus, variables)
        else:
            stack.enter_context(cluster_authentication(ray, address))
            stack.enter_context(stopping_ray(ray, folder))
            with starting_ray():
                join_cluster(ray, address, {"env_vars": variables, "working_dir": str(pack_code(folder, job.plugins))})
            gpus = ray.cluster_resources().get("GPU", 0) if job.device.startswith("cuda") else 0
        slots = slots or max(1, int(ray.cluster_resources().get("CPU", 1)) // job.threads)
        executor = RayExecutor(ray, loaded, slots, gpus, StageSender(ray, loaded) if address else None)
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
