"""Validators of values from untrusted JSON: each returns the valid value or raises `SchemaError`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

__all__ = [
    "Check",
    "SchemaError",
    "boolean",
    "each",
    "inner_path",
    "mapping",
    "matching",
    "number",
    "one_of",
    "optional",
    "printable",
    "scalar",
    "text",
    "whole_number",
]


Check = Callable[[Any], Any]
MAX_LENGTH = 1000
"""Characters of a text: a row with dozens of settings has a few hundred."""


class SchemaError(ValueError):
    """A value is not valid."""


def text(value: Any, longest: int = MAX_LENGTH) -> str:
    """A text of one line that is printable."""
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise SchemaError(f"{_shown(value)} is no line of text")
    return value


def printable(value: Any, longest: int = MAX_LENGTH) -> str:
    """Any text as one line, with control characters replaced."""
    line = " ".join(str(value)[: 2 * longest].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)[:longest]


def matching(pattern: re.Pattern[str], what: str) -> Check:
    """Validator of texts that match a pattern; ``what`` is its name in the error."""

    def check(value: Any) -> str:
        if not pattern.fullmatch(text(value)):
            raise SchemaError(f"{_shown(value)} is no {what}")
        return value

    return check


def one_of(*allowed: Any) -> Check:
    """Validator of a value that is one of those allowed."""

    def check(value: Any) -> Any:
        if isinstance(value, (dict, list)) or value not in allowed:
            raise SchemaError(f"{_shown(value)} is none of {', '.join(map(str, allowed))}")
        return value

    return check


def optional(check: Check) -> Check:
    """Validator of None or of what another one accepts."""
    return lambda value: None if value is None else check(value)


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise SchemaError(f"{_shown(value)} is neither true nor false")
    return value


def number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SchemaError(f"{_shown(value)} is no finite number")
    return value


def whole_number(low: int, high: int) -> Check:
    """Validator of an int in a range, both ends included."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SchemaError(f"{_shown(value)} is no whole number from {low} to {high}")
        return value

    return check


def scalar(value: Any) -> Any:
    """A setting: a text, a number (infinity too), true, false, none, or a list of those."""
    if isinstance(value, list):
        return [scalar(v) for v in value]
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict) or (isinstance(value, float) and math.isnan(value)):
        raise SchemaError(f"{_shown(value)} is no value of a setting")
    return value


def each(check: Check) -> Check:
    """Validator of a list whose elements another one accepts."""

    def checked(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise SchemaError(f"{_shown(value)} is no list")
        return [_at(i, check, v) for i, v in enumerate(value)]

    return checked


def mapping(value: Any, check: Check | None = None, name: Check = text) -> dict[str, Any]:
    """A mapping with valid names and values."""
    if not isinstance(value, Mapping):
        raise SchemaError(f"{_shown(value)} is no mapping")
    return {name(k): v if check is None else _at(k, check, v) for k, v in value.items()}


def inner_path(value: Any) -> str:
    """A relative path of plain names, which cannot leave its folder."""
    parts = PurePosixPath(text(value)).parts
    if not parts or not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts):
        raise SchemaError(f"{_shown(value)} is no path inside the run")
    return value


def _at(where: Any, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except KeyError as error:
        raise SchemaError(f"{where}: {error} is missing") from None
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from None


def _shown(value: Any) -> str:
    return printable(repr(value)) if len(repr(value)) <= 60 else f"{printable(repr(value))[:60]}…"
