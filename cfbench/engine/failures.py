"""Exceptions as statuses of tasks, memory and disk errors recognised, and a time limit on a block of code."""

from __future__ import annotations

import errno
import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import torch

from ..errors import InvalidAnswer, TaskTimeout
from ..runs.chain import Status

__all__ = ["is_transient", "out_of_memory", "status_of", "time_limit", "with_smaller_batches"]


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Context manager that raises `TaskTimeout` after ``seconds``, and again each second that the block continues.

    An alarm interrupts Python code of the main thread; calls into native code end first. In other threads, and with
    None, there is no limit.
    """
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise TaskTimeout(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


T = TypeVar("T")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def status_of(error: BaseException) -> Status:
    """The status of a task that raised: invalid, timeout, oom or failed."""
    if isinstance(error, InvalidAnswer):
        return Status.INVALID
    if isinstance(error, TaskTimeout):
        return Status.TIMEOUT
    return Status.OOM if out_of_memory(error) else Status.FAILED


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a process or a device was out of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def is_transient(error: BaseException | None) -> bool:
    """Whether an exception is due to the disk and not to the method, so that the same command tries the task again."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return True
        if type(error).__name__ == "SafetensorError" and "os error" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def with_smaller_batches(batch: int, attempt: Callable[[int], T]) -> tuple[T, int]:
    """Return ``attempt(batch)`` and the batch that was used, which is halved each time that memory runs out."""
    while True:
        try:
            return attempt(batch), batch
        except (MemoryError, RuntimeError) as error:
            if batch == 1 or not out_of_memory(error):
                raise
        batch //= 2
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
