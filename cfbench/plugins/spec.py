"""Rows of the table as users write them: ``diffscm``, ``diffscm:paper``, ``diffscm[scale=2,steps=50]``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError

__all__ = ["Spec", "brief", "fold", "parse_settings", "parse_specs"]


_SPEC = re.compile(r"(?P<name>[A-Za-z_][\w-]*)(?::(?P<preset>[\w-]+))?(?:\[(?P<params>.*)\])?")


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


def _value(text: str) -> Any:
    text = text.strip()
    special = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in special:
        return special[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return ",".join(s.label for s in parse_specs(text)) if "[" in text else text


def _split(text: str) -> list[str]:
    """The parts between commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _pairs(text: str, where: str) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in _split(text))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"{where}: {part!r} is not a setting; write key=value")
        params[key.strip()] = _value(value)
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


def parse_specs(text: str) -> list[Spec]:
    """The specs in a comma-separated list, in order and without repeats.

    Raises:
        UserError: an item is no spec.
    """
    specs: dict[str, Spec] = {}
    for part in filter(None, (p.strip() for p in _split(text))):
        match = _SPEC.fullmatch(part)
        if not match:
            raise UserError(f"{part!r} is not a spec; write name, name:preset or name[key=value,key=value]")
        spec = Spec(match["name"], match["preset"] or "", _pairs(match["params"] or "", part))
        specs[spec.label] = spec
    if not specs:
        raise UserError(f"{text!r} names nothing; write name or name,name[key=value]")
    return list(specs.values())


def parse_settings(settings: Iterable[str], specs: Iterable[Spec]) -> list[Spec]:
    """The specs with every ``name.key=value`` applied to all rows of that name.

    Raises:
        UserError: a setting is malformed or names no row.
    """
    specs = list(specs)
    for setting in settings:
        target, equals, value = setting.partition("=")
        name, dot, key = target.partition(".")
        if not (equals and dot and name and key and value):
            raise UserError(f"--set {setting!r} is not a setting; write method.key=value, as in diffscm.scale=2")
        if name not in {s.name for s in specs}:
            asked = ", ".join(dict.fromkeys(s.name for s in specs))
            raise UserError(f"--set {setting!r} names the method {name!r}, which is not asked for; asked: {asked}")
        specs = [Spec(s.name, s.preset, {**s.params, key: _value(value)}) if s.name == name else s for s in specs]
    return list({s.label: s for s in specs}.values())
