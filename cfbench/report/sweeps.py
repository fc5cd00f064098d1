"""Sweeps: rows of one fit that differ in how they answer, as ``diffscm[steps=6]`` and ``diffscm[steps=12]``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..plugins.spec import Spec
from .score_table import ScoreTable

__all__ = ["Sweep", "sweeps"]


@dataclass(frozen=True)
class Sweep:
    """Rows that share a fit.

    Args:
        name: of their method with its preset, or what the user called them.
        settings: those in which the rows differ, numbers first.
        rows: the value of each of these settings of each row.
    """

    name: str
    settings: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]

    def label(self, row: str) -> str:
        """The settings of a row that differ: ``12, belm``, with their names where several are numbers."""
        several = len(self._numbers) > 1
        return ", ".join(_text(s, self.rows[row][s], named=several and s in self._numbers) for s in self.settings)

    @property
    def paths(self) -> list[list[str]]:
        """Rows that differ in one number only, in its order: ``steps`` of each sampler."""
        along = max(self._numbers, key=lambda s: len({own[s] for own in self.rows.values()}), default="")
        groups: dict[tuple[str, ...], list[str]] = {}
        for row, own in self.rows.items() if along else ():
            groups.setdefault(tuple(str(own[s]) for s in self.settings if s != along), []).append(row)
        return [sorted(rows, key=lambda m: self.rows[m][along]) for rows in groups.values() if len(rows) > 1]

    @property
    def _numbers(self) -> list[str]:
        return [s for s in self.settings if _is_number(own[s] for own in self.rows.values())]


def _text(setting: str, value: Any, *, named: bool) -> str:
    if isinstance(value, bool) or value is None:
        return f"{setting}={str(value).lower()}"
    return f"{setting}={value}" if named else str(value)


def _is_number(values: Iterable[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def sweeps(scored: ScoreTable) -> list[Sweep]:
    """The sweeps among the methods of a table: rows of one name, preset and fit that give the same settings.

    Rows that the user gave names of their own, and rows of which no spec is known, are in none.
    """
    cells = {c.method: c for c in reversed(scored.results.cells)}
    groups: dict[tuple[Any, ...], dict[str, Spec]] = {}
    for method in scored.methods:
        cell = cells.get(method)
        if cell and cell.spec and cell.fit and not scored.is_control(method):
            spec = cell.spec
            alike = (_name(spec), spec.name, spec.preset, frozenset(spec.params), cell.fit)
            groups.setdefault(alike, {})[method] = spec
    return [_sweep(rows) for rows in groups.values() if len(rows) > 1]


def _name(spec: Spec) -> str:
    """What the rows of a sweep have in common: ``fast`` of ``fast[steps=6]``, or the method with its preset."""
    if spec.alias:
        return spec.alias.removesuffix(spec.mark).partition("[")[0] + spec.mark
    return replace(spec, params={}).label


def _sweep(specs: Mapping[str, Spec]) -> Sweep:
    first = list(specs.values())
    settings = [n for n in sorted(first[0].params) if len({str(spec.params[n]) for spec in first}) > 1]
    settings.sort(key=lambda n: not _is_number(spec.params[n] for spec in first))
    rows = {m: {n: spec.params[n] for n in settings} for m, spec in specs.items()}
    return Sweep(_name(first[0]), tuple(settings), rows)
