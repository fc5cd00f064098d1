"""The one exception that a user's mistake raises, and names that were nearly right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InvalidAnswer", "UserError", "did_you_mean"]


class UserError(Exception):
    """A mistake that the user can mend: one line with what was wrong, what was found and what to do."""


class InvalidAnswer(Exception):
    """A method's answer breaks the contract (shape, type): recorded in its cell as ``invalid``."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"
