"""Static check of a plugin's class against the calls of the contract."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partialmethod
from types import FunctionType
from typing import Any, Literal, get_type_hints

__all__ = ["BASES", "Kind", "claims", "contract_errors", "defaults", "derived", "is_fitted", "keywords", "required"]


Kind = Literal["method", "dataset", "metric"]
BASES: Mapping[str, tuple[str, ...]] = {
    "method": ("Method", "Control"),
    "dataset": ("Dataset",),
    "metric": ("Metric",),
}
NEEDED = {"Method": ("abduct", "predict"), "Control": ("answer",), "Dataset": ("split",), "Metric": ("__call__",)}
"""Methods that a class must define itself."""
OPTIONAL = {"Method": {"sample": ("pa", "rng")}}
"""Methods that the contract calls if they are defined; the base class has none."""
BINDING: tuple[type[Any], ...] = (FunctionType, classmethod, staticmethod, partialmethod, type(cache(len)))
"""Descriptors that give a bound method without running code of the plugin."""
LONGEST = 100
"""Characters of a column's name."""
PLAIN = {"bool": bool, "float": float, "int": int, "str": str}


def claims(found: type[Any], kind: Kind) -> bool:
    """Whether a class is derived from a base class of this kind of plugin."""
    return bool(_bases(found, BASES[kind]))


def keywords(cls: type[Any]) -> dict[str, Any]:
    """The constructor's keywords and their types (Any if there is no annotation that can be resolved)."""
    try:
        hints = get_type_hints(cls.__init__)
    except Exception:  # a name that only type checkers import
        hints = {p.name: PLAIN.get(str(p.annotation), Any) for p in _settings(cls)}
    return {p.name: hints.get(p.name, Any) for p in _settings(cls)}


def defaults(cls: type[Any]) -> dict[str, Any]:
    """The constructor's keywords that have a default, with it."""
    return {p.name: p.default for p in _settings(cls) if p.default is not p.empty}


def required(cls: type[Any]) -> list[str]:
    """The constructor's keywords that have no default."""
    return [p.name for p in _settings(cls) if p.default is p.empty]


def contract_errors(cls: type[Any], kind: Kind) -> list[str]:
    """How a class breaks the contract, one line for each error; no code of the class is run.

    Missing methods, methods that do not take the arguments they are called with, and declarations that do not fit
    the constructor: ``predict takes (u), the contract calls predict(u, pa, rng): ...``.
    """
    errors = [_of_constructor(cls, kind)]
    for base in _bases(cls, BASES[kind]):
        errors += [_missing(cls, base, name) for name in NEEDED[base.__name__]]
        errors += [_of_call(cls, name, _names(call)) for name, call in _calls(base)]
        errors += [_of_call(cls, n, args) for n, args in OPTIONAL.get(base.__name__, {}).items() if hasattr(cls, n)]
    errors += _of_declarations(cls) if kind == "method" else _of_columns(cls) if kind == "metric" else []
    return [f"{cls.__name__}{error}" for error in errors if error]


def _bases(cls: type[Any], names: tuple[str, ...]) -> list[type[Any]]:
    return [b for b in cls.__mro__[1:] if b.__module__ == "cfbench.contract" and b.__name__ in names]


def derived(cls: type[Any]) -> bool:
    """Whether a row answers through another method, its argument ``of``."""
    return bool(_bases(cls, ("Derived",)))


def is_fitted(cls: type[Any]) -> bool:
    """Whether a plugin is a method with a fit of its own, which a budget is for."""
    return any(cls.fit is not base.fit for base in _bases(cls, ("Method",))) and not derived(cls)


def _settings(cls: type[Any]) -> list[inspect.Parameter]:
    given = {"graph", "of"} if derived(cls) else {"graph"}
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in given]


def _calls(base: type[Any]) -> list[tuple[str, Callable[..., Any]]]:
    """The methods of a class of the contract that a plugin may override."""
    public = {n: f for n, f in vars(base).items() if not n.startswith("_") or n == "__call__"}
    return [(n, f) for n, f in public.items() if inspect.isfunction(f)]


def _names(call: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(call).parameters)[1:]


def _missing(cls: type[Any], base: type[Any], name: str) -> str:
    if getattr(cls, name, None) is not getattr(base, name):
        return ""
    return f" defines no {name}; write def {name}(self, {', '.join(_names(getattr(base, name)))})"


def _of_call(cls: type[Any], name: str, args: tuple[str, ...]) -> str:
    """Why a method cannot be called with the arguments of the contract; empty if it can."""
    own = inspect.getattr_static(cls, name)
    call = f"{name}({', '.join(args)})"
    if isinstance(own, BINDING):
        own = own.__get__(object(), cls)
    elif hasattr(type(own), "__get__"):  # what comes out of another descriptor is not known before it is used
        return ""
    if not callable(own):
        return f".{name} is a {type(own).__name__}, the contract calls {call}; write def {_written(name, args)}"
    try:
        signature = inspect.signature(own)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*args)
    except TypeError as error:
        takes = ", ".join(str(p.replace(annotation=p.empty)) for p in signature.parameters.values())
        return f".{name} takes ({takes}), the contract calls {call}: {error}; write def {_written(name, args)}"
    return ""


def _written(name: str, args: tuple[str, ...]) -> str:
    return f"{name}({', '.join(('self', *args))})"


def _of_constructor(cls: type[Any], kind: Kind) -> str:
    signature = inspect.signature(cls.__init__)
    own = list(signature.parameters.values())[1:]
    takes = f".__init__ takes ({', '.join(str(p.replace(annotation=p.empty)) for p in own)})"
    if kind == "method":
        first = own[0] if own else None
        if first and (first.kind == first.VAR_POSITIONAL or first.name == "graph"):
            return ""
        return f"{takes}, the contract calls it with graph and settings; write def __init__(self, graph, ...)"
    if kind == "metric" and required(cls):
        return f"{takes}, the contract calls it without settings; give {', '.join(required(cls))} a default"
    if any(p.kind == p.POSITIONAL_ONLY for p in own):
        return f"{takes}, the contract gives settings by keyword; remove the slash"
    return ""


def _of_declarations(cls: type[Any]) -> list[str]:
    """Answer parameters and presets that are not keywords of the constructor."""
    answer: Any = getattr(cls, "answer_params", frozenset())
    presets: Any = getattr(cls, "presets", {})
    if not isinstance(answer, (set, frozenset)):
        return [f".answer_params is a {type(answer).__name__}; write frozenset({{...}})"]
    if not isinstance(presets, Mapping) or not all(isinstance(p, Mapping) for p in presets.values()):
        return [".presets must be a dict of dicts, as in {'paper': {'scale': 0.7}}"]
    if any(p.kind == p.VAR_KEYWORD for p in inspect.signature(cls.__init__).parameters.values()):
        return []
    known = set(keywords(cls))
    unknown = [f".answer_params names {n!r}, which __init__ does not take" for n in sorted(set(answer) - known)]
    return unknown + [
        f".presets: {preset!r} sets {n!r}, which __init__ does not take"
        for preset, settings in presets.items()
        for n in sorted(set(settings) - known)
    ]


def _of_columns(cls: type[Any]) -> list[str]:
    """Outputs without a `Column` or without a direction."""
    columns = getattr(cls, "columns", None)
    if not (isinstance(columns, Mapping) and columns and all(type(c).__name__ == "Column" for c in columns.values())):
        return [".columns must tell each output's direction, as in {'l2': Column('distance', 'lower')}"]
    return [error for name, about in columns.items() for error in _of_column(name, about)]


def _of_column(name: Any, about: Any) -> Iterator[str]:
    """What of a column could not be stored and read again."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST or set("/|") & set(name):
        yield f".columns: {name!r} is no plain name of a column; take letters, digits and _"
    if about.direction not in ("lower", "higher", "target", "none"):
        yield f".columns: {name!r} has direction {about.direction!r}; write lower, higher, target or none"
    for field in ("low", "high", "target", "order"):
        value = getattr(about, field, None)
        if isinstance(value, float) and not math.isfinite(value):
            yield f".columns: {name!r}: its {field} is {value}; give a finite number, or None"
