"""A fitted method read back from a run."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import store
from .cells import Cell, Job
from .contract import Control, Dataset, Method
from .environment import pick_device
from .errors import UserError, did_you_mean
from .graph import CausalGraph, Variable
from .handed import Handed, one_of
from .lowered import compute_in_bfloat16
from .plan import Act
from .reading import read_about, readable, states
from .reopening import reopen
from .results import CellState
from .runfile import refuse_links
from .spec import Spec, parse_specs
from .surroundings import standard
from .weights import Given
from .wellformed import mapping, scalar
from .workshop import Workshop

__all__ = ["action", "fitted"]


@standard()
def fitted(
    folder: Path, row: str, seed: int, dataset: str | None, *, data_root: Path, device: str, handed: Handed
) -> Method:
    """The method of a row, with its weights and what it tuned, in evaluation mode; see `cfbench.load_method`.

    Raises:
        UserError: there is no such row, or it is not fitted, or is no method.
    """
    about = read_about(folder)
    cell, state = _cell(folder, about, row, seed, dataset)
    shop = Workshop(_job(folder, cell, data_root, device, handed), handed.classes)
    _check_method(shop, cell)
    train, tune = folder / cell.stage("train"), folder / cell.stage("tune")
    refuse_links(path for stage in (train, tune) for path in [stage, *stage.glob("*")])
    if not (store.complete(train) and store.complete(tune)):
        found = f"{state.status}: {state.reason}" if state.reason else "not fitted yet"
        raise UserError(f"{cell.label} of the run {folder.name} is {found}")
    _compare(shop, cell, about)
    described = _Described(shop.job, shop.classes, about["datasets"][cell.dataset.label])
    with readable(folder):
        chosen = mapping(store.read_json(tune / "chosen.json"), scalar)
    method = described.method(cell, **chosen)
    assert isinstance(method, Method)
    try:
        method.load_state_dict(store.read_tensors(train / "weights.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{cell.label}: its class has changed, the weights do not fit any more: {error}") from error
    dressed = described.dressed(cell, method)
    assert isinstance(dressed, Method)
    if shop.job.precision == "bf16":
        compute_in_bfloat16(dressed)
    return dressed.to(pick_device(device)).eval()


def _cell(folder: Path, about: dict[str, Any], row: str, seed: int, dataset: str | None) -> tuple[Cell, CellState]:
    """The cell of a row."""
    found = states(folder, about)
    labels = list(dict.fromkeys(c.method.label for c, _ in found))
    specs = parse_specs(row)
    if len(specs) != 1 or specs[0].label not in labels:
        raise UserError(f"the run {folder.name} has no row {row!r}; {did_you_mean(row, labels)}")
    mine = [(c, s) for c, s in found if c.method.label == specs[0].label]
    name = one_of("data set", dataset, dict.fromkeys(c.dataset.label for c, _ in mine))
    seeds = {c.seed: (c, s) for c, s in mine if c.dataset.label == name}
    if seed not in seeds:
        raise UserError(f"{row} has no seed {seed} in the run {folder.name}; it has {', '.join(map(str, seeds))}")
    return seeds[seed]


def _job(folder: Path, cell: Cell, data_root: Path, device: str, handed: Handed) -> Job:
    """The run's job, with the weights that the row was given."""
    job = reopen(folder, data_root=data_root, device=device, plugins=handed.files)
    manifest = folder / cell.stage("train") / store.MANIFEST
    if cell.external or not manifest.exists():
        return job
    with readable(folder):
        given = mapping(store.read_json(manifest)).get("weights")
        return replace(job, weights=(Given(cell.fit.label, Path(given["file"]), given["sha256"]),)) if given else job


def _check_method(shop: Workshop, cell: Cell) -> None:
    """Nothing, where a row is a method whose class is at hand."""
    name = cell.method.name
    if cell.external:
        raise UserError(f"the answers of {name} were made elsewhere: there is no method to load")
    if name not in shop.registry.names("method"):
        raise UserError(f"{name} is not installed; give plugins=[its file or class]")
    if issubclass(shop.registry.load("method", name), Control):
        raise UserError(f"{name} is a control, which learns nothing: there is no method to load")


def _compare(shop: Workshop, cell: Cell, about: dict[str, Any]) -> None:
    """Warn where a fit today would be another one."""
    try:
        today = shop.cell(cell.dataset, cell.method, cell.seed, []).keys["train"]
        data = shop.data_key(cell.dataset)
    except (UserError, OSError) as error:
        warnings.warn(f"{cell.label}: whether its fit is up to date cannot be told: {error}", stacklevel=4)
        return
    if today != cell.keys["train"]:
        plan = shop.job.folder / about["datasets"][cell.dataset.label]["plan"] / store.MANIFEST
        same = plan.exists() and store.read_json(plan).get("data") == data
        what = "source or settings are" if same else "source or data are"
        warnings.warn(f"{cell.label}: its {what} not those that it was fitted with", stacklevel=4)


def action(folder: Path, dataset: str | None) -> Act:
    """The learned response of a data set's parents; see `cfbench.load_action`.

    Raises:
        UserError: there is no such data set, its response is known, or its mechanisms are not fitted.
    """
    from .action import Mechanisms

    about = read_about(folder)["datasets"]
    name = one_of("data set", dataset, about)
    if not about[name].get("mechanisms"):
        raise UserError(f"the parents of {name} respond as it says itself; give dataset={name!r}")
    weights = folder / about[name]["mechanisms"] / "weights.safetensors"
    if not weights.is_file():
        raise UserError(f"the mechanisms of {name} are not fitted yet in the run {folder.name}")
    mechanisms = Mechanisms(_graph(about[name]))
    mechanisms.load_state_dict(store.read_tensors(weights))
    return mechanisms.act


def _graph(described: dict[str, Any]) -> CausalGraph:
    """The graph of a data set as ``run.json`` describes it."""
    variables = (Variable(**{**v, "parents": tuple(v["parents"])}) for v in described["variables"])
    return CausalGraph(tuple(variables), tuple(described["shape"]))


@dataclass(frozen=True)
class _Described(Workshop):
    """A workshop that knows a data set from what the run says of it, so that no data need to be there."""

    described: dict[str, Any] = field(default_factory=dict)

    def dataset(self, spec: Spec) -> Dataset:
        dataset = Dataset()
        dataset.graph = _graph(self.described)
        return dataset
