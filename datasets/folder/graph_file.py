"""The file ``graph.toml`` of a folder of images: the variables and their graph, read and checked."""

from __future__ import annotations

import math
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal, cast

from cfbench.errors import UserError, did_you_mean, one_line
from cfbench.graph import Variable
from cfbench.names import name_error

__all__ = ["FILE", "IMAGE", "SMALLEST", "SPLIT", "Cause", "Declaration", "normal", "read_declaration"]

FILE = "graph.toml"
SPLIT = "split"
"""The column that may say which split an image belongs to."""
IMAGE = ("image", "file")
"""The column with the images' file names: the first of these that there is."""
TOP = ("variables", "csv", "mode", "size", "ignore")
OWN = {"categorical": ("classes", "size"), "continuous": ("low", "high")}
"""Keys that only one kind of variable has."""
COMMON = ("kind", "unit", "parents")
SMALLEST, MOST = 8, 1024
"""Pixels of a side that judges need at least, and that images may be resized to."""


@dataclass(frozen=True)
class Cause:
    """A variable as declared; what is None is inferred from the data."""

    name: str
    kind: Literal["categorical", "continuous"]
    classes: tuple[str, ...] | None = None
    size: int | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    parents: tuple[str, ...] = ()

    def variable(self, values: tuple[float, float]) -> Variable:
        """Return the variable, whose values in the data range over ``values``."""
        least, most = values
        if self.kind == "categorical":
            size = self.size or int(most) + 1
            return Variable(self.name, "categorical", size=size, unit=self.unit, parents=self.parents)
        low, high = least if self.low is None else self.low, most if self.high is None else self.high
        return Variable(self.name, "continuous", low=low, high=high, unit=self.unit, parents=self.parents)


@dataclass(frozen=True)
class Declaration:
    """The variables in their order, the name of the table, and how images are read: size is (H, W).

    ``ignored`` names the columns of the table that are of no use here; ``*`` stands for all that are not known.
    """

    variables: tuple[Cause, ...]
    csv: str = "parents.csv"
    mode: Literal["grey", "rgb"] | None = None
    size: tuple[int, int] | None = None
    ignored: tuple[str, ...] = ()


def read_declaration(data: bytes, where: str) -> Declaration:
    """Return what the bytes of a ``graph.toml`` declare.

    Args:
        where: the file, as errors name it.

    Raises:
        UserError: it is not TOML, a key is unknown or has the wrong type, or the edges are no acyclic graph.
    """
    try:
        table = tomllib.loads(normal(data.decode("utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where} is not TOML: {one_line(error, 120)}") from None
    except (RecursionError, ValueError) as error:  # nested without end, or a number of thousands of digits
        raise UserError(f"{where} cannot be read: {one_line(error, 80)}; write it simply") from None
    _check_keys(table, TOP, where)
    causes = table.get("variables")
    if not isinstance(causes, dict) or not causes:
        raise UserError(f'{where} declares no variable; write a table [variables.NAME] with kind = "categorical"')
    declared = tuple(_cause(name, own, f"{where}: variable {name!r}") for name, own in causes.items())
    _check_edges(declared, where)
    mode = table.get("mode")
    if mode not in (None, "grey", "rgb"):
        raise UserError(f'{where}: mode is "grey" or "rgb", found {_shown(mode)}')
    ignored = _names(table, "ignore", where) or ()
    return Declaration(declared, _csv(table, where), cast(Any, mode), _size(table, where), ignored)


def normal(text: str) -> str:
    """Return a text in the one form that letters with accents have here (NFC), as files may have others."""
    return unicodedata.normalize("NFC", text)


def _shown(value: object) -> str:
    """Return a value as a mistake quotes it."""
    try:
        return one_line(repr(value), 80)
    except RecursionError:
        return "lists in lists"


def _check_keys(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            raise UserError(f"{where} has the unknown key {key!r}; {did_you_mean(key, keys)}")


def _csv(table: Mapping[str, Any], where: str) -> str:
    name = table.get("csv", "parents.csv")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise UserError(f"{where}: csv is the name of a file in the same folder, found {_shown(name)}")
    return name


def _size(table: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    size = table.get("size")
    if size is None:
        return None
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and SMALLEST <= n <= MOST for n in size)):
        raise UserError(f"{where}: size is [height, width] of {SMALLEST} to {MOST} pixels each, found {_shown(size)}")
    return size[0], size[1]


def _cause(name: str, table: Any, where: str) -> Cause:
    if name in (*IMAGE, SPLIT):
        raise UserError(f"{where} cannot have that name; {', '.join(IMAGE)} and {SPLIT} are columns of their own")
    if error := name_error(name):
        raise UserError(f"{where} cannot have that name: it {error}")
    if not isinstance(table, dict):
        raise UserError(f"{where} is {_shown(table)}; write a table [variables.{name}]")
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in OWN:
        raise UserError(f'{where}: kind is "categorical" or "continuous", found {_shown(kind)}')
    other = "continuous" if kind == "categorical" else "categorical"
    for key in OWN[other]:
        if key in table:
            raise UserError(f"{where} is {kind} and has no {key}; remove it, or write kind = {other!r}")
    _check_keys(table, (*COMMON, *OWN[kind]), where)
    unit = table.get("unit", "")
    if not isinstance(unit, str) or not unit.isprintable():
        raise UserError(f'{where}: unit is a text of one line such as "mm", found {_shown(unit)}')
    parents = _names(table, "parents", where) or ()
    if kind == "categorical":
        classes, size = _classes(table, where)
        return Cause(name, "categorical", classes, size, unit=unit, parents=parents)
    low, high = (_number(table, key, where) for key in ("low", "high"))
    if low is not None and high is not None and not low < high:
        raise UserError(f"{where}: low = {low:g} is not below high = {high:g}")
    return Cause(name, "continuous", low=low, high=high, unit=unit, parents=parents)


def _classes(table: Mapping[str, Any], where: str) -> tuple[tuple[str, ...] | None, int | None]:
    """Return the classes' names, if they have any, and how many there are."""
    classes, size = _names(table, "classes", where), table.get("size")
    if size is not None and (type(size) is not int or size < 2):
        raise UserError(f"{where}: size is the number of classes, 2 or more, found {_shown(size)}")
    if classes is not None and len(classes) < 2:
        raise UserError(f"{where} has {len(classes)} classes; a cause needs two or more")
    if classes is not None and size not in (None, len(classes)):
        raise UserError(f"{where} has size = {size} and {len(classes)} classes; leave out size")
    return classes, len(classes) if classes else size


def _names(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...] | None:
    found = table.get(key)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(n, str) or type(n) is int for n in found):
        raise UserError(f'{where}: {key} is a list of names, as in ["one", "other"], found {_shown(found)}')
    names = tuple(str(n).strip() for n in found)
    if len(set(names)) < len(names):
        repeated = next(n for n, count in Counter(names).items() if count > 1)
        raise UserError(f"{where}: {key} names {repeated!r} twice")
    return names


def _number(table: Mapping[str, Any], key: str, where: str) -> float | None:
    found = table.get(key)
    if found is None:
        return None
    if type(found) not in (int, float) or not math.isfinite(found):
        raise UserError(f"{where}: {key} is a number, found {_shown(found)}")
    return float(found)


def _check_edges(causes: tuple[Cause, ...], where: str) -> None:
    names = [c.name for c in causes]
    for cause in causes:
        for parent in cause.parents:
            if parent not in names:
                wrong = f"{where}: variable {cause.name!r} has the unknown parent {parent!r}"
                raise UserError(f"{wrong}; {did_you_mean(parent, names)}")
    try:
        TopologicalSorter({c.name: c.parents for c in causes}).prepare()
    except CycleError as error:
        raise UserError(f"{where}: the edges {' -> '.join(error.args[1])} form a cycle; remove one of them") from None
