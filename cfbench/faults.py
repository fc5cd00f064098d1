"""What an exception means: whose fault it is, and whether the same command should simply try again."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from .errors import InvalidAnswer
from .limits import TimedOut

__all__ = ["out_of_memory", "passing", "smaller", "status_of"]

T = TypeVar("T")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def status_of(error: BaseException) -> str:
    """The status of a cell whose stage raised: invalid, timeout, oom or failed."""
    if isinstance(error, InvalidAnswer):
        return "invalid"
    if isinstance(error, TimedOut):
        return "timeout"
    return "oom" if out_of_memory(error) else "failed"


def out_of_memory(error: BaseException) -> bool:
    """Whether a process or a device had no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def passing(error: BaseException | None) -> bool:
    """Whether the disk is at fault, which is nothing to hold against a method: the same command tries again."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return True
        if type(error).__name__ == "SafetensorError" and "os error" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def smaller(batch: int, attempt: Callable[[int], T]) -> tuple[T, int]:
    """What ``attempt(batch)`` gives, with half the batch as often as memory runs out; and the batch that was used."""
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
