"""What a merge of runs comes to: the cells of all, the run that each stage is copied from, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import UserError
from ..runs.budget import Budget
from ..runs.chain import KEYS, cell_stages, inputs_of
from ..runs.job import Cell
from ..runs.manifest import SETTINGS, Manifest
from ..runs.stage_reader import reading_run
from ..storage.schema import printable
from .compare import Difference, differences

__all__ = ["Conflict", "MergePlan", "Source", "plan_merge"]


DESCRIBED = ("bundle", "plan_key", "action", "mechanisms", "judges", "shape", "variables")
"""What runs must agree on about a data set; the folders of judges and mechanisms contain their keys."""


@dataclass(frozen=True)
class Source:
    """A run that is merged, as the user calls it."""

    name: str
    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Conflict:
    """Different numbers that two runs have under one key; those of the run ``kept`` stay."""

    stage: str
    difference: Difference
    kept: str
    other: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.kept} (kept) and {self.other} differ in {self.difference}"


@dataclass
class MergePlan:
    """What a merge comes to.

    Attributes:
        target: folder of the merged run.
        sources: the runs that are merged.
        cells: those of the merged run, by label.
        copies: the folder that each stage is copied from, by its path in the run.
        present: stages that the target has already.
        conflicts: numbers that differ under equal keys.
        left_out: cells and stages that are not merged and why, a line each.
    """

    target: Path
    sources: list[Source]
    cells: dict[str, Cell] = field(default_factory=dict)
    copies: dict[Path, Path] = field(default_factory=dict)
    present: set[Path] = field(default_factory=set)
    conflicts: list[Conflict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def known(self) -> set[Path]:
        """The stages that the merged run will have."""
        return {*self.copies, *self.present}

    def finished(self, cell: Cell) -> bool:
        """Whether the merged run has a cell's images and all its scores."""
        return all(path in self.known for name, path in cell_stages(cell) if name not in ("train", "tune"))


def plan_merge(target: Path, sources: list[Source]) -> MergePlan:
    """Decide what to copy: stages of the target stay, and of the other runs the first named takes precedence.

    Raises:
        UserError: the runs differ in settings, questions or judges, so that one table cannot hold both.
    """
    for other in sources[1:]:
        _refuse_settings(sources[0], other)
    for i, source in enumerate(sources):
        for other in sources[i + 1 :]:
            _refuse_data(source, other)
    merge = MergePlan(target, sources)
    _unite(merge)
    selection = _StageSelection(merge)
    for source in sources:
        for entry in source.manifest.datasets.values():
            for kind, stage in entry.stages.items():
                selection.select(kind, Path(stage))
    for cell in merge.cells.values():
        for name, path in cell_stages(cell):
            selection.select(f"{cell.label} {name}", path, [cell.stage(s) for s in inputs_of(name, cell)])
    return merge


def _refuse_settings(ours: Source, theirs: Source) -> None:
    for name in SETTINGS:
        a, b = getattr(ours.manifest, name), getattr(theirs.manifest, name)
        if a != b:
            raise UserError(
                f"{ours.name} and {theirs.name} have another {name} ({_short_setting(a)}, {_short_setting(b)}): their "
                "cells do not belong into one table; merge runs of the same settings"
            )


def _short_setting(value: Any) -> str:
    return f"{value.name}, {value.images:,} images" if isinstance(value, Budget) else str(value)


def _refuse_data(ours: Source, theirs: Source) -> None:
    """Raise unless both runs ask the same questions about a data set and judge answers alike."""
    for label in ours.manifest.datasets.keys() & theirs.manifest.datasets.keys():
        a, b = (s.manifest.datasets[label] for s in (ours, theirs))
        for name in DESCRIBED:
            if getattr(a, name) != getattr(b, name):
                raise UserError(_mismatch(ours, theirs, label, name, getattr(a, name), getattr(b, name)))
        for kind, path in a.stages.items():
            if found := _largest_difference(ours.folder / path, theirs.folder / b.stages[kind]):
                raise UserError(
                    f"the {kind} of {label} differ between {ours.name} and {theirs.name} in {found} though their key "
                    f"is the same: numbers under both may not be mixed; in {theirs.name}, put {ours.name}'s {path} in "
                    f"place of its own, remove all {_dependents(kind)}, run its command again, and merge then"
                )


def _dependents(kind: str) -> str:
    return "score-*" if kind == "judges" else "images-* and score-*"


def _mismatch(ours: Source, theirs: Source, label: str, name: str, a: Any, b: Any) -> str:
    what = {"plan_key": "plan", "variables": "causal graph", "shape": "size of images"}.get(name, name)
    if name == "bundle":
        remedy = "numbers under different bundles are never mixed; run one of them again with the --bundle of the other"
        bundles = f"{_bundle_name(a)}, {_bundle_name(b)}"
        return f"{ours.name} and {theirs.name} have another bundle of {label} ({bundles}): {remedy}"
    values = f" ({a}, {b})" if isinstance(a, str) and isinstance(b, str) else ""
    return (
        f"{ours.name} and {theirs.name} have another {what} of {label}{values}: their data or their code differ, and "
        "their cells do not belong into one table; run one of them again with the code and data of the other"
    )


def _bundle_name(bundle: Any) -> str:
    """A bundle's name, version and digest, each shortened."""
    parts = bundle.values() if isinstance(bundle, dict) else [bundle or "none"]
    return " ".join(printable(v, 12) for v in parts)


def _largest_difference(ours: Path, theirs: Path) -> Difference | None:
    """The largest difference between two stages that must be equal; None where they are, or where one is missing."""
    if not (storage.is_complete(ours) and storage.is_complete(theirs)):
        return None
    with reading_run(theirs):
        return max(differences(ours, theirs), key=lambda found: found.largest, default=None)


def _unite(merge: MergePlan) -> None:
    """Take the cells of all runs; of two under one label the first stays, with the metrics that only the other has."""
    for source in merge.sources:
        for cell in source.manifest.cells:
            ours = merge.cells.setdefault(cell.label, cell)
            if ours.keys != cell.keys:
                which = next(n for n in KEYS if ours.keys.get(n) != cell.keys.get(n))
                merge.left_out.append(
                    f"{cell.label} of {source.name}: its {which} key {cell.keys.get(which)} is not the "
                    f"{ours.keys.get(which)} that is kept; its source, settings or answers differ"
                )
                continue
            other = {m for m, key in cell.scores.items() if ours.scores.get(m, key) != key}
            merge.left_out += [
                f"{cell.label} of {source.name}: its metric {m} has another source" for m in sorted(other)
            ]
            merge.cells[cell.label] = replace(ours, scores={**cell.scores, **ours.scores})


class _StageSelection:
    """Selects the run that each stage is taken from, and compares the stages of the others with it."""

    def __init__(self, merge: MergePlan) -> None:
        self.merge = merge
        self.names = {merge.target: merge.target.name} | {s.folder: s.name for s in merge.sources}
        self.owner: dict[Path, Path] = {}
        self.seen: set[Path] = set()
        self.differences = cache(self._differences)

    def select(self, label: str, path: Path, inputs: Iterable[Path] = ()) -> None:
        """Take a stage from the first run that has it intact and computed from inputs equal to those that are kept."""
        if path in self.seen:
            return
        self.seen.add(path)
        holders = [folder for folder in self.names if self._holds(folder, path)]
        for folder in holders:
            if all(self._is_kept(folder, i) for i in inputs):
                self.owner.setdefault(path, folder)
            elif path not in self.owner:
                self.merge.left_out.append(f"{self.names[folder]}/{path}: made from stages that are not those kept")
        if path not in self.owner:
            return
        kept = self.owner[path]
        if kept == self.merge.target:
            self.merge.present.add(path)
        else:
            self.merge.copies[path] = kept / path
        for folder in holders:
            found = self.differences(path, kept, folder) if folder != kept else ()
            names = self.names[kept], self.names[folder]
            self.merge.conflicts += [Conflict(label, difference, *names) for difference in found]

    def _is_kept(self, folder: Path, path: Path) -> bool:
        """Whether a run's stage is the one that is kept, or holds the same numbers."""
        kept = self.owner.get(path)
        if kept == folder or not storage.is_complete(folder / path):
            return True
        return kept is not None and not self.differences(path, kept, folder)

    def _differences(self, path: Path, ours: Path, theirs: Path) -> tuple[Difference, ...]:
        with reading_run(theirs / path):
            return tuple(differences(ours / path, theirs / path))

    def _holds(self, folder: Path, path: Path) -> bool:
        if not storage.is_complete(folder / path):
            return False
        broken = storage.damaged_files(folder / path)
        if broken:
            self.merge.left_out.append(f"{self.names[folder]}/{path}: {broken[0]} does not match its manifest")
        return not broken
