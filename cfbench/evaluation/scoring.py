"""Scores of evidence: each metric on the rows that it can score, set scores also on shared resamples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contract import Dataset, Metric, Split
from ..evidence import Evidence, JudgePanel
from ..images import ImageRows, Images
from .plan import Plan
from .resamples import resample_rows, resample_size

__all__ = ["ScoreRow", "evidences", "score"]


REPLICATES = 200


@dataclass(frozen=True)
class ScoreRow:
    """A column of a metric under an intervention: its value, numbers of questions and of scores, and the raw scores."""

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
    images: Mapping[str, Images],
    truth: Mapping[str, Images],
    judges: JudgePanel,
    rounds: int,
    costs: dict[str, float],
) -> Iterator[Evidence]:
    """The evidence on each intervened variable, on the null intervention and on costs.

    Args:
        dataset: gives the graph and the measurement.
        plan: the questions.
        pool: the split of the factuals; its other rows are the real reference images.
        images: answers by name, as `answer_plan` gives them.
        truth: true counterfactuals by ``do/V``, where they exist.
        judges: the data set's judges.
        rounds: number of factuals that went through further rounds.
        costs: costs of the cell.
    """
    x: Any = ImageRows(pool.images, plan.rows)
    others = torch.ones(len(pool), dtype=torch.bool)
    others[plan.rows] = False
    real = pool[others]
    measure = dataset.measure if dataset.measure(x[:1]) is not None else None
    shared: dict[str, object] = {}
    for v, asked in plan.asked.items():
        f = asked.factual
        yield Evidence(
            dataset.graph, v, x.take(f), plan.pa[f], asked.cf_pa, _lazy(images[f"do/{v}"]), real, judges,
            measure, truth=_lazy(truth.get(f"do/{v}")), reverse=_lazy(images.get(f"reverse/{v}"), f < rounds),
            shared=shared,
        )  # fmt: skip
    once, last = _lazy(images["null"]), _lazy(images.get("cycle"), torch.arange(len(plan)) < rounds)
    cycles = {1: once} | ({} if last is None else {10: last})
    null = (plan.pa, plan.pa, once, real, judges, measure)
    yield Evidence(dataset.graph, "null", x, *null, cycles=cycles, shared=shared)
    yield Evidence(dataset.graph, "cell", x, *null, costs=costs)


def _lazy(images: Images | None, mask: Tensor | None = None) -> Any:
    """Images for a field of evidence, which are read on access; with a mask [N], NaN in the rows where it is false."""
    if images is None:
        return None
    return ImageRows(images) if mask is None else ImageRows.scattered(images, mask)


def score(metric: Metric, evidence: Evidence, factual: np.ndarray, plan: Plan, rounds: int) -> list[ScoreRow]:
    """All columns of a metric on one evidence.

    Args:
        metric: the metric.
        evidence: evidence of the metric's scope.
        factual: the factual of each row [N].
        plan: the questions; it seeds the resamples, which are the same for every method.
        rounds: number of factuals that went through further rounds.
    """
    if evidence.do == "cell":
        return [_row(metric, evidence, name, v, "cell", np.empty(0)) for name, v in _call(metric, evidence).items()]
    n = len(evidence)
    rows, usable = _usable(metric, evidence)
    if not len(rows):
        return [ScoreRow(evidence.do, c, "", "image", math.nan, n, 0, np.full(n, np.nan)) for c in metric.columns]
    results, asked = _scores(metric, usable), {True: int((factual < rounds).sum()), False: n}
    replicates = _replicates(metric, usable, factual[rows.numpy()], plan) if _sets(results) else {}
    found = []
    for name, value in results.items():
        column = name.partition("/")[0]
        if value.ndim:
            values = np.full(n, np.nan)
            values[rows.numpy()] = value.numpy()
            done, count = int(np.isfinite(values).sum()), asked[metric.columns[column].subset]
            mean = float(np.nanmean(values)) if done else math.nan
            found.append(ScoreRow(evidence.do, *_split(name), "image", mean, count, done, values))
        else:
            scored = len(rows) if math.isfinite(float(value)) else 0
            found.append(ScoreRow(evidence.do, *_split(name), "set", float(value), n, scored, replicates[name]))
    return found


def _split(name: str) -> tuple[str, str]:
    column, _, variable = name.partition("/")
    return column, variable


def _row(metric: Metric, evidence: Evidence, name: str, value: Tensor, kind: str, values: np.ndarray) -> ScoreRow:
    finite = int(math.isfinite(float(value)))
    return ScoreRow(evidence.do, *_split(name), kind, float(value), 1, finite, values)


def _usable(metric: Metric, evidence: Evidence) -> tuple[Tensor, Evidence]:
    """The rows that a metric can score, none if it needs evidence that is missing, and their evidence.

    Metrics with the same needs share the evidence and thus the memoised results of the judges.
    """
    if not all(map(evidence.has, metric.needs)):
        return torch.empty(0, dtype=torch.long), evidence
    known = ("answer", "truth") if "truth" in metric.needs else ("answer",)
    masks = [evidence.each(f"finite:{name}", partial(_finite, name)) for name in known]
    rows = torch.stack(masks).all(0).nonzero()[:, 0]
    if len(rows) == len(evidence):
        return rows, evidence
    usable: Evidence = evidence.of_real(f"usable:{evidence.do}:{known}", lambda: evidence.take(rows))
    return rows, usable


def _finite(images: str, evidence: Evidence) -> Tensor:
    finite: Tensor = getattr(evidence, images).flatten(1).isfinite().all(1)
    return finite


def _scores(metric: Metric, evidence: Evidence) -> dict[str, Tensor]:
    """The outputs of a metric, computed in blocks if there are many rows and all outputs are per image."""
    found: dict[str, Tensor] = {}
    start = 0
    for block in evidence.blocks():
        results = _call(metric, block)
        if len(block) == len(evidence):
            return results
        if _sets(results):
            return _call(metric, evidence)
        for name, values in results.items():
            if name not in found:
                found[name] = torch.full((len(evidence),), torch.nan, dtype=torch.float64)
            found[name][start : start + len(block)] = values
        start += len(block)
    return found


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


def _replicates(metric: Metric, evidence: Evidence, factual: np.ndarray, plan: Plan) -> dict[str, np.ndarray]:
    """Set scores on the shared resamples of the factuals.

    Of many factuals a resample draws fewer, whose scores vary more: their differences from the mean are scaled by the
    root of the ratio (m out of n, Bickel et al. 1997, Statistica Sinica 7).
    """
    collected: dict[str, list[float]] = {}
    factuals = len(plan)
    for r in range(REPLICATES):
        rows = torch.as_tensor(resample_rows(plan.resample_key, factual, r, factuals=factuals))
        results = _call(metric, evidence.take(rows)) if len(rows) > 1 else {}
        for name, value in results.items():
            if not value.ndim:
                collected.setdefault(name, []).append(float(value))
    found = {name: np.array(values) for name, values in collected.items()}
    if (m := resample_size(factuals)) == factuals:
        return found
    return {name: _narrowed(values, math.sqrt(m / factuals)) for name, values in found.items()}


def _narrowed(values: np.ndarray, ratio: float) -> np.ndarray:
    known = values[np.isfinite(values)]
    mean = known.mean() if len(known) else np.nan
    return mean + ratio * (values - mean)
