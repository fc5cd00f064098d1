"""What all cells of a data set share: data, plan with true counterfactuals, and judges, computed or from a bundle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import storage
from ..contract import Dataset
from ..errors import UserError
from ..evaluation.plan import Act, Asked, Plan, check_parents, make_plan
from ..graph import CausalGraph
from ..plugins.spec import Spec
from ..runs.bundle import PARTS, Bundle, read_bundle
from ..runs.context import Context
from ..runs.job import Job
from ..runs.stage_reader import check_plan_tensors, read_card, reading
from ..storage.schema import SchemaError, mapping, whole_number
from ..storage.tensors import ImageFile

if TYPE_CHECKING:
    from ..evaluation.mechanisms import ParentMechanisms

__all__ = ["check_bundle", "install_bundle", "judges", "prepare"]


def check_bundle(bundle: Bundle, dataset: Dataset, job: Job) -> None:
    """Raise unless a bundle asks the questions that a run is to ask, about the data of this machine.

    Raises:
        UserError: its settings, graph or factuals differ, or its plan or judges cannot be read.
    """
    if bundle.folder is None:
        return
    about = read_bundle(bundle.folder)
    for name, wanted in (("plan", job.plan), ("split", job.split), ("action", job.action or bundle.action)):
        found = about["plan"]["name" if name == "plan" else name]
        if wanted != found:
            raise UserError(
                f"--bundle {bundle.folder} was made with --{name} {found}, not {wanted}; give --{name} {found}"
            )
    with reading(f"the bundle {bundle.folder}", "get it again"):
        if _structure(about["graph"]) != _structure(_described(dataset.graph)):
            raise UserError(
                f"--bundle {bundle.folder} has another causal graph or image size than {bundle.dataset} has here"
            )
        plan = _check_parts(bundle.folder, dataset.graph, about)
        _check_data(bundle, plan, dataset, job)


def _described(graph: CausalGraph) -> dict[str, Any]:
    return {"shape": list(graph.shape), "variables": [vars(v) for v in graph.variables]}


def _structure(graph: dict[str, Any]) -> list[Any]:
    """The part of a described graph that questions and judges depend on."""
    variables = [[v.get("name"), v.get("kind"), v.get("size"), list(v.get("parents", ()))] for v in graph["variables"]]
    return [graph["shape"], variables]


def _check_parts(folder: Path, graph: CausalGraph, about: dict[str, Any]) -> Plan:
    """Read all parts of a bundle as the run will, and return its plan."""
    from ..evaluation.mechanisms import ParentMechanisms
    from ..judges import Judges

    plan = check_plan_tensors(Plan.load(folder / "plan"), graph.names)
    if not len(plan) or (plan.name, plan.split) != (about["plan"]["name"], about["plan"]["split"]):
        raise SchemaError("its plan is not the one that it names")
    sizes = mapping(mapping(storage.read_json(folder / "judges" / "judges.json"))["sizes"], whole_number(1, 4096))
    if sizes.keys() != {"width", "features", "latents"}:
        raise SchemaError("the sizes of its judges are not given")
    Judges.load(folder / "judges", graph)
    if about["plan"]["action"] == "learned":
        ParentMechanisms(graph).load_state_dict(storage.read_tensors(folder / "mechanisms" / "weights.safetensors"))
    for path in sorted(folder.glob("*/card.json")):
        read_card(path)
    return plan


def _check_data(bundle: Bundle, plan: Plan, dataset: Dataset, job: Job) -> None:
    """Raise unless the factuals of a bundle are the rows of the local split that its plan names."""
    if not dataset.network:
        dataset.prepare(job.data_root)
    assert bundle.folder
    split, x = dataset.split(job.data_root, plan.split), _factuals(bundle.folder / "plan")
    if len(x) != len(plan):
        raise SchemaError(f"it has {len(x)} factual images and asks about {len(plan)}")
    same = torch.zeros(len(plan), dtype=torch.bool)
    known = (plan.rows >= 0) & (plan.rows < len(split))
    rows = split[plan.rows[known]]
    if rows.images.shape[1:] == x.shape[1:] and rows.images.dtype == x.dtype:
        same[known] = (rows.images == x[known]).flatten(1).all(1) & (rows.index == plan.index[known])
        same[known] &= torch.isclose(rows.parents, plan.pa[known], rtol=1e-5, atol=0).all(1)
    if not same.all():
        raise UserError(
            f"these data are not those of the bundle {bundle.folder}: {int((~same).sum())} of {len(plan)} factuals of "
            f"{bundle.dataset} differ, row {int(plan.rows[~same][0])} of the {plan.split} split first; "
            "get the data that it was made with"
        )


def _factuals(folder: Path) -> torch.Tensor:
    return storage.read_tensors(folder / "factuals.safetensors")["x"]


def install_bundle(context: Context, spec: Spec, parts: Sequence[str] = PARTS) -> bool:
    """Copy plan, mechanisms and judges of a data set's bundle into the run; return False where it has no bundle.

    Args:
        context: of the run.
        spec: of the data set.
        parts: those to copy.

    Raises:
        UserError: the bundle is damaged, or a part is missing in a run that was reopened without its bundle.
    """
    loaded = context.loaded
    bundle = loaded.bundle(spec)
    if bundle is None:
        return False
    folders = {"plan": loaded.plan_folder(spec), "judges": loaded.judge_folder(spec)}
    if bundle.action == "learned":
        folders["mechanisms"] = loaded.mechanisms_folder(spec)
    missing = {part: folder for part, folder in folders.items() if part in parts and not storage.is_intact(folder)}
    if missing and bundle.folder is None:
        raise UserError(f"{next(iter(missing.values()))} is missing; run the same `cfbench run --bundle` again")
    for part, folder in missing.items():
        _install_part(context, bundle, part, folder)
    return True


def _install_part(context: Context, bundle: Bundle, part: str, folder: Path) -> None:
    assert bundle.folder
    about = read_bundle(bundle.folder)
    if about["digest"] != bundle.digest:
        raise UserError(f"the bundle {bundle.folder} changed while it was in use; run the same command again")
    with context.write_stage(
        folder, stage=part, bundle=bundle.digest, env=context.record_environment(about["environment"])
    ) as draft:
        for name, digest in about["files"].items():
            if name.startswith(f"{part}/"):
                copy = draft / Path(name).name
                shutil.copyfile(bundle.folder / name, copy, follow_symlinks=False)
                if storage.sha256(copy) != digest:
                    raise UserError(f"the bundle {bundle.folder} changed while it was read; run the same command again")


ROWS = 4096
"""True counterfactuals that are computed at once."""


def prepare(context: Context, spec: Spec) -> None:
    """Prepare the data, and write the plan with its true counterfactuals."""
    with context.dataset_progress(spec):
        _prepare(context, spec)


def _prepare(context: Context, spec: Spec) -> None:
    job, dataset = context.loaded.job, context.loaded.dataset(spec)
    if not dataset.network:
        dataset.prepare(job.data_root)
    folder = context.loaded.plan_folder(spec)
    if install_bundle(context, spec, ["plan"]) or storage.is_intact(folder):
        return
    act: Act | None = mechanisms(context, spec).act if context.loaded.action(spec) == "learned" else None
    context.progress("plan", 0, 1)
    plan = make_plan(dataset, job.data_root, name=job.plan, split=job.split, factuals=job.budget.factuals, act=act)
    factuals = dataset.split(job.data_root, job.split).images[plan.rows]
    with context.write_stage(folder, stage="plan", data=context.loaded.keys.data(spec)) as draft:
        plan.save(draft)
        storage.write_tensors(draft / "factuals.safetensors", {"x": factuals})
        _write_truth(draft / "truth.safetensors", plan, lambda *of: dataset.oracle(job.data_root, job.split, *of))


def _write_truth(path: Path, plan: Plan, oracle: Callable[[Tensor, Tensor], Tensor | None]) -> None:
    """Write the true counterfactuals of the variables that have any, `ROWS` at a time."""

    def truth(asked: Asked, rows: Tensor) -> Tensor | None:
        return oracle(plan.index[asked.factual[rows]], asked.cf_pa[rows])

    blocks = {v: torch.arange(len(asked)).split(ROWS) for v, asked in plan.asked.items()}
    first = {v: truth(asked, blocks[v][0]) for v, asked in plan.asked.items()}
    known = {v: images for v, images in first.items() if images is not None}
    with ImageFile(path, {f"do/{v}": (len(plan.asked[v]), *images.shape[1:]) for v, images in known.items()}) as file:
        for v, images in known.items():
            file.put(f"do/{v}", blocks[v][0], images)
            for rows in blocks[v][1:]:
                block = truth(plan.asked[v], rows)
                unknown = torch.full((len(rows), *images.shape[1:]), torch.nan)
                file.put(f"do/{v}", rows, unknown if block is None else block)


def mechanisms(context: Context, spec: Spec) -> ParentMechanisms:
    """The parents' learned mechanisms, fitted where they are missing, with a card of their errors."""
    from ..evaluation.mechanisms import ParentMechanisms, mechanism_card

    job, dataset, folder = context.loaded.job, context.loaded.dataset(spec), context.loaded.mechanisms_folder(spec)
    learned = ParentMechanisms(dataset.graph)
    if not storage.is_intact(folder):
        train, valid = (dataset.split(job.data_root, part).parents for part in ("train", "valid"))
        check_parents(train, len(train), dataset.graph.names, "the train split has")
        with context.isolated("mechanisms"):
            learned.fit(train, lambda done, total: context.progress("mechanisms", done, total))
        with context.write_stage(
            folder, stage="mechanisms", key=context.loaded.keys.mechanisms(spec), env=context.record_environment()
        ) as draft:
            storage.write_tensors(draft / "weights.safetensors", learned.state_dict())
            storage.write_json(draft / "card.json", mechanism_card(learned, dataset, train, valid))
    learned.load_state_dict(storage.read_tensors(folder / "weights.safetensors"))
    return learned


def judges(context: Context, spec: Spec) -> None:
    """Train the judges of a data set, and write them with a card of their errors."""
    with context.dataset_progress(spec):
        _judges(context, spec)


def _judges(context: Context, spec: Spec) -> None:
    from ..judges import JudgeBudget, card, train_judges

    folder = context.loaded.judge_folder(spec)
    if install_bundle(context, spec, ["judges"]) or storage.is_intact(folder):
        return
    job, dataset = context.loaded.job, context.loaded.dataset(spec)
    start = time.perf_counter()
    with context.isolated("judges"):
        budget = JudgeBudget().scaled(job.budget.judge)
        trained = train_judges(dataset, job.data_root, dataset.graph, budget, context.device, progress=context.progress)
        context.progress("card", 0, 1)
        rows = card(trained, dataset, job.data_root)
    with context.write_stage(
        folder, stage="judges", seconds=time.perf_counter() - start, env=context.record_environment()
    ) as draft:
        trained.save(draft)
        storage.write_json(draft / "card.json", rows)
