"""Code, plugin files and stages that travel between the nodes of a cluster."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from .. import storage
from ..errors import UserError
from ..plugins.files import sibling_modules
from ..runs.chain import Outcome, Task, input_folders
from ..runs.context import LoadedJob, load_job
from ..runs.folders import DATA_ROOT
from ..runs.job import Job
from ..runs.progress import log_event
from .tasks import run_task

__all__ = [
    "PLUGINS", "RemoteResult", "StageSender", "pack_code", "remove_node_folder", "run_remotely", "with_packed_plugins",
]  # fmt: skip


PLUGINS = Path("cfbench-plugins")
PACKAGES = ("cfbench", "cfbench_methods", "cfbench_datasets")


def pack_code(folder: Path, plugins: Iterable[Path]) -> Path:
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
    for each in (file, *sibling_modules(file).values()):
        there = place / each.relative_to(file.parent)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(each, there)


def with_packed_plugins(job: Job) -> Job:
    """The job with the plugin files that travelled, in a worker that was started in their folder."""
    travelled = [(PLUGINS / str(n) / file.name).resolve() for n, file in enumerate(job.plugins)]
    found = tuple(there if there.is_file() else file for there, file in zip(travelled, job.plugins, strict=True))
    return replace(job, plugins=found)


TOKEN = ".token"
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class RemoteResult:
    """How a task ended, and the stage folders that it made, by their place in the run."""

    outcome: Outcome
    stages: Mapping[str, Files] = field(default_factory=dict)
    environments: Files = field(default_factory=dict)

    def unpack(self, folder: Path) -> Outcome:
        """Put the stages into a run's folder, each as a whole, and the task into its log."""
        for name, text in self.environments.items():
            path = folder / "env" / PurePosixPath(name).name
            if not path.exists():
                storage.write_json(path, json.loads(text))
        for place, files in self.stages.items():
            if _write_stage(folder, place, files):
                log_event(folder, "wrote", stage=place)
        ended = self.outcome
        log_event(
            folder, "end", task=ended.task.id, status=ended.status, reason=ended.reason, seconds=ended.seconds
        )  # fmt: skip
        return ended


class StageSender:
    """Hands the stages that tasks need to Ray, each once, and lets workers find out whether the folder is shared."""

    def __init__(self, ray: Any, job: Job) -> None:
        self.ray, self.job, self.loaded, self.sent = ray, job, LoadedJob(job), dict[str, Any]()
        self.token = secrets.token_hex(16)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / TOKEN).write_text(self.token)

    def needed(self, task: Task) -> dict[str, Any]:
        """References to the stages that a task looks at, as far as they are there, by their place in the run."""
        needed = {}
        for folder in _needed_folders(self.loaded, task):
            place = folder.relative_to(self.job.folder).as_posix()
            if place not in self.sent and storage.is_complete(folder):
                self.sent[place] = self.ray.put(_read(folder))
            if place in self.sent:
                needed[place] = self.sent[place]
        return needed


def _needed_folders(loaded: LoadedJob, task: Task) -> Iterator[Path]:
    """What a task reads, and what one that makes the plan need not make again."""
    yield from input_folders(loaded, task)
    if task.stage == "prepare" and loaded.action(task.dataset) == "learned":
        yield loaded.mechanisms_folder(task.dataset)


def run_remotely(job: Job, task: Task, token: str, needed: Mapping[str, Any]) -> Outcome | RemoteResult:
    """Do a task in a worker of a cluster; where the run's folder is not shared, in one of this node's own."""
    job = replace(with_packed_plugins(job), data_root=Path(os.environ.get(DATA_ROOT, job.data_root)))
    if _shared(job.folder, token):
        return run_task(job, task, load_job(job))
    import ray

    here = replace(job, folder=_node_folder(token))
    for place, reference in needed.items():
        if not storage.is_complete(here.folder / place):
            _write_stage(here.folder, place, ray.get(reference))
    before = set(_stages(here.folder))
    outcome = run_task(here, task, load_job(here))
    made = sorted(set(_stages(here.folder)) - before)
    return RemoteResult(outcome, {place: _read(here.folder / place) for place in made}, _read(here.folder / "env"))


def remove_node_folder(token: str) -> None:
    """Remove the folder in which this node did tasks of a run, if there is one."""
    shutil.rmtree(_node_folder(token), ignore_errors=True)


def _node_folder(token: str) -> Path:
    """Where a node that does not share the run's folder does the run's tasks."""
    return Path(tempfile.gettempdir()) / f"cfbench-{token}"


def _shared(folder: Path, token: str) -> bool:
    try:
        return (folder / TOKEN).read_text() == token
    except OSError:
        return False


def _stages(folder: Path) -> Iterator[str]:
    """The places of all finished stages."""
    for manifest in folder.rglob(storage.MANIFEST):
        if not any(part.startswith(".") for part in manifest.relative_to(folder).parts):
            yield manifest.parent.relative_to(folder).as_posix()


def _read(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write_stage(root: Path, place: str, files: Files) -> bool:
    """Write a stage under a temporary name and rename it; whether it was not there yet.

    Raises:
        UserError: a name leaves the folder, or the files do not match the stage's manifest.
    """
    for name in (place, *files):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"a stage from a worker has the name {name!r}, which leaves the run's folder")
    folder = _free_name(root / place)
    if storage.is_complete(folder):
        return False
    with tempfile.TemporaryDirectory(prefix="cfbench-") as unpacked_here:
        for name, content in files.items():
            file = Path(unpacked_here) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if broken := storage.copy_stage(Path(unpacked_here), folder):
            raise UserError(f"the stage {place} from a worker is damaged ({', '.join(broken)}); run the command again")
    return True


def _free_name(folder: Path) -> Path:
    """The folder; of one that records a failure the next number that is free."""
    if not folder.name.startswith("failed-"):
        return folder
    return storage.next_numbered(folder.parent, folder.name.rpartition("-")[0])
