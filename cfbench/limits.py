"""A time limit on a block of code, whoever wrote it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TimedOut", "time_limit"]


class TimedOut(BaseException):
    """A block took longer than its limit; no `Exception`, so that code which catches those does not swallow it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """A block that `TimedOut` ends after so many seconds, again each second that it goes on.

    An alarm interrupts Python code of the main thread; calls into native code end first. Elsewhere, and with None,
    there is no limit.
    """
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimedOut(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
