"""Which tasks may start, which must wait, and which wait for something that will never come."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from .work import Outcome, Task

__all__ = ["Schedule"]


class Schedule:
    """Tasks in the order in which they should start, given what is done already."""

    def __init__(self, todo: Iterable[Task], done: Iterable[str]) -> None:
        self._waiting = {t.id: t for t in todo}
        self.flying: set[str] = set()
        self.done = set(done)
        self.outcomes: dict[str, Outcome] = {}
        self._hopeful = False

    @property
    def waiting(self) -> list[Task]:
        """The tasks that have not started."""
        return [*self._waiting.values()]

    def ready(self, slots: int) -> list[Task]:
        """The tasks to start now, so that no more than ``slots`` are under way."""
        able = (name for name, task in self._waiting.items() if self.done.issuperset(task.needs))
        free = list(islice(able, max(slots - len(self.flying), 0)))
        self.flying.update(free)
        return [self._waiting.pop(name) for name in free]

    def skip(self) -> list[Outcome]:
        """Outcomes of the tasks that need what is neither done, under way nor waiting; they are taken out."""
        skipped: list[Outcome] = []
        while not self._hopeful:
            alive = self.done | self.flying | self._waiting.keys()
            lost = {name: set(task.needs) - alive for name, task in self._waiting.items()}
            news = [Outcome(name, "skipped", f"needs {min(needs)}") for name, needs in lost.items() if needs]
            self.outcomes |= {o.task: o for o in news}
            for outcome in news:
                del self._waiting[outcome.task]
            skipped += news
            self._hopeful = not news
        return skipped

    def end(self, outcome: Outcome) -> None:
        """Take note of how a task ended."""
        self.flying.discard(outcome.task)
        self.outcomes[outcome.task] = outcome
        if outcome.status == "done":
            self.done.add(outcome.task)
        else:
            self._hopeful = False
