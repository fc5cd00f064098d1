"""Code, plugin files and stages transferred between the nodes of a cluster."""

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

from ... import storage
from ...errors import UserError
from ...plugins.digest import key_of
from ...plugins.files import sibling_modules
from ...runs.chain import Outcome, Task, input_folders
from ...runs.context import LoadedJob
from ...runs.folders import DATA_ROOT
from ...runs.job import Job
from ...runs.progress import log_event
from ...storage.scratch import scratch_folder
from ..tasks import until_interrupted
from .isolation import Group
from .plugin_processes import run_in_group

__all__ = [
    "PLUGINS", "RemoteResult", "StageSender", "pack_code", "remove_node_folder", "run_remotely", "with_packed_plugins",
]  # fmt: skip


PLUGINS = Path("cfbench-plugins")
PACKAGES = ("cfbench", "cfbench_methods", "cfbench_datasets")


def pack_code(folder: Path, plugins: Iterable[Path]) -> Path:
    """Copy an installation of cfbench with its entry points into a folder that workers start in.

    Other distributions are not copied: they must be installed on the nodes.
    """
    for package in PACKAGES:
        spec = find_spec(package)
        for source in filter(os.path.isdir, spec.submodule_search_locations or () if spec else ()):
            shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    about = distribution("cfbench-scm")
    info = folder / f"cfbench_scm-{about.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(about.read_text("METADATA") or about.read_text("PKG-INFO") or "")
    (info / "entry_points.txt").write_text(about.read_text("entry_points.txt") or "")
    (folder / PLUGINS).mkdir()
    for file in plugins:
        _pack_plugin(file, folder / _packed(file).parent)
    return folder


def _packed(file: Path) -> Path:
    """The path of a plugin file's copy."""
    return PLUGINS / key_of(str(file)) / file.name


def _pack_plugin(file: Path, folder: Path) -> None:
    """Copy a plugin file and the modules that it imports from its own folder."""
    for each in (file, *sibling_modules(file).values()):
        target = folder / each.relative_to(file.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(each, target)


def with_packed_plugins(job: Job) -> Job:
    """The job with the copies of its plugin files, in a worker that was started in their folder."""
    copies = [_packed(file).resolve() for file in job.plugins]
    files = tuple(copy if copy.is_file() else file for copy, file in zip(copies, job.plugins, strict=True))
    return replace(job, plugins=files)


TOKEN = ".token"
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class RemoteResult:
    """How a task ended, the files of the stages that it wrote, by their path in the run, and of ``env/``."""

    outcome: Outcome
    stages: Mapping[str, Files] = field(default_factory=dict)
    environments: Files = field(default_factory=dict)

    def unpack(self, folder: Path) -> Outcome:
        """Write the stages into a run's folder, each atomically, and log them and the end of the task."""
        for name, text in self.environments.items():
            file = folder / "env" / PurePosixPath(name).name
            if not file.exists():
                storage.write_json(file, json.loads(text))
        for path, files in self.stages.items():
            if _write_stage(folder, path, files):
                log_event(folder, "wrote", stage=path)
        end = self.outcome
        log_event(folder, "end", task=end.task.id, status=end.status, reason=end.reason, seconds=end.seconds)
        return end


class StageSender:
    """Gives the stages that tasks need to Ray, each once; its token shows workers whether the folder is shared."""

    def __init__(self, ray: Any, loaded: LoadedJob) -> None:
        self.ray, self.job, self.loaded, self.sent = ray, loaded.job, loaded, dict[str, Any]()
        self.token = secrets.token_hex(16)
        self.job.folder.mkdir(parents=True, exist_ok=True)
        (self.job.folder / TOKEN).write_text(self.token)

    def needed(self, task: Task) -> dict[str, Any]:
        """References to the stages that a task may read and that are there, by their path in the run."""
        references = {}
        for folder in _needed_folders(self.loaded, task):
            path = folder.relative_to(self.job.folder).as_posix()
            if path not in self.sent and storage.is_complete(folder):
                self.sent[path] = self.ray.put(_read(folder))
            if path in self.sent:
                references[path] = self.sent[path]
        return references


def _needed_folders(loaded: LoadedJob, task: Task) -> Iterator[Path]:
    """The folders that a task reads, and the fitted mechanisms for one that computes the plan."""
    yield from input_folders(loaded, task)
    if task.stage == "prepare" and loaded.action(task.dataset) == "learned":
        yield loaded.mechanisms_folder(task.dataset)


def run_remotely(job: Job, task: Task, group: Group, token: str, needed: Mapping[str, Any]) -> Outcome | RemoteResult:
    """Execute a task on a node of a cluster, in the run's folder, or in one of this node where that is not shared."""
    return until_interrupted(task, lambda: _run_remotely(job, task, group, token, needed))


def _run_remotely(job: Job, task: Task, group: Group, token: str, needed: Mapping[str, Any]) -> Outcome | RemoteResult:
    job = replace(with_packed_plugins(job), data_root=Path(os.environ.get(DATA_ROOT, job.data_root)))
    if _shared(job.folder, token):
        return run_in_group(job, task, group)
    import ray

    folder = _node_folder(token)
    job = replace(job, folder=folder)
    for path, reference in needed.items():
        if not storage.is_complete(folder / path):
            _write_stage(folder, path, ray.get(reference))
    before = set(_stages(folder))
    outcome = run_in_group(job, task, group)
    written = sorted(set(_stages(folder)) - before)
    return RemoteResult(outcome, {path: _read(folder / path) for path in written}, _read(folder / "env"))


def remove_node_folder(token: str) -> None:
    """Remove the folder in which this node executed tasks of a run, if there is one."""
    storage.remove_tree(_node_folder(token), ignore_errors=True)


def _node_folder(token: str) -> Path:
    """The folder in which a node that does not share the run's folder executes its tasks."""
    return Path(tempfile.gettempdir()) / f"cfbench-{token}"


def _shared(folder: Path, token: str) -> bool:
    try:
        return (folder / TOKEN).read_text() == token
    except OSError:
        return False


def _stages(folder: Path) -> Iterator[str]:
    """The paths of all finished stages inside a run."""
    for manifest in (Path(entry.path) for entry in storage.entries(folder) if entry.name == storage.MANIFEST):
        if not any(part.startswith(".") for part in manifest.relative_to(folder).parts):
            yield manifest.parent.relative_to(folder).as_posix()


def _read(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _write_stage(root: Path, path: str, files: Files) -> bool:
    """Write a stage atomically; return whether it was missing.

    Raises:
        UserError: a name leaves the folder, or the files do not match the stage's manifest.
    """
    for name in (path, *files):
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(f"a stage from a worker has the name {name!r}, which leaves the run's folder")
    folder = root / path
    if storage.is_complete(folder):
        return False
    with scratch_folder() as temporary:
        for name, content in files.items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if broken := storage.copy_stage(temporary, folder):
            raise UserError(f"the stage {path} from a worker is damaged ({', '.join(broken)}); run the command again")
    return True
