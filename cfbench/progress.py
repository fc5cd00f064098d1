"""Where a run stands: workers write one small file each, the driver draws them."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from .digest import key_of

__all__ = ["Reporter", "display"]


class Reporter:
    """Writes a task's stage, step, total and loss into the run's folder, a few times a second at most."""

    def __init__(self, folder: Path, task: str, *, interval: float = 0.3) -> None:
        self.path = folder / ".progress" / f"{key_of(task)}.json"
        self.task, self.interval, self.last, self.stage = task, interval, 0.0, ""
        self.begun = self.stage_begun = time.time()

    def __enter__(self) -> Reporter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self("", 0, 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.path.unlink(missing_ok=True)

    def __call__(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        now = time.time()
        if stage != self.stage:
            self.stage, self.stage_begun, self.last = stage, now, 0.0
        if now - self.last < self.interval:
            return
        self.last = now
        state = {"task": self.task, "stage": stage, "done": done, "total": total, "loss": loss}
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(state | {"begun": self.begun, "stage_begun": self.stage_begun, "now": now}))
        draft.replace(self.path)


def running(folder: Path) -> list[dict[str, Any]]:
    """What the workers of a run are at."""
    states = []
    for path in sorted((folder / ".progress").glob("*.json")):
        try:
            states.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return sorted(states, key=lambda s: s["begun"])


def line(state: dict[str, Any]) -> str:
    """One task in words: step, rate, loss, time left."""
    done, total = state["done"], state["total"]
    spent = max(state["now"] - state["stage_begun"], 1e-9)
    parts = [f"{state['task']}: {state['stage']}" if state["stage"] else state["task"]]
    if total and done and spent > 1:
        parts.append(f"{done}/{total}, {done / spent:.1f}/s, {_clock(spent * (total - done) / done)} left")
    elif total:
        parts.append(f"{done}/{total}")
    if state["loss"] is not None:
        parts.append(f"loss {state['loss']:.4g}")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@contextmanager
def display(folder: Path, total: int, finished: Callable[[], int]) -> Iterator[Callable[[str], None]]:
    """A live display of all running tasks, or plain lines where there is no terminal; yields a way to say a line."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        yield from _live(console, folder, total, finished)
    else:
        yield from _plain(folder, total, finished)


def _live(console: Any, folder: Path, total: int, finished: Callable[[], int]) -> Iterator[Callable[[str], None]]:
    from rich.live import Live
    from rich.text import Text

    begun = time.time()

    def draw() -> Text:
        head = f"{finished()} of {total} tasks done, {_clock(time.time() - begun)}"
        return Text("\n".join([head, *(f"  {line(s)}" for s in running(folder))]))

    with Live(get_renderable=draw, console=console, refresh_per_second=4, transient=True) as live:
        yield lambda text: live.console.print(Text(text))


def _plain(folder: Path, total: int, finished: Callable[[], int]) -> Iterator[Callable[[str], None]]:
    stop = threading.Event()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def watch() -> None:
        while not stop.wait(15):
            for state in running(folder):
                say(f"  [{finished()}/{total}] {line(state)}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield say
    finally:
        stop.set()
        thread.join()
