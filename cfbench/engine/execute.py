"""Tasks scheduled and executed, in this process or by Ray, with a display, and their failures recorded."""

from __future__ import annotations

import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Protocol

from .. import storage
from ..errors import Interrupted
from ..runs.chain import Outcome, Status, Task, damaged, tasks_of
from ..runs.context import LoadedJob, Run
from ..runs.job import Job
from ..runs.progress import log_event, remove_note
from .claims import Claims
from .display import RunMonitor, live_display
from .interrupts import interruptible
from .tasks import record_failure, run_task
from .todo import new_monitor
from .workers.isolated_executor import isolated_executor
from .workers.isolation import is_pristine, parts_of
from .workers.ray_executor import ray_executor
from .workers.ray_session import RayUnavailable

__all__ = ["Executor", "InProcessExecutor", "Schedule", "execute"]


class Executor(Protocol):
    """Executes tasks that are ready, and returns their outcomes as they end."""

    slots: int

    def start(self, task: Task) -> None: ...

    def wait(self) -> list[Outcome]:
        """Wait a while; the outcomes of the tasks that ended meanwhile, of which there may be none."""
        ...

    def stop(self) -> None:
        """Try no task again any more."""
        ...


class InProcessExecutor:
    """Executes a task of built-in plugins when it is waited for, in this process; Ray is not imported."""

    slots = 1

    def __init__(self, job: Job, loaded: LoadedJob) -> None:
        self.job, self.loaded = job, loaded
        self.queue: list[Task] = []

    def start(self, task: Task) -> None:
        self.queue.append(task)

    def wait(self) -> list[Outcome]:
        return [run_task(self.job, self.queue.pop(0), self.loaded)]

    def stop(self) -> None:
        pass


class Schedule:
    """Tasks to do in the order in which they should start, given the ids of those done before."""

    def __init__(self, todo: Iterable[Task], done: Iterable[str]) -> None:
        self._waiting = {t.id: t for t in todo}
        self.in_flight: set[str] = set()
        self.done = set(done)
        self.outcomes: dict[str, Outcome] = {}
        self._all_possible = False

    @property
    def waiting(self) -> list[Task]:
        """The tasks that have not started."""
        return [*self._waiting.values()]

    def ready(self, slots: int, may_start: Callable[[Task], bool] = lambda task: True) -> list[Task]:
        """Take the tasks to start now and that may start, so that at most ``slots`` are in flight."""
        ready = (name for name, task in self._waiting.items() if self.done.issuperset(task.needs) and may_start(task))
        started = list(islice(ready, max(slots - len(self.in_flight), 0)))
        self.in_flight.update(started)
        return [self._waiting.pop(name) for name in started]

    def skip(self) -> list[Outcome]:
        """Take out the tasks that need one that is neither done, in flight nor waiting; their outcomes."""
        skipped: list[Outcome] = []
        while not self._all_possible:
            possible = self.done | self.in_flight | self._waiting.keys()
            unmet = {name: set(task.needs) - possible for name, task in self._waiting.items()}
            found = [
                Outcome(self._waiting.pop(name), Status.SKIPPED, f"needs {min(needs)}")
                for name, needs in unmet.items()
                if needs
            ]
            self.outcomes |= {o.task.id: o for o in found}
            skipped += found
            self._all_possible = not found
        return skipped

    def end(self, outcome: Outcome) -> None:
        """Register how a task ended; one that is pending still waits."""
        self.in_flight.discard(outcome.task.id)
        if outcome.status is Status.PENDING:
            self._waiting = {outcome.task.id: outcome.task, **self._waiting}
            return
        self.outcomes[outcome.task.id] = outcome
        if outcome.status is Status.DONE:
            self.done.add(outcome.task.id)
        else:
            self._all_possible = False


WAIT = 0.5
"""Seconds after which a task that another process is at work on is looked at again."""
TRIES = 3
"""Times that a task is tried whose process gets a signal that asks it to stop, while this one gets none."""


def execute(
    run: Run,
    todo: list[Task],
    done: Iterable[str],
    jobs: int,
    address: str | None = None,
    after: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Execute tasks, each as soon as those that it needs are done; those that need a failed one are skipped.

    Args:
        run: of the tasks.
        todo: the tasks to execute.
        done: the ids of tasks that are done already.
        jobs: tasks at once; Ray executes them where there are several.
        address: of a Ray cluster that executes them.
        after: called with the outcome of each.

    Raises:
        Interrupted: the user or the system asked to stop, and tasks are left.
        UserError: Ray stopped working, and tasks are left.
    """
    workers = _by_ray(run, jobs, address) if jobs > 1 or address else _one_by_one(run)
    todo = [part for task in todo for part in parts_of(run.loaded, task)]
    schedule, folder, signalled = Schedule(todo, done), run.job.folder, Counter[str]()
    for stage, broken in damaged(run, todo).items():
        storage.remove_damaged(stage)
        print(f"cfbench: {stage}: {', '.join(broken[:3])} does not match its manifest; removed", file=sys.stderr)
    log_event(folder, "begin", tasks=len(todo), jobs=jobs, host=socket.gethostname(), device=run.job.device)
    monitor = _monitor(run, schedule)
    with (
        live_display(monitor) as print_line,
        Claims(folder, print_line) as claims,
        workers as executor,
        interruptible(print_line) as interrupt,
    ):
        while True:
            for outcome in schedule.skip():
                monitor.end(outcome)
                print_line(monitor.outcome_line(outcome))
            if interrupt.asked:
                executor.stop()
            outcomes = []
            for task in [] if interrupt.asked else schedule.ready(executor.slots, claims.take):
                if failure := claims.failure_elsewhere(task):
                    outcomes.append(Outcome(task, failure.status, failure.reason))
                else:
                    executor.start(task)
            if not schedule.in_flight and (interrupt.asked or not schedule.waiting):
                break
            for outcome in outcomes or _wait(executor, schedule):
                ended = _settled(run.job, outcome, interrupt.asked, signalled)
                schedule.end(ended)
                claims.release(ended.task)
                remove_note(folder, ended.task.id)
                if ended.status is not Status.PENDING:
                    monitor.end(ended)
                    print_line(monitor.outcome_line(ended))
                    after(ended)
    log_event(folder, "stop", left=len(schedule.waiting))
    if schedule.waiting:
        raise Interrupted(interrupt.number)
    return list(schedule.outcomes.values())


@contextmanager
def _by_ray(run: Run, jobs: int, address: str | None) -> Iterator[Executor]:
    """Context manager with Ray's executor, or one of one task at a time where Ray does not start on this machine."""
    with ExitStack() as stack:
        executor: Executor
        try:
            executor = stack.enter_context(ray_executor(run.loaded, jobs, address))
        except RayUnavailable as error:
            if address:
                raise
            print(f"cfbench: {error}; this run goes on without it, one task at a time", file=sys.stderr)
            executor = stack.enter_context(_one_by_one(run))
        yield executor


def _one_by_one(run: Run) -> AbstractContextManager[Executor]:
    """Context manager with an executor of one task at a time, in this process where all plugins are built in."""
    if is_pristine(run.loaded):
        return nullcontext(InProcessExecutor(run.job, run.loaded))
    return isolated_executor(run.loaded)


def _wait(executor: Executor, schedule: Schedule) -> list[Outcome]:
    """The outcomes of tasks that end meanwhile; where all are with other processes, none after `WAIT` seconds."""
    if schedule.in_flight:
        return executor.wait()
    time.sleep(WAIT)
    return []


def _settled(job: Job, outcome: Outcome, stopping: bool, signalled: Counter[str]) -> Outcome:
    """The outcome of a task, recorded if it is a failure; while a run is stopped, what does not succeed is pending.

    A task whose process a signal asked to stop, and not this one, is tried `TRIES` times: it may send that itself.
    """
    if stopping and outcome.status is not Status.DONE:
        return Outcome(outcome.task, Status.PENDING)
    if outcome.status is Status.PENDING and outcome.reason:
        signalled[outcome.task.id] += 1
        if signalled[outcome.task.id] == TRIES:
            reason = f"its process was asked to stop {TRIES} times ({outcome.reason})"
            outcome = replace(outcome, status=Status.CRASHED, reason=reason, log=reason)
    return record_failure(job, outcome)


def _monitor(run: Run, schedule: Schedule) -> RunMonitor:
    """The monitor of all cells, with the tasks that are done and those that failed before and are not repeated."""
    monitor = new_monitor(run)
    monitor.done |= schedule.done
    failed_before = {t.id for t in tasks_of(run)} - schedule.done - {t.id for t in schedule.waiting}
    monitor.failures |= dict.fromkeys(failed_before, (Status.FAILED, "before; --only failed tries again"))
    return monitor
