"""``run.json``, checked before any of it is used: it may come from a stranger, or from another version of cfbench.

Names and keys become folders, so each must be what cfbench writes. What this version does not know is passed over,
and what older ones did not write gets its default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__, store
from .budget import Budget
from .cells import Cell
from .errors import UserError, one_line
from .spec import Spec
from .wellformed import (
    Wrong,
    each,
    flag,
    inside,
    mapping,
    matching,
    number,
    one_of,
    optional,
    scalar,
    text,
    whole_number,
)  # fmt: skip

__all__ = ["FORMAT", "read_about", "refuse_links"]

FORMAT = 1

_name = matching(re.compile(r"[A-Za-z_][\w-]*"), "plain name")
_preset = matching(re.compile(r"[\w-]*"), "preset")
_metric = matching(re.compile(r"[A-Za-z_][\w.-]*"), "metric")
_folder = matching(re.compile(r"\w[\w.-]*"), "name of a folder")
_key = matching(re.compile(r"[0-9a-f]{8,64}"), "key")
_old_key = matching(re.compile(r"(?:[0-9a-f]{8,64})?"), "key")
_seed = whole_number(0, 2**63)
_size = whole_number(1, 2**16)
_texts = each(text)
_words = each(partial(text, longest=100_000))
"""Of a command, one of which may list a thousand seeds."""


def read_about(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says.

    Raises:
        UserError: there is no run in the folder, it is damaged or holds links, or it has another format.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no run (no run.json); give the --name of a run, or its folder")
    refuse_links(Path(entry.path) for entry in os.scandir(folder))
    try:
        about = mapping(store.read_json(path))
        _check_format(folder, about)
        known = _run(folder, about)
    except (Wrong, KeyError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
        raise UserError(
            f"{path} is damaged, or cfbench did not write it: {what}; remove it, and the same `cfbench run` writes it"
        ) from None
    cells = [Cell.from_dict(cell) for cell in known["cells"]]
    own = {part for c in cells for owner in (c, c.base, c.fitted) for part in (owner.path, *owner.path.parents)}
    refuse_links(folder / part for part in sorted(own) if part.name)
    return {**about, **known}


def refuse_links(paths: Iterable[Path]) -> None:
    """Nothing, where none is a link.

    Raises:
        UserError: one is, so that what is read or written in it would lie elsewhere.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(f"{path} is a link; a run holds its files itself: put them in its place, or remove it")


def _check_format(folder: Path, about: Mapping[str, Any]) -> None:
    found = whole_number(0, 10**6)(about["format"])
    if found == FORMAT:
        return
    by = one_line(about.get("cfbench", "another version"), 40)
    newer = f"update cfbench, this is {__version__}"
    older = f"read it with cfbench {by}, or run again under another --name"
    raise UserError(
        f"{folder} was written in format {found} by cfbench {by}, this cfbench reads format {FORMAT}; "
        + (newer if found > FORMAT else older)
    )


def _run(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What this version knows of a run."""
    known = {
        "cfbench": text(about.get("cfbench", "unknown")),
        "budget": _within("budget", _budget, about["budget"]),
        "split": _within("split", one_of("test", "valid"), about["split"]),
        "plan": _within("plan", text, about["plan"]),
        "action": _within("action", one_of(None, "exact", "learned"), about.get("action")),
        "precision": _within("precision", one_of("fp32", "bf16"), about.get("precision", "fp32")),
        "commands": _within("commands", each(_words), about.get("commands", [])),
        "controls": _within("controls", _texts, about.get("controls", [])),
        "plugins": _plugins(folder, _within("plugins", _texts, about.get("plugins", []))),
        "datasets": _within("datasets", partial(mapping, check=_dataset), about["datasets"]),
        "cells": _within("cells", each(_cell), about["cells"]),
    }
    if "merged" in about:
        known["merged"] = _within("merged", each(mapping), about["merged"])
    for cell in known["cells"]:
        if (label := Spec(**cell["dataset"]).label) not in known["datasets"]:
            raise Wrong(f"a cell is about {label}, which datasets does not describe")
    return known


def _within(where: str, check: Any, value: Any) -> Any:
    return mapping({where: value}, check)[where]


def _budget(value: Any) -> dict[str, Any]:
    said = mapping(value)
    checks: dict[str, Any] = {"name": text, "text": text, "judge": number, "seeds": each(_seed)}
    return {f.name: checks.get(f.name, whole_number(0, 2**53))(said[f.name]) for f in fields(Budget)}


def _plugins(folder: Path, files: list[str]) -> list[str]:
    """Files that plugins were loaded from, but for what came with the run: reading a run never offers to execute it."""
    home = folder.resolve()
    return [f for f in files if Path(f).is_absolute() and not Path(f).resolve().is_relative_to(home)]


def _dataset(value: Any) -> dict[str, Any]:
    said = mapping(value)
    known = {
        "folder": _folder(said["folder"]),
        "plan": inside(said["plan"]),
        "plan_key": _key(said["plan_key"]),
        "judges": inside(said["judges"]),
        "mechanisms": optional(inside)(said.get("mechanisms")),
        "action": one_of("exact", "learned")(said.get("action", "exact")),
        "bundle": optional(_bundle)(said.get("bundle")),
        "variables": each(_variable)(said["variables"]),
    }
    shape = {"shape": each(_size)(said["shape"])} if "shape" in said else {}
    return {**said, **known, **shape}


def _bundle(value: Any) -> dict[str, Any]:
    said = mapping(value)
    return {name: text(said[name]) for name in ("name", "version", "digest")}


def _variable(value: Any) -> dict[str, Any]:
    said = mapping(value)
    known = {
        "name": text(said["name"]),
        "kind": one_of("categorical", "continuous")(said["kind"]),
        "unit": text(said.get("unit", "")),
        "truth": one_of("exact", "convention", "none")(said.get("truth", "none")),
    }
    return {**said, **known}


def _cell(value: Any) -> dict[str, Any]:
    said = mapping(value)
    external = flag(said.get("external", False))
    keys = mapping(said["keys"], _old_key if external else _key)
    missing = [name for name in ("train", "tune", "images") if name not in keys]
    if missing or not keys["images"]:
        raise Wrong(f"keys: {(missing or ['images'])[0]!r} is missing")
    known = {
        "dataset": _spec(said["dataset"]),
        "method": _spec(said["method"]),
        "fit": _spec(said.get("fit", said["method"])),
        "seed": _seed(said["seed"]),
        "keys": keys,
        "scores": mapping(said.get("scores", {}), _key, _metric),
        "of": optional(_spec)(said.get("of")),
        "external": external,
    }
    return {**said, **known}


def _spec(value: Any) -> dict[str, Any]:
    said = mapping(value)
    params = mapping(said.get("params", {}), scalar)
    return {"name": _name(said["name"]), "preset": _preset(said.get("preset", "")), "params": params}
