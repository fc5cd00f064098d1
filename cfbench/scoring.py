"""From evidence to scores: each metric on the rows that it can score, sets on shared resamples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .contract import Dataset, Metric, Split
from .evidence import Evidence, JudgePanel
from .plan import Plan
from .stats import resample_rows

__all__ = ["Row", "evidences", "score"]

REPLICATES = 200


@dataclass(frozen=True)
class Row:
    """One column of a metric under one intervention: its value, how many were asked and scored, and the raw scores."""

    do: str
    column: str
    variable: str
    kind: str
    value: float
    asked: int
    finite: int
    values: np.ndarray


def evidences(
    dataset: Dataset,
    plan: Plan,
    pool: Split,
    images: dict[str, Tensor],
    truth: dict[str, Tensor],
    judges: JudgePanel,
    rounds: int,
    costs: dict[str, float],
) -> Iterator[Evidence]:
    """The evidence on each intervened variable, on the null intervention and on costs.

    Args:
        dataset: for its graph and what it can measure.
        plan: the questions.
        pool: the split that the factuals come from; its other rows are the real images of reference.
        images: answers by name, as `answer_plan` gives them.
        truth: true counterfactuals by ``do/V``, where they exist.
        judges: the data set's judges.
        rounds: how many factuals went through further rounds.
        costs: of the cell.
    """
    x = pool.x[plan.rows]
    others = torch.ones(len(pool), dtype=torch.bool)
    others[plan.rows] = False
    measure = dataset.measure if dataset.measure(x[:1]) is not None else None
    shared: dict[str, object] = {}
    for v, asked in plan.asked.items():
        f = asked.factual
        yield Evidence(
            dataset.graph, v, x[f], plan.pa[f], asked.cf_pa, images[f"do/{v}"], pool[others], judges, measure,
            truth=truth.get(f"do/{v}"),
            reverse=_spread(images.get(f"reverse/{v}"), f < rounds, x[f]),
            shared=shared,
        )  # fmt: skip
    cycles = {1: images["null"]}
    last = _spread(images.get("cycle"), torch.arange(len(plan)) < rounds, x)
    cycles |= {10: last} if last is not None else {}
    null = Evidence(dataset.graph, "null", x, plan.pa, plan.pa, images["null"], pool[others], judges, measure)
    yield Evidence(**{**vars(null), "cycles": cycles, "shared": shared})
    yield Evidence(**{**vars(null), "do": "cell", "costs": costs})


def _spread(some: Tensor | None, mask: Tensor, like: Tensor) -> Tensor | None:
    """Images of the masked rows among all rows, NaN elsewhere."""
    if some is None:
        return None
    full = torch.full_like(like, torch.nan)
    full[mask] = some
    return full


def score(metric: Metric, evidence: Evidence, factual: np.ndarray, plan: Plan, plan_key: str, rounds: int) -> list[Row]:
    """All columns of a metric on one evidence.

    Args:
        metric: what scores.
        evidence: its scope is the metric's.
        factual: the factual behind each row [N].
        plan: what was asked.
        plan_key: seeds the resamples, which are the same for every method.
        rounds: how many factuals went through further rounds.
    """
    if evidence.do == "cell":
        return [_row(metric, evidence, name, v, "cell", np.empty(0)) for name, v in _call(metric, evidence).items()]
    n = len(evidence)
    rows = _scorable(metric, evidence).nonzero()[:, 0]
    if not len(rows):
        return [Row(evidence.do, c, "", "image", math.nan, n, 0, np.full(n, np.nan)) for c in metric.columns]
    usable = evidence if len(rows) == n else evidence.take(rows)
    results, asked = _call(metric, usable), {True: int((factual < rounds).sum()), False: n}
    replicates = _replicates(metric, usable, factual[rows.numpy()], len(plan), plan_key) if _sets(results) else {}
    found = []
    for name, value in results.items():
        column = name.partition("/")[0]
        if value.ndim:
            values = np.full(n, np.nan)
            values[rows.numpy()] = value.numpy()
            done, count = int(np.isfinite(values).sum()), asked[metric.columns[column].subset]
            mean = float(np.nanmean(values)) if done else math.nan
            found.append(Row(evidence.do, *_split(name), "image", mean, count, done, values))
        else:
            scored = len(rows) if math.isfinite(float(value)) else 0
            found.append(Row(evidence.do, *_split(name), "set", float(value), n, scored, replicates[name]))
    return found


def _split(name: str) -> tuple[str, str]:
    column, _, variable = name.partition("/")
    return column, variable


def _row(metric: Metric, evidence: Evidence, name: str, value: Tensor, kind: str, values: np.ndarray) -> Row:
    finite = int(math.isfinite(float(value)))
    return Row(evidence.do, *_split(name), kind, float(value), 1, finite, values)


def _missing(evidence: Evidence, need: str) -> bool:
    return not getattr(evidence, need) if need == "cycles" else getattr(evidence, need) is None


def _scorable(metric: Metric, evidence: Evidence) -> Tensor:
    """Which rows a metric can score [N]: none where evidence is missing that it needs."""
    rows = evidence.answer.flatten(1).isfinite().all(1)
    if any(_missing(evidence, need) for need in metric.needs):
        return torch.zeros_like(rows)
    if "truth" in metric.needs and evidence.truth is not None:
        rows &= evidence.truth.flatten(1).isfinite().all(1)
    return rows


def _call(metric: Metric, evidence: Evidence) -> dict[str, Tensor]:
    with torch.no_grad():
        results = {k: v.detach().double().cpu() for k, v in metric(evidence).items()}
    for name, value in results.items():
        if name.partition("/")[0] not in metric.columns:
            raise ValueError(f"{type(metric).__name__} gives {name!r}, which is not among its columns")
        if value.ndim > 1 or (value.ndim and len(value) != len(evidence)):
            raise ValueError(f"{name}: a metric gives [{len(evidence)}] or one number, found {list(value.shape)}")
    return results


def _sets(results: dict[str, Tensor]) -> bool:
    return any(not value.ndim for value in results.values())


def _replicates(
    metric: Metric, evidence: Evidence, factual: np.ndarray, factuals: int, plan_key: str
) -> dict[str, np.ndarray]:
    """Set scores on the shared resamples of the factuals."""
    collected: dict[str, list[float]] = {}
    for r in range(REPLICATES):
        rows = torch.as_tensor(resample_rows(plan_key, factual, r, factuals=factuals))
        results = _call(metric, evidence.take(rows)) if len(rows) > 1 else {}
        for name, value in results.items():
            if not value.ndim:
                collected.setdefault(name, []).append(float(value))
    return {name: np.array(values) for name, values in collected.items()}
