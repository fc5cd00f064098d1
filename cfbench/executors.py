"""Where tasks are done: in this process, one after another, or in Ray's workers, several at once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from .cells import Job
from .events import note
from .work import Outcome, Task, perform, record_failure
from .workshop import Workshop

__all__ = ["Executor", "InProcess", "ray_workers"]

WATCH, GRACE = 0.5, 10.0
"""Seconds between looks at what is under way, and how long a worker may take to start and to stop."""


class Executor(Protocol):
    """Takes tasks whose needs are met, and gives back outcomes as they come."""

    slots: int

    def start(self, task: Task) -> None: ...

    def wait(self) -> list[Outcome]:
        """The outcomes of the tasks that ended meanwhile, which may be none."""
        ...


class InProcess:
    """Does a task when it is waited for; Ray is not imported."""

    slots = 1

    def __init__(self, job: Job, shop: Workshop) -> None:
        self.job, self.shop = job, shop
        self.queue: list[Task] = []

    def start(self, task: Task) -> None:
        self.queue.append(task)

    def wait(self) -> list[Outcome]:
        return [perform(self.job, self.queue.pop(0), self.shop)]


@dataclass(frozen=True)
class Flight:
    """A task under way: whether it is tried again, and since when."""

    task: Task
    again: bool = False
    begun: float = 0.0


class Workers:
    """Ray workers; a task whose process dies is tried once more, alone, before that is called a crash."""

    def __init__(self, ray: Any, job: Job, slots: int, gpus: float) -> None:
        self.ray, self.job, self.slots = ray, job, slots
        self.remote = ray.remote(num_cpus=1, num_gpus=gpus / slots, max_retries=0)(_in_worker)
        self.flying: dict[Any, Flight] = {}
        self.waiting: list[Flight] = []

    def start(self, task: Task) -> None:
        flight = Flight(task)
        if self.waiting or any(f.again for f in self.flying.values()):
            self.waiting.append(flight)
        else:
            self._take_off(flight)

    def _take_off(self, flight: Flight) -> None:
        self.flying[self.remote.remote(self.job, flight.task)] = replace(flight, begun=time.monotonic())

    def wait(self) -> list[Outcome]:
        ready, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=WATCH)
        outcomes = [o for o in (self._outcome(ref, self.flying.pop(ref)) for ref in ready) if o] + self._overdue()
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
        """End tasks that did not end themselves in time: native code that hears no alarm."""
        limit, outcomes = self.job.timeout, []
        for ref, flight in list(self.flying.items()):
            if limit and flight.task.cell and time.monotonic() - flight.begun > limit + GRACE:
                self.ray.cancel(ref, force=True)
                del self.flying[ref]
                reason = f"took longer than {limit:g} s (--timeout) and had to be killed"
                outcomes.append(record_failure(self.job, flight.task, "timeout", reason))
        return outcomes

    def _outcome(self, ref: Any, flight: Flight) -> Outcome | None:
        try:
            return self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            return record_failure(self.job, flight.task, "failed", f"{type(error).__name__}: {error}")
        except self.ray.exceptions.RayError as error:
            name = type(error).__name__
            note(self.job.folder, "crash", task=flight.task.id, reason=name, again=flight.again)
            if not flight.again:
                self.waiting.append(Flight(flight.task, again=True))
                return None
            memory = isinstance(error, self.ray.exceptions.OutOfMemoryError)
            status, why = ("oom", "took all memory") if memory else ("crashed", "died")
            return record_failure(self.job, flight.task, status, f"its process {why} twice ({name})")


@lru_cache(maxsize=4)
def _shop(job: Job) -> Workshop:
    return Workshop(job)


def _in_worker(job: Job, task: Task) -> Outcome:
    return perform(job, task, _shop(job))


@contextmanager
def ray_workers(job: Job, slots: int) -> Iterator[Workers]:
    """A local Ray with so many workers, shut down at the end of the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    import torch

    gpus = torch.cuda.device_count() if job.device.startswith("cuda") else 0
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    ray.init(
        num_cpus=slots, num_gpus=gpus, include_dashboard=False, logging_level=logging.ERROR,
        log_to_driver=False, runtime_env={"env_vars": threads},
    )  # fmt: skip
    try:
        yield Workers(ray, job, slots, gpus)
    finally:
        ray.shutdown()
