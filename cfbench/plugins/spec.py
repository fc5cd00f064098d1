"""Rows of the table as users write them: ``diffscm:paper``, ``fast=diffscm[steps=6|12]``, ``diffscm@32k``."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UserError, one_line
from ..names import name_error
from .budgets import MARK, parse_budget, spell_budget

__all__ = ["LARGEST", "Spec", "TakesText", "at_budgets", "brief", "fold", "parse_settings", "parse_specs"]


_SPEC = re.compile(
    r"(?P<name>[A-Za-z_][\w-]*)(?::(?P<preset>[\w-]+))?(?:\[(?P<params>.*)\])?(?:@(?P<images>[^\[\]@]*))?", re.DOTALL
)
DEEPEST = 8
"""Brackets inside brackets: a row that answers through another one needs two."""
LONGEST = 40
"""Characters of an alias."""
MOST = 1000
"""Rows of one sweep."""
LARGEST = 2**63
"""Whole numbers from here on fit into no tensor."""
TakesText = Callable[[str, str, str, Any], bool]
"""Whether the setting of a plugin (name, key) takes a text, and not the value that it looks like."""


@dataclass(frozen=True)
class Spec:
    """A plugin's name, a named set of its keywords, and settings that override both.

    ``alias`` is what tables and charts call the row, where users gave it a name: it is no part of what the row is.
    ``images`` is the row's own budget, in training images; None where it has that of the run.
    """

    name: str
    preset: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    alias: str = field(default="", compare=False)
    images: int | None = None

    @property
    def label(self) -> str:
        """The spec in canonical form, with settings in alphabetical order."""
        preset = f":{self.preset}" if self.preset else ""
        params = ",".join(f"{k}={_spell(v)}" for k, v in sorted(self.params.items()))
        return f"{self.name}{preset}" + (f"[{params}]" if params else "") + self.mark

    @property
    def mark(self) -> str:
        """The row's own budget as its label ends with it, ``@32k``; empty where it has none."""
        return "" if self.images is None else MARK + spell_budget(self.images)

    @property
    def title(self) -> str:
        """What tables and charts call the row: its alias, or else its label."""
        return self.alias or self.label

    @property
    def folder(self) -> str:
        """A folder name: the plugin's name, its preset, a digest of other settings, and its own budget."""
        label = self.label.removesuffix(self.mark)
        digest = f"-{hashlib.sha256(label.encode()).hexdigest()[:8]}" if self.params else ""
        return self.name + (f"-{self.preset}" if self.preset else "") + digest + self.mark

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
    value = _value(key, text, takes_text)
    if not isinstance(value, str) and takes_text(name, key, text, value):
        return text
    if isinstance(value, float) and math.isnan(value):
        raise UserError(f"{where}: {key} is {text}, which is not a number; give one")
    if isinstance(value, int | float) and _too_large(text, value):
        raise UserError(f"{where}: {key} is {one_line(text, 40)}, which is too large a number")
    return value


def _value(key: str, text: str, takes_text: TakesText) -> Any:
    special = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in special:
        return special[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    is_spec = "[" in text or (key == "of" and MARK in text)
    return ",".join(s.label for s in parse_specs(text, takes_text)) if is_spec else text


def _too_large(text: str, value: float) -> bool:
    """Whether a number is a whole one that fits into no tensor, or became infinite though nobody wrote that."""
    return abs(value) >= LARGEST if isinstance(value, int) else math.isinf(value) and "inf" not in text.lower()


def _split(text: str, mark: str = ",") -> list[str]:
    """The parts between marks outside of brackets.

    Raises:
        UserError: brackets are nested too deeply.
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth > DEEPEST:
            raise UserError(f"{one_line(text, 60)!r} has brackets in more than {DEEPEST} others; write fewer")
        if letter == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _pairs(name: str, text: str, where: str, takes_text: TakesText, sweeps: bool) -> dict[str, list[Any]]:
    """The alternatives of each setting: several only in a sweep."""
    params: dict[str, list[Any]] = {}
    for part in filter(None, (p.strip() for p in _split(text))):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key or not value:
            raise UserError(f"{where}: {one_line(part, 80)!r} is not a setting; write key=value")
        params[key] = (
            _alternatives(name, key, value, where, takes_text)
            if sweeps
            else [_setting(name, key, value, where, takes_text)]
        )
    return params


def _alternatives(name: str, key: str, text: str, where: str, takes_text: TakesText) -> list[Any]:
    """The values of a setting between bars: one in an ordinary row."""
    texts = [t.strip() for t in _split(text, "|")]
    if not all(texts):
        raise UserError(f"{where}: {key}={one_line(text, 60)!r} lacks a value beside a bar; write {key}=1|2|3")
    return [_setting(name, key, t, where, takes_text) for t in texts]


def _expanded(spec: Spec, alternatives: Mapping[str, list[Any]], where: str) -> Iterable[Spec]:
    """A spec with every combination of the alternatives, the last setting varying fastest.

    Raises:
        UserError: these are too many.
    """
    if (rows := math.prod(map(len, alternatives.values()))) > MOST:
        raise UserError(f"{where} stands for {rows:,} rows, more than {MOST:,}; write fewer values")
    swept = [key for key, values in alternatives.items() if len(values) > 1]
    for values in itertools.product(*alternatives.values()):
        params = dict(zip(alternatives, values, strict=True))
        own = ",".join(f"{key}={_spell(params[key])}" for key in swept)
        alias = f"{spec.alias}[{own}]" if spec.alias and own else spec.alias
        yield replace(spec, params={**spec.params, **params}, alias=alias)


def brief(label: str, width: int = 40) -> str:
    """A row's label, with only the first and the last setting if it is wider than ``width``."""
    return re.sub(r"\[([^,\]]+),.*,([^,]+)\]$", r"[\1,…,\2]", label) if len(label) > width else label


def fold(label: str, width: int = 34) -> str:
    """A row's label broken after commas into lines of at most ``width`` characters."""
    lines = [""]
    for part in re.findall(r"[^,]+,?", label):
        lines = [*lines, part] if lines[-1] and len(lines[-1] + part) > width else [*lines[:-1], lines[-1] + part]
    return "\n".join(lines)


def parse_specs(text: str, takes_text: TakesText = _never, *, rows: bool = False) -> list[Spec]:
    """The specs in a comma-separated list, in order and without repeats.

    Args:
        text: the list.
        takes_text: of each setting; by default values are what they look like (see `Registry.parse`).
        rows: whether items may be rows of a table, which may have an alias (``fast=diffscm[steps=6]``) and stand for
            several (``diffscm[steps=6|12]``).

    Raises:
        UserError: an item is no spec, or two aliases are given to one.
    """
    specs: dict[str, Spec] = {}
    for part in filter(None, (p.strip() for p in _split(text))):
        alias, item = _named(part) if rows else ("", part)
        match = _SPEC.fullmatch(item)
        if not match:
            raise UserError(
                f"{one_line(part, 200)!r} is not a spec; write name, name:preset or name[key=value,key=value]"
            )
        images = None if match["images"] is None else parse_budget(match["images"].strip(), _shown(part))
        params = _pairs(match["name"], match["params"] or "", _shown(part), takes_text, rows)
        spec = Spec(match["name"], match["preset"] or "", alias=alias, images=images)
        for each in _expanded(spec, params, _shown(part)):
            _add(specs, each)
    if not specs:
        raise UserError(f"{text!r} names nothing; write name or name,name[key=value]")
    return list(specs.values())


def _named(text: str) -> tuple[str, str]:
    """The alias before an equals sign outside of brackets, empty where there is none, and the rest."""
    if len(parts := _split(text, "=")) < 2:
        return "", text
    alias, rest = parts[0].strip(), "=".join(parts[1:]).strip()
    error = f"has more than {LONGEST} characters" if len(alias) > LONGEST else name_error(alias)
    if error:
        raise UserError(f"{one_line(text, 80)!r}: the name {one_line(alias, 60)!r} of the row {error}")
    return alias, rest


def _add(specs: dict[str, Spec], spec: Spec) -> None:
    """Add a spec unless it is there.

    Raises:
        UserError: it is there under another alias.
    """
    there = specs.setdefault(spec.label, spec)
    if there.alias != spec.alias:
        raise UserError(f"{spec.label} is asked for as {there.title!r} and as {spec.title!r}; write it once")


def at_budgets(specs: Iterable[Spec], budgets: Iterable[int], is_fitted: Callable[[Spec], bool]) -> list[Spec]:
    """Each spec at each budget; those that have one of their own, or are not fitted, as they are.

    Raises:
        UserError: two rows become one that has two aliases.
    """
    found: dict[str, Spec] = {}
    for spec in specs:
        asked = budgets if spec.images is None and is_fitted(spec) else ()
        for marked in [replace(spec, images=images) for images in asked] or [spec]:
            named = bool(asked) and bool(spec.alias)
            _add(found, replace(marked, alias=f"{spec.alias}{marked.mark}") if named else marked)
    return list(found.values())


def parse_settings(settings: Iterable[str], specs: Iterable[Spec], takes_text: TakesText = _never) -> list[Spec]:
    """The specs with every ``name.key=value`` applied to all rows of that name.

    Raises:
        UserError: a setting is malformed or names no row, or two aliases are given to one row.
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
        where = f"--set {_shown(setting)}"
        values = {key: _alternatives(name, key, text.strip(), where, takes_text)}
        specs = [each for s in specs for each in (_expanded(s, values, where) if s.name == name else [s])]
    found: dict[str, Spec] = {}
    for spec in specs:
        _add(found, spec)
    return list(found.values())
