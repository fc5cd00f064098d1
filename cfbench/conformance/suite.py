"""The checks that apply to a plugin, ordered from cheap to expensive."""

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
    """The subject for a plugin's class and keywords of its constructor; nothing is run yet.

    Args:
        plugin: class of a method, control, data set or metric.
        data_root: folder of a data set's files; by default CFBENCH_DATA_ROOT, or a temporary folder.
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
    """The checks that apply to a subject or to a plugin's class, ordered from cheap to expensive."""
    if isinstance(thing, Subject):
        return checks(thing.plugin)
    if issubclass(thing, Metric):
        return _metric_checks(thing)
    return _dataset_checks() if issubclass(thing, Dataset) else _method_checks(thing)


def _method_checks(plugin: type[Any]) -> tuple[Check, ...]:
    defined = definition.METHODS
    answering = (*answers.ANSWERS, *dependence.DEPENDENCE)
    if issubclass(plugin, Control):
        return (*defined, *answering, dependence.state_unchanged)
    samples = dependence.SAMPLES if callable(getattr(plugin, "sample", None)) else ()
    late = (*samples, dependence.state_unchanged, dependence.no_test_data)
    if issubclass(plugin, Derived):
        return (*defined, *answering, *late)
    return (*defined, *fits.FITS, *answering, *late, fits.seeds, dependence.round_trip)


def _metric_checks(plugin: type[Metric]) -> tuple[Check, ...]:
    if plugin.scope == "cell":
        return (*metrics.CELL, metrics.state_unchanged)
    return (*metrics.METRICS, direction.directed, metrics.state_unchanged)


def _dataset_checks() -> tuple[Check, ...]:
    late = (datasets.measured, datasets.repeatable, responses.planned, datasets.judged, datasets.state_unchanged)
    return (*datasets.DEFINED, *datasets.SPLITS, *responses.RESPONSES, *late)
