"""Tasks executed one at a time, those of plugins that are not built in in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ...runs.chain import Outcome, Status, Task
from ...runs.context import LoadedJob
from ...runs.progress import log_event, remove_note
from ..tasks import run_task
from .isolation import group_of
from .plugin_processes import PluginProcesses

__all__ = ["isolated_executor"]


GRACE = 10.0
"""Seconds that a task may take to end after its time limit."""


class IsolatedExecutor:
    """Executes a task in the process of its group of plugins; one whose process dies is tried once more.

    Tasks of built-in plugins have a process that no other plugin's code has run in. Plugins that exist in this process
    only are executed here.
    """

    slots = 1

    def __init__(self, loaded: LoadedJob) -> None:
        self.loaded, self.job, self.processes = loaded, loaded.job, PluginProcesses()
        self.stopped = False

    def start(self, task: Task) -> None:
        self.task, self.again = task, False
        self._submit()

    def _submit(self) -> None:
        group, self.begun = group_of(self.loaded, self.task), time.monotonic()
        self.place = None if group.here else self.processes.submit(group.job(self.job), self.task, group)

    def stop(self) -> None:
        self.stopped = True

    def wait(self) -> list[Outcome]:
        task = self.task
        if self.place is None:
            return [run_task(self.job, task, self.loaded)]
        outcome = self.processes.outcome(self.place, task)
        if outcome is None:
            return self._overdue()
        return self._after_crash() if outcome.status is Status.CRASHED else [outcome]

    def _overdue(self) -> list[Outcome]:
        """End a task beyond its time limit that did not end itself, as native code is not interrupted by an alarm."""
        limit = self.job.timeout if self.task.cell else None
        if not limit or time.monotonic() - self.begun < limit + GRACE:
            return []
        assert self.place
        self.processes.end(self.place)
        reason = f"took longer than {limit:g} s (--timeout) and had to be killed"
        return [Outcome(self.task, Status.TIMEOUT, reason, log=reason)]

    def _after_crash(self) -> list[Outcome]:
        """Try a task whose process died once more, unless the run is being stopped; how it ended, the second time."""
        remove_note(self.job.folder, self.task.id)
        log_event(self.job.folder, "crash", task=self.task.id, reason="died", again=self.again)
        if self.stopped:
            return [Outcome(self.task, Status.PENDING)]
        if self.again:
            reason = "its process died twice"
            return [Outcome(self.task, Status.CRASHED, reason, log=reason)]
        self.again = True
        self._submit()
        return []


@contextmanager
def isolated_executor(loaded: LoadedJob) -> Iterator[IsolatedExecutor]:
    """Context manager with an executor, whose processes end with it."""
    executor = IsolatedExecutor(loaded)
    try:
        yield executor
    finally:
        executor.processes.end_all()
