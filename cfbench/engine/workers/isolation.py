"""Which plugins' code a task runs: tasks of plugins that are not built in share no process with others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import UserError
from ...plugins.discovery import Plugin
from ...plugins.signatures import Kind
from ...runs.chain import Task
from ...runs.context import LoadedJob
from ...runs.job import Job

__all__ = ["Group", "group_of", "is_pristine", "parts_of"]


@dataclass(frozen=True)
class Group:
    """The plugins that are not built in and whose code a task runs; tasks of one group may share a process.

    Attributes:
        names: kind and name of each.
        files: those that define them.
        here: whether one exists in this process only.
    """

    names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    here: bool = False

    def job(self, job: Job) -> Job:
        """The job of a process that executes the group's tasks, which loads no other files."""
        return replace(job, plugins=self.files)


def is_pristine(loaded: LoadedJob) -> bool:
    """Whether a job has run no code here of plugins that are not built in."""
    return not loaded.job.plugins and all(plugin.built_in for plugin in loaded.registry.loaded)


def group_of(loaded: LoadedJob, task: Task) -> Group:
    """The group of a task; one whose plugin cannot be found needs all files to say why."""
    try:
        found = {(k, name): loaded.registry.find(k, name) for k, name in _used(task)}
    except UserError:
        return Group(("not found",), loaded.job.plugins)
    foreign = {f"{k} {name}": plugin for (k, name), plugin in sorted(found.items()) if not plugin.built_in}
    files = {plugin.file for plugin in foreign.values()}
    here = any(_is_here(plugin) for plugin in foreign.values())
    return Group(tuple(foreign), tuple(f for f in loaded.job.plugins if f in files), here)


def _is_here(plugin: Plugin) -> bool:
    return plugin.entry is None and plugin.file is None


def _used(task: Task) -> Iterator[tuple[Kind, str]]:
    """The plugins whose code a task runs."""
    yield "dataset", task.dataset.name
    if task.cell is None:
        return
    if task.stage == "scores":
        yield from (("metric", name) for name in task.cell.scores)
    else:
        yield from (("method", spec.name) for spec in (task.cell.method, task.cell.of) if spec)


def parts_of(loaded: LoadedJob, task: Task) -> list[Task]:
    """A task as it is executed: scores of each metric that is not built in apart from the others."""
    if task.stage != "scores" or task.cell is None:
        return [task]
    cell, found = task.cell, loaded.registry.plugins
    apart = [m for m in cell.scores if ("metric", m) in found and not found["metric", m].built_in]
    kept = {metric: key for metric, key in cell.scores.items() if metric not in apart}
    alone = (replace(task, part=m, cell=replace(cell, scores={m: cell.scores[m]})) for m in apart)
    return [replace(task, cell=replace(cell, scores=kept)), *alone] if apart else [task]
