"""Which tasks may start, which must wait, and which wait for something that will never come."""

from __future__ import annotations

from collections.abc import Iterable

from .work import Outcome, Task

__all__ = ["Schedule"]


class Schedule:
    """Tasks in the order in which they should start, given what is done already."""

    def __init__(self, todo: Iterable[Task], done: Iterable[str]) -> None:
        self.waiting = list(todo)
        self.flying: set[str] = set()
        self.done = set(done)
        self.outcomes: dict[str, Outcome] = {}

    def ready(self, slots: int) -> list[Task]:
        """The tasks to start now, so that no more than ``slots`` are under way."""
        free = [t for t in self.waiting if set(t.needs) <= self.done][: max(slots - len(self.flying), 0)]
        self.waiting = [t for t in self.waiting if t not in free]
        self.flying |= {t.id for t in free}
        return free

    def skip(self) -> list[Outcome]:
        """Outcomes of the tasks that need what is neither done, under way nor waiting; they are taken out."""
        skipped: list[Outcome] = []
        while True:
            alive = self.done | self.flying | {t.id for t in self.waiting}
            lost = [t for t in self.waiting if not set(t.needs) <= alive]
            if not lost:
                return skipped
            self.waiting = [t for t in self.waiting if t not in lost]
            news = [Outcome(t.id, "skipped", f"needs {min(set(t.needs) - alive)}") for t in lost]
            self.outcomes |= {o.task: o for o in news}
            skipped += news

    def end(self, outcome: Outcome) -> None:
        """Take note of how a task ended."""
        self.flying.discard(outcome.task)
        self.outcomes[outcome.task] = outcome
        if outcome.status == "done":
            self.done.add(outcome.task)
