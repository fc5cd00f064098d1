"""What travels to the nodes of a cluster: the code of cfbench as it is here, the plugin files and what they import."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from .cells import Job
from .neighbours import neighbours

__all__ = ["PLUGINS", "pack_baggage", "unpacked"]

PLUGINS = Path("cfbench-plugins")
PACKAGES = ("cfbench", "cfbench_methods", "cfbench_datasets")


def pack_baggage(folder: Path, plugins: Iterable[Path]) -> Path:
    """Lay out an installation of cfbench in a folder that a worker starts in, entry points included.

    Distributions of others are not packed: they must be installed on the nodes.
    """
    for package in PACKAGES:
        spec = find_spec(package)
        for place in filter(os.path.isdir, spec.submodule_search_locations or () if spec else ()):
            shutil.copytree(place, folder / package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    about = distribution("cfbench-scm")
    info = folder / f"cfbench_scm-{about.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(about.read_text("METADATA") or about.read_text("PKG-INFO") or "")
    (info / "entry_points.txt").write_text(about.read_text("entry_points.txt") or "")
    (folder / PLUGINS).mkdir()
    for number, file in enumerate(plugins):
        _pack_plugin(file, folder / PLUGINS / str(number))
    return folder


def _pack_plugin(file: Path, place: Path) -> None:
    """Copy a plugin file and what it imports from its own folder."""
    for each in (file, *neighbours(file).values()):
        there = place / each.relative_to(file.parent)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(each, there)


def unpacked(job: Job) -> Job:
    """The job with the plugin files that travelled, in a worker that was started in the baggage."""
    travelled = [(PLUGINS / str(n) / file.name).resolve() for n, file in enumerate(job.plugins)]
    found = tuple(there if there.is_file() else file for there, file in zip(travelled, job.plugins, strict=True))
    return replace(job, plugins=found)
