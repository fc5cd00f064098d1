"""The scores of a cell: every metric on the evidence of its answers, a folder each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import store
from .bench import Bench
from .cells import Cell
from .evidence import Evidence
from .imagefile import stored
from .plan import Plan
from .scoring import Row, evidences, score

__all__ = ["MetricFailed", "scores"]


class MetricFailed(Exception):
    """Some metrics could not be computed; the message names each and why."""


def scores(bench: Bench, cell: Cell) -> None:
    """All columns of every metric that is missing.

    Raises:
        MetricFailed: a metric raised; the others are stored all the same.
    """
    names = [m for m in cell.scores if not store.whole(bench.folder(cell, f"score-{m}"))]
    broken: list[str] = []
    with bench.quiet("scores"):
        plan = Plan.load(bench.shop.plan_folder(cell.dataset))
        found = _evidence(bench, cell, plan) if names else []
        for done, name in enumerate(names):
            bench.progress(name, done, len(names))
            try:
                _score(bench, cell, name, plan, found)
            except Exception as error:
                broken.append(f"{name}: {type(error).__name__}: {error}")
    if broken:
        raise MetricFailed("; ".join(broken))


def _evidence(bench: Bench, cell: Cell, plan: Plan) -> list[Evidence]:
    from .judges import Judges

    job, dataset = bench.shop.job, bench.shop.dataset(cell.dataset)
    judges = Judges.load(bench.shop.judge_folder(cell.dataset), dataset.graph, bench.device)
    truth = stored(bench.shop.plan_folder(cell.dataset) / "truth.safetensors")
    images = stored(bench.folder(cell, "images") / "answers.safetensors")
    pool = dataset.split(job.data_root, job.split)
    return list(evidences(dataset, plan, pool, images, truth, judges, job.budget.rounds, _costs(bench, cell)))


def _costs(bench: Bench, cell: Cell) -> dict[str, float]:
    costs: dict[str, float] = {}
    for stage in ("images",) if cell.external else ("train", "tune", "images"):
        costs |= store.read_json(bench.folder(cell, stage) / "costs.json")
    return costs


def _score(bench: Bench, cell: Cell, name: str, plan: Plan, found: Iterable[Evidence]) -> None:
    metric, rows = bench.shop.metric(name), list[Row]()
    for evidence in found:
        if metric.scope == (evidence.do if evidence.do in ("null", "cell") else "do"):
            asked = plan.asked.get(evidence.do)
            factual = asked.factual.numpy() if asked else np.arange(len(plan))
            rows += score(metric, evidence, factual, plan, bench.shop.job.budget.rounds)
    columns = {column: vars(about) for column, about in metric.columns.items()}
    _write(bench, bench.folder(cell, f"score-{name}"), name, rows, columns)


def _write(bench: Bench, folder: Path, metric: str, rows: list[Row], columns: dict[str, Any]) -> None:
    entries = [{k: v for k, v in vars(row).items() if k != "values"} for row in rows]
    tensors = {f"{r.do}|{r.column}|{r.variable}": torch.from_numpy(r.values) for r in rows}
    with bench.writing(folder, stage="score", metric=metric) as draft:
        store.write_json(draft / "scores.json", {"columns": columns, "rows": entries})
        store.write_tensors(draft / "scores.safetensors", tensors)
