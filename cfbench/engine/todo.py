"""What a command will do: the stages of each data set and cell that are not done, why, and how long they may take."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from ..runs.chain import Task, cell_tasks, last_failure, tasks_of
from ..runs.context import Run
from ..runs.reasons import reason
from .checkpoints import resumption
from .display import RunMonitor
from .estimates import TimeLeft, Workload, earlier_runs, parallel

__all__ = ["Todo", "lines_of", "new_monitor"]


@dataclass(frozen=True)
class Todo:
    """The tasks of a run that are to be done, the ids of those that are done, and the number of tasks at once."""

    run: Run
    tasks: tuple[Task, ...]
    done: frozenset[str]
    total: int
    jobs: int = 1

    @property
    def left(self) -> dict[str, TimeLeft]:
        """How long each task may take."""
        monitor = new_monitor(self.run)
        monitor.update()
        return {task.id: _left(self.run, monitor, task) for task in self.tasks}


def new_monitor(run: Run) -> RunMonitor:
    """A monitor of all cells of a run that knows how long tasks took in earlier runs."""
    folder, device = run.job.folder, run.job.device
    work = Workload(run.job.budget, {d.label: len(run.loaded.dataset(d).graph.variables) for d in run.datasets})
    return RunMonitor(folder, run.cells, run.controls, work=work, history=earlier_runs(folder, device), device=device)


def _left(run: Run, monitor: RunMonitor, task: Task) -> TimeLeft:
    usual, where = monitor.usual(task.id) or TimeLeft(complete=False), None
    if task.stage == "train" and task.cell:
        where = resumption(run.job.folder / task.cell.stage("train"))
    spent = where.seconds if where else 0.0
    return TimeLeft(max(usual.low - spent, 0.0), max(usual.high - spent, 0.0), usual.complete)


def lines_of(todo: Todo) -> Iterator[str]:
    """What is to be done, a line for each data set and cell, and the sum."""
    run, left = todo.run, todo.left
    tasks, names = {t.id: t for t in tasks_of(run)}, {t.id for t in todo.tasks}
    chains: dict[str, list[Task]] = {}
    owned: set[str] = set()
    for cell in run.cells:
        chains[cell.label] = [tasks[t.id] for t in cell_tasks(cell) if t.id not in owned]
        owned |= {t.id for t in chains[cell.label]}
    shared = {d.label: [t for t in tasks.values() if not t.cell and t.dataset.label == d.label] for d in run.datasets}
    for label, chain in shared.items():
        if not todo.done.issuperset(t.id for t in chain):
            yield _line(todo, label, chain, names, left)
    for cell in run.cells:
        kept = f"; fit by other code kept, key {cell.keys['train']}" if cell.kept else ""
        yield _line(todo, cell.title, chains[cell.label], names, left) + kept
    total = parallel(tasks, left, todo.jobs)
    time = f", {'time unknown yet' if total.unknown else total.words}" if left else ""
    yield f"  {len(names)} of {todo.total} tasks to do{time}"


def _line(todo: Todo, label: str, chain: list[Task], names: Container[str], left: Mapping[str, TimeLeft]) -> str:
    """What is to be done of one chain of tasks."""
    open_ = [t for t in chain if t.id not in todo.done]
    if not open_:
        return f"  done   {label}"
    doing = [t for t in open_ if t.id in names]
    failed = [t for t in open_ if t.id not in names and last_failure(todo.run.job.folder, t)]
    time = sum((left[t.id] for t in doing), TimeLeft())
    parts = [_stages(todo.run, doing)] if doing else []
    parts += [f"{_stages(todo.run, failed)}, `--only failed` tries again"] if failed else []
    parts += [time.words] if doing and not time.unknown else []
    status = "failed" if failed else "to do " if doing else "left  "
    return f"  {status} {label}{': ' if parts else ''}{'; '.join(parts)}"


def _stages(run: Run, tasks: list[Task]) -> str:
    """Stages with the reason of each, equal ones together."""
    reasons = [(t.stage, _reason(run, t)) for t in tasks]
    groups = [(why, [stage for stage, _ in group]) for why, group in groupby(reasons, key=lambda pair: pair[1])]
    return ", ".join(f"{', '.join(stages)} ({why})" for why, stages in groups)


def _reason(run: Run, task: Task) -> str:
    where = resumption(run.job.folder / task.cell.stage("train")) if task.stage == "train" and task.cell else None
    return f"continues {where}" if where else reason(run, task)
