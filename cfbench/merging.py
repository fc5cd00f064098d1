"""The union of runs made on several machines: what to copy from where, found out before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from . import store
from .cells import Cell
from .differing import Gap, gaps
from .errors import UserError
from .reading import readable
from .wellformed import printable

__all__ = ["Difference", "Merge", "Source", "plan_merge", "stages_of"]

SETTINGS = ("budget", "split", "plan", "action", "precision")
"""What cells of one table share."""
DESCRIBED = ("bundle", "plan_key", "action", "mechanisms", "judges", "shape", "variables")
"""What runs must agree on of a data set; the folders of judges and mechanisms hold their keys."""
CHAIN = {"train": (), "tune": ("train",), "images": ("train", "tune"), "scores": ("images",)}
"""The stages that each is made from."""


@dataclass(frozen=True)
class Source:
    """A run that is merged, as the user calls it."""

    name: str
    folder: Path
    about: dict[str, Any]

    @property
    def cells(self) -> list[Cell]:
        return [Cell.from_dict(c) for c in self.about["cells"]]


@dataclass(frozen=True)
class Difference:
    """Numbers under one key that two runs do not agree on; those of ``kept`` stay."""

    stage: str
    gap: Gap
    kept: str
    other: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.kept} (kept) and {self.other} differ in {self.gap}"


@dataclass
class Merge:
    """What a merge comes to: its cells, the folder that each stage is copied from, and what is told beside it."""

    target: Path
    sources: list[Source]
    cells: dict[str, Cell] = field(default_factory=dict)
    copies: dict[Path, Path] = field(default_factory=dict)
    there: set[Path] = field(default_factory=set)
    differences: list[Difference] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def known(self) -> set[Path]:
        """The stages that the merged run will have."""
        return {*self.copies, *self.there}

    def finished(self, cell: Cell) -> bool:
        """Whether the merged run has a cell's images and all its scores."""
        return all(path in self.known for name, path in stages_of(cell) if name not in ("train", "tune"))


def plan_merge(target: Path, sources: list[Source]) -> Merge:
    """Find out what to copy; what stands in the target stays, and of the others the first named wins.

    Raises:
        UserError: the runs do not belong into one table.
    """
    for other in sources[1:]:
        _refuse_settings(sources[0], other)
    for i, source in enumerate(sources):
        for other in sources[i + 1 :]:
            _refuse_data(source, other)
    merge = Merge(target, sources)
    _unite(merge)
    chooser = _Chooser(merge)
    for source in sources:
        for described in source.about["datasets"].values():
            for kind in ("plan", "mechanisms", "judges"):
                if described[kind]:
                    chooser.choose(kind, Path(described[kind]))
    for cell in merge.cells.values():
        for name, path in stages_of(cell):
            chooser.choose(f"{cell.label} {name}", path, [cell.stage(s) for s in _before(name, cell)])
    return merge


def stages_of(cell: Cell) -> Iterator[tuple[str, Path]]:
    """The stages of a cell, each after those that it is made from, and their folders inside a run."""
    for name in ("images",) if cell.external else ("train", "tune", "images"):
        yield name, cell.stage(name)
    for metric in cell.scores:
        yield f"score-{metric}", cell.stage(f"score-{metric}")


def _before(name: str, cell: Cell) -> tuple[str, ...]:
    before = CHAIN["scores" if name.startswith("score-") else name]
    return () if cell.external and name == "images" else before


def _refuse_settings(ours: Source, theirs: Source) -> None:
    for name in SETTINGS:
        a, b = ours.about.get(name), theirs.about.get(name)
        if a != b:
            raise UserError(
                f"{ours.name} and {theirs.name} have another {name} ({_short(a)}, {_short(b)}): their cells do not "
                "belong into one table; merge runs of the same settings"
            )


def _short(value: Any) -> str:
    return (
        f"{value['name']}, {value['images']:,} images" if isinstance(value, dict) and "images" in value else str(value)
    )


def _refuse_data(ours: Source, theirs: Source) -> None:
    """Refuse runs that ask or judge in another way."""
    for label in ours.about["datasets"].keys() & theirs.about["datasets"].keys():
        a, b = (s.about["datasets"][label] for s in (ours, theirs))
        for name in DESCRIBED:
            if a.get(name) != b.get(name):
                raise UserError(_unlike(ours, theirs, label, name, a.get(name), b.get(name)))
        for kind in ("plan", "mechanisms", "judges"):
            if a[kind] and (told := _apart(ours.folder / a[kind], theirs.folder / b[kind])):
                raise UserError(
                    f"the {kind} of {label} differ between {ours.name} and {theirs.name} in {told} though their key is "
                    f"the same: numbers under both may not be mixed; in {theirs.name}, put {ours.name}'s {a[kind]} in "
                    f"place of its own, remove all {_stale(kind)}, run its command again, and merge then"
                )


def _stale(kind: str) -> str:
    return "score-*" if kind == "judges" else "images-* and score-*"


def _unlike(ours: Source, theirs: Source, label: str, name: str, a: Any, b: Any) -> str:
    what = {"plan_key": "plan", "variables": "causal graph", "shape": "size of images"}.get(name, name)
    if name == "bundle":
        do = "numbers under different bundles are never mixed; run one of them again with the --bundle of the other"
        return f"{ours.name} and {theirs.name} have another bundle of {label} ({_called(a)}, {_called(b)}): {do}"
    said = f" ({a}, {b})" if isinstance(a, str) and isinstance(b, str) else ""
    return (
        f"{ours.name} and {theirs.name} have another {what} of {label}{said}: their data or their code differ, and "
        "their cells do not belong into one table; run one of them again with the code and data of the other"
    )


def _called(bundle: Any) -> str:
    """A bundle's name, version and digest in short."""
    said = bundle.values() if isinstance(bundle, dict) else [bundle or "none"]
    return " ".join(printable(v, 12) for v in said)


def _apart(ours: Path, theirs: Path) -> Gap | None:
    """The largest difference between two stages that must be the same; none where one is missing."""
    if not (store.complete(ours) and store.complete(theirs)):
        return None
    with readable(theirs):
        return max(gaps(ours, theirs), key=lambda gap: gap.largest, default=None)


def _unite(merge: Merge) -> None:
    """The cells of all runs; of two under one label the first stays, with the metrics that only the other has."""
    for source in merge.sources:
        for cell in source.cells:
            ours = merge.cells.setdefault(cell.label, cell)
            if ours.keys != cell.keys:
                which = next(n for n in (*CHAIN, "plan", "judges") if ours.keys.get(n) != cell.keys.get(n))
                merge.left.append(
                    f"{cell.label} of {source.name}: its {which} key {cell.keys.get(which)} is not the "
                    f"{ours.keys.get(which)} that is kept; its source, settings or answers differ"
                )
                continue
            other = {m for m, key in cell.scores.items() if ours.scores.get(m, key) != key}
            merge.left += [f"{cell.label} of {source.name}: its metric {m} has another source" for m in sorted(other)]
            merge.cells[cell.label] = replace(ours, scores={**cell.scores, **ours.scores})


class _Chooser:
    """Decides for each stage whose folder stays, and compares the others with it."""

    def __init__(self, merge: Merge) -> None:
        self.merge = merge
        names = {merge.target: merge.target.name} | {s.folder: s.name for s in merge.sources}
        self.names = dict(names)
        self.owner: dict[Path, Path] = {}
        self.seen: set[Path] = set()
        self.gaps = cache(self._gaps)

    def choose(self, label: str, path: Path, before: Iterable[Path] = ()) -> None:
        """Take a stage from the first that has it whole and made from what is kept of the stages before."""
        if path in self.seen:
            return
        self.seen.add(path)
        holders = [folder for folder in self.names if self._holds(folder, path)]
        for folder in holders:
            if all(self._same(folder, b) for b in before):
                self.owner.setdefault(path, folder)
            elif path not in self.owner:
                self.merge.left.append(f"{self.names[folder]}/{path}: made from stages that are not those kept")
        if path not in self.owner:
            return
        kept = self.owner[path]
        if kept == self.merge.target:
            self.merge.there.add(path)
        else:
            self.merge.copies[path] = kept / path
        for folder in holders:
            found = self.gaps(path, kept, folder) if folder != kept else ()
            names = self.names[kept], self.names[folder]
            self.merge.differences += [Difference(label, gap, *names) for gap in found]

    def _same(self, folder: Path, path: Path) -> bool:
        """Whether a run's stage is the one that is kept, or holds the same numbers."""
        kept = self.owner.get(path)
        if kept == folder or not store.complete(folder / path):
            return True
        return kept is not None and not self.gaps(path, kept, folder)

    def _gaps(self, path: Path, ours: Path, theirs: Path) -> tuple[Gap, ...]:
        with readable(theirs / path):
            return tuple(gaps(ours / path, theirs / path))

    def _holds(self, folder: Path, path: Path) -> bool:
        if not store.complete(folder / path):
            return False
        broken = store.mismatches(folder / path)
        if broken:
            self.merge.left.append(f"{self.names[folder]}/{path}: {broken[0]} does not match its manifest")
        return not broken
