"""A merged run written down: stages copied and checked, failures of what is unfinished, and ``run.json`` last."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from . import __version__, store
from .commands import find_run
from .errors import UserError
from .grid import check_writable
from .merging import Merge, Source, plan_merge
from .reading import FORMAT, read_about

__all__ = ["merge_command"]


def merge_command(runs: tuple[str, ...], name: str, run_root: Path, *, strict: bool) -> int:
    """Merge runs into one; 2 where something of theirs was left out."""
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name {name!r} is no plain name; write letters, digits and dashes")
    target = (run_root / name).resolve()
    given = {find_run(run, run_root).resolve(): run for run in runs}
    folders = {**({target: name} if (target / "run.json").exists() else {}), **given}
    sources = [Source(called, folder, read_about(folder)) for folder, called in folders.items()]
    merge = plan_merge(target, sources)
    _tell(merge)
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


def _tell(merge: Merge) -> None:
    versions = {s.name: f"{s.about['cfbench']} {str(s.about.get('revision'))[:8]}" for s in merge.sources}
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


def _write(merge: Merge) -> None:
    check_writable(merge.target)
    try:
        for path, kept in merge.copies.items():
            _copy(kept, merge.target / path)
        for source in merge.sources:
            _copy_environments(source.folder, merge.target)
        for source in merge.sources:
            _copy_failures(merge, source)
        about = _about(merge)
        if not (merge.target / "run.json").exists() or store.read_json(merge.target / "run.json") != about:
            store.write_json(merge.target / "run.json", about)
    except OSError as error:
        raise UserError(
            f"{merge.target} cannot be written ({error.strerror or error}); the same command continues"
        ) from error


def _copy(source: Path, stage: Path) -> None:
    store.discard_broken(stage)
    if broken := store.copy_stage(source, stage):
        raise UserError(f"{source} changed while it was copied ({broken[0]}); the same command continues")


def _copy_environments(source: Path, target: Path) -> None:
    """The machines that stages were made on, each under the key of what it says."""
    for path in sorted((source / "env").glob("*.json")):
        if (
            re.fullmatch(r"[0-9a-f]{8,64}", path.stem)
            and not path.is_symlink()
            and not (target / "env" / path.name).exists()
        ):
            store.write_json(target / "env" / path.name, store.read_json(path))


def _copy_failures(merge: Merge, source: Source) -> None:
    """Failures of the cells that are not finished, and of plans and judges that nobody has."""
    if source.folder == merge.target:
        return
    places: set[Path] = set()
    for cell in source.cells:
        ours = merge.cells[cell.label]
        if ours.keys == cell.keys and not merge.finished(ours):
            places |= {cell.path, cell.base.path, cell.fitted.path}
    for described in source.about["datasets"].values():
        if not {Path(described["plan"]), Path(described["judges"])} <= merge.known:
            places.add(Path("failed") / described["folder"])
    for place in sorted(places):
        for failure in sorted((source.folder / place).glob("failed-*")):
            _copy_failure(failure, merge.target / place)


def _copy_failure(failure: Path, place: Path) -> None:
    """Under the next number, unless the very failure is there."""
    match = re.fullmatch(r"(failed-[a-z]+)-\d+", failure.name)
    if not match or not store.complete(failure):
        return
    there = store.records(place, match[1])
    if any(store.read_json(p / store.MANIFEST) == store.read_json(failure / store.MANIFEST) for p in there):
        return
    store.copy_stage(failure, store.numbered(place, match[1]))


def _about(merge: Merge) -> dict[str, Any]:
    """``run.json`` of the merged run, with what each of its runs said of itself."""
    abouts = [s.about for s in merge.sources]
    datasets: dict[str, Any] = {}
    for about in reversed(abouts):
        datasets |= about["datasets"]
    versions = dict.fromkeys(a["cfbench"] for a in abouts)
    return {
        **abouts[0],
        "format": FORMAT,
        "cfbench": ", ".join(versions) or __version__,
        **{name: _common([a.get(name) for a in abouts]) for name in ("revision", "dirty")},
        "commands": _union(a["commands"] for a in abouts),
        "controls": sorted({c for a in abouts for c in a["controls"]}),
        "plugins": sorted({p for a in abouts for p in a["plugins"]}),
        "datasets": datasets,
        "cells": [cell.as_dict() for cell in merge.cells.values()],
        "merged": _union(_provenance(s) for s in merge.sources),
    }


def _provenance(source: Source) -> list[dict[str, Any]]:
    """Where a run's cells come from: itself, or the runs that it was merged from."""
    about = source.about
    own = {name: about.get(name) for name in ("cfbench", "revision", "dirty", "commands")}
    return about.get("merged") or [{"run": source.name, **own, "cells": [c.label for c in source.cells]}]


def _union(lists: Any) -> list[Any]:
    found: list[Any] = []
    for each in lists:
        found += [x for x in each if x not in found]
    return found


def _common(values: list[Any]) -> Any:
    return values[0] if all(v == values[0] for v in values) else None
