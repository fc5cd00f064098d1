"""Sweeps: rows of one fit that differ in how they answer, as ``diffscm[steps=6]`` and ``diffscm[steps=12]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..plugins.spec import Spec
from .score_table import ScoreTable

__all__ = ["Sweep", "sweeps"]


@dataclass(frozen=True)
class Sweep:
    """Rows that share a fit.

    Args:
        name: of their method, with its preset.
        settings: those in which the rows differ, numbers first.
        rows: the value of each setting of each row; one that a row leaves to its method is not there.
    """

    name: str
    settings: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]

    def label(self, row: str) -> str:
        """The settings of a row that differ: ``12, belm``; ``default`` for one that gives none of them."""
        own = self.rows[row]
        return ", ".join(_text(s, own[s]) for s in self.settings if s in own) or "default"

    @property
    def paths(self) -> list[list[str]]:
        """Rows that differ in one number only, in its order: ``steps`` of each sampler."""
        numbers = [s for s in self.settings if _is_number(self.rows, s)]
        along = max(numbers, key=lambda s: len({own.get(s) for own in self.rows.values()}), default="")
        groups: dict[tuple[Any, ...], list[str]] = {}
        for row, own in self.rows.items():
            if along in own:
                groups.setdefault(tuple(str(own.get(s)) for s in self.settings if s != along), []).append(row)
        return [sorted(rows, key=lambda m: self.rows[m][along]) for rows in groups.values() if len(rows) > 1]


def _text(setting: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return f"{setting}={str(value).lower()}"
    return str(value)


def _is_number(rows: Mapping[str, Mapping[str, Any]], setting: str) -> bool:
    values = [own[setting] for own in rows.values() if setting in own]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def sweeps(scored: ScoreTable) -> list[Sweep]:
    """The sweeps among the methods of a table: rows of one name, preset and fit; rows of which nothing is known are
    in none."""
    cells = {c.method: c for c in reversed(scored.results.cells)}
    groups: dict[tuple[str, str, str], dict[str, Spec]] = {}
    for method in scored.methods:
        cell = cells.get(method)
        if cell and cell.spec and cell.fit and not scored.is_control(method):
            groups.setdefault((cell.spec.name, cell.spec.preset, cell.fit), {})[method] = cell.spec
    return [_sweep(rows) for rows in groups.values() if len(rows) > 1]


def _sweep(specs: Mapping[str, Spec]) -> Sweep:
    first: Sequence[Spec] = list(specs.values())
    names = sorted({name for spec in first for name in spec.params})
    settings = [n for n in names if len({str(spec.params.get(n, "")) for spec in first}) > 1]
    rows = {m: {n: spec.params[n] for n in settings if n in spec.params} for m, spec in specs.items()}
    settings.sort(key=lambda n: not _is_number(rows, n))
    return Sweep(Spec(first[0].name, first[0].preset).label, tuple(settings), rows)
