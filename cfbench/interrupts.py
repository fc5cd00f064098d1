"""Ctrl-C: the first lets what takes seconds finish, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupt", "interruptible"]

GRACE = 5.0
"""Seconds that stages under way have to finish."""


class Interrupt:
    """Whether the user has asked to stop."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked, self.say = False, say
        self.timer = threading.Timer(GRACE, os.kill, (os.getpid(), signal.SIGINT))
        self.timer.daemon = True

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say(f"stopping: what is under way has {GRACE:g} s to finish; Ctrl-C again stops now")
        self.timer.start()


@contextmanager
def interruptible(say: Callable[[str], None]) -> Iterator[Interrupt]:
    """A block that the first interrupt asks to stop, and that a second one, or the end of the grace, stops."""
    interrupt = Interrupt(say)
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        interrupt.timer.cancel()
        signal.signal(signal.SIGINT, before)
