"""How a check ends where it does not pass: with a violation of the contract, or skipped."""

from __future__ import annotations

from unittest import SkipTest

from ..errors import one_line

__all__ = ["Skipped", "Violation", "demand"]


class Violation(AssertionError):
    """A plugin breaks the contract: one line with what is wrong, what was found and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class Skipped(SkipTest):
    """A check that cannot be run, and why; unittest and pytest report it as skipped."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def demand(holds: object, text: str) -> None:
    """Raise unless a condition holds.

    Raises:
        Violation: it does not.
    """
    if not holds:
        raise Violation(text)
