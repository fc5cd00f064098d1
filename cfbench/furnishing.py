"""A bundle in use: checked against the data that are here, and put into a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import store
from .bench import Bench
from .bundles import PARTS, Bundle, read_bundle
from .cells import Job
from .contract import Dataset
from .digest import key_of
from .errors import UserError, one_line
from .graph import CausalGraph
from .plan import Plan
from .spec import Spec
from .stored import card_rows, checked_plan
from .wellformed import Wrong, mapping, whole_number

__all__ = ["check_bundle", "furnish"]


def check_bundle(bundle: Bundle, dataset: Dataset, job: Job) -> None:
    """Nothing, where a bundle asks what a run is to ask, and about the data that are here.

    Raises:
        UserError: it does not, or its plan or judges cannot be read.
    """
    if bundle.folder is None:
        return
    about = read_bundle(bundle.folder)
    for name, asked in (("plan", job.plan), ("split", job.split), ("action", job.action or bundle.action)):
        found = about["plan"]["name" if name == "plan" else name]
        if asked != found:
            raise UserError(
                f"--bundle {bundle.folder} was made with --{name} {found}, not {asked}; give --{name} {found}"
            )
    if _form(about["graph"]) != _form(_graph(dataset.graph)):
        raise UserError(
            f"--bundle {bundle.folder} has another causal graph or image size than {bundle.dataset} has here"
        )
    with _sound(bundle.folder):
        plan = _check_parts(bundle.folder, dataset.graph, about)
        _check_data(bundle, plan, dataset, job)


@contextmanager
def _sound(folder: Path) -> Iterator[None]:
    """A block that reads what a bundle holds; what stumbles over it says so in a line."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        what = one_line(error, 200) if isinstance(error, Wrong) else f"{type(error).__name__}: {one_line(error, 160)}"
        raise UserError(f"the bundle {folder} is spoilt, or cfbench did not write it: {what}; get it again") from error


def _graph(graph: CausalGraph) -> dict[str, Any]:
    return {"shape": list(graph.shape), "variables": [vars(v) for v in graph.variables]}


def _form(graph: dict[str, Any]) -> list[Any]:
    """What of a graph questions and judges depend on."""
    parts = [[v.get("name"), v.get("kind"), v.get("size"), list(v.get("parents", ()))] for v in graph["variables"]]
    return [graph["shape"], parts]


def _check_parts(folder: Path, graph: CausalGraph, about: dict[str, Any]) -> Plan:
    """Read everything once, as the run will."""
    from .action import Mechanisms
    from .judges import Judges

    plan = checked_plan(Plan.load(folder / "plan"), graph.names)
    if not len(plan) or (plan.name, plan.split) != (about["plan"]["name"], about["plan"]["split"]):
        raise Wrong("its plan is not the one that it names")
    sizes = mapping(mapping(store.read_json(folder / "judges" / "judges.json"))["sizes"], whole_number(1, 4096))
    if sizes.keys() != {"width", "features", "latents"}:
        raise Wrong("the sizes of its judges are not given")
    Judges.load(folder / "judges", graph)
    if about["plan"]["action"] == "learned":
        Mechanisms(graph).load_state_dict(store.read_tensors(folder / "mechanisms" / "weights.safetensors"))
    for path in sorted(folder.glob("*/card.json")):
        card_rows(path)
    return plan


def _check_data(bundle: Bundle, plan: Plan, dataset: Dataset, job: Job) -> None:
    """Compare the factuals with the rows of the local split."""
    if not dataset.network:
        dataset.prepare(job.data_root)
    assert bundle.folder
    split, x = dataset.split(job.data_root, plan.split), _factuals(bundle.folder / "plan")
    if len(x) != len(plan):
        raise Wrong(f"it has {len(x)} factual images and asks about {len(plan)}")
    same = torch.zeros(len(plan), dtype=torch.bool)
    known = (plan.rows >= 0) & (plan.rows < len(split))
    here = split[plan.rows[known]]
    if here.images.shape[1:] == x.shape[1:] and here.images.dtype == x.dtype:
        same[known] = (here.images == x[known]).flatten(1).all(1) & (here.index == plan.index[known])
        same[known] &= torch.isclose(here.parents, plan.pa[known], rtol=1e-5, atol=0).all(1)
    if not same.all():
        raise UserError(
            f"these data are not those of the bundle {bundle.folder}: {int((~same).sum())} of {len(plan)} factuals of "
            f"{bundle.dataset} differ, row {int(plan.rows[~same][0])} of the {plan.split} split first; "
            "get the data that it was made with"
        )


def _factuals(folder: Path) -> torch.Tensor:
    return store.read_tensors(folder / "factuals.safetensors")["x"]


def furnish(bench: Bench, spec: Spec, parts: Sequence[str] = PARTS) -> bool:
    """Put the plan, the mechanisms and the judges of a data set's bundle into the run; False where it has none.

    Args:
        bench: in the run.
        spec: of the data set.
        parts: those that are needed now.

    Raises:
        UserError: the bundle is spoilt; or they are missing in a run that was taken up without its bundle.
    """
    shop = bench.shop
    bundle = shop.bundle(spec)
    if bundle is None:
        return False
    places = {"plan": shop.plan_folder(spec), "judges": shop.judge_folder(spec)}
    if bundle.action == "learned":
        places["mechanisms"] = shop.mechanisms_folder(spec)
    missing = {part: place for part, place in places.items() if part in parts and not store.whole(place)}
    if missing and bundle.folder is None:
        raise UserError(f"{next(iter(missing.values()))} is missing; run the same `cfbench run --bundle` again")
    for part, place in missing.items():
        _put(bench, bundle, part, place)
    return True


def _put(bench: Bench, bundle: Bundle, part: str, place: Path) -> None:
    assert bundle.folder
    about = read_bundle(bundle.folder)
    if about["digest"] != bundle.digest:
        raise UserError(f"the bundle {bundle.folder} changed while it was in use; run the same command again")
    with bench.writing(place, stage=part, bundle=bundle.digest, env=_recorded(bench, about["environment"])) as draft:
        for name, digest in about["files"].items():
            if name.startswith(f"{part}/"):
                copy = draft / Path(name).name
                shutil.copyfile(bundle.folder / name, copy, follow_symlinks=False)
                if store.sha256(copy) != digest:
                    raise UserError(f"the bundle {bundle.folder} changed while it was read; run the same command again")


def _recorded(bench: Bench, environment: dict[str, Any]) -> str:
    """The key under which the machine that judges were trained on is described in the run's folder."""
    name = key_of(environment)
    path = bench.shop.job.folder / "env" / f"{name}.json"
    if not path.exists():
        store.write_json(path, environment)
    return name
