"""``run.json``: found, validated before any of it is used, and reopened as a job."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from .. import storage
from ..errors import UserError, one_line
from ..graph import CausalGraph, Variable
from ..plugins.budgets import LARGEST
from ..plugins.spec import Spec, parse_specs
from ..storage.schema import (
    Check,
    SchemaError,
    boolean,
    each,
    inner_path,
    mapping,
    matching,
    number,
    one_of,
    optional,
    scalar,
    text,
    whole_number,
)
from ..version import __version__
from .budget import Budget
from .bundle import Bundle
from .chain import KEYS
from .environment import pick_device
from .folders import MANIFEST
from .job import Cell, Job

__all__ = [
    "SETTINGS",
    "DatasetEntry",
    "Manifest",
    "check_manifest",
    "named_twice",
    "read_manifest",
    "refuse_links",
    "reopen_job",
    "write_manifest",
]


FORMAT = 1
SETTINGS = ("budget", "split", "plan", "action", "precision")
"""Settings that all cells of one table share."""

_name = matching(re.compile(r"[A-Za-z_][\w-]*"), "plain name")
_preset = matching(re.compile(r"[\w-]*"), "preset")
_metric = matching(re.compile(r"[A-Za-z_][\w.-]*"), "metric")
_folder = matching(re.compile(r"\w[\w.-]*"), "name of a folder")
_key = matching(re.compile(r"[0-9a-f]{8,64}"), "key")
_optional_key = matching(re.compile(r"(?:[0-9a-f]{8,64})?"), "key")
_seed = whole_number(0, 2**63)
_size = whole_number(1, 2**16)
_images = whole_number(1, LARGEST)
_texts = each(text)
_words = each(partial(text, longest=100_000))
"""Of a command, one of which may list a thousand seeds."""


@dataclass(frozen=True)
class DatasetEntry:
    """A data set of a run: its folder's name, the folders of its plan, judges and learned mechanisms, and its graph.

    ``bundle`` is the name, version and digest of the bundle that plan and judges come from, where they do.
    """

    folder: str
    plan: str
    plan_key: str
    judges: str
    action: Literal["exact", "learned"]
    variables: tuple[Variable, ...]
    shape: tuple[int, int, int]
    mechanisms: str | None = None
    bundle: Mapping[str, str] | None = None

    @property
    def graph(self) -> CausalGraph:
        """The causal graph; the data set need not be installed."""
        return CausalGraph(self.variables, self.shape)

    @property
    def keys(self) -> dict[str, str]:
        """The keys of the plan and of the judges."""
        return {"plan": self.plan_key, "judges": self.judges.rpartition("-")[2]}

    @property
    def stages(self) -> dict[str, str]:
        """The folders inside the run that all cells of the data set share, by their contents."""
        found = {"plan": self.plan, "mechanisms": self.mechanisms, "judges": self.judges}
        return {name: path for name, path in found.items() if path}

    def as_dict(self) -> dict[str, Any]:
        """As ``run.json`` holds it."""
        variables = [vars(v) | {"parents": list(v.parents)} for v in self.variables]
        return {**vars(self), "variables": variables, "shape": list(self.shape)}


@dataclass(frozen=True)
class Manifest:
    """The contents of ``run.json``: the settings that cells share, the data sets by label, and the cells.

    ``merged`` lists the runs that a merged run's cells come from; ``other`` keeps fields that another version wrote.
    """

    cfbench: str
    budget: Budget
    split: Literal["test", "valid"]
    plan: str
    action: Literal["exact", "learned"] | None
    precision: Literal["fp32", "bf16"]
    datasets: Mapping[str, DatasetEntry]
    cells: tuple[Cell, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    controls: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    revision: str | None = None
    dirty: bool | None = None
    merged: tuple[Mapping[str, Any], ...] = ()
    other: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def titles(self) -> dict[str, str]:
        """What tables and charts call each row, by its label; where cells of a row disagree, as the last one says."""
        return {cell.method.label: cell.method.title for cell in self.cells}

    @cached_property
    def kept(self) -> frozenset[tuple[str, str]]:
        """The data set and method of the rows that keep a fit by other code in any training seed."""
        return frozenset((c.dataset.label, c.method.label) for c in self.cells if c.kept)

    def label_of(self, folder: Path, dataset: str | None) -> str:
        """The label of a data set of the run in ``folder``, by default of the only one.

        Raises:
            UserError: the run has no such data set, or none is named and there are several.
        """
        known = list(self.datasets)
        if dataset is None and len(known) != 1:
            raise UserError(f"{folder} asks about {', '.join(known)}; say which with --datasets")
        label = known[0] if dataset is None else dataset if dataset in known else parse_specs(dataset)[0].label
        if label not in known:
            raise UserError(f"{folder} does not ask about {label!r}, only about {', '.join(known)}")
        return label

    def spec_of(self, label: str) -> Spec:
        """The spec of a data set of the run."""
        return next((c.dataset for c in self.cells if c.dataset.label == label), None) or parse_specs(label)[0]

    def as_dict(self) -> dict[str, Any]:
        """As ``run.json`` holds it."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("other", "merged")}
        known |= {"merged": list(self.merged)} if self.merged else {}
        return {
            **self.other, "format": FORMAT, **known,
            "budget": self.budget.as_dict() | {"seeds": list(self.budget.seeds)},
            "datasets": {label: dataset.as_dict() for label, dataset in self.datasets.items()},
            "cells": [cell.as_dict() for cell in self.cells],
            "commands": [list(words) for words in self.commands],
            "controls": list(self.controls),
            "plugins": list(self.plugins),
        }  # fmt: skip


def check_manifest(folder: Path, manifest: Manifest) -> None:
    """Raise unless `read_manifest` would accept what `write_manifest` writes.

    Raises:
        UserError: a name, a text or a number of the manifest cannot be stored; it says which.
    """
    try:
        text = storage.json_text(manifest.as_dict())
        if len(text) > storage.MAX_JSON:
            raise SchemaError(f"it has {len(text):,} bytes, more than {storage.MAX_JSON:,}")
        _manifest(folder, json.loads(text))
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"this run cannot be stored: in {MANIFEST}, {one_line(error, 200)}; "
            "give names, units, paths and settings of one line that can be printed, and finite numbers"
        ) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``run.json``, atomically."""
    storage.write_json(folder / MANIFEST, manifest.as_dict())


def read_manifest(folder: Path) -> Manifest:
    """Read ``run.json``, with every name and key checked.

    Raises:
        UserError: there is no run in the folder, it is damaged or holds links, or it has another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} holds no run (no {MANIFEST}); give the --name of a run, or its folder")
    refuse_links(Path(entry.path) for entry in os.scandir(folder))
    try:
        about = mapping(storage.read_json(path))
        _check_format(folder, about)
        manifest = _manifest(folder, about)
    except (SchemaError, KeyError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
        raise UserError(
            f"{path} is damaged, or cfbench did not write it: {what}; remove it, and the same `cfbench run` writes it"
        ) from None
    owners = {owner for c in manifest.cells for owner in (c.path, c.base.path, c.fitted.path)}
    refuse_links(folder / part for part in sorted({p for o in owners for p in (o, *o.parents) if p.name}))
    return manifest


def refuse_links(paths: Iterable[Path]) -> None:
    """Raise if a path is a link, so that reading or writing in it would leave the run's folder.

    Raises:
        UserError: a path is a link.
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


def _manifest(folder: Path, about: Mapping[str, Any]) -> Manifest:
    """Parse and check the fields that this version knows, and keep the others as they are."""
    checks: dict[str, Check] = {
        "cfbench": text,
        "budget": _budget,
        "split": one_of("test", "valid"),
        "plan": text,
        "action": one_of(None, "exact", "learned"),
        "precision": one_of("fp32", "bf16"),
        "datasets": partial(mapping, check=_dataset),
        "cells": lambda value: tuple(each(_cell)(value)),
        "commands": lambda value: tuple(map(tuple, each(_words)(value))),
        "controls": lambda value: tuple(_texts(value)),
        "plugins": lambda value: _plugins(folder, _texts(value)),
        "revision": optional(text),
        "dirty": optional(boolean),
    }
    known = {name: mapping({name: about[name]}, check)[name] for name, check in checks.items()}
    merged = tuple(each(mapping)(about.get("merged", [])))
    other = {name: value for name, value in about.items() if name not in {*checks, "merged", "format"}}
    for cell in known["cells"]:
        if cell.dataset.label not in known["datasets"]:
            raise SchemaError(f"a cell is about {cell.dataset.label}, which datasets does not describe")
    if twice := named_twice(known["cells"]):
        raise SchemaError(twice)
    return Manifest(**known, merged=merged, other=other)


def named_twice(cells: Iterable[Cell]) -> str:
    """Which two rows are called the same, as a text; empty where none are."""
    titles = {cell.method.label: cell.method.title for cell in cells}
    labels: dict[str, str] = {}
    for label, title in titles.items():
        if labels.setdefault(title, label) != label:
            return f"two rows are named {title!r}: {labels[title]} and {label}"
    return ""


def _budget(value: Any) -> Budget:
    budget = mapping(value)
    checks: dict[str, Any] = {"name": text, "text": text, "judge": number, "seeds": each(_seed)}
    known = {f.name: checks.get(f.name, whole_number(0, 2**53))(budget[f.name]) for f in fields(Budget)}
    return Budget(**known | {"seeds": tuple(known["seeds"])})


def _plugins(folder: Path, files: list[str]) -> tuple[str, ...]:
    """Plugin files without those inside the run's folder: reading a run never offers to execute what came with it."""
    home = folder.resolve()
    return tuple(f for f in files if Path(f).is_absolute() and not Path(f).resolve().is_relative_to(home))


def _dataset(value: Any) -> DatasetEntry:
    described = mapping(value)
    shape = each(_size)(described["shape"])
    if len(shape) != 3:
        raise SchemaError(f"shape: {len(shape)} numbers, not channels, height and width")
    entry = DatasetEntry(
        folder=_folder(described["folder"]),
        plan=inner_path(described["plan"]),
        plan_key=_key(described["plan_key"]),
        judges=inner_path(described["judges"]),
        action=one_of("exact", "learned")(described["action"]),
        variables=tuple(each(_variable)(described["variables"])),
        shape=tuple(shape),
        mechanisms=optional(inner_path)(described["mechanisms"]),
        bundle=optional(_bundle)(described["bundle"]),
    )
    try:
        _ = entry.graph
    except ValueError as error:
        raise SchemaError(f"variables: {error}") from None
    return entry


def _bundle(value: Any) -> dict[str, str]:
    bundle = mapping(value)
    return {name: text(bundle[name]) for name in ("name", "version", "digest")}


def _variable(value: Any) -> Variable:
    variable = mapping(value)
    return Variable(
        name=text(variable["name"]),
        kind=one_of("categorical", "continuous")(variable["kind"]),
        size=_size(variable["size"]),
        low=number(variable["low"]),
        high=number(variable["high"]),
        unit=text(variable["unit"]),
        parents=tuple(_texts(variable["parents"])),
        truth=one_of("exact", "convention", "none")(variable["truth"]),
    )


def _cell(value: Any) -> Cell:
    cell = mapping(value)
    external = boolean(cell["external"])
    keys = mapping(cell["keys"], _optional_key if external else _key)
    if lacking := [name for name in KEYS if name not in keys]:
        raise SchemaError(f"keys: {lacking[0]!r} is missing")
    if not keys["images"]:
        raise SchemaError("keys: 'images' is missing")
    return Cell(
        dataset=_spec(cell["dataset"]),
        method=_spec(cell["method"]),
        seed=_seed(cell["seed"]),
        fit=_spec(cell["fit"]),
        keys=keys,
        scores=mapping(cell["scores"], _key, _metric),
        of=optional(_spec)(cell["of"]),
        external=external,
        kept=_optional_key(cell.get("kept", "")),
    )


def _spec(value: Any) -> Spec:
    spec = mapping(value)
    name, preset, params = _name(spec["name"]), _preset(spec["preset"]), mapping(spec["params"], scalar)
    return Spec(name, preset, params, _alias(spec), optional(_images)(spec.get("images")))


def _alias(spec: Mapping[str, Any]) -> str:
    return text(spec["alias"]) if "alias" in spec else ""


def reopen_job(
    folder: Path,
    *,
    data_root: Path,
    device: str = "auto",
    threads: int = 1,
    plugins: Iterable[Path] = (),
    timeout: float | None = None,
) -> Job:
    """The job that ``run.json`` describes, on this machine.

    Args:
        folder: of the run.
        data_root: folder with data sets on this machine.
        plugins: files to load. Those that the run names are not loaded: its author must not decide what is executed.

    Raises:
        UserError: there is no run, or one of another format; the device is absent.
    """
    manifest = read_manifest(folder)
    files = tuple(dict.fromkeys(p.resolve() for p in plugins))
    return Job(
        folder.resolve(), data_root.resolve(), manifest.budget, manifest.split, manifest.plan, manifest.action,
        str(pick_device(device)), threads, manifest.precision, files, timeout=timeout,
        bundles=_bundles(manifest.datasets),
    )  # fmt: skip


def _bundles(datasets: Mapping[str, DatasetEntry]) -> tuple[Bundle, ...]:
    """The bundles of a run, whose plans and judges were copied into it."""
    return tuple(
        Bundle(label, d.bundle["name"], d.bundle["version"], d.bundle["digest"], d.action)
        for label, d in datasets.items()
        if d.bundle
    )
