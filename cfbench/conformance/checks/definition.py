"""Checks of a plugin's class definition, which run before anything expensive."""

from __future__ import annotations

import inspect
import json
import math
import numbers
from collections.abc import Mapping
from typing import Any, get_type_hints

from ...contract import Control, Dataset, Derived, Method, Metric
from ...plugins.signatures import contract_errors
from ..check import check
from ..outcomes import demand
from ..subjects.method import MethodSubject
from ..subjects.subject import Subject

__all__ = ["METHODS", "constructs", "documented", "settings", "signatures"]

RESIDUALS = ("none", "scaled", "faded", "full", "exact-inverse")
KINDS = {Method: "method", Control: "method", Dataset: "dataset", Metric: "metric"}


@check("signatures", "the class defines what the contract calls, with the arguments it is called with")
def signatures(subject: Subject) -> None:
    kind = next(k for base, k in KINDS.items() if issubclass(subject.plugin, base))
    errors = contract_errors(subject.plugin, kind)  # type: ignore[arg-type]
    demand(not errors, "; ".join(errors))


@check("docstring", "the class says in a docstring what it is")
def documented(subject: Subject) -> None:
    text = subject.plugin.__dict__.get("__doc__") or ""
    demand(text.strip(), f"{subject.name} has no docstring; say in one sentence what comes out of it")


@check("settings", "constructor keywords have types, and defaults that can be written as JSON", signatures)
def settings(subject: Subject) -> None:
    init = subject.plugin.__init__
    try:
        hints: Mapping[str, Any] = get_type_hints(init)
    except NameError:
        hints = getattr(init, "__annotations__", {})
    for p in list(inspect.signature(init).parameters.values())[1:]:
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) or p.name in ("graph", "of"):
            continue
        demand(p.name in hints, f"the setting {p.name!r} has no type; write {p.name}: float = ..., or what it takes")
        if p.default is not p.empty:
            demand(
                _is_json(p.default),
                f"the default of the setting {p.name!r} is a {type(p.default).__name__}; "
                "use numbers, strings, true, false, None or tuples of them",
            )


@check("constructor", "the constructor works with its defaults alone", signatures)
def constructs(s: MethodSubject) -> None:
    method = s.make()
    demand(
        getattr(method, "graph", None) is not None,
        f"{s.name} does not keep its graph; call super().__init__(graph) first in __init__",
    )


@check("presets", "every preset constructs", constructs)
def presets(s: MethodSubject) -> None:
    for name, params in getattr(s.plugin, "presets", {}).items():
        s.make(name, **params)


@check("residual", "``residual`` is one of the declared words", constructs)
def residual(s: MethodSubject) -> None:
    unrestricted = issubclass(s.plugin, (Control, Derived))
    known = (*RESIDUALS, "-") if unrestricted else RESIDUALS
    found = getattr(s.make(), "residual", None)
    demand(found in known, f"residual is {found!r}; say how the image's residual is carried: {', '.join(known)}")


def _is_json(value: Any) -> bool:
    """Whether a value can be written as JSON."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_json, value))
    if isinstance(value, numbers.Real) and not isinstance(value, (bool, int)):
        return math.isfinite(float(value)) and type(value) is float
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


METHODS = (signatures, documented, settings, constructs, presets, residual)
