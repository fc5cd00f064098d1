"""Bundles written from a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from . import __version__, store
from .bundles import ABOUT, FORMAT, PARTS, digest_of, plain, read_bundle
from .commands import find_run
from .errors import UserError
from .plan import Plan
from .reading import read_about, readable
from .spec import parse_specs
from .stored import checked_plan, key
from .wellformed import Wrong, mapping

__all__ = ["bundle_command", "write_bundle"]


def bundle_command(
    run_name: str, run_root: Path, datasets: str | None, out: Path, name: str | None, version: str
) -> int:  # fmt: skip
    """Write a bundle and say what it is called."""
    run = find_run(run_name, run_root)
    about = read_about(run)
    label = _asked(run, list(about["datasets"]), datasets)
    digest = write_bundle(run, about, label, out, name or out.resolve().name, version)
    print(f"{out}: questions and judges of {label}, version {version}, sha256 {digest[:12]}")
    print(f"use it with: cfbench run --datasets '{label}' --bundle {out}")
    return 0


def _asked(run: Path, known: list[str], datasets: str | None) -> str:
    if datasets is None and len(known) != 1:
        raise UserError(f"{run} asks about {', '.join(known)}; say which with --datasets")
    label = parse_specs(datasets)[0].label if datasets else known[0]
    if label not in known:
        raise UserError(f"{run} does not ask about {label!r}, only about {', '.join(known)}")
    return label


def write_bundle(run: Path, about: dict[str, Any], label: str, out: Path, name: str, version: str) -> str:
    """Write the plan and the judges of a run's data set as a bundle; its digest.

    Args:
        run: folder of the run.
        about: what its ``run.json`` says.
        label: of the data set.
        out: folder to write, which must not be there.
        name, version: of the bundle.

    Raises:
        UserError: the run has not made plan and judges yet, or they are spoilt; the folder is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; give --out a new folder, and another --version to what is new")
    described = about["datasets"][label]
    with store.drafted(out) as draft:
        for part in PARTS:
            if described[part]:
                _copy_part(run / described[part], draft / part)
        said = _about(run, about, label, draft) | {"name": _plain("name", name), "version": _plain("version", version)}
        store.write_json(draft / ABOUT, said | {"digest": digest_of(said)})
        read_bundle(draft)
        draft.chmod(0o755)
        if out.exists():
            out.rmdir()
        draft.rename(out)
        return digest_of(said)


def _plain(what: str, value: str) -> str:
    try:
        return plain(value)
    except Wrong as error:
        raise UserError(f"--{what}: {error}; write letters, digits, dots and dashes") from None


def _copy_part(stage: Path, folder: Path) -> None:
    if not store.complete(stage):
        raise UserError(f"{stage} is missing; run the same `cfbench run` again, which makes it, and bundle it then")
    if broken := store.mismatches(stage):
        raise UserError(f"{stage} does not match its manifest ({broken[0]}); run the same `cfbench run` again")
    folder.mkdir()
    for name in store.read_json(stage / store.MANIFEST)["files"]:
        shutil.copyfile(stage / name, folder / name, follow_symlinks=False)


def _about(run: Path, about: dict[str, Any], label: str, draft: Path) -> dict[str, Any]:
    described, spec = about["datasets"][label], parse_specs(label)[0]
    with readable(run):
        plan = checked_plan(Plan.load(draft / "plan"), [v["name"] for v in described["variables"]])
    if "shape" not in described:
        raise UserError(f"{run} does not say the shape of its images; run the same `cfbench run` again")
    return {
        "format": FORMAT,
        "cfbench": __version__,
        "dataset": {"name": spec.name, "preset": spec.preset, "params": dict(spec.params)},
        "graph": {"shape": described["shape"], "variables": described["variables"]},
        "plan": {"name": plan.name, "split": plan.split, "action": described["action"], "factuals": len(plan)},
        "budget": {name: about["budget"][name] for name in ("factuals", "judge")},
        "environment": _environment(run, run / described["judges"]),
        "files": {str(p.relative_to(draft)): store.sha256(p) for p in sorted(draft.rglob("*")) if p.is_file()},
    }


def _environment(run: Path, stage: Path) -> dict[str, Any]:
    """The machine that judges were trained on."""
    with readable(run):
        path = run / "env" / f"{key(store.read_json(stage / store.MANIFEST).get('env', ''))}.json"
        return mapping(store.read_json(path)) if path.is_file() and not path.is_symlink() else {}
