"""Ray's workers: several tasks at once, on this machine or on a cluster."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .baggage import pack_baggage
from .cells import Job
from .errors import UserError
from .events import note
from .parcels import Parcel, Sender, perform_elsewhere
from .progress import forget, running
from .sharing import gpu_share
from .work import Outcome, Task, perform, record_failure
from .workshop import shop_of

__all__ = ["ray_workers"]

WATCH, GRACE = 0.5, 10.0
"""Seconds between looks at what is under way, and how long a worker may take to start and to stop."""


@dataclass(frozen=True)
class Flight:
    """A task given to Ray: whether it is tried again, and since when Ray has it."""

    task: Task
    again: bool = False
    begun: float = 0.0


class Workers:
    """Ray workers; a task whose process dies, or has no memory, is tried once more, alone, before that is its end.

    Fits share a GPU as far as the memory allows that their methods were seen to take; answers, which are timed, have
    it to themselves.
    """

    def __init__(self, ray: Any, job: Job, slots: int, gpus: float, sender: Sender | None = None) -> None:
        self.ray, self.job, self.slots, self.sender = ray, job, slots, sender
        self.each = math.ceil(slots / gpus) if gpus else 0
        self.memory_mb = _memory(job) if gpus else None
        self.remote = ray.remote(max_retries=0)(perform_elsewhere if sender else _in_worker)
        self.flying: dict[Any, Flight] = {}
        self.waiting: list[Flight] = []
        self.ended = 0.0

    def start(self, task: Task) -> None:
        flight = Flight(task)
        if self.waiting or any(f.again for f in self.flying.values()):
            self.waiting.append(flight)
        else:
            self._take_off(flight)

    def _take_off(self, flight: Flight) -> None:
        carried = () if self.sender is None else (self.sender.token, self.sender.needed(flight.task))
        started = self.remote.options(**self._share(flight)).remote(self.job, flight.task, *carried)
        self.flying[started] = replace(flight, begun=time.time())

    def _share(self, flight: Flight) -> dict[str, float]:
        """What a task asks Ray for: cores, and the part of a GPU that it needs; all of one when tried again."""
        share = {"num_cpus": float(self.job.threads if self.sender else 1)}
        if self.each:
            part = gpu_share(self.job.folder, flight.task, self.each, self.memory_mb)
            share["num_gpus"] = 1.0 if flight.again else part
        return share

    def wait(self) -> list[Outcome]:
        ready, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=WATCH)
        outcomes = [o for o in (self._outcome(ref, self.flying.pop(ref)) for ref in ready) if o]
        self.ended = time.time() if ready else self.ended
        outcomes += self._overdue()
        self._next()
        return outcomes

    def _next(self) -> None:
        """Start what waits: a task that is tried again when nothing else is under way, the others after it."""
        self.waiting.sort(key=lambda f: not f.again)
        while self.waiting and not any(f.again for f in self.flying.values()):
            if self.waiting[0].again and self.flying:
                return
            self._take_off(self.waiting.pop(0))

    def _overdue(self) -> list[Outcome]:
        """End a task that did not end itself in time: native code that hears no alarm."""
        if not self.job.timeout:
            return []
        begun = {doing.task: doing.begun for doing in running(self.job.folder)}
        for ref, flight in self.flying.items():
            if flight.task.cell and time.time() - self._since(flight, begun) > self.job.timeout + GRACE:
                self.ray.cancel(ref, force=True)
                del self.flying[ref]
                self.ended = time.time()
                reason = f"took longer than {self.job.timeout:g} s (--timeout) and had to be killed"
                return [record_failure(self.job, flight.task, "timeout", reason)]
        return []

    def _since(self, flight: Flight, begun: Mapping[str, float]) -> float:
        """When a task began, which may wait for a GPU before; infinite while others are known to work, and it is not.

        Where a cluster shares no folder, none is known to: then those that Ray had first are taken to have begun when
        the last other one ended, at the latest.
        """
        unknown = math.inf if begun else max(flight.begun, self.ended)
        return max(flight.begun, begun.get(flight.task.id, unknown))

    def _outcome(self, ref: Any, flight: Flight) -> Outcome | None:
        try:
            done = self.ray.get(ref)
            done = done.unpack(self.job.folder) if isinstance(done, Parcel) else done
            return None if done.status == "oom" and self._again(flight, "oom") else done
        except self.ray.exceptions.RayTaskError as error:
            return record_failure(self.job, flight.task, "failed", f"{type(error).__name__}: {error}")
        except self.ray.exceptions.RayError as error:
            name = type(error).__name__
            if self._again(flight, name):
                return None
            memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
            status, why = ("oom", "took all memory") if memory else ("crashed", "died")
            return record_failure(self.job, flight.task, status, f"its process {why} twice ({name})")

    def _again(self, flight: Flight, reason: str) -> bool:
        """Note a crash, or memory that ran out; whether the task is tried once more, alone, as it was not yet."""
        forget(self.job.folder, flight.task.id)
        note(self.job.folder, "crash", task=flight.task.id, reason=reason, again=flight.again)
        if not flight.again:
            self.waiting.append(Flight(flight.task, again=True))
        return not flight.again


def _in_worker(job: Job, task: Task) -> Outcome:
    return perform(job, task, shop_of(job))


def _loaded() -> None:
    """Nothing more than what finding this function takes."""


@contextmanager
def ray_workers(job: Job, slots: int, address: str | None = None) -> Iterator[Workers]:
    """Workers for so many tasks at once (0: as many as a cluster has cores): a Ray of their own, or one at an address.

    On a cluster the code of cfbench and the plugin files travel with the workers; data lie under each node's own
    CFBENCH_DATA_ROOT, or where they lie here. The run's folder may be shared by the nodes; where it is not, stages
    travel through Ray.

    Raises:
        UserError: there is no Ray at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with TemporaryDirectory(prefix="cfbench-") as baggage:
        if address is None:
            gpus = _gpus(job)
            ray.init(
                address="local", num_cpus=slots, num_gpus=gpus, include_dashboard=False,
                runtime_env={"env_vars": threads}, **quiet,
            )  # fmt: skip
        else:
            env = {"env_vars": threads, "working_dir": str(pack_baggage(Path(baggage), job.plugins))}
            _join(ray, address, env, quiet)
            gpus = ray.cluster_resources().get("GPU", 0) if job.device.startswith("cuda") else 0
        try:
            slots = slots or max(1, int(ray.cluster_resources().get("CPU", 1)) // job.threads)
            if address is None:  # all load their libraries while the first task, which the others wait for, is done
                _ = [ray.remote(max_retries=0)(_loaded).remote() for _ in range(slots)]
            yield Workers(ray, job, slots, gpus, Sender(ray, job) if address else None)
        finally:
            ray.shutdown()


def _join(ray: Any, address: str, env: dict[str, Any], quiet: dict[str, Any]) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, runtime_env=env, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--address {address}: no Ray there ({reason}); start one with `ray start --head`") from error


def _memory(job: Job) -> float | None:
    """The memory of a GPU of this machine in MiB; None where there is none to ask."""
    import torch

    return torch.cuda.get_device_properties(job.device).total_memory / 2**20 if torch.cuda.is_available() else None


def _gpus(job: Job) -> int:
    if not job.device.startswith("cuda"):
        return 0
    import torch

    return torch.cuda.device_count()
