"""How much of a GPU a task takes, so that those that fit run side by side and the others wait."""

from __future__ import annotations

from pathlib import Path

from . import store
from .errors import UserError
from .work import Task

__all__ = ["gpu_share", "peak_of"]

ROOM = 1.25
"""Of the memory that a method was seen to take, for what allocators and contexts take beside it."""


def gpu_share(folder: Path, task: Task, slots: int, memory_mb: float | None) -> float:
    """The part of a GPU, above 0 and at most 1, that a task asks Ray for.

    An equal share, or more where an earlier fit of the same method and data set was seen to take more memory; all of
    it for answers, whose times are in the table.

    Args:
        folder: of the run.
        slots: tasks that may share a GPU.
        memory_mb: of the GPU; None where it is not known.
    """
    if task.stage == "images":
        return 1.0
    peak = peak_of(folder, task) if memory_mb else None
    return min(1.0, max(1 / slots, ROOM * peak / memory_mb if peak and memory_mb else 0.0))


def peak_of(folder: Path, task: Task) -> float | None:
    """The most memory [MiB] that the fit of a task was seen to take in any seed of its cell; None if in none."""
    if task.cell is None or task.stage != "train":
        return None
    peaks = []
    for path in (folder / task.cell.fitted.path).parent.glob("seed-*/train-*/costs.json"):
        try:
            peaks.append(float(store.read_json(path).get("train_peak_mb") or 0))
        except (UserError, TypeError, ValueError, AttributeError):
            continue
    return max(peaks, default=0.0) or None
