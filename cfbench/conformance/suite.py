"""Which checks apply to a plugin, in the order from cheap to expensive."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ..contract import Control, Dataset, Derived, Method, Metric
from ..errors import UserError
from .check import Check
from .checks import answers, datasets, definition, dependence, direction, fits, metrics, responses
from .subjects.dataset import DatasetSubject
from .subjects.method import MethodSubject
from .subjects.metric import MetricSubject
from .subjects.subject import Subject

__all__ = ["checks", "subject"]


def subject(plugin: type[Any], /, *, data_root: Path | None = None, **params: Any) -> Subject:
    """A plugin to be checked, with keywords of its constructor; nothing is done with it yet.

    Args:
        plugin: class of a method, control, data set or metric.
        data_root: where a data set finds its files; by default what CFBENCH_DATA_ROOT says, or a temporary folder.
        params: keywords of its constructor.

    Raises:
        UserError: it is not such a class.
    """
    if inspect.isclass(plugin):
        for base, kind in SUBJECTS:
            if issubclass(plugin, base):
                found = kind(plugin, data_root, params)
                found.applicable = frozenset(c.name for c in checks(plugin))
                return found
    raise UserError(f"{plugin!r} cannot be checked; give the class of a Method, Control, Dataset or Metric")


SUBJECTS: tuple[tuple[type[Any], type[Subject]], ...] = (
    (Method, MethodSubject),
    (Control, MethodSubject),
    (Metric, MetricSubject),
    (Dataset, DatasetSubject),
)


def checks(thing: Subject | type[Any]) -> tuple[Check, ...]:
    """The checks that apply to a subject or to a plugin's class, cheap ones first."""
    if isinstance(thing, Subject):
        return checks(thing.plugin)
    if issubclass(thing, Metric):
        return _of_metric(thing)
    return _of_data_set() if issubclass(thing, Dataset) else _of_method(thing)


def _of_method(plugin: type[Any]) -> tuple[Check, ...]:
    defined = definition.METHODS
    answering = (*answers.ANSWERS, *dependence.DEPENDENCE)
    if issubclass(plugin, Control):
        return (*defined, *answering, dependence.undisturbed)
    samples = dependence.SAMPLES if callable(getattr(plugin, "sample", None)) else ()
    late = (*samples, dependence.undisturbed, dependence.no_test_data)
    if issubclass(plugin, Derived):
        return (*defined, *answering, *late)
    return (*defined, *fits.FITS, *answering, *late, fits.seeds, dependence.round_trip)


def _of_metric(plugin: type[Metric]) -> tuple[Check, ...]:
    if plugin.scope == "cell":
        return (*metrics.CELL, metrics.undisturbed)
    return (*metrics.METRICS, direction.directed, metrics.undisturbed)


def _of_data_set() -> tuple[Check, ...]:
    late = (datasets.measured, datasets.repeatable, responses.planned, datasets.judged, datasets.undisturbed)
    return (*datasets.DEFINED, *datasets.SPLITS, *responses.RESPONSES, *late)
