"""Fitted methods and mechanisms loaded from a run."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakKeyDictionary

from .. import storage
from ..contract import Control, Dataset, Method
from ..errors import UserError, did_you_mean, one_of
from ..evaluation.plan import Act
from ..evaluation.precision import compute_in_bfloat16
from ..graph import CausalGraph
from ..plugins.registry import SessionPlugins
from ..plugins.spec import Spec, parse_specs
from ..runs.context import LoadedJob
from ..runs.environment import pick_device, standard
from ..runs.job import Cell, Job, PretrainedWeights
from ..runs.manifest import Manifest, read_manifest, refuse_links, reopen_job
from ..runs.reader import CellState, cell_states
from ..runs.stage_reader import reading_run
from ..storage.schema import mapping, scalar
from ..storage.weights import mismatch

__all__ = ["learned_action_of", "load_fitted", "load_learned_action"]


@standard()
def load_fitted(
    folder: Path, row: str, seed: int, dataset: str | None, *, data_root: Path, device: str, session: SessionPlugins
) -> Method:
    """The method of a row, with its fitted weights and tuned parameters, in evaluation mode; see `cfbench.load_method`.

    Raises:
        UserError: there is no such row, it is not fitted, or it is no method.
    """
    manifest = read_manifest(folder)
    cell, state = _cell(folder, manifest, row, seed, dataset)
    loaded = LoadedJob(_job(folder, cell, data_root, device, session), session.classes)
    _check_method(loaded, cell)
    train, tune = folder / cell.stage("train"), folder / cell.stage("tune")
    refuse_links(path for stage in (train, tune) for path in [stage, *stage.glob("*")])
    if not (storage.is_complete(train) and storage.is_complete(tune)):
        found = f"{state.status}: {state.reason}" if state.reason else "not fitted yet"
        raise UserError(f"{cell.label} of the run {folder.name} is {found}")
    _compare(loaded, cell, manifest)
    offline = _JobWithoutData(loaded.job, loaded.classes, manifest.datasets[cell.dataset.label].graph)
    with reading_run(folder):
        chosen = mapping(storage.read_json(tune / "chosen.json"), scalar)
    method = offline.method(cell, **chosen)
    assert isinstance(method, Method)
    weights = storage.read_tensors(train / "weights.safetensors")
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        what = f"{cell.label}: its class has changed, the weights do not fit any more"
        raise UserError(f"{what}: {mismatch(method, weights)}") from error
    answering = offline.answering_method(cell, method)
    assert isinstance(answering, Method)
    if loaded.job.precision == "bf16":
        compute_in_bfloat16(answering)
    _ORIGINS[answering] = folder, cell.dataset.label
    return answering.to(pick_device(device)).eval()


_ORIGINS: WeakKeyDictionary[Method, tuple[Path, str]] = WeakKeyDictionary()
"""The run's folder and the data set of each method that was loaded."""


def learned_action_of(method: Method) -> Act | None:
    """The response of the parents that a run fitted for its data set; None for a method of no such run."""
    folder, dataset = _ORIGINS.get(method, (None, ""))
    if folder is None or not read_manifest(folder).datasets[dataset].mechanisms:
        return None
    return load_learned_action(folder, dataset)


def _cell(folder: Path, manifest: Manifest, row: str, seed: int, dataset: str | None) -> tuple[Cell, CellState]:
    """The cell of a row and its state."""
    found = cell_states(folder, manifest)
    labels = list(dict.fromkeys(c.method.label for c, _ in found))
    row = next((c.method.label for c, s in found if s.method == row), row)
    row = row if row in labels else ",".join(s.label for s in parse_specs(row))
    if row not in labels:
        raise UserError(f"the run {folder.name} has no row {row!r}; {did_you_mean(row, labels)}")
    row_cells = [(c, s) for c, s in found if c.method.label == row]
    name = one_of("data set", dataset, dict.fromkeys(c.dataset.label for c, _ in row_cells))
    seeds = {c.seed: (c, s) for c, s in row_cells if c.dataset.label == name}
    if seed not in seeds:
        raise UserError(f"{row} has no seed {seed} in the run {folder.name}; it has {', '.join(map(str, seeds))}")
    return seeds[seed]


def _job(folder: Path, cell: Cell, data_root: Path, device: str, session: SessionPlugins) -> Job:
    """The run's job, with the weights that the row took in place of a fit."""
    job = reopen_job(folder, data_root=data_root, device=device, plugins=session.files)
    manifest = folder / cell.stage("train") / storage.MANIFEST
    if cell.external or not manifest.exists():
        return job
    with reading_run(folder):
        weights = mapping(storage.read_json(manifest)).get("weights")
        if not weights:
            return job
        return replace(job, weights=(PretrainedWeights(cell.fit.label, Path(weights["file"]), weights["sha256"]),))


def _check_method(loaded: LoadedJob, cell: Cell) -> None:
    """Raise unless a row is a method whose class is installed or given."""
    name = cell.method.name
    if cell.external:
        raise UserError(f"the answers of {name} were made elsewhere: there is no method to load")
    if name not in loaded.registry.names("method"):
        raise UserError(f"{name} is not installed; give plugins=[its file or class]")
    if issubclass(loaded.registry.load("method", name), Control):
        raise UserError(f"{name} is a control, which learns nothing: there is no method to load")


def _compare(loaded: LoadedJob, cell: Cell, manifest: Manifest) -> None:
    """Warn if the row would be fitted differently now."""
    try:
        now = loaded.keys.cell(cell.dataset, cell.method, cell.seed, []).keys["train"]
        data = loaded.keys.data(cell.dataset)
    except (UserError, OSError) as error:
        warnings.warn(f"{cell.label}: whether its fit is up to date is unknown: {error}", stacklevel=4)
        return
    if now != cell.keys["train"]:
        plan = loaded.job.folder / manifest.datasets[cell.dataset.label].plan / storage.MANIFEST
        same = plan.exists() and storage.read_json(plan).get("data") == data
        what = "source or settings are" if same else "source or data are"
        warnings.warn(f"{cell.label}: its {what} not those that it was fitted with", stacklevel=4)


def load_learned_action(folder: Path, dataset: str | None) -> Act:
    """The learned response of a data set's parents; see `cfbench.load_action`.

    Raises:
        UserError: there is no such data set, its response is known, or its mechanisms are not fitted.
    """
    from ..evaluation.mechanisms import ParentMechanisms

    datasets = read_manifest(folder).datasets
    name = one_of("data set", dataset, datasets)
    entry = datasets[name]
    if not entry.mechanisms:
        raise UserError(f"the parents of {name} respond as it says itself; give dataset={name!r}")
    weights = folder / entry.mechanisms / "weights.safetensors"
    if not weights.is_file():
        raise UserError(f"the mechanisms of {name} are not fitted yet in the run {folder.name}")
    mechanisms = ParentMechanisms(entry.graph)
    mechanisms.load_state_dict(storage.read_tensors(weights))
    return mechanisms.act


@dataclass(frozen=True)
class _JobWithoutData(LoadedJob):
    """A job that takes a data set's graph from the run, so that its data are not needed."""

    graph: CausalGraph | None = None

    def dataset(self, spec: Spec) -> Dataset:
        dataset = Dataset()
        assert self.graph is not None
        dataset.graph = self.graph
        return dataset
