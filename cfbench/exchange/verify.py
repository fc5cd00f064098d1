"""Whether a run can be repeated: its files checked, and some of its cells executed again elsewhere and compared."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import storage
from ..engine.tasks import run_task
from ..errors import UserError
from ..runs.chain import STAGES, Status, Task, cell_stages, cell_tasks, dataset_tasks
from ..runs.context import LoadedJob
from ..runs.environment import describe_environment, pick_device
from ..runs.folders import find_run
from ..runs.job import Cell, Job, PretrainedWeights
from ..runs.manifest import Manifest, read_manifest, reopen_job
from ..runs.reader import cell_states, reading_run
from ..storage.schema import printable
from .compare import Gap, gaps

__all__ = ["Reexecution", "damaged_stages", "verify_command"]


SHOWN = 6
"""Differences of a cell that are told one by one."""


@dataclass(frozen=True)
class Reexecution:
    """What came of a cell that was executed again: differences by stage, keys that changed, and what failed."""

    gaps: tuple[tuple[str, Gap], ...] = ()
    keys: tuple[str, ...] = ()
    failed: str = ""

    def word(self, tolerance: float) -> str:
        """equal, within the tolerance, different or failed."""
        if self.failed:
            return "failed"
        if not self.gaps:
            return "equal"
        return "within" if all(gap.within(tolerance) for _, gap in self.gaps) else "different"


def verify_command(
    run_name: str, cells: int, seed: int, tolerance: float, device: str | None,
    data_root: Path, run_root: Path, plugins: tuple[Path, ...],
) -> int:  # fmt: skip
    """Check all files, execute cells again, and say what differs; 2 where something does."""
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
    words = []
    with tempfile.TemporaryDirectory(prefix="cfbench-verify-") as elsewhere:
        again = _Again(folder, manifest, Path(elsewhere), data_root, device, plugins)
        for cell in random.Random(seed).sample(sound, min(cells, len(sound))):
            print(f"executing {cell.label} again", file=sys.stderr, flush=True)
            verdict = again.verdict(cell)
            _report(cell, verdict, tolerance, again.machine(cell))
            words.append(verdict.word(tolerance))
    print(f"{len(words)} cells: " + ", ".join(f"{words.count(w)} {w}" for w in dict.fromkeys(words)))
    return 2 if broken or not {"equal", "within"}.issuperset(words) else 0


def damaged_stages(folder: Path) -> tuple[int, dict[Path, list[str]]]:
    """How many stages a run's folder holds, and which files of those that are damaged do not match."""
    paths = [p.parent for p in sorted(folder.rglob(storage.MANIFEST))]
    stages = [p for p in paths if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    return len(stages), {path: names for path in stages if (names := storage.damaged_files(path))}


@dataclass(frozen=True)
class _Again:
    """A folder in which cells of a run are executed again, with the run's questions and judges."""

    run: Path
    manifest: Manifest
    folder: Path
    data_root: Path
    device: str | None
    plugins: tuple[Path, ...]

    def verdict(self, cell: Cell) -> Reexecution:
        """Execute a cell and compare all that it holds."""
        loaded = self._load(cell)
        try:
            again = _today(loaded, cell)
        except UserError as error:
            files = ", ".join(self.manifest.plugins)
            hint = f" (the run loaded {files}; name them with --plugin if you trust them)" if files else ""
            raise UserError(f"{error}{hint}") from error
        self._install(loaded, cell, again)
        for task in _tasks(again):
            outcome = run_task(loaded.job, task, loaded)
            if outcome.status is not Status.DONE:
                return Reexecution(
                    keys=_changed(cell, again), failed=f"{task.stage}: {outcome.status}: {outcome.reason}"
                )
        found = tuple(self._compare(cell, again))
        return Reexecution(found, _changed(cell, again))

    def _compare(self, cell: Cell, again: Cell) -> Iterator[tuple[str, Gap]]:
        """Differences by stage; a stage that was removed from the run to save room is passed over."""
        for name, path in cell_stages(cell):
            if not storage.is_complete(self.run / path):
                continue
            with reading_run(self.run / path):
                yield from ((name, gap) for gap in gaps(self.run / path, self.folder / again.stage(name)))

    def _install(self, loaded: LoadedJob, cell: Cell, again: Cell) -> None:
        """Put the run's plan and judges where today's keys look for them, and an external row's images."""
        entry = self.manifest.datasets[cell.dataset.label]
        places = {
            entry.plan: loaded.plan_folder(cell.dataset),
            entry.judges: loaded.judge_folder(cell.dataset),
        }
        if cell.external:
            places[str(cell.stage("images"))] = self.folder / again.stage("images")
        for name, place in places.items():
            if not storage.is_complete(place) and (broken := storage.copy_stage(self.run / name, place)):
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
        """On a device of the kind, and with the threads, that the cell was made with."""
        made = self._made(cell)
        device = self.device or ("cuda" if made.get("cuda") else "cpu")
        threads = made.get("threads") if isinstance(made.get("threads"), int) else 1
        job = reopen_job(self.run, data_root=self.data_root, device=device, threads=max(int(threads or 1), 1))
        files = tuple(p.resolve() for p in self.plugins)
        return replace(job, folder=self.folder, plugins=files, weights=self._given(cell))

    def _given(self, cell: Cell) -> tuple[PretrainedWeights, ...]:
        """The weights that a cell was given in place of a fit, as they lie in the run."""
        stage = None if cell.external else self.run / cell.stage("train")
        if stage is None or not storage.is_complete(stage):
            return ()
        given = storage.read_json(stage / storage.MANIFEST).get("weights")
        return (
            (PretrainedWeights(cell.fit.label, stage / "weights.safetensors", str(given["sha256"])),) if given else ()
        )

    def _made(self, cell: Cell) -> Mapping[str, Any]:
        """The machine that a cell's images were made on, as the run describes it."""
        key = storage.read_json(self.run / cell.stage("images") / storage.MANIFEST).get("env")
        path = self.run / "env" / f"{key}.json"
        return storage.read_json(path) if str(key).isalnum() and path.is_file() else {}

    def machine(self, cell: Cell) -> str:
        """How this machine is another than the one that a cell was made on; nothing where it is not."""
        made, job = _flat(self._made(cell)), self._job(cell)
        now = _flat(describe_environment(pick_device(job.device), job.threads))
        other = [f"{k} {made[k]} (now {now.get(k)})" for k in made if k != "cores" and made[k] != now.get(k)]
        return printable(", ".join(other))


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    packages = about.get("packages")
    return {**about, **(packages if isinstance(packages, dict) else {}), "packages": None}


def _today(loaded: LoadedJob, cell: Cell) -> Cell:
    """The cell as it would be declared now."""
    if not cell.external:
        return loaded.keys.cell(cell.dataset, cell.method, cell.seed, list(cell.scores))
    scores = loaded.keys.scores(cell.dataset, cell.keys["images"], list(cell.scores))
    return replace(cell, keys={**cell.keys, **loaded.keys.shared(cell.dataset)}, scores=scores)


def _tasks(cell: Cell) -> list[Task]:
    """What is executed again: the data are prepared here, the plan and judges are the run's."""
    prepare, _ = dataset_tasks(cell.dataset, cell.keys)
    return [prepare, *cell_tasks(cell)]


def _changed(cell: Cell, again: Cell) -> tuple[str, ...]:
    """The stages whose keys are others than they were, but for those that follow from an earlier one."""
    shared = [s.key for s in STAGES.values() if s.owner == "dataset" and cell.keys.get(s.key) != again.keys.get(s.key)]
    own = [name for name, _ in cell_stages(cell) if name in cell.keys and cell.keys[name] != again.keys.get(name)][:1]
    metrics = [f"score-{m}" for m, key in cell.scores.items() if key != again.scores.get(m)]
    first = [*shared, *([] if "plan" in shared and own == ["images"] else own)]
    return tuple(first or metrics)


def _report(cell: Cell, verdict: Reexecution, tolerance: float, machine: str) -> None:
    word = verdict.word(tolerance)
    said = {
        "equal": "equal to the bit, weights, images and scores",
        "within": f"within {tolerance:g} of the largest number",
        "different": f"different by more than {tolerance:g} of the largest number",
        "failed": f"failed: {verdict.failed}",
    }
    print(f"{cell.label}: {said[word]}")
    for name in verdict.keys:
        key = cell.scores[name[6:]] if name.startswith("score-") else cell.keys[name]
        print(
            f"  the {name} key was {key} and is another now: its source, settings or data changed; numbers may differ"
        )
    worst = sorted(verdict.gaps, key=lambda found: found[1].within(tolerance))
    for name, gap in worst[:SHOWN]:
        print(f"  {name}: {gap}")
    if len(worst) > SHOWN:
        print(f"  and {len(worst) - SHOWN} more")
    if verdict.gaps and machine:
        print(f"  made with {machine}; only on a CPU with the same packages are equal bits expected")
