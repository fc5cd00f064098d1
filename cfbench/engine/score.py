"""The scores of a cell: every metric on the evidence of its answers, in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import storage
from ..errors import is_of_harness
from ..evaluation.plan import Plan
from ..evaluation.scoring import ScoreRow, evidences, score
from ..evidence import Evidence
from ..runs.context import Context
from ..runs.job import Cell
from ..runs.stage_reader import score_tensor
from ..storage.tensors import open_arrays

__all__ = ["MetricError", "scores"]


class MetricError(Exception):
    """Some metrics could not be computed; the message names each and why."""


def scores(context: Context, cell: Cell) -> None:
    """Compute all columns of every metric that is missing.

    Raises:
        MetricError: a metric raised; the others are stored nevertheless.
    """
    names = [m for m in cell.scores if not storage.is_intact(context.folder(cell, f"score-{m}"))]
    broken: list[str] = []
    with context.isolated("scores"):
        plan = Plan.load(context.loaded.plan_folder(cell.dataset))
        found = _evidence(context, cell, plan) if names else []
        for done, name in enumerate(names):
            context.progress(name, done, len(names))
            try:
                _score(context, cell, name, plan, found)
            except BaseException as error:
                if is_of_harness(error):
                    raise
                broken.append(f"{name}: {type(error).__name__}: {error}")
    if broken:
        raise MetricError("; ".join(broken))


def _evidence(context: Context, cell: Cell, plan: Plan) -> list[Evidence]:
    from ..judges import Judges

    job, dataset = context.loaded.job, context.loaded.dataset(cell.dataset)
    judges = Judges.load(context.loaded.judge_folder(cell.dataset), dataset.graph, context.device)
    truth = open_arrays(context.loaded.plan_folder(cell.dataset) / "truth.safetensors")
    images = open_arrays(context.folder(cell, "images") / "answers.safetensors")
    pool = dataset.split(job.data_root, job.split)
    return list(evidences(dataset, plan, pool, images, truth, judges, job.budget.rounds, _costs(context, cell)))


def _costs(context: Context, cell: Cell) -> dict[str, float]:
    costs: dict[str, float] = {}
    for stage in ("images",) if cell.external else ("train", "tune", "images"):
        costs |= storage.read_json(context.folder(cell, stage) / "costs.json")
    return costs


def _score(context: Context, cell: Cell, name: str, plan: Plan, found: Iterable[Evidence]) -> None:
    metric, rows = context.loaded.metric(name), list[ScoreRow]()
    for evidence in found:
        if metric.scope == evidence.scope:
            asked = plan.asked[evidence.do] if evidence.scope == "do" else None
            factual = asked.factual.numpy() if asked else np.arange(len(plan))
            rows += score(metric, evidence, factual, plan, context.loaded.job.budget.rounds)
    columns = {column: vars(about) for column, about in metric.columns.items()}
    _write(context, context.folder(cell, f"score-{name}"), name, rows, columns)


def _write(context: Context, folder: Path, metric: str, rows: list[ScoreRow], columns: dict[str, Any]) -> None:
    entries = [{k: v for k, v in vars(row).items() if k != "values"} for row in rows]
    tensors = {score_tensor(vars(r)): torch.from_numpy(r.values) for r in rows}
    with context.write_stage(folder, stage="score", metric=metric) as draft:
        storage.write_json(draft / "scores.json", {"columns": columns, "rows": entries})
        storage.write_tensors(draft / "scores.safetensors", tensors)
