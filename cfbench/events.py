"""What happened in a run: one line of JSON an event, appended by whoever does the work."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["EVENTS", "note", "read_events"]

EVENTS = "events.jsonl"


def note(folder: Path, event: str, **about: Any) -> None:
    """Append an event to a run's log: ``begin``, ``start``, ``wrote``, ``end`` or ``stop``, with what belongs to it.

    A line is written in one call, so that processes do not tear each other's. A log that cannot be written (a full
    disk) ends no work.
    """
    line = json.dumps({"time": round(time.time(), 3), "event": event, "pid": os.getpid(), **about}, default=str)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError:
        return
    try:
        os.write(file, f"{line}\n".encode())
    except OSError:
        return
    finally:
        os.close(file)


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of a run in their order, but for a line that a kill left half written."""
    path = folder / EVENTS
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue
