"""Rows of the table as users write them: ``diffscm``, ``diffscm:paper``, ``diffscm[scale=2,steps=50]``."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError, one_line

__all__ = ["LARGEST", "Spec", "TakesText", "brief", "fold", "parse_settings", "parse_specs"]


_SPEC = re.compile(r"(?P<name>[A-Za-z_][\w-]*)(?::(?P<preset>[\w-]+))?(?:\[(?P<params>.*)\])?", re.DOTALL)
DEEPEST = 8
"""Brackets inside brackets: a row that answers through another one needs two."""
LARGEST = 2**63
"""Whole numbers from here on fit into no tensor."""
TakesText = Callable[[str, str, str, Any], bool]
"""Whether the setting of a plugin (name, key) takes a text, and not the value that it looks like."""


@dataclass(frozen=True)
class Spec:
    """A plugin's name, a named set of its keywords, and settings that override both."""

    name: str
    preset: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The spec in canonical form, with settings in alphabetical order."""
        preset = f":{self.preset}" if self.preset else ""
        params = ",".join(f"{k}={_spell(v)}" for k, v in sorted(self.params.items()))
        return f"{self.name}{preset}" + (f"[{params}]" if params else "")

    @property
    def folder(self) -> str:
        """A folder name: the plugin's name, its preset, and a digest of other settings."""
        digest = hashlib.sha256(self.label.encode()).hexdigest()[:8]
        return self.name + (f"-{self.preset}" if self.preset else "") + (f"-{digest}" if self.params else "")

    def __str__(self) -> str:
        return self.label


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _shown(text: str) -> str:
    """A text as mistakes name it: short, and of one line that can be printed."""
    return repr(one_line(text, 120))[1:-1]


def _never(name: str, key: str, text: str, value: Any) -> bool:
    return False


def _setting(name: str, key: str, text: str, where: str, takes_text: TakesText) -> Any:
    """The value of a setting: a number, true, false, none, a spec in canonical form, or the text as it is.

    Raises:
        UserError: it cannot be printed, or is a number that cannot be computed with.
    """
    if bad := next((c for c in key + text if not c.isprintable()), None):
        raise UserError(f"{where}: {key!r} holds {bad!r}, which cannot be printed; write it without")
    value = _value(text, takes_text)
    if not isinstance(value, str) and takes_text(name, key, text, value):
        return text
    if isinstance(value, float) and math.isnan(value):
        raise UserError(f"{where}: {key} is {text}, which is not a number; give one")
    if isinstance(value, int | float) and _too_large(text, value):
        raise UserError(f"{where}: {key} is {one_line(text, 40)}, which is too large a number")
    return value


def _value(text: str, takes_text: TakesText) -> Any:
    special = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in special:
        return special[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return ",".join(s.label for s in parse_specs(text, takes_text)) if "[" in text else text


def _too_large(text: str, value: float) -> bool:
    """Whether a number is a whole one that fits into no tensor, or became infinite though nobody wrote that."""
    return abs(value) >= LARGEST if isinstance(value, int) else math.isinf(value) and "inf" not in text.lower()


def _split(text: str) -> list[str]:
    """The parts between commas outside of brackets.

    Raises:
        UserError: brackets are nested too deeply.
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth > DEEPEST:
            raise UserError(f"{one_line(text, 60)!r} has brackets in more than {DEEPEST} others; write fewer")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _pairs(name: str, text: str, where: str, takes_text: TakesText) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in _split(text))):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key or not value:
            raise UserError(f"{where}: {one_line(part, 80)!r} is not a setting; write key=value")
        params[key] = _setting(name, key, value, where, takes_text)
    return params


def brief(label: str, width: int = 40) -> str:
    """A row's label, with only the first and the last setting if it is wider than ``width``."""
    return re.sub(r"\[([^,\]]+),.*,([^,]+)\]$", r"[\1,…,\2]", label) if len(label) > width else label


def fold(label: str, width: int = 34) -> str:
    """A row's label broken after commas into lines of at most ``width`` characters."""
    lines = [""]
    for part in re.findall(r"[^,]+,?", label):
        lines = [*lines, part] if lines[-1] and len(lines[-1] + part) > width else [*lines[:-1], lines[-1] + part]
    return "\n".join(lines)


def parse_specs(text: str, takes_text: TakesText = _never) -> list[Spec]:
    """The specs in a comma-separated list, in order and without repeats.

    Args:
        text: the list.
        takes_text: of each setting; by default values are what they look like (see `Registry.parse`).

    Raises:
        UserError: an item is no spec.
    """
    specs: dict[str, Spec] = {}
    for part in filter(None, (p.strip() for p in _split(text))):
        match = _SPEC.fullmatch(part)
        if not match:
            raise UserError(
                f"{one_line(part, 200)!r} is not a spec; write name, name:preset or name[key=value,key=value]"
            )
        params = _pairs(match["name"], match["params"] or "", _shown(part), takes_text)
        spec = Spec(match["name"], match["preset"] or "", params)
        specs[spec.label] = spec
    if not specs:
        raise UserError(f"{text!r} names nothing; write name or name,name[key=value]")
    return list(specs.values())


def parse_settings(settings: Iterable[str], specs: Iterable[Spec], takes_text: TakesText = _never) -> list[Spec]:
    """The specs with every ``name.key=value`` applied to all rows of that name.

    Raises:
        UserError: a setting is malformed or names no row.
    """
    specs = list(specs)
    for setting in settings:
        target, equals, text = setting.partition("=")
        name, dot, key = (p.strip() for p in target.partition("."))
        if not (equals and dot and name and key and text.strip()):
            raise UserError(f"--set {setting!r} is not a setting; write method.key=value, as in diffscm.scale=2")
        if name not in {s.name for s in specs}:
            asked = ", ".join(dict.fromkeys(s.name for s in specs))
            raise UserError(f"--set {setting!r} names the method {name!r}, which is not asked for; asked: {asked}")
        value = _setting(name, key, text.strip(), f"--set {_shown(setting)}", takes_text)
        specs = [Spec(s.name, s.preset, {**s.params, key: value}) if s.name == name else s for s in specs]
    return list({s.label: s for s in specs}.values())
