"""What a metric is worth where the truth is unknown: how well it orders methods as their skill does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from .columns import MEAN
from .markup import md_table
from .spreadsheet import csv
from .summary.headline import COSTS, LIKELIHOOD, SKILL, WITH_TRUTH

__all__ = ["AXIS", "METRICS", "NOTES", "Agreement", "agreement_texts", "agreements"]

METRICS = "metrics"
"""How the names of the files on what metrics are worth begin."""
AXIS = "mean rank correlation with the skill"
NOTES = (
    "Right: the order of the methods is that of their skill. Left: it is the other way round. 0: the metric says "
    "nothing. Lines are 95 % intervals by the jackknife over plugins.",
)
"""What the chart says of itself."""
WORTH = """# What a metric is worth

Where a true counterfactual is known, methods have a skill: the share of the factual's error to the truth that their
answers remove. Where none is known, other metrics have to say which method is best. Would they have put the methods of
these tables in the order of their skill, and picked the right one?

**Rank correlation**: 1 where the order is that of the skill, 0 where the metric says nothing, -1 where it is turned
round; the mean over data sets and interventions, with its interval by the jackknife over plugins. **Skill lost**: by
picking the row that is best in the metric. Every seed of a method is a row; controls are none.
"""
FEWEST = 4
"""Rows that it takes to speak of an order."""


@dataclass(frozen=True)
class Agreement:
    """How a column of a metric orders rows, against their skill.

    Args:
        metric: its path, as ``cld.cld``.
        orders: the number of orders compared: one for each data set and intervention, or each data set.
        rows: rows in these orders, trainings of several seeds apart.
        rho: the mean of Spearman's rank correlations, 1 where all orders are those of the skill.
        low, high: its 95 % interval, by the jackknife over plugins.
        lost: the skill that is lost, on average over the orders, by choosing the row that is best in this column.
    """

    metric: str
    orders: int
    rows: int
    rho: float
    low: float
    high: float
    lost: float


def agreements(tables: Iterable[tuple[pd.DataFrame, pd.DataFrame]]) -> list[Agreement]:
    """The agreement of each column that needs no truth with the skill, best first.

    Columns under an intervention are compared with the skill under it; those of null interventions, and the
    likelihood, with the mean skill. Rows that answer alike in several tables (under one key) count once, controls not
    at all, and a column in which all rows are equal agrees with nothing (rho is 0).

    Args:
        tables: of each data set the tidy and the wide table, as ``DATASET.csv`` and ``DATASET-wide.csv`` hold them.
    """
    orders = list(_orders(_cells(tables)))
    found = [_agreement(metric, [o for o in orders if o.metric == metric]) for metric in {o.metric: 0 for o in orders}]
    return sorted(found, key=lambda a: (-a.rho, a.metric))


@dataclass(frozen=True)
class _Order:
    """Rows in one place: the plugin of each, its skill, and its loss in a column, lower is better."""

    metric: str
    plugins: np.ndarray
    skill: np.ndarray
    loss: np.ndarray

    def without(self, plugin: str) -> _Order:
        kept = self.plugins != plugin
        return _Order(self.metric, self.plugins[kept], self.skill[kept], self.loss[kept])

    @property
    def rho(self) -> float:
        if len(self.skill) < 2 or np.ptp(self.loss) == 0 or np.ptp(self.skill) == 0:
            return 0.0
        return float(stats.spearmanr(-self.loss, self.skill).statistic)

    @property
    def lost(self) -> float:
        best = self.skill[self.loss == self.loss.min()]
        return float(self.skill.max() - best.mean())


def _cells(tables: Iterable[tuple[pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """The scores of single trainings on all questions: dataset, row, plugin, metric, do, loss."""
    parts = []
    for tidy, wide in tables:
        own = set(wide["method"][wide["role"] == "method"])
        several = tidy["method"].isin(tidy["method"][tidy["seed"] != "all"])
        rows = tidy[tidy["method"].isin(own) & ((tidy["seed"] != "all") | ~several)]
        rows = rows[(rows["questions"] == "all") & ((rows["variable"] == "") | (rows["variable"] == rows["do"]))]
        specs = dict(zip(wide["method"], wide["spec"] if "spec" in wide else wide["method"], strict=True))
        loss = list(map(_loss, rows["value"], rows["direction"]))
        parts.append(rows.assign(loss=loss, spec=[specs[m] for m in rows["method"]]))
    every = pd.concat(parts, ignore_index=True)
    every["row"] = every["keys"].str.partition(" ")[0]
    every["plugin"] = every["spec"].str.extract(r"^([^\[:@ ]*)", expand=False)
    every = every[np.isfinite(every["loss"])]
    return every.drop_duplicates(["dataset", "row", "metric", "do"])


def _loss(value: float, direction: str) -> float:
    """A score as one of which less is better; NaN where neither side is."""
    if direction.startswith("target "):
        return abs(value - float(direction.removeprefix("target ")))
    return {"lower": value, "higher": -value}.get(direction, math.nan)


def _orders(cells: pd.DataFrame) -> Iterator[_Order]:
    """The orders of rows by each column, in each data set and under each intervention that has a skill."""
    truth = cells[cells["metric"] == SKILL].set_index(["dataset", "do", "row"])["loss"]
    for (metric, dataset, do), own in cells.groupby(["metric", "dataset", "do"], sort=True):
        family = str(metric).partition(".")[0]
        if family in WITH_TRUTH or (family == COSTS and metric != LIKELIHOOD):
            continue
        place = MEAN if do in ("", "none") else do
        skill = -pd.Series(list(map(truth.to_dict().get, ((dataset, place, row) for row in own["row"]))), dtype=float)
        known = np.isfinite(skill.to_numpy())
        if known.sum() >= FEWEST:
            yield _Order(
                str(metric), own["plugin"].to_numpy()[known], skill.to_numpy()[known], own["loss"].to_numpy()[known]
            )


def _agreement(metric: str, orders: list[_Order]) -> Agreement:
    rho = float(np.mean([o.rho for o in orders]))
    plugins = sorted({plugin for o in orders for plugin in o.plugins})
    left: Mapping[str, float] = {p: float(np.mean([o.without(p).rho for o in orders])) for p in plugins}
    half = math.nan
    if (n := len(plugins)) > 2:
        spread = np.array(list(left.values()))
        half = float(stats.t.ppf(0.975, n - 1) * math.sqrt((n - 1) / n * ((spread - spread.mean()) ** 2).sum()))
    lost = float(np.mean([o.lost for o in orders]))
    return Agreement(
        metric, len(orders), sum(len(o.skill) for o in orders), rho, max(rho - half, -1), min(rho + half, 1), lost
    )


def agreement_texts(found: Sequence[Agreement]) -> dict[str, str]:
    """``metrics.md`` and ``metrics.csv``; none where no data set has a skill."""
    if not found:
        return {}
    head = ["metric", "mean rank correlation", "95 % interval", "skill lost", "orders", "rows"]
    rows = [
        [f"`{a.metric}`", f"{a.rho:.2f}", "–" if math.isnan(a.low) else f"[{a.low:.2f}, {a.high:.2f}]",
         f"{a.lost:.3f}", str(a.orders), str(a.rows)]
        for a in found
    ]  # fmt: skip
    table = pd.DataFrame([vars(a) for a in found])
    text = f"{WORTH}\n![Rank correlation of each metric with the skill]({METRICS}.png)\n\n{md_table(head, rows)}"
    return {f"{METRICS}.md": text, f"{METRICS}.csv": csv(table)}
