"""Errors for users, each with a message of one line, suggestions for misspelt names, and signals as exceptions."""

from __future__ import annotations

import difflib
import errno
import signal
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

__all__ = [
    "STOP_SIGNALS", "Interrupted", "InvalidAnswer", "PluginError", "TaskTimeout", "UserError", "did_you_mean",
    "interruption_in", "is_of_harness", "one_line", "one_of", "os_error_text", "raise_interrupted", "reason_of",
]  # fmt: skip


class UserError(Exception):
    """An error that the user can correct: one line with what was wrong, what was found and what to do."""


class PluginError(UserError):
    """A plugin that cannot be imported, breaks the contract, or has the name of another one."""


class InvalidAnswer(Exception):
    """A method's answer breaks the contract (shape, type): recorded in its cell as ``invalid``."""


STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a user, a scheduler and a terminal that is closed send to end a program."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop; a class of its own, as a plugin may raise `KeyboardInterrupt` itself."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as shells report it."""
        return 128 + self.number


class TaskTimeout(BaseException):
    """A block took longer than its limit; no `Exception`, so that code that catches those does not catch it."""


def raise_interrupted(number: int, frame: FrameType | None) -> None:
    """A signal handler.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(number)


def interruption_in(error: BaseException | None) -> Interrupted | None:
    """The signal that an exception is due to, directly or as what was handled when it was raised; None for others.

    `KeyboardInterrupt` itself means Ctrl-C only where Python's own handler raises it; elsewhere a plugin did.
    """
    chain = [error]
    for each in chain:
        if isinstance(each, Interrupted):
            return each
        if type(each) is KeyboardInterrupt and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            return Interrupted()
        chain += [e for e in (each.__cause__, each.__context__) if e and e not in chain] if each else []
    return None


def is_of_harness(error: BaseException) -> bool:
    """Whether an exception out of a plugin's code is a signal or a time limit, and not the plugin's own."""
    return isinstance(error, TaskTimeout) or interruption_in(error) is not None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"


def one_line(text: object, width: int = 400) -> str:
    """Any object as a text of one line and bounded length."""
    try:
        line = " ".join(str(text).split())
    except BaseException as error:
        if is_of_harness(error):
            raise
        line = f"(no text: its __str__ raises {type(error).__name__})"
    return line if len(line) <= width else f"{line[: width - 1]}…"


_REMEDIES = {
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path that can be written",
    errno.ENOSPC: "free some, or give another path",
    errno.EDQUOT: "free some, or give another path",
    errno.EEXIST: "a file is in the place of a folder; give another path",
    errno.ENOTDIR: "a file is in the place of a folder; give another path",
    errno.EISDIR: "a folder is in the place of a file; give another path",
    errno.ENOENT: "give a path that exists",
}


def os_error_text(error: OSError) -> str:
    """An error of the operating system in one line: the path, what is wrong with it, and what to do."""
    paths = " and ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    what = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0)
    return (f"{paths}: " if paths else "") + what + (f"; {remedy}" if remedy else "")


def reason_of(error: BaseException, file: Path | str | None = None) -> str:
    """An exception of a plugin in one line: type, message, and file and line of the innermost frame.

    Args:
        error: the exception.
        file: the plugin's file; its innermost frame is preferred.
    """
    if isinstance(error, SystemExit):
        what = f"SystemExit: calls sys.exit({'' if error.code is None else one_line(repr(error.code), 80)})"
    else:
        message = error.msg if isinstance(error, SyntaxError) else error
        what = f"{type(error).__name__}: {one_line(message)}".removesuffix(": ")
    location = _location(error, Path(file) if file else None)
    return f"{what} ({location})" if location else what


def _location(error: BaseException, file: Path | None) -> str:
    """``mine.py line 3``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name} line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    own = [f for f in frames if file and Path(f.filename) == file]
    innermost = (own or frames)[-1:]
    return "".join(f"{Path(f.filename).name} line {f.lineno}" for f in innermost)


def one_of(what: str, name: str | None, known: Iterable[str]) -> str:
    """The name that was given, or the only one there is.

    Raises:
        UserError: it is unknown, or none was given and there are several.
    """
    known = list(known)
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        many = f"there are {len(known)}; say which: {', '.join(known)}" if known else "there is none"
        raise UserError(f"no {what} is named, and {many}")
    if name not in known:
        raise UserError(f"no {what} {name!r}; {did_you_mean(name, known)}")
    return name
