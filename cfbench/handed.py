"""Plugins that are handed over as classes or instances, and the names of their rows."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from .errors import UserError, did_you_mean
from .registry import Registry
from .signatures import BASES, Kind, claims
from .sources import NAME
from .spec import parse_specs

__all__ = ["Handed", "one_of"]


class Handed:
    """What is handed over beside the registered plugins, by name.

    Args:
        plugins: files that define plugins, classes or instances of plugins, or a mapping of names to those.
        classes: classes and instances that are known by name already.

    Raises:
        UserError: something is no plugin, or its name is taken.
    """

    def __init__(self, plugins: Any = (), classes: Mapping[str, Any] | None = None) -> None:
        named = plugins.items() if isinstance(plugins, Mapping) else [("", thing) for thing in _listed(plugins)]
        self.files = tuple(Path(thing) for _, thing in named if isinstance(thing, (str, Path)))
        self.registry = Registry(self.files)
        self.classes: dict[str, Any] = dict(classes or {})
        for name, thing in named:
            if not isinstance(thing, (str, Path)):
                self._add(_kind(thing), thing, name)

    def specs(self, kind: Kind, given: Any) -> str:
        """The rows that specs, classes, instances, a list mixing these or a mapping by name come to, as specs.

        Raises:
            UserError: something is no plugin of this kind, or its name is taken.
        """
        if isinstance(given, str):
            return given
        if isinstance(given, Mapping):
            return ",".join(self._named(kind, name, thing) for name, thing in given.items())
        if isinstance(given, (list, tuple)):
            return ",".join(self.specs(kind, one) for one in given)
        return self._add(kind, given)

    def _named(self, kind: Kind, label: str, thing: Any) -> str:
        """A row of a mapping: ``mine`` or ``mine[width=8]``."""
        specs = parse_specs(label)
        if len(specs) != 1:
            raise UserError(f"{label!r} names {len(specs)} rows; give each its own class or instance")
        self._add(kind, thing, specs[0].name)
        return specs[0].label

    def _add(self, kind: Kind, thing: Any, name: str = "") -> str:
        cls = thing if inspect.isclass(thing) else type(thing)
        if not claims(cls, kind):
            raise UserError(f"{cls.__name__} is no {' or '.join(BASES[kind])}; give a name, a class or an instance")
        name = name or self._registered(kind, thing) or _name(cls)
        if not NAME.fullmatch(name):
            raise UserError(f"{cls.__name__} is named {name!r}; use letters, digits, - and _")
        known = self.registry.plugins.get((kind, name))
        if known is not None and self._registered(kind, thing) == name:
            return name
        if known is not None or self.classes.get(name, thing) is not thing:
            taken = str(known) if known else "another one of this session"
            raise UserError(f"{kind} {name!r} is {taken}; give {cls.__name__} another name: {{'my-{name}': ...}}")
        self.classes[name] = thing
        return name

    def _registered(self, kind: Kind, thing: Any) -> str:
        """The name under which a class is registered; empty where it is not."""
        if not inspect.isclass(thing):
            return ""
        target = f"{thing.__module__}:{thing.__qualname__}"
        for (k, name), p in self.registry.plugins.items():
            if k == kind and (p.cls is thing or (p.entry is not None and p.target == target)):
                return name
        return ""


def _listed(things: Any) -> list[Any]:
    return list(things) if isinstance(things, (list, tuple, set)) else [things]


def _kind(thing: Any) -> Kind:
    cls = thing if inspect.isclass(thing) else type(thing)
    kinds: list[Kind] = [k for k in get_args(Kind) if claims(cls, k)]
    if not kinds:
        raise UserError(f"{cls.__name__} is no plugin; give a Python file, or a Method, Control, Dataset or Metric")
    return kinds[0]


def _name(cls: type[Any]) -> str:
    name = cls.__dict__.get("name")
    return name if isinstance(name, str) else cls.__name__.lower()


def one_of(what: str, name: str | None, known: Iterable[str]) -> str:
    """The name that was given, or the only one there is.

    Raises:
        UserError: it is unknown, or none was given and there are several.
    """
    known = list(known)
    if name is None and len(known) == 1:
        return known[0]
    if name is None:
        many = f"there are {len(known)}; say which: {', '.join(known)}" if known else "there is none"
        raise UserError(f"no {what} is named, and {many}")
    if name not in known:
        raise UserError(f"no {what} {name!r}; {did_you_mean(name, known)}")
    return name
