"""A check: one sentence that holds of a plugin, or a violation that says what is wrong, what was found, what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest import SkipTest

from ..errors import one_line, reason_of

if TYPE_CHECKING:
    from .subject import Subject

__all__ = ["Check", "Skipped", "Violation", "check", "demand"]


class Violation(AssertionError):
    """A plugin breaks the contract: one line with what is wrong, what was found and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class Skipped(SkipTest):
    """A check that cannot be asked, and why; unittest and pytest report it as skipped."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


@dataclass(frozen=True)
class Check:
    """What is true of a plugin when ``run`` ends well; asked once of a subject, which keeps the outcome.

    ``after`` are checks without which this one means nothing: where one of them fails, this one is skipped.
    """

    name: str
    text: str
    run: Callable[[Subject], None]
    after: tuple[Check, ...] = ()

    def __str__(self) -> str:
        return self.name

    def __call__(self, subject: Subject) -> None:
        """Nothing, where the plugin passes.

        Raises:
            Violation: it does not.
            Skipped: that cannot be told.
        """
        found = self.outcome(subject)
        if found is not None:
            raise found

    def outcome(self, subject: Subject) -> Violation | Skipped | None:
        """What the check found out, asked at most once."""
        if self.name not in subject.outcomes:
            subject.outcomes[self.name] = self._ask(subject)
        return subject.outcomes[self.name]

    def _ask(self, subject: Subject) -> Violation | Skipped | None:
        for other in self.after:
            if other in subject.checks and other.outcome(subject) is not None:
                return Skipped(f"waits for {other.name!r}")
        try:
            self.run(subject)
        except (Violation, Skipped) as found:
            return found
        except (Exception, SystemExit) as error:
            return Violation(f"could not tell whether {self.text}: {reason_of(error)}; mend that line")
        return None


def check(name: str, text: str, *after: Check) -> Callable[[Callable[[Subject], None]], Check]:
    """Turn a function of a subject into a `Check`."""
    return lambda run: Check(name, text, run, after)


def demand(holds: object, text: str) -> None:
    """Nothing, where something holds.

    Raises:
        Violation: it does not.
    """
    if not holds:
        raise Violation(text)
