"""Scores of evidence: each metric on the rows that it can score, set scores also without each group of factuals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contract import Dataset, Metric, Split
from ..evidence import Evidence, JudgePanel
from ..images import ImageRows, Images
from .jackknife import group_count, group_of, pseudo_values
from .plan import Plan

__all__ = ["ScoreRow", "evidences", "score"]


LONGEST = 400
"""Characters of the name of an output."""
PROBED = 32
"""Rows on which a metric is asked for the names of its outputs where it has no answer to score."""


@dataclass(frozen=True)
class ScoreRow:
    """A column of a metric under an intervention: its value, numbers of questions and of scores, and the raw scores.

    ``values`` holds one score a question [Q] (kind "image", NaN where there is none), the jackknife's pseudo-values
    [G] of a set ("set", NaN for groups of factuals without an answer), or nothing ("cell"). ``do`` names a variable
    where ``scope`` is "do".
    """

    do: str
    column: str
    variable: str
    kind: str
    value: float
    asked: int
    finite: int
    values: np.ndarray
    scope: str


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
    yield Evidence(dataset.graph, "null", x, *null, cycles=cycles, shared=shared, scope="null")
    yield Evidence(dataset.graph, "cell", x, *null, costs=costs, scope="cell")


def _lazy(images: Images | None, mask: Tensor | None = None) -> Any:
    """Images for a field of evidence, which are read on access; with a mask [N], NaN in the rows where it is false."""
    if images is None:
        return None
    return ImageRows(images) if mask is None else ImageRows.scattered(images, mask)


def score(metric: Metric, evidence: Evidence, factual: np.ndarray, plan: Plan, rounds: int) -> list[ScoreRow]:
    """All columns of a metric on one evidence; none where evidence that it needs is missing for all rows of a table.

    A metric that has no answer to score has NaN in every column that it would have.

    Args:
        metric: the metric.
        evidence: evidence of the metric's scope.
        factual: the factual of each row [N].
        plan: the questions; the groups of its factuals are the same for every method.
        rounds: number of factuals that went through further rounds.
    """
    if evidence.scope == "cell":
        return [_row(metric, evidence, name, v, "cell", np.empty(0)) for name, v in _call(metric, evidence).items()]
    if not all(map(evidence.has, metric.needs)) or ("truth" in metric.needs and not _known("truth", evidence).any()):
        return []
    n, asked = len(evidence), {True: int((factual < rounds).sum()), False: len(evidence)}
    rows, usable = _usable(metric, evidence)
    results = _scores(metric, usable) if len(rows) else _unscored(metric, evidence)
    groups = group_of(factual[rows.numpy()], len(plan))
    pseudo = _pseudo_values(metric, usable, results, groups, group_count(len(plan)))
    found = []
    for name, value in results.items():
        column, variable = _split(name)
        count = asked[metric.columns[column].subset]
        if value.ndim:
            values = np.full(n, np.nan)
            values[rows.numpy()] = value.numpy()
            done = int(np.isfinite(values).sum())
            mean = float(np.nanmean(values)) if done else math.nan
            found.append(ScoreRow(evidence.do, column, variable, "image", mean, count, done, values, evidence.scope))
        else:
            scored = len(rows) if math.isfinite(float(value)) else 0
            of_set = "set", float(value), count, scored, pseudo[name], evidence.scope
            found.append(ScoreRow(evidence.do, column, variable, *of_set))
    return found


def _unscored(metric: Metric, evidence: Evidence) -> dict[str, Tensor]:
    """The outputs of a metric that has no answer to score: no row [0] of those per image, and NaN for those of a set.

    Which outputs there are does not depend on the answers: the factuals stand in for them.
    """
    some = evidence.take(torch.arange(min(len(evidence), PROBED)))
    images: dict[str, Any] = {name: some.x for name in ("answer", "truth", "reverse") if evidence.has(name)}
    images["cycles"] = dict.fromkeys(some.cycles, some.x)
    probe = replace(some, **images, memo={})
    nothing = torch.full((), torch.nan, dtype=torch.float64)
    return {name: value[:0] if value.ndim else nothing for name, value in _call(metric, probe).items()}


def _split(name: str) -> tuple[str, str]:
    column, _, variable = name.partition("/")
    return column, variable


def _row(metric: Metric, evidence: Evidence, name: str, value: Tensor, kind: str, values: np.ndarray) -> ScoreRow:
    finite = int(math.isfinite(float(value)))
    return ScoreRow(evidence.do, *_split(name), kind, float(value), 1, finite, values, evidence.scope)


def _usable(metric: Metric, evidence: Evidence) -> tuple[Tensor, Evidence]:
    """The rows that a metric can score, and their evidence.

    Metrics with the same needs share the evidence and thus the memoised results of the judges.
    """
    known = ("answer", "truth") if "truth" in metric.needs else ("answer",)
    rows = torch.stack([_known(name, evidence) for name in known]).all(0).nonzero()[:, 0]
    if len(rows) == len(evidence):
        return rows, evidence
    usable: Evidence = evidence.of_real(f"usable:{evidence.scope}:{evidence.do}:{known}", lambda: evidence.take(rows))
    return rows, usable


def _known(images: str, evidence: Evidence) -> Tensor:
    """Whether each of the answers (or truths) is finite: bool [N]."""
    known: Tensor = evidence.each(f"finite:{images}", partial(_finite, images))
    return known


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
        if not name.isprintable() or "|" in name or len(name) > LONGEST:
            raise ValueError(f"{type(metric).__name__} gives {name[:LONGEST]!r}, which is no column/variable")
        if value.ndim > 1 or (value.ndim and len(value) != len(evidence)):
            raise ValueError(f"{name}: a metric gives [{len(evidence)}] or one number, found {list(value.shape)}")
    return results


def _sets(results: dict[str, Tensor]) -> bool:
    return any(not value.ndim for value in results.values())


def _pseudo_values(
    metric: Metric, evidence: Evidence, results: Mapping[str, Tensor], groups: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """The pseudo-values [G] of each set score, from the scores without each group of rows.

    Args:
        metric: the metric.
        evidence: the rows that it can score [N].
        results: its scores of them.
        groups: the group of each row [N].
        count: number of groups G.
    """
    without = {name: np.full(count, np.nan) for name, value in results.items() if not value.ndim}
    for g in np.unique(groups) if without else ():
        rows = torch.from_numpy(groups != g).nonzero()[:, 0]
        for name, value in _call(metric, evidence.take(rows)).items() if len(rows) > 1 else ():
            if name in without:
                without[name][g] = float(value)
    return {name: pseudo_values(float(results[name]), scores) for name, scores in without.items()}
