"""The suite from Python: run it, read runs, and load data sets, fitted methods and learned actions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..engine.launch import launch
from ..engine.request import Request
from ..engine.todo import Todo
from ..errors import UserError
from ..plugins.registry import Registry, SessionPlugins
from ..report.charts.curves import check_installed, scalar_writer
from ..runs.budget import DATASETS, METHODS
from ..runs.context import Run, open_dataset
from ..runs.folders import DATA_ROOT, find_run
from ..runs.terminal import filtered_output
from .result import Result

if TYPE_CHECKING:
    from ..contract import Dataset, Method
    from ..evaluation.plan import Act

__all__ = ["load", "load_action", "load_dataset", "load_method", "run"]


def run(
    methods: Any = METHODS,
    datasets: Any = DATASETS,
    preset: str = "quick",
    *,
    budgets: int | str | Iterable[int | str] | None = None,
    seeds: int | str | Iterable[int] | None = None,
    plan: str = "marginal",
    action: Literal["exact", "learned"] | None = None,
    split: Literal["test", "valid"] = "test",
    settings: Mapping[str, Any] | Iterable[str] = (),
    weights: Mapping[str, str | Path] | Iterable[str] = (),
    keep_fit: str | Iterable[str] = (),
    metrics: Any = None,
    controls: bool = True,
    device: str = "auto",
    jobs: int = 0,
    threads: int = 1,
    precision: Literal["fp32", "bf16"] = "fp32",
    timeout: float | None = None,
    bundles: str | Path | Iterable[str | Path] = (),
    tensorboard: bool = False,
    name: str | None = None,
    data_root: str | Path | None = None,
    run_root: str | Path = "runs",
    plugins: Any = (),
    only: Literal["missing", "failed", "all"] = "missing",
    progress: bool = True,
) -> Result:
    """Do what ``cfbench run`` does: finished work is not repeated, and a cell that fails is reported, not raised.

    Args:
        methods: rows as on the command line (``"diffscm,hvae[width=16]"``), classes or instances of methods or
            controls, a list mixing these, or a mapping of rows to classes or instances.
        datasets: likewise.
        preset: the budget, the same for all methods but those whose row has one of its own (``"deepscm@32k"``).
        budgets: numbers of training images (``"32k,130k"``, ``[32_000, 130_000]``) at each of which every method that
            is fitted has a row.
        seeds: training seeds; the preset's where left out.
        settings: ``{"diffscm.steps": 50}``, or a list of ``"diffscm.steps=50"``.
        weights: ``{"diffscm": "file.safetensors"}``, or a list of ``"diffscm=file.safetensors"``.
        keep_fit: names of methods whose stored fits are kept although their code was edited; their rows are marked.
        metrics: likewise as methods; all where left out.
        jobs: tasks at once, by default one a core; with classes or instances, one at a time in this process.
        bundles: folders that `cfbench bundle` wrote, to take questions and judges of a data set from.
        tensorboard: whether to write training logs for TensorBoard, to ``tensorboard/`` in the run.
        data_root: folder with data sets; by default the environment's ``CFBENCH_DATA_ROOT``, or ``data``.
        plugins: files that define plugins, and classes or instances to be found by name; or a mapping of names.
        only: which unfinished tasks to do: those never tried, those that failed before, or both.
        progress: whether to print progress on standard error.

    Raises:
        UserError: a name is unknown, a name is taken, or a value is wrong; TensorBoard is not installed.
    """
    if tensorboard:
        check_installed()
    session = SessionPlugins(plugins)
    request = Request(
        methods=session.specs("method", methods), datasets=session.specs("dataset", datasets),
        metrics=None if metrics is None else _nonempty(session.specs("metric", metrics)), seeds=_numbers(seeds),
        preset=preset, budgets=_numbers(budgets),
        plan=plan, action=action, split=split, settings=_pairs(settings), weights=_pairs(weights),
        keep_fit=(keep_fit,) if isinstance(keep_fit, str) else tuple(keep_fit),
        controls=controls, device=device, threads=threads, precision=precision, timeout=timeout,
        bundles=_paths(bundles), name=name,
        data_root=_data_root(data_root), run_root=Path(run_root), plugins=session.files, classes=session.classes,
    )  # fmt: skip
    with filtered_output() if progress else redirect_stderr(StringIO()):
        done = _execute(request, jobs, only, tensorboard)
    return Result(done.job.folder, session.classes, done.job.data_root, session.files)


def _execute(request: Request, jobs: int, only: Literal["missing", "failed", "all"], tensorboard: bool) -> Run:
    run = request.run()
    _check_graphs(request)
    if request.classes and jobs > 1:
        print("cfbench: only this process knows the classes at hand; one task at a time", file=sys.stderr)
    after = scalar_writer(run) if tensorboard else lambda outcome: None
    jobs = 1 if request.classes else jobs
    launch(run, _described(request), only=only, jobs=jobs, announce=_announce, after=after)
    return run


def _announce(todo: Todo) -> None:
    print(f"run {todo.run.job.folder}: {len(todo.tasks)} of {todo.total} tasks to do", file=sys.stderr)


def _described(request: Request) -> list[str]:
    """The options that are not the default, as ``run.json`` lists commands."""
    usual = Request()
    options = {n: v for n, v in vars(request).items() if n in Request.__dataclass_fields__ and v != getattr(usual, n)}
    options.pop("classes", None)
    return ["cfbench.run", *(f"{name}={value}" for name, value in options.items())]


def _check_graphs(request: Request) -> None:
    """Raise unless each instance of a method has the graph of every data set of the run.

    Raises:
        UserError: one has another graph.
    """
    for row in request.rows:
        given = request.classes.get(row.name)
        graph = None if given is None or isinstance(given, type) else getattr(given, "graph", None)
        for spec in request.dataset_specs if graph else ():
            if request.loaded.dataset(spec).graph != graph:
                raise UserError(f"{row.name} is made for another graph than that of {spec.label}; give its class")


def _nonempty(specs: str) -> str:
    if not specs:
        raise UserError("no metric is given; leave metrics out for all of them")
    return specs


def _numbers(given: int | str | Iterable[int | str] | None) -> str | None:
    """Numbers as options have them."""
    if given is None or isinstance(given, str):
        return given
    return ",".join(map(str, [given] if isinstance(given, int) else given))


def _pairs(given: Mapping[str, Any] | Iterable[str]) -> tuple[str, ...]:
    """``key=value`` texts, as options have them."""
    if isinstance(given, Mapping):
        return tuple(f"{k}={v}" for k, v in given.items())
    return (given,) if isinstance(given, str) else tuple(given)


def _paths(given: str | Path | Iterable[str | Path]) -> tuple[Path, ...]:
    return tuple(map(Path, [given] if isinstance(given, (str, Path)) else given))


def _data_root(given: str | Path | None) -> Path:
    return Path(given or os.environ.get(DATA_ROOT, "data"))


def load(run: str | Path, run_root: str | Path = "runs") -> Result:
    """A run by its name or folder, read from its cells without importing plugins.

    Raises:
        UserError: there is no such run.
    """
    return Result(find_run(str(run), Path(run_root)))


def load_dataset(
    dataset: str | type[Dataset] | Dataset, *, data_root: str | Path | None = None, plugins: Any = ()
) -> Dataset:
    """A data set, opened: by name (``"strokes"``, ``"folder[path=mine]"``), a class or an instance.

    Raises:
        UserError: it is unknown, or its data are missing.
    """
    session, root = SessionPlugins(plugins), _data_root(data_root).resolve()
    if not isinstance(dataset, (str, type)):
        dataset.open(root)
        return dataset
    named = session.specs("dataset", dataset)  # which may be a class that the registry has to know
    registry = Registry(session.files, session.classes)
    specs = registry.parse("dataset", named)
    if len(specs) != 1:
        raise UserError(f"{dataset!r} names {len(specs)} data sets; give one")
    return open_dataset(registry, specs[0], root)


def load_method(
    run: str | Path | Result,
    method: str,
    *,
    seed: int = 0,
    dataset: str | None = None,
    run_root: str | Path = "runs",
    data_root: str | Path | None = None,
    device: str = "cpu",
    plugins: Any = (),
) -> Method:
    """A fitted method of a run, with its tuned parameters, in evaluation mode and the run's precision.

    Warns if its source, settings or data have changed since it was fitted.

    Args:
        run: its name or folder, or the `Result` of `run`, which knows the classes and files that the run was given.
        method: the row as the table names it: ``"diffscm"``, ``"diffscm[steps=50]"``.
        dataset: may be left out where the row has been fitted to one.
        plugins: files, classes or instances, or a mapping of names to those, in addition to those of the `Result`;
            files that ``run.json`` names are not executed.

    Raises:
        UserError: there is no such row, it is not fitted, it is no method, or a plugin's name is taken.
    """
    from .load import load_fitted

    result = run if isinstance(run, Result) else load(run, run_root)
    session = SessionPlugins(plugins, result.classes, result.files)
    root = _data_root(data_root) if data_root or not result.data_root else result.data_root
    return load_fitted(result.folder, method, seed, dataset, data_root=root, device=device, session=session)


def load_action(run: str | Path | Result, dataset: str | None = None, *, run_root: str | Path = "runs") -> Act:
    """The response of a data set's parents by the mechanisms that a run fitted: ``action(pa, do, rng)``.

    Raises:
        UserError: there is no such run or data set, its exact response is known, or the mechanisms are not fitted.
    """
    from .load import load_learned_action

    return load_learned_action((run if isinstance(run, Result) else load(run, run_root)).folder, dataset)
