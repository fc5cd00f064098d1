"""Tasks scheduled and executed, in this process or by Ray, with a display and two-step interrupts."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import islice
from types import FrameType
from typing import Protocol

from .. import storage
from ..runs.chain import Outcome, Status, Task, damaged, tasks_of
from ..runs.context import LoadedJob, Run
from ..runs.job import Job
from ..runs.progress import log_event, remove_note
from ..storage.temporary import remove_abandoned
from .display import RunMonitor, live_display
from .ray_executor import ray_executor
from .ray_session import RayUnavailable
from .tasks import run_task

__all__ = ["Executor", "InProcessExecutor", "Interrupt", "Schedule", "execute", "interruptible"]


class Executor(Protocol):
    """Executes tasks that are ready, and returns their outcomes as they end."""

    slots: int

    def start(self, task: Task) -> None: ...

    def wait(self) -> list[Outcome]:
        """Wait a while; the outcomes of the tasks that ended meanwhile, of which there may be none."""
        ...


class InProcessExecutor:
    """Executes a task when it is waited for, in this process; Ray is not imported."""

    slots = 1

    def __init__(self, job: Job, loaded: LoadedJob) -> None:
        self.job, self.loaded = job, loaded
        self.queue: list[Task] = []

    def start(self, task: Task) -> None:
        self.queue.append(task)

    def wait(self) -> list[Outcome]:
        return [run_task(self.job, self.queue.pop(0), self.loaded)]


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

    def ready(self, slots: int) -> list[Task]:
        """Take the tasks to start now, so that at most ``slots`` are in flight."""
        ready = (name for name, task in self._waiting.items() if self.done.issuperset(task.needs))
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
        """Register how a task ended."""
        self.in_flight.discard(outcome.task.id)
        self.outcomes[outcome.task.id] = outcome
        if outcome.status is Status.DONE:
            self.done.add(outcome.task.id)
        else:
            self._all_possible = False


GRACE = 5.0
"""Seconds that tasks in flight have to finish."""


class Interrupt:
    """A signal handler that registers whether the user has asked to stop."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.asked, self.print_line = False, print_line
        self.timer = threading.Timer(GRACE, os.kill, (os.getpid(), signal.SIGINT))
        self.timer.daemon = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.print_line(f"stopping: what is under way has {GRACE:g} s to finish; Ctrl-C again stops now")
        self.timer.start()


@contextmanager
def interruptible(print_line: Callable[[str], None]) -> Iterator[Interrupt]:
    """Context manager whose block the first interrupt asks to stop, and a second one, or `GRACE` seconds, stops."""
    interrupt = Interrupt(print_line)
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        interrupt.timer.cancel()
        signal.signal(signal.SIGINT, before)


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
        KeyboardInterrupt: the user asked to stop, and tasks are left.
    """
    workers: AbstractContextManager[Executor]
    workers = nullcontext(InProcessExecutor(run.job, run.loaded))
    if jobs > 1 or address:
        workers = _by_ray(run, jobs, address)
    schedule, folder = Schedule(todo, done), run.job.folder
    remove_abandoned(folder)
    for stage, broken in damaged(run, todo).items():
        storage.remove_damaged(stage)
        print(f"cfbench: {stage}: {', '.join(broken[:3])} does not match its manifest; removed", file=sys.stderr)
    log_event(folder, "begin", tasks=len(todo), jobs=jobs)
    monitor = _monitor(run, schedule)
    with (
        live_display(monitor) as print_line,
        interruptible(print_line) as interrupt,
        workers as executor,
    ):
        while True:
            for outcome in schedule.skip():
                monitor.end(outcome)
                print_line(_outcome_line(outcome))
            for task in [] if interrupt.asked else schedule.ready(executor.slots):
                executor.start(task)
            if not schedule.in_flight:
                break
            for outcome in executor.wait():
                schedule.end(outcome)
                monitor.end(outcome)
                remove_note(folder, outcome.task.id)
                print_line(_outcome_line(outcome))
                after(outcome)
    log_event(folder, "stop", left=len(schedule.waiting))
    if schedule.waiting:
        raise KeyboardInterrupt
    return list(schedule.outcomes.values())


@contextmanager
def _by_ray(run: Run, jobs: int, address: str | None) -> Iterator[Executor]:
    """Context manager with Ray's executor, or this process' own where Ray does not start on this machine."""
    with ExitStack() as stack:
        executor: Executor
        try:
            executor = stack.enter_context(ray_executor(run.job, jobs, address))
        except RayUnavailable as error:
            if address:
                raise
            print(f"cfbench: {error}; this run goes on in one process, one task at a time", file=sys.stderr)
            executor = InProcessExecutor(run.job, run.loaded)
        yield executor


def _monitor(run: Run, schedule: Schedule) -> RunMonitor:
    """The monitor of all cells, with the tasks that are done and those that failed before and are not repeated."""
    monitor = RunMonitor(run.job.folder, run.cells, run.controls)
    monitor.done |= schedule.done
    failed_before = {t.id for t in tasks_of(run)} - schedule.done - {t.id for t in schedule.waiting}
    monitor.failures |= dict.fromkeys(failed_before, (Status.FAILED, "before; --only failed tries again"))
    return monitor


def _outcome_line(outcome: Outcome) -> str:
    if outcome.status is Status.DONE:
        return f"{outcome.task.id}: {outcome.seconds:.1f} s"
    return f"{outcome.task.id}: {outcome.status}{',' if outcome.status is Status.SKIPPED else ':'} {outcome.reason}"
