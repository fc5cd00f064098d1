"""The processes that tasks of each group of plugins are executed in, kept for further tasks of the same group."""

from __future__ import annotations

import gc
import os
import sys

import torch

from ...runs.chain import Outcome, Status, Task
from ...runs.context import load_job
from ...runs.job import Job
from ..tasks import run_task, until_interrupted
from .fork_server import ForkedProcess, ProcessDied
from .isolation import Group

__all__ = ["PluginProcesses", "run_in_group"]


WATCH = 0.5
"""Seconds between checks whether a process lives."""
KEPT = 3
"""Processes that are kept: each has its data and, on a GPU, some memory of its own."""
Place = tuple[Job, tuple[str, ...], str]


class PluginProcesses:
    """One process for each group of plugins, as long as it is among those used last."""

    def __init__(self) -> None:
        self.processes: dict[Place, ForkedProcess] = {}

    def submit(self, job: Job, task: Task, group: Group) -> Place:
        """Let the process of a group execute a task, once it has finished that before; where it is executed."""
        place = job, group.names, os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if place in self.processes and not self.processes[place].alive:
            self.end(place)
        process = self.processes.pop(place, None)
        if process is None:
            for unused in list(self.processes)[: len(self.processes) + 1 - KEPT]:
                self.end(unused)
            try:
                process = ForkedProcess()
            except ProcessDied:
                return place
        self.processes[place] = process
        process.send(_execute, job, task)
        return place

    def outcome(self, place: Place, task: Task) -> Outcome | None:
        """How the task ended, `Status.CRASHED` where its process has died; None while it goes on, after `WATCH`."""
        try:
            found = self.processes[place].receive(WATCH)
        except (KeyError, ProcessDied):  # it did not start, or has ended
            self.end(place)
            return Outcome(task, Status.CRASHED, "its process died")
        return found and Outcome(task, Status(found["status"]), found["reason"], found["seconds"], found["log"])

    def end(self, place: Place) -> None:
        """End a process, if there is one."""
        if process := self.processes.pop(place, None):
            process.end()

    def end_all(self) -> None:
        """End all processes."""
        for place in list(self.processes):
            self.end(place)


OF_WORKER = PluginProcesses()
"""Those of this process, if it is a worker of Ray; they end with it."""


def run_in_group(job: Job, task: Task, group: Group) -> Outcome:
    """Execute a task in this worker of Ray if all its plugins are built in, otherwise in the process of its group.

    Raises:
        Interrupted: a signal asked this process to stop; that of the group has ended then.
    """
    if not group.names:
        return run_task(job, task, load_job(job))
    place = OF_WORKER.submit(job, task, group)
    try:
        while True:
            if outcome := OF_WORKER.outcome(place, task):
                return outcome
    except BaseException:
        OF_WORKER.end(place)
        raise


def _execute(job: Job, task: Task) -> dict[str, object]:
    """Execute a task in this process; how it ended, pending where a signal asked this process to stop."""
    outcome = until_interrupted(task, lambda: run_task(job, task, load_job(job)))
    sys.stdout.flush()
    if torch.cuda.is_initialized():  # the next task may be of another process
        gc.collect()
        torch.cuda.empty_cache()
    return {key: getattr(outcome, key) for key in ("status", "reason", "seconds", "log")}
