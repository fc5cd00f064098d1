"""The union of runs made on several machines: what to copy from where, and the merged run written down."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import UserError
from ..runs.budget import Budget
from ..runs.chain import cell_stages, inputs_of
from ..runs.folders import check_writable, find_run
from ..runs.job import Cell
from ..runs.manifest import SETTINGS, DatasetEntry, Manifest, read_manifest, write_manifest
from ..runs.reader import reading_run
from ..storage.schema import printable
from .compare import Gap, gaps

__all__ = ["Difference", "MergePlan", "Source", "merge_command", "plan_merge"]


DESCRIBED = ("bundle", "plan_key", "action", "mechanisms", "judges", "shape", "variables")
"""What runs must agree on of a data set; the folders of judges and mechanisms hold their keys."""


@dataclass(frozen=True)
class Source:
    """A run that is merged, as the user calls it."""

    name: str
    folder: Path
    manifest: Manifest


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
class MergePlan:
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
        return all(path in self.known for name, path in cell_stages(cell) if name not in ("train", "tune"))


def plan_merge(target: Path, sources: list[Source]) -> MergePlan:
    """Find out what to copy; what stands in the target stays, and of the others the first named wins.

    Raises:
        UserError: the runs do not belong into one table.
    """
    for other in sources[1:]:
        _refuse_settings(sources[0], other)
    for i, source in enumerate(sources):
        for other in sources[i + 1 :]:
            _refuse_data(source, other)
    merge = MergePlan(target, sources)
    _unite(merge)
    chooser = _Chooser(merge)
    for source in sources:
        for entry in source.manifest.datasets.values():
            for kind, place in entry.stages.items():
                chooser.choose(kind, Path(place))
    for cell in merge.cells.values():
        for name, path in cell_stages(cell):
            chooser.choose(f"{cell.label} {name}", path, [cell.stage(s) for s in inputs_of(name, cell)])
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
    """Refuse runs that ask or judge in another way."""
    for label in ours.manifest.datasets.keys() & theirs.manifest.datasets.keys():
        a, b = (s.manifest.datasets[label] for s in (ours, theirs))
        for name in DESCRIBED:
            if getattr(a, name) != getattr(b, name):
                raise UserError(_unlike(ours, theirs, label, name, getattr(a, name), getattr(b, name)))
        for kind, path in a.stages.items():
            if gap := _apart(ours.folder / path, theirs.folder / b.stages[kind]):
                raise UserError(
                    f"the {kind} of {label} differ between {ours.name} and {theirs.name} in {gap} though their key is "
                    f"the same: numbers under both may not be mixed; in {theirs.name}, put {ours.name}'s {path} in "
                    f"place of its own, remove all {_stale(kind)}, run its command again, and merge then"
                )


def _stale(kind: str) -> str:
    return "score-*" if kind == "judges" else "images-* and score-*"


def _unlike(ours: Source, theirs: Source, label: str, name: str, a: Any, b: Any) -> str:
    what = {"plan_key": "plan", "variables": "causal graph", "shape": "size of images"}.get(name, name)
    if name == "bundle":
        do = "numbers under different bundles are never mixed; run one of them again with the --bundle of the other"
        return (
            f"{ours.name} and {theirs.name} have another bundle of {label} ({_bundle_name(a)}, {_bundle_name(b)}): {do}"
        )
    said = f" ({a}, {b})" if isinstance(a, str) and isinstance(b, str) else ""
    return (
        f"{ours.name} and {theirs.name} have another {what} of {label}{said}: their data or their code differ, and "
        "their cells do not belong into one table; run one of them again with the code and data of the other"
    )


def _bundle_name(bundle: Any) -> str:
    """A bundle's name, version and digest in short."""
    said = bundle.values() if isinstance(bundle, dict) else [bundle or "none"]
    return " ".join(printable(v, 12) for v in said)


def _apart(ours: Path, theirs: Path) -> Gap | None:
    """The largest difference between two stages that must be the same; none where one is missing."""
    if not (storage.is_complete(ours) and storage.is_complete(theirs)):
        return None
    with reading_run(theirs):
        return max(gaps(ours, theirs), key=lambda gap: gap.largest, default=None)


def _unite(merge: MergePlan) -> None:
    """The cells of all runs; of two under one label the first stays, with the metrics that only the other has."""
    for source in merge.sources:
        for cell in source.manifest.cells:
            ours = merge.cells.setdefault(cell.label, cell)
            if ours.keys != cell.keys:
                which = next(
                    n for n in ("train", "tune", "images", "plan", "judges") if ours.keys.get(n) != cell.keys.get(n)
                )
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

    def __init__(self, merge: MergePlan) -> None:
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
        if kept == folder or not storage.is_complete(folder / path):
            return True
        return kept is not None and not self.gaps(path, kept, folder)

    def _gaps(self, path: Path, ours: Path, theirs: Path) -> tuple[Gap, ...]:
        with reading_run(theirs / path):
            return tuple(gaps(ours / path, theirs / path))

    def _holds(self, folder: Path, path: Path) -> bool:
        if not storage.is_complete(folder / path):
            return False
        broken = storage.damaged_files(folder / path)
        if broken:
            self.merge.left.append(f"{self.names[folder]}/{path}: {broken[0]} does not match its manifest")
        return not broken


def merge_command(runs: tuple[str, ...], name: str, run_root: Path, *, strict: bool) -> int:
    """Merge runs into one; 2 where something of theirs was left out."""
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name {name!r} is no plain name; write letters, digits and dashes")
    target = (run_root / name).resolve()
    given = {find_run(run, run_root).resolve(): run for run in runs}
    folders = {**({target: name} if (target / "run.json").exists() else {}), **given}
    sources = [Source(called, folder, read_manifest(folder)) for folder, called in folders.items()]
    merge = plan_merge(target, sources)
    _report(merge)
    if strict and (merge.differences or merge.left):
        found = len(merge.differences) + len(merge.left)
        raise UserError(f"{found} differences under --strict, {target} is as it was; without it the first named stays")
    _write(merge)
    done = sum(map(merge.finished, merge.cells.values()))
    print(
        f"{target}: {done} of {len(merge.cells)} cells finished; {len(merge.copies)} stages copied, "
        f"{len(merge.there)} were there; `cfbench leaderboard {name}` writes its tables"
    )
    return 2 if merge.left else 0


def _report(merge: MergePlan) -> None:
    versions = {s.name: f"{s.manifest.cfbench} {str(s.manifest.revision)[:8]}" for s in merge.sources}
    if len(set(versions.values())) > 1:
        print("made by different versions: " + ", ".join(f"{name} {v}" for name, v in versions.items()))
    for difference in merge.differences:
        print(difference)
    if merge.differences:
        stages = len({difference.stage for difference in merge.differences})
        print(
            f"{len(merge.differences)} numbers of {stages} stages differ under equal keys; those named first are kept"
        )
    for line in merge.left:
        print(f"cfbench: left out: {line}", file=sys.stderr)


def _write(merge: MergePlan) -> None:
    check_writable(merge.target)
    try:
        for path, kept in merge.copies.items():
            _copy(kept, merge.target / path)
        for source in merge.sources:
            _copy_environments(source.folder, merge.target)
        for source in merge.sources:
            _copy_failures(merge, source)
        manifest = _manifest(merge)
        if not (merge.target / "run.json").exists() or read_manifest(merge.target) != manifest:
            write_manifest(merge.target, manifest)
    except OSError as error:
        raise UserError(
            f"{merge.target} cannot be written ({error.strerror or error}); the same command continues"
        ) from error


def _copy(source: Path, stage: Path) -> None:
    storage.remove_damaged(stage)
    if broken := storage.copy_stage(source, stage):
        raise UserError(f"{source} changed while it was copied ({broken[0]}); the same command continues")


def _copy_environments(source: Path, target: Path) -> None:
    """The machines that stages were made on, each under the key of what it says."""
    for path in sorted((source / "env").glob("*.json")):
        if (
            re.fullmatch(r"[0-9a-f]{8,64}", path.stem)
            and not path.is_symlink()
            and not (target / "env" / path.name).exists()
        ):
            storage.write_json(target / "env" / path.name, storage.read_json(path))


def _copy_failures(merge: MergePlan, source: Source) -> None:
    """Failures of the cells that are not finished, and of plans and judges that nobody has."""
    if source.folder == merge.target:
        return
    places: set[Path] = set()
    for cell in source.manifest.cells:
        ours = merge.cells[cell.label]
        if ours.keys == cell.keys and not merge.finished(ours):
            places |= {cell.path, cell.base.path, cell.fitted.path}
    for entry in source.manifest.datasets.values():
        if not {Path(entry.plan), Path(entry.judges)} <= merge.known:
            places.add(Path("failed") / entry.folder)
    for place in sorted(places):
        for failure in sorted((source.folder / place).glob("failed-*")):
            _copy_failure(failure, merge.target / place)


def _copy_failure(failure: Path, place: Path) -> None:
    """Under the next number, unless the very failure is there."""
    match = re.fullmatch(r"(failed-[a-z]+)-\d+", failure.name)
    if not match or not storage.is_complete(failure):
        return
    there = storage.records(place, match[1])
    if any(storage.read_json(p / storage.MANIFEST) == storage.read_json(failure / storage.MANIFEST) for p in there):
        return
    storage.copy_stage(failure, storage.next_numbered(place, match[1]))


def _manifest(merge: MergePlan) -> Manifest:
    """``run.json`` of the merged run, with what each of its runs said of itself."""
    each = [s.manifest for s in merge.sources]
    datasets: dict[str, DatasetEntry] = {}
    for manifest in reversed(each):
        datasets |= manifest.datasets
    return replace(
        each[0],
        cfbench=", ".join(dict.fromkeys(m.cfbench for m in each)),
        revision=_common([m.revision for m in each]),
        dirty=_common([m.dirty for m in each]),
        commands=tuple(_union(m.commands for m in each)),
        controls=tuple(sorted({c for m in each for c in m.controls})),
        plugins=tuple(sorted({p for m in each for p in m.plugins})),
        datasets=datasets,
        cells=tuple(merge.cells.values()),
        merged=tuple(_union(_provenance(s) for s in merge.sources)),
    )


def _provenance(source: Source) -> Sequence[Mapping[str, Any]]:
    """Where a run's cells come from: itself, or the runs that it was merged from."""
    manifest, about = source.manifest, source.manifest.as_dict()
    own = {name: about[name] for name in ("cfbench", "revision", "dirty", "commands")}
    return manifest.merged or [{"run": source.name, **own, "cells": [c.label for c in manifest.cells]}]


def _union(lists: Any) -> list[Any]:
    found: list[Any] = []
    for each in lists:
        found += [x for x in each if x not in found]
    return found


def _common(values: list[Any]) -> Any:
    return values[0] if all(v == values[0] for v in values) else None
