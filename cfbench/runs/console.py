"""Progress on standard error of work that takes a while, and how a data set reports its own."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .progress import EVERY
from .terminal import open_console

__all__ = ["forward_progress", "in_background", "print_dataset_progress", "print_progress"]


@contextmanager
def print_progress(title: str, *, delay: float = 2.0, every: float | None = None) -> Iterator[Callable[..., None]]:
    """Context manager that prints progress on standard error; yields ``report(stage, done, total, loss)``.

    Args:
        title: of the work.
        delay: seconds before anything is printed.
        every: seconds between two lines, where there is no terminal; by default `EVERY`.
    """
    from rich.text import Text

    console, stop, line = open_console(stderr=True), threading.Event(), title

    def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
        nonlocal line
        line = f"{title}: {stage} {done:,}/{total:,}" if total else f"{title}: {stage}"

    def watch() -> None:
        if stop.wait(delay):
            return
        if not console.is_terminal:
            print(line, file=sys.stderr, flush=True)
            while not stop.wait(every or EVERY):
                print(line, file=sys.stderr, flush=True)
            return
        with console.status(Text(line)) as status:
            while not stop.wait(0.5):
                status.update(Text(line))

    with in_background(watch, stop):
        yield report


@contextmanager
def in_background(watch: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """Context manager that runs ``watch`` in a thread meanwhile, and sets ``stop`` at the end."""
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def print_dataset_progress(dataset: Any, title: str) -> Iterator[None]:
    """Context manager under which the progress of a data set that renders or reads data is printed."""
    with print_progress(title) as report, forward_progress(dataset, report):
        yield


@contextmanager
def forward_progress(dataset: Any, report: Callable[..., None]) -> Iterator[None]:
    """Context manager under which a data set reports to ``report``; one whose attributes cannot be set stays silent."""
    with contextlib.suppress(AttributeError):
        dataset.progress = report
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError):
            del dataset.progress
