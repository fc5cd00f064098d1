"""What all cells of a data set share: its data, the plan with the truth, and the judges."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import store
from .bench import Bench
from .furnishing import furnish
from .imagefile import ImageFile
from .plan import Act, Asked, Plan, check_parents, make_plan
from .spec import Spec

if TYPE_CHECKING:
    from .action import Mechanisms

__all__ = ["judges", "prepare"]

ROWS = 4096
"""True counterfactuals that are asked for at once."""


def prepare(bench: Bench, spec: Spec) -> None:
    """The data, and the plan with its true counterfactuals."""
    with bench.reporting(spec):
        _prepare(bench, spec)


def _prepare(bench: Bench, spec: Spec) -> None:
    job, dataset = bench.shop.job, bench.shop.dataset(spec)
    if not dataset.network:
        dataset.prepare(job.data_root)
    folder = bench.shop.plan_folder(spec)
    if furnish(bench, spec, ["plan"]) or store.whole(folder):
        return
    act: Act | None = mechanisms(bench, spec).act if bench.shop.action(spec) == "learned" else None
    bench.progress("plan", 0, 1)
    plan = make_plan(dataset, job.data_root, name=job.plan, split=job.split, factuals=job.budget.factuals, act=act)
    factuals = dataset.split(job.data_root, job.split).images[plan.rows]
    with bench.writing(folder, stage="plan", data=bench.shop.data_key(spec)) as draft:
        plan.save(draft)
        store.write_tensors(draft / "factuals.safetensors", {"x": factuals})
        _write_truth(draft / "truth.safetensors", plan, lambda *of: dataset.oracle(job.data_root, job.split, *of))


def _write_truth(path: Path, plan: Plan, oracle: Callable[[Tensor, Tensor], Tensor | None]) -> None:
    """The true counterfactuals of the variables that have any, some at a time."""

    def truth(asked: Asked, rows: Tensor) -> Tensor | None:
        return oracle(plan.index[asked.factual[rows]], asked.cf_pa[rows])

    blocks = {v: torch.arange(len(asked)).split(ROWS) for v, asked in plan.asked.items()}
    first = {v: truth(asked, blocks[v][0]) for v, asked in plan.asked.items()}
    known = {v: images for v, images in first.items() if images is not None}
    with ImageFile(path, {f"do/{v}": (len(plan.asked[v]), *images.shape[1:]) for v, images in known.items()}) as file:
        for v, images in known.items():
            file.put(f"do/{v}", blocks[v][0], images)
            for rows in blocks[v][1:]:
                more = truth(plan.asked[v], rows)
                blank = torch.full((len(rows), *images.shape[1:]), torch.nan)
                file.put(f"do/{v}", rows, blank if more is None else more)


def mechanisms(bench: Bench, spec: Spec) -> Mechanisms:
    """The parents' learned mechanisms, fitted where they are not there yet, with the card that tells their worth."""
    from .action import Mechanisms, card

    job, dataset, folder = bench.shop.job, bench.shop.dataset(spec), bench.shop.mechanisms_folder(spec)
    learned = Mechanisms(dataset.graph)
    if not store.whole(folder):
        train, valid = (dataset.split(job.data_root, part).parents for part in ("train", "valid"))
        check_parents(train, len(train), dataset.graph.names, "the train split has")
        with bench.quiet("mechanisms"):
            learned.fit(train, lambda done, total: bench.progress("mechanisms", done, total))
        with bench.writing(folder, stage="mechanisms", key=bench.shop.mechanisms_key(spec), env=bench.env()) as draft:
            store.write_tensors(draft / "weights.safetensors", learned.state_dict())
            store.write_json(draft / "card.json", card(learned, dataset, train, valid))
    learned.load_state_dict(store.read_tensors(folder / "weights.safetensors"))
    return learned


def judges(bench: Bench, spec: Spec) -> None:
    """The judges of a data set and their card."""
    with bench.reporting(spec):
        _judges(bench, spec)


def _judges(bench: Bench, spec: Spec) -> None:
    from .judges import JudgeBudget, card, train_judges

    folder = bench.shop.judge_folder(spec)
    if furnish(bench, spec, ["judges"]) or store.whole(folder):
        return
    job, dataset = bench.shop.job, bench.shop.dataset(spec)
    start = time.perf_counter()
    with bench.quiet("judges"):
        budget = JudgeBudget().scaled(job.budget.judge)
        trained = train_judges(dataset, job.data_root, dataset.graph, budget, bench.device, progress=bench.progress)
        bench.progress("card", 0, 1)
        rows = card(trained, dataset, job.data_root)
    with bench.writing(folder, stage="judges", seconds=time.perf_counter() - start, env=bench.env()) as draft:
        trained.save(draft)
        store.write_json(draft / "card.json", rows)
