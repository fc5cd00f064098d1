"""The time that a processor spends on what a process does, which other work on the machine hardly lengthens."""

from __future__ import annotations

import resource
import time

__all__ = ["cpu_time"]


def cpu_time() -> float:
    """Seconds of the processor that all threads of this process took, and processes that it started and that ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime
