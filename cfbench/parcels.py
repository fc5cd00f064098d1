"""Stages that travel between machines that share no folder: what a task needs goes there, what it made comes back."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from . import store
from .baggage import unpacked
from .cells import Job
from .errors import UserError
from .events import note
from .options import DATA_ROOT
from .work import Outcome, Task, inputs, perform
from .workshop import Workshop, shop_of

__all__ = ["Parcel", "Sender", "perform_elsewhere"]

TOKEN = ".token"
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Parcel:
    """How a task ended, and the stage folders that it made, by their place in the run."""

    outcome: Outcome
    stages: Mapping[str, Files] = field(default_factory=dict)
    environments: Files = field(default_factory=dict)

    def unpack(self, folder: Path) -> Outcome:
        """Put the stages into a run's folder, each as a whole, and the task into its log."""
        for name, text in self.environments.items():
            path = folder / "env" / PurePosixPath(name).name
            if not path.exists():
                store.write_json(path, json.loads(text))
        for place, files in self.stages.items():
            if _put(folder, place, files):
                note(folder, "wrote", stage=place)
        if self.stages:
            note(folder, "end", task=self.outcome.task, status=self.outcome.status, seconds=self.outcome.seconds)
        return self.outcome


class Sender:
    """Hands the stages that tasks need to Ray, each once, and lets workers find out whether the folder is shared."""

    def __init__(self, ray: Any, job: Job) -> None:
        self.ray, self.job, self.shop, self.sent = ray, job, Workshop(job), dict[str, Any]()
        self.token = secrets.token_hex(16)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / TOKEN).write_text(self.token)

    def needed(self, task: Task) -> dict[str, Any]:
        """References to the stages that a task looks at, as far as they are there, by their place in the run."""
        needed = {}
        for folder in _needs(self.shop, task):
            place = folder.relative_to(self.job.folder).as_posix()
            if place not in self.sent and store.complete(folder):
                self.sent[place] = self.ray.put(_read(folder))
            if place in self.sent:
                needed[place] = self.sent[place]
        return needed


def _needs(shop: Workshop, task: Task) -> Iterator[Path]:
    """What a task reads, and what one that makes the plan need not make again."""
    yield from inputs(shop, task)
    if task.stage == "prepare" and shop.action(task.dataset) == "learned":
        yield shop.mechanisms_folder(task.dataset)


def perform_elsewhere(job: Job, task: Task, token: str, needed: Mapping[str, Any]) -> Outcome | Parcel:
    """Do a task in a worker of a cluster; where the run's folder is not shared, in one of this node's own."""
    job = replace(unpacked(job), data_root=Path(os.environ.get(DATA_ROOT, job.data_root)))
    if _shared(job.folder, token):
        return perform(job, task, shop_of(job))
    import ray

    here = replace(job, folder=Path(tempfile.gettempdir()) / f"cfbench-{token}")
    for place, reference in needed.items():
        if not store.complete(here.folder / place):
            _put(here.folder, place, ray.get(reference))
    before = set(_stages(here.folder))
    outcome = perform(here, task, shop_of(here))
    made = sorted(set(_stages(here.folder)) - before)
    return Parcel(outcome, {place: _read(here.folder / place) for place in made}, _read(here.folder / "env"))


def _shared(folder: Path, token: str) -> bool:
    try:
        return (folder / TOKEN).read_text() == token
    except OSError:
        return False


def _stages(folder: Path) -> Iterator[str]:
    """The places of all finished stages."""
    for manifest in folder.rglob(store.MANIFEST):
        if not any(part.startswith(".") for part in manifest.relative_to(folder).parts):
            yield manifest.parent.relative_to(folder).as_posix()


def _read(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _put(root: Path, place: str, files: Files) -> bool:
    """Write a stage under a temporary name and rename it; whether it was not there yet.

    Raises:
        UserError: a name leaves the folder, or the files do not match the stage's manifest.
    """
    for name in (place, *files):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"a stage from a worker has the name {name!r}, which leaves the run's folder")
    folder = _numbered(root / place)
    if store.complete(folder):
        return False
    with tempfile.TemporaryDirectory(prefix="cfbench-") as unpacked_here:
        for name, content in files.items():
            file = Path(unpacked_here) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if broken := store.copy_stage(Path(unpacked_here), folder):
            raise UserError(f"the stage {place} from a worker is spoilt ({', '.join(broken)}); run the command again")
    return True


def _numbered(folder: Path) -> Path:
    """The folder; of one that records a failure the next number that is free."""
    if not folder.name.startswith("failed-"):
        return folder
    return store.numbered(folder.parent, folder.name.rpartition("-")[0])
