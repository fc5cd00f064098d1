"""What a run shows while it is at work: a live table of its cells, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import progress
from .outlook import Outlook, Row
from .progress import at_work, beside, clock

__all__ = ["display", "drawn", "head", "lines", "table"]

COLOURS = {"running": "cyan", "pending": "dim", "ok": "green"}


Say = Callable[[str], None]


@contextmanager
def display(outlook: Outlook) -> Iterator[Say]:
    """A display of a run on standard error, and the sign for others that it is going; yields a way to say a line.

    Args:
        outlook: on its cells; the caller tells it how tasks end.
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with at_work(outlook.folder):
        yield from _live(console, outlook) if console.is_terminal else _plain(outlook)


def _live(console: Any, outlook: Outlook) -> Iterator[Say]:
    from rich.live import Live
    from rich.text import Text

    def draw() -> Any:
        outlook.update()
        return drawn(outlook, head(outlook), console.size.height)

    with Live(get_renderable=draw, console=console, refresh_per_second=1, transient=True) as live:
        yield lambda text: live.console.print(Text(text))


def _plain(outlook: Outlook) -> Iterator[Say]:
    stop = threading.Event()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def watch() -> None:
        while not stop.wait(progress.EVERY):
            outlook.update()
            for line in lines(outlook):
                say(line)

    with beside(watch, stop):
        yield say


def head(outlook: Outlook) -> str:
    """How many tasks are over, since when, and for how long it will go on."""
    left, sure = outlook.total()
    over = f"{len(outlook.over | outlook.ended)} of {outlook.asked} tasks over, " if outlook.asked else ""
    rest = "" if left is None else f", about {clock(left)}{'' if sure else ' or more'} left"
    return f"{over}{clock(max(outlook.now - outlook.begun, 0.0))}{rest}"


def lines(outlook: Outlook) -> list[str]:
    """One line for each task under way, and one for the whole."""
    doing = [f"  {d.task}: {d}".removesuffix(": ") for d in outlook.doing.values()]
    return [*doing, f"  {head(outlook)}"] if doing else []


def drawn(outlook: Outlook, first: str, height: int) -> Any:
    """The table with a line above; where it does not fit, what goes on and what went wrong, and a count of the rest."""
    from rich.console import Group
    from rich.text import Text

    rows, room = outlook.rows(), max(height - 4, 3)
    shown = rows if len(rows) <= room else _foremost(rows, room - 1)
    rest = [r.status for r in rows if r not in shown]
    counts = ", ".join(f"{rest.count(s)} {s}" for s in dict.fromkeys(rest))
    return Group(Text(first), table(shown), *([Text(f"and {counts}", style="dim")] if rest else []))


def _foremost(rows: list[Row], room: int) -> list[Row]:
    """The rows that matter most, in their order."""
    weights = {"running": 0, "pending": 2, "ok": 3, "skipped": 3}
    order = sorted(range(len(rows)), key=lambda i: weights.get(rows[i].status, 1))
    return [rows[i] for i in sorted(order[:room])]


def table(rows: list[Row]) -> Any:
    """Rows side by side, each in one line."""
    from rich.text import Text

    head = ("status", "cell", "seconds", "left", "under way")
    words = [head, *((r.status, r.label, f"{r.seconds:.1f}" * (r.seconds > 0), r.remaining, r.about) for r in rows)]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    found = Text(no_wrap=True, overflow="ellipsis")
    for line, style in zip(words, ["bold", *(COLOURS.get(r.status, "red") for r in rows)], strict=True):
        status, label, seconds, left, about = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        found.append(status, style)
        found.append(f"  {label}  {seconds.strip():>{widths[2]}}  {left.strip():>{widths[3]}}  {about.rstrip()}\n")
    found.rstrip()
    return found
