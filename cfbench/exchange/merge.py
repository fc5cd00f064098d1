"""The union of runs made on several machines, copied and written down as one run."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import UserError
from ..runs.folders import check_run_name, check_writable, find_run
from ..runs.manifest import DatasetEntry, Manifest, read_manifest, write_manifest
from .merge_plan import MergePlan, Source, plan_merge

__all__ = ["merge_command"]


def merge_command(runs: tuple[str, ...], name: str, run_root: Path, *, strict: bool) -> int:
    """Merge runs into one; 2 where cells or stages were left out."""
    target = (run_root / check_run_name(name)).resolve()
    given = {find_run(run, run_root).resolve(): run for run in runs}
    folders = {**({target: name} if (target / "run.json").exists() else {}), **given}
    sources = [Source(label, folder, read_manifest(folder)) for folder, label in folders.items()]
    merge = plan_merge(target, sources)
    _report(merge)
    if strict and (found := len(merge.conflicts) + len(merge.left_out)):
        raise UserError(f"{found} differences under --strict, {target} is as it was; without it the first named stays")
    _write(merge)
    done = sum(map(merge.finished, merge.cells.values()))
    print(
        f"{target}: {done} of {len(merge.cells)} cells finished; {len(merge.copies)} stages copied, "
        f"{len(merge.present)} were there; `cfbench leaderboard {name}` writes its tables"
    )
    return 2 if merge.left_out else 0


def _report(merge: MergePlan) -> None:
    versions = {s.name: f"{s.manifest.cfbench} {str(s.manifest.revision)[:8]}" for s in merge.sources}
    if len(set(versions.values())) > 1:
        print("made by different versions: " + ", ".join(f"{name} {v}" for name, v in versions.items()))
    for conflict in merge.conflicts:
        print(conflict)
    if merge.conflicts:
        stages = len({conflict.stage for conflict in merge.conflicts})
        print(f"{len(merge.conflicts)} numbers of {stages} stages differ under equal keys; those named first are kept")
    for line in merge.left_out:
        print(f"cfbench: left out: {line}", file=sys.stderr)


def _write(merge: MergePlan) -> None:
    check_writable(merge.target)
    try:
        for path, source_stage in merge.copies.items():
            _copy_stage(source_stage, merge.target / path)
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


def _copy_stage(source: Path, stage: Path) -> None:
    storage.remove_damaged(stage)
    if broken := storage.copy_stage(source, stage):
        raise UserError(f"{source} changed while it was copied ({broken[0]}); the same command continues")


def _copy_environments(source: Path, target: Path) -> None:
    """Copy the descriptions of the machines that stages were computed on, each under its key."""
    for path in sorted((source / "env").glob("*.json")):
        if (
            re.fullmatch(r"[0-9a-f]{8,64}", path.stem)
            and not path.is_symlink()
            and not (target / "env" / path.name).exists()
        ):
            storage.write_json(target / "env" / path.name, storage.read_json(path))


def _copy_failures(merge: MergePlan, source: Source) -> None:
    """Copy failures of the cells that are not finished, and of plans and judges that no run has."""
    if source.folder == merge.target:
        return
    parents: set[Path] = set()
    for cell in source.manifest.cells:
        ours = merge.cells[cell.label]
        if ours.keys == cell.keys and not merge.finished(ours):
            parents |= {cell.path, cell.base.path, cell.fitted.path}
    for entry in source.manifest.datasets.values():
        if not {Path(entry.plan), Path(entry.judges)} <= merge.known:
            parents.add(Path("failed") / entry.folder)
    for parent in sorted(parents):
        for failure in sorted((source.folder / parent).glob("failed-*")):
            _copy_failure(failure, merge.target / parent)


def _copy_failure(failure: Path, parent: Path) -> None:
    """Copy a failure under the next free number, unless the same failure was copied before."""
    match = re.fullmatch(r"(failed-[a-z]+)-\d+", failure.name)
    if not match or not storage.is_complete(failure):
        return
    record = storage.read_json(failure / storage.MANIFEST)
    if all(storage.read_json(p / storage.MANIFEST) != record for p in storage.records(parent, match[1])):
        storage.copy_stage(failure, storage.next_numbered(parent, match[1]))


def _manifest(merge: MergePlan) -> Manifest:
    """``run.json`` of the merged run, with the provenance of its cells."""
    manifests = [s.manifest for s in merge.sources]
    datasets: dict[str, DatasetEntry] = {}
    for manifest in reversed(manifests):
        datasets |= manifest.datasets
    return replace(
        manifests[0],
        cfbench=", ".join(dict.fromkeys(m.cfbench for m in manifests)),
        revision=_common([m.revision for m in manifests]),
        dirty=_common([m.dirty for m in manifests]),
        commands=tuple(_union(m.commands for m in manifests)),
        controls=tuple(sorted({c for m in manifests for c in m.controls})),
        plugins=tuple(sorted({p for m in manifests for p in m.plugins})),
        datasets=datasets,
        cells=tuple(merge.cells.values()),
        merged=tuple(_union(_provenance(s) for s in merge.sources)),
    )


def _provenance(source: Source) -> Sequence[Mapping[str, Any]]:
    """The runs that a run's cells come from: itself, or those that it was merged from."""
    manifest, about = source.manifest, source.manifest.as_dict()
    own = {name: about[name] for name in ("cfbench", "revision", "dirty", "commands")}
    return manifest.merged or [{"run": source.name, **own, "cells": [c.label for c in manifest.cells]}]


def _union(lists: Iterable[Iterable[Any]]) -> list[Any]:
    found: list[Any] = []
    for values in lists:
        found += [x for x in values if x not in found]
    return found


def _common(values: list[Any]) -> Any:
    return values[0] if all(v == values[0] for v in values) else None
