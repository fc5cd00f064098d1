"""Bundles written from a run: the questions and judges of one data set in a checksummed folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import UserError
from ..evaluation.plan import Plan
from ..runs.bundle import ABOUT, FORMAT, PARTS, digest_of, plain_name, read_bundle
from ..runs.folders import find_run
from ..runs.manifest import Manifest, read_manifest
from ..runs.stage_reader import check_plan_tensors, optional_key, reading_run
from ..storage.schema import SchemaError, mapping
from ..version import __version__

__all__ = ["bundle_command", "write_bundle"]


def bundle_command(
    run_name: str, run_root: Path, datasets: str | None, out: Path, name: str | None, version: str
) -> int:  # fmt: skip
    """Write a bundle and print how to use it."""
    run = find_run(run_name, run_root)
    manifest = read_manifest(run)
    label = manifest.label_of(run, datasets)
    digest = write_bundle(run, manifest, label, out, name or out.resolve().name, version)
    print(f"{out}: questions and judges of {label}, version {version}, sha256 {digest[:12]}")
    print(f"use it with: cfbench run --datasets '{label}' --bundle {out}")
    return 0


def write_bundle(run: Path, manifest: Manifest, label: str, out: Path, name: str, version: str) -> str:
    """Write the plan and the judges of a run's data set as a bundle; return its digest.

    Args:
        run: folder of the run.
        manifest: its ``run.json``.
        label: of the data set.
        out: folder to write, which must be missing or empty.
        name, version: of the bundle.

    Raises:
        UserError: the run has no plan or judges yet, or they are damaged; the folder is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; give --out a new folder, and another --version to what is new")
    stages = manifest.datasets[label].stages
    with storage.temporary_folder(out) as draft:
        for part in (p for p in PARTS if p in stages):
            _copy_part(run / stages[part], draft / part)
        about = _about(run, manifest, label, draft)
        about |= {"name": _plain_name("name", name), "version": _plain_name("version", version)}
        digest = digest_of(about)
        storage.write_json(draft / ABOUT, about | {"digest": digest})
        read_bundle(draft)
        draft.chmod(0o755)
        if out.exists():
            out.rmdir()
        draft.rename(out)
        return digest


def _plain_name(option: str, value: str) -> str:
    try:
        return plain_name(value)
    except SchemaError as error:
        raise UserError(f"--{option}: {error}; write letters, digits, dots and dashes") from None


def _copy_part(stage: Path, folder: Path) -> None:
    if not storage.is_complete(stage):
        raise UserError(f"{stage} is missing; run the same `cfbench run` again, which makes it, and bundle it then")
    if broken := storage.damaged_files(stage):
        raise UserError(f"{stage} does not match its manifest ({broken[0]}); run the same `cfbench run` again")
    folder.mkdir()
    for name in storage.read_json(stage / storage.MANIFEST)["files"]:
        shutil.copyfile(stage / name, folder / name, follow_symlinks=False)


def _about(run: Path, manifest: Manifest, label: str, draft: Path) -> dict[str, Any]:
    entry, spec = manifest.datasets[label], manifest.spec_of(label)
    with reading_run(run):
        plan = check_plan_tensors(Plan.load(draft / "plan"), [v.name for v in entry.variables])
    described = entry.as_dict()
    return {
        "format": FORMAT,
        "cfbench": __version__,
        "dataset": {"name": spec.name, "preset": spec.preset, "params": dict(spec.params)},
        "graph": {"shape": described["shape"], "variables": described["variables"]},
        "plan": {"name": plan.name, "split": plan.split, "action": entry.action, "factuals": len(plan)},
        "budget": {name: getattr(manifest.budget, name) for name in ("factuals", "judge")},
        "environment": _environment(run, run / entry.judges),
        "files": {str(p.relative_to(draft)): storage.sha256(p) for p in sorted(draft.rglob("*")) if p.is_file()},
    }


def _environment(run: Path, stage: Path) -> dict[str, Any]:
    """The description of the machine that the judges were trained on; empty where the run has none."""
    with reading_run(run):
        path = run / "env" / f"{optional_key(storage.read_json(stage / storage.MANIFEST).get('env', ''))}.json"
        return mapping(storage.read_json(path)) if path.is_file() and not path.is_symlink() else {}
