"""What all cells of a data set share: its data, the plan with the truth, and the judges."""

from __future__ import annotations

import time

from . import store
from .bench import Bench
from .plan import make_plan
from .spec import Spec

__all__ = ["judges", "prepare"]


def prepare(bench: Bench, spec: Spec) -> None:
    """The data, and the plan with its true counterfactuals."""
    job, dataset = bench.shop.job, bench.shop.dataset(spec)
    if not dataset.network:
        dataset.prepare(job.data_root)
    folder = bench.shop.plan_folder(spec)
    if store.whole(folder):
        return
    bench.progress("plan", 0, 1)
    plan = make_plan(dataset, job.data_root, name=job.plan, split=job.split, factuals=job.budget.factuals)
    truth = {}
    for v, asked in plan.asked.items():
        images = dataset.oracle(job.data_root, job.split, plan.index[asked.factual], asked.cf_pa)
        if images is not None:
            truth[f"do/{v}"] = images.float()
    factuals = dataset.split(job.data_root, job.split).images[plan.rows]
    with store.writing(folder, stage="plan", data=bench.shop.data_key(spec)) as draft:
        plan.save(draft)
        store.write_tensors(draft / "factuals.safetensors", {"x": factuals})
        store.write_tensors(draft / "truth.safetensors", truth)


def judges(bench: Bench, spec: Spec) -> None:
    """The judges of a data set and their card."""
    from .judges import JudgeBudget, card, train_judges

    folder = bench.shop.judge_folder(spec)
    if store.whole(folder):
        return
    job, dataset = bench.shop.job, bench.shop.dataset(spec)
    start = time.perf_counter()
    with bench.quiet("judges"):
        budget = JudgeBudget().scaled(job.budget.judge)
        trained = train_judges(dataset, job.data_root, dataset.graph, budget, bench.device, progress=bench.progress)
        bench.progress("card", 0, 1)
        rows = card(trained, dataset, job.data_root)
    with store.writing(folder, stage="judges", seconds=time.perf_counter() - start, env=bench.env()) as draft:
        trained.save(draft)
        store.write_json(draft / "card.json", rows)
