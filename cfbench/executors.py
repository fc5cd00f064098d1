"""Where tasks are done: what takes them, and the plain way of doing them in this process."""

from __future__ import annotations

from typing import Protocol

from .cells import Job
from .work import Outcome, Task, perform
from .workshop import Workshop

__all__ = ["Executor", "InProcess"]


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
