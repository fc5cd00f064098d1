"""Signals that ask a run to stop: in two steps in the driver, at once in a worker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ..errors import STOP_SIGNALS, Interrupted, raise_interrupted

__all__ = ["Interrupt", "handling", "install_again", "interruptible"]


GRACE, INSIST, PATIENCE = 5.0, 1.0, 10
"""Seconds that tasks in flight have to finish, seconds between further interrupts, and how many of them there are."""


class Interrupt:
    """A signal handler that registers which signal first asked to stop, and raises `Interrupted` from the second on."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.number, self.print_line, self.over = 0, print_line, threading.Event()

    @property
    def asked(self) -> bool:
        """Whether a signal asked to stop."""
        return bool(self.number)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise Interrupted(self.number)
        self.number = number
        threading.Thread(target=self._insist, daemon=True).start()
        with suppress(OSError, RuntimeError):  # a closed terminal, or a line that this one would end up in
            self.print_line(f"stopping: what is under way has {GRACE:g} s to finish; Ctrl-C again stops now")

    def _insist(self) -> None:
        """Interrupt after `GRACE` seconds and again where a plugin catches that; at last, end the process."""
        if self.over.wait(GRACE):
            return
        for _ in range(PATIENCE):
            os.kill(os.getpid(), self.number)
            if self.over.wait(INSIST):
                return
        os._exit(128 + self.number)


@contextmanager
def interruptible(print_line: Callable[[str], None]) -> Iterator[Interrupt]:
    """Context manager whose block the first signal asks to stop, and a second one, or `GRACE` seconds, stops.

    Raises:
        Interrupted: the second signal came, or an exception after the first one.
    """
    interrupt = Interrupt(print_line)
    try:
        with handling(interrupt):
            yield interrupt
    except (Exception, KeyboardInterrupt):
        if interrupt.asked:  # a signal to all processes ends others that this one needs; Ray replaces `Interrupted`
            raise Interrupted(interrupt.number) from None
        raise
    finally:
        interrupt.over.set()


@contextmanager
def handling(handler: Any = raise_interrupted) -> Iterator[None]:
    """Context manager under which signals that ask to stop have a handler; those that are ignored stay so.

    On exit the handlers are as before, whatever the block installed. Only the main thread can do this; in others the
    block is executed as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        for number, old in before.items():
            if old is not signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            if old is not None:
                signal.signal(number, old)


def install_again() -> None:
    """Install the handlers that Python knows where native code may have replaced them without its knowledge."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)
