"""Whether a run can be reproduced: its files are checked, and some of its cells executed again and compared."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from .. import storage
from ..engine.tasks import run_task
from ..errors import UserError
from ..runs.chain import STAGES, Status, Task, cell_stages, cell_tasks, dataset_tasks
from ..runs.context import LoadedJob
from ..runs.environment import describe_environment, pick_device
from ..runs.folders import find_run
from ..runs.job import Cell, Job, PretrainedWeights
from ..runs.manifest import Manifest, read_manifest, reopen_job
from ..runs.reader import cell_states
from ..runs.stage_reader import reading_run
from ..storage.schema import printable
from ..storage.scratch import scratch_folder
from .compare import Difference, differences

__all__ = ["Reproduction", "damaged_stages", "verify_command"]


SHOWN = 6
"""Differences of a cell that are printed one by one."""


@dataclass(frozen=True)
class Reproduction:
    """How a cell that was executed again compares: differences with their stages, changed keys, and a failure."""

    differences: tuple[tuple[str, Difference], ...] = ()
    changed_keys: tuple[str, ...] = ()
    failure: str = ""

    def outcome(self, tolerance: float) -> Literal["equal", "within", "different", "failed"]:
        """Whether all numbers are equal, or within the tolerance, or different, or the execution failed."""
        if self.failure:
            return "failed"
        if not self.differences:
            return "equal"
        return "within" if all(found.within(tolerance) for _, found in self.differences) else "different"


def verify_command(
    run_name: str, cells: int, seed: int, tolerance: float, device: str | None,
    data_root: Path, run_root: Path, plugins: tuple[Path, ...],
) -> int:  # fmt: skip
    """Check all files, execute some cells again, and print what differs; 2 where something does."""
    folder = find_run(run_name, run_root).resolve()
    manifest = read_manifest(folder)
    number, broken = damaged_stages(folder)
    for path, names in broken.items():
        print(f"cfbench: {path}: {', '.join(names[:3])} does not match its manifest", file=sys.stderr)
    print(f"{number - len(broken)} of {number} stages match their manifests")
    finished = [c for c, state in cell_states(folder, manifest) if state.status.answered]
    sound = [c for c in finished if not {folder / path for _, path in cell_stages(c)} & broken.keys()]
    if not sound:
        raise UserError(f"{folder} has no cell that is finished and whole; nothing to execute again")
    outcomes = []
    with scratch_folder() as elsewhere:
        reproducer = _Reproducer(folder, manifest, elsewhere, data_root, device, plugins)
        for cell in random.Random(seed).sample(sound, min(cells, len(sound))):
            print(f"executing {cell.label} again", file=sys.stderr, flush=True)
            reproduction = reproducer.reproduce(cell)
            _report(cell, reproduction, tolerance, reproducer.changed_environment(cell))
            outcomes.append(reproduction.outcome(tolerance))
    print(f"{len(outcomes)} cells: " + ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes)))
    return 2 if broken or not {"equal", "within"}.issuperset(outcomes) else 0


def damaged_stages(folder: Path) -> tuple[int, dict[Path, list[str]]]:
    """The number of stages in a run's folder, and by damaged stage the files that do not match its manifest."""
    paths = sorted(Path(entry.path).parent for entry in storage.entries(folder) if entry.name == storage.MANIFEST)
    stages = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    return len(stages), {path: names for path in stages if (names := storage.damaged_files(path))}


@dataclass(frozen=True)
class _Reproducer:
    """Executes cells of a run again in another folder, with the run's questions and judges."""

    run: Path
    manifest: Manifest
    folder: Path
    data_root: Path
    device: str | None
    plugins: tuple[Path, ...]

    def reproduce(self, cell: Cell) -> Reproduction:
        """Execute a cell again and compare all of its stages."""
        loaded = self._load(cell)
        try:
            again = _declared_now(loaded, cell)
        except UserError as error:
            files = ", ".join(self.manifest.plugins)
            hint = f" (the run loaded {files}; name them with --plugin if you trust them)" if files else ""
            raise UserError(f"{error}{hint}") from error
        self._install(loaded, cell, again)
        for task in _tasks(again):
            outcome = run_task(loaded.job, task, loaded)
            if outcome.status is not Status.DONE:
                failure = f"{task.stage}: {outcome.status}: {outcome.reason}"
                return Reproduction(changed_keys=_changed_keys(cell, again), failure=failure)
        return Reproduction(tuple(self._compare(cell, again)), _changed_keys(cell, again))

    def _compare(self, cell: Cell, again: Cell) -> Iterator[tuple[str, Difference]]:
        """Differences with their stages; a stage that was removed from the run to save space is skipped."""
        for name, path in cell_stages(cell):
            if not storage.is_complete(self.run / path):
                continue
            with reading_run(self.run / path):
                yield from ((name, d) for d in differences(self.run / path, self.folder / again.stage(name)))

    def _install(self, loaded: LoadedJob, cell: Cell, again: Cell) -> None:
        """Copy the run's plan and judges, an external row's images and a fit that was kept to the present folders."""
        entry = self.manifest.datasets[cell.dataset.label]
        copies = {
            entry.plan: loaded.plan_folder(cell.dataset),
            entry.judges: loaded.judge_folder(cell.dataset),
        }
        if cell.external:
            copies[str(cell.stage("images"))] = self.folder / again.stage("images")
        if again.kept:
            copies[str(cell.stage("train"))] = self.folder / again.stage("train")
        for name, copy in copies.items():
            if not storage.is_complete(copy) and (broken := storage.copy_stage(self.run / name, copy)):
                raise UserError(f"{self.run / name} does not match its manifest ({broken[0]}); nothing can be compared")

    def _load(self, cell: Cell) -> LoadedJob:
        job = self._job(cell)
        if job not in self._loaded_jobs:
            self._loaded_jobs[job] = LoadedJob(job)
        return self._loaded_jobs[job]

    @cached_property
    def _loaded_jobs(self) -> dict[Job, LoadedJob]:
        return {}

    def _job(self, cell: Cell) -> Job:
        """The run's job on the kind of device, and with the threads, that the cell was computed with."""
        environment = self._environment(cell)
        device = self.device or ("cuda" if environment.get("cuda") else "cpu")
        threads = environment.get("threads") if isinstance(environment.get("threads"), int) else 1
        job = reopen_job(self.run, data_root=self.data_root, device=device, threads=max(int(threads or 1), 1))
        files = tuple(p.resolve() for p in self.plugins)
        return replace(job, folder=self.folder, plugins=files, weights=self._weights(cell))

    def _weights(self, cell: Cell) -> tuple[PretrainedWeights, ...]:
        """The weights that a cell took in place of a fit, from the run's copy."""
        stage = None if cell.external else self.run / cell.stage("train")
        if stage is None or not storage.is_complete(stage):
            return ()
        source = storage.read_json(stage / storage.MANIFEST).get("weights")
        file = stage / "weights.safetensors"
        return (PretrainedWeights(cell.fit.label, file, str(source["sha256"])),) if source else ()

    def _environment(self, cell: Cell) -> Mapping[str, Any]:
        """The machine that a cell's images were computed on, as the run describes it."""
        key = storage.read_json(self.run / cell.stage("images") / storage.MANIFEST).get("env")
        path = self.run / "env" / f"{key}.json"
        return storage.read_json(path) if str(key).isalnum() and path.is_file() else {}

    def changed_environment(self, cell: Cell) -> str:
        """What differs between this machine and the one that a cell was computed on; empty where nothing does."""
        before, job = _flat(self._environment(cell)), self._job(cell)
        now = _flat(describe_environment(pick_device(job.device), job.threads))
        changes = [f"{k} {before[k]} (now {now.get(k)})" for k in before if k != "cores" and before[k] != now.get(k)]
        return printable(", ".join(changes))


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment.get("packages")
    return {**environment, **(packages if isinstance(packages, dict) else {}), "packages": None}


def _declared_now(loaded: LoadedJob, cell: Cell) -> Cell:
    """The cell as it would be declared now."""
    if not cell.external:
        kept = cell.keys["train"] if cell.kept else ""
        return loaded.keys.cell(cell.dataset, cell.method, cell.seed, list(cell.scores), kept)
    scores = loaded.keys.scores(cell.dataset, cell.keys["images"], list(cell.scores))
    return replace(cell, keys={**cell.keys, **loaded.keys.shared(cell.dataset)}, scores=scores)


def _tasks(cell: Cell) -> list[Task]:
    """The tasks to execute again: all of the cell, after its data are prepared; plan and judges are the run's."""
    prepare, _ = dataset_tasks(cell.dataset, cell.keys)
    return [prepare, *cell_tasks(cell)]


def _changed_keys(cell: Cell, again: Cell) -> tuple[str, ...]:
    """The stages whose keys have changed by themselves, not because the key of an earlier stage has."""
    shared = [s.key for s in STAGES.values() if s.owner == "dataset" and cell.keys.get(s.key) != again.keys.get(s.key)]
    own = [name for name, _ in cell_stages(cell) if name in cell.keys and cell.keys[name] != again.keys.get(name)][:1]
    metrics = [f"score-{m}" for m, key in cell.scores.items() if key != again.scores.get(m)]
    first = [*shared, *([] if "plan" in shared and own == ["images"] else own)]
    return tuple(first or metrics)


def _report(cell: Cell, reproduction: Reproduction, tolerance: float, environment: str) -> None:
    text = {
        "equal": "equal to the bit, weights, images and scores",
        "within": f"within {tolerance:g} of the largest number",
        "different": f"different by more than {tolerance:g} of the largest number",
        "failed": f"failed: {reproduction.failure}",
    }
    print(f"{cell.label}: {text[reproduction.outcome(tolerance)]}")
    if cell.kept:
        print(f"  its fit was made by other code (key {cell.keys['train']}) and kept: it was not fitted again")
    for name in reproduction.changed_keys:
        key = cell.scores[name[6:]] if name.startswith("score-") else cell.keys[name]
        print(
            f"  the {name} key was {key} and is another now: its source, settings or data changed; numbers may differ"
        )
    worst = sorted(reproduction.differences, key=lambda found: found[1].within(tolerance))
    for name, difference in worst[:SHOWN]:
        print(f"  {name}: {difference}")
    if len(worst) > SHOWN:
        print(f"  and {len(worst) - SHOWN} more")
    if reproduction.differences and environment:
        print(f"  made with {environment}; only on a CPU with the same packages are equal bits expected")
