"""A check: a statement about a plugin and the function that raises unless it is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import is_of_harness, reason_of
from .outcomes import Skipped, Violation
from .subjects.subject import Subject

__all__ = ["Check", "check"]


@dataclass(frozen=True)
class Check:
    """A statement about a plugin that is true if ``run`` raises nothing; run once per subject, which keeps the outcome.

    ``after`` are prerequisites: the check is skipped if one of them does not pass.
    """

    name: str
    text: str
    run: Callable[[Any], None]
    after: tuple[Check, ...] = ()

    def __str__(self) -> str:
        return self.name

    def __call__(self, subject: Subject) -> None:
        """Raise unless the plugin passes.

        Raises:
            Violation: it does not.
            Skipped: the check cannot be run.
        """
        found = self.outcome(subject)
        if found is not None:
            raise found

    def outcome(self, subject: Subject) -> Violation | Skipped | None:
        """Why the plugin does not pass, or None; run at most once."""
        if self.name not in subject.outcomes:
            subject.outcomes[self.name] = self._run(subject)
        return subject.outcomes[self.name]

    def _run(self, subject: Subject) -> Violation | Skipped | None:
        for other in self.after:
            if other.name in subject.applicable and other.outcome(subject) is not None:
                return Skipped(f"waits for {other.name!r}")
        try:
            self.run(subject)
        except (Violation, Skipped) as found:
            return found
        except BaseException as error:
            if is_of_harness(error):
                raise
            return Violation(f"could not tell whether {self.text}: {reason_of(error)}; mend that line")
        return None


def check(name: str, text: str, *after: Check) -> Callable[[Callable[[Any], None]], Check]:
    """Decorator that turns a function of a `Subject`, or of one of its kinds, into a `Check`."""
    return lambda run: Check(name, text, run, after)
