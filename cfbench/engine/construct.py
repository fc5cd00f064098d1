"""Rows constructed once before a run begins, so that a setting that a constructor refuses is found at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from torch.overrides import TorchFunctionMode

from ..contract import Control
from ..errors import PluginError, UserError, is_of_harness, reason_of
from ..graph import CausalGraph
from ..names import name_error
from ..plugins.discovery import is_instance
from ..plugins.signatures import Kind, required
from ..plugins.spec import Spec
from ..runs.context import LoadedJob
from ..runs.environment import isolated
from ..runs.job import Cell

__all__ = ["applies", "check_datasets", "check_metrics", "check_rows"]


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves weights as they were allocated, so that the memory of a large network is never written."""

    def __torch_function__(
        self, func: Any, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def applies(loaded: LoadedJob, dataset: Spec, control: Spec) -> bool:
    """Whether a control has anything to say about a data set; a method does about all."""
    cls, params = loaded.registry.resolve("method", control)
    data = loaded.dataset(dataset)
    return not issubclass(cls, Control) or bool(cls(data.graph, **params).applies(data))


def check_datasets(loaded: LoadedJob, datasets: Iterable[Spec]) -> None:
    """Raise unless every data set can be constructed and opened, and its variables have names that can be told apart.

    Raises:
        UserError: one cannot.
    """
    for spec in datasets:
        try:
            _check_names(spec, loaded.dataset(spec).graph)
        except UserError:
            raise
        except BaseException as error:
            if is_of_harness(error):
                raise
            raise UserError(_message(loaded, "dataset", spec, error)) from error


def _check_names(spec: Spec, graph: CausalGraph) -> None:
    """Raise unless tables can tell the names of all variables from other words, and show their units."""
    for v in graph.variables:
        if error := name_error(v.name):
            raise UserError(f"{spec.label}: the variable {v.name!r} {error}")
        if not v.unit.isprintable():
            raise UserError(f"{spec.label}: the unit {v.unit!r} of {v.name} is no line that can be printed")


def check_rows(loaded: LoadedJob, datasets: Iterable[Spec], rows: Iterable[Spec]) -> None:
    """Raise unless the constructors of all rows take the settings that they are given.

    A plugin that cannot be constructed with its defaults either is no mistake of the user: a line is printed that its
    row will fail, and the others are run.

    Raises:
        UserError: a constructor refuses a setting.
    """
    rows = list(rows)
    for dataset in datasets:
        for spec in rows:
            if error := _error(loaded, dataset, spec):
                message = _message(loaded, "method", spec, error, f" for {dataset.label}")
                if _is_refused(loaded, dataset, spec, error):
                    raise UserError(message) from error
                print(f"cfbench: {spec.label} will fail: {message}", file=sys.stderr)


def check_metrics(loaded: LoadedJob, names: Iterable[str]) -> None:
    """Print which metrics cannot be constructed, and will fail."""
    for name in names:
        try:
            with isolated(0, loaded.job.threads):
                loaded.metric(name)
        except BaseException as error:
            if is_of_harness(error):
                raise
            message = _message(loaded, "metric", Spec(name), error)
            print(f"cfbench: the metric {name} will fail: {message}", file=sys.stderr)


def _error(loaded: LoadedJob, dataset: Spec, spec: Spec) -> BaseException | None:
    """The exception that a row's constructor raises; None where it raises none, or the plugin cannot be loaded."""
    for mode in (_WithoutInitialisation(), nullcontext()):  # some constructors compute with their weights
        try:
            with isolated(0, loaded.job.threads), mode:
                _construct(loaded, dataset, spec)
            return None
        except PluginError:
            return None
        except BaseException as error:
            if is_of_harness(error):
                raise
            found = error
    return found


def _construct(loaded: LoadedJob, dataset: Spec, spec: Spec) -> None:
    """Construct the method that a row fits and the one that answers in it, as its tasks will."""
    of = loaded.derived_from(spec)
    base = of or spec
    if is_instance(loaded.registry.find("method", base.name).cls):
        return
    cell = Cell(dataset, spec, 0, loaded.fit_spec(base), of=of)
    if cell.fit != base:
        loaded.method(cell.fitted)
    loaded.answering_method(cell, loaded.method(cell))


def _is_refused(loaded: LoadedJob, dataset: Spec, spec: Spec, error: BaseException) -> bool:
    """Whether the settings of a row are the reason: with defaults it can be constructed, or raises something else."""
    plain, refusal = _with_defaults(loaded, spec), isinstance(error, (TypeError, ValueError, UserError))
    if plain == spec:  # there are no defaults for what is set, if anything is
        return refusal and bool((loaded.derived_from(spec) or spec).params)
    other = _error(loaded, dataset, plain)
    return other is None or (refusal and (type(other), str(other)) != (type(error), str(error)))


def _with_defaults(loaded: LoadedJob, spec: Spec) -> Spec:
    """A row with only those settings that have no default."""
    of = loaded.derived_from(spec)
    needed = {k: v for k, v in spec.params.items() if k in required(loaded.registry.load("method", spec.name))}
    return Spec(spec.name, params=needed | ({"of": _with_defaults(loaded, of).label} if of else {}), images=spec.images)


def _message(loaded: LoadedJob, kind: Kind, spec: Spec, error: BaseException, where: str = "") -> str:
    plugin = loaded.registry.find(kind, spec.name)
    reason = str(error) if isinstance(error, UserError) else reason_of(error, plugin.file)
    return f"{spec.label} cannot be made{where}: {reason}; `cfbench show {spec.name}` says what its settings take"
