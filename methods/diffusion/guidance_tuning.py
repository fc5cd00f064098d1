"""The choice of a guidance: questions on validation images, the curve of the answers, and the rule.

Methods give functions of a setting, a mapping such as {"contrast": 0.5, "scale": 3.0}:

    q = asked(graph, run, len(settings))
    found = curve(run, q, graph.names, settings, answers(q, abduct, predict), score)
    choice = settle(found, rule)  # of rows: the one that `choose` picks, and its scale or scales

The rule has thresholds, and at a threshold one question decides between settings whose answers differ. So it is asked
of many resamples of the questions, and the choice is the mean of what it picks (bagging; Breiman 1996, "Heuristics of
instability and stabilization in model selection").
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cfbench.contract import Fit, Split
from cfbench.graph import CausalGraph, Variable
from cfbench.nn import ParentEncoder

from ..nn.predictor import ParentPredictor

__all__ = [
    "CONTRASTS", "LABELS", "POOL", "REST", "RULES", "SCALES", "SCALES_OF_EACH", "Choice", "Curve", "Questions",
    "answers", "asked", "choose", "curve", "effectiveness", "guided", "questions", "remarks", "scale_of_each", "settle",
]  # fmt: skip

RULES = ("effectiveness", "cld")
CONTRASTS: Mapping[float, tuple[float, ...]] = {0.0: (3.0, 7.0), 0.5: (2.0, 3.0, 4.5, 6.0), 1.0: (2.0, 3.5)}
"""The scales tried at each contrast where it is open. No guidance at all is shown, never chosen."""
SCALES_OF_EACH = (2.0, 3.0, 4.5, 6.5)
"""The scales tried at a contrast that is given."""
SCALES = (0.0, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 18.0, 30.0)
"""The scales of the rule ``cld``, those of the paper's figure and beyond: fewer steps want larger ones."""
REST = 3.0
"""The scale of the parents that a question is not about, while one scale for each parent is tuned."""
VALUES = 0.9
"""Of values this part of the best effectiveness is enough: together they overshoot sooner than each alone."""
FEWEST, ANSWERS = 8, 1200
"""Questions that are asked at least, and about as many answers as all settings may have together."""
MANY = 96
"""Questions under however many settings, where the budget is not small."""
RESAMPLES = 200
NULLS = 24
POOL = 500
IDLE = 0.02
"""A variable whose effectiveness guidance raises by no more than this is reported as not steered."""
TIE = 1e-4
"""Changes of images, in [0, 1] grey levels, that are nearer to each other than this are the same."""
LABELS = {
    "effectiveness": "effectiveness\n[share or R²]",
    "change": "change asked for\n[mean abs, 0 to 1]",
    "composition": "change unasked\n[mean abs, 0 to 1]",
    "cld": "CLD\n[nats]",
}
"""The columns of a guidance table that charts draw."""
Row = dict[str, Any]
Setting = Mapping[str, Any]
Scale = float | Sequence[float] | Tensor
Answer = Callable[[Setting], Sequence[Tensor]]
"""Answers to the questions under a setting, and to the first `NULLS` of them with the factual parents."""
Rule = Callable[[Sequence[Row]], tuple[Row, Scale]]
"""Picks a row, and with it a scale or one for each variable."""


@dataclass(frozen=True)
class Questions:
    """Factuals x [B, C, H, W] with parents pa [B, D], new parents cf_pa [B, D], and which variable is set [B]."""

    x: Tensor
    pa: Tensor
    cf_pa: Tensor
    variable: Tensor

    def to(self, device: torch.device) -> Questions:
        """The same questions on a device."""
        return Questions(*(part.to(device) for part in (self.x, self.pa, self.cf_pa, self.variable)))


def questions(graph: CausalGraph, data: Split, count: int, rng: torch.Generator) -> Questions:
    """One question for each of ``count`` rows, the variables in turn, classes twice as often as values.

    An answer about a class is right or wrong, which says less of a scale than how much of a value was reached.

    The new value and those of the variable's descendants come from one other row, so that they fit together; a
    class always changes where one of 32 rows has another one.
    """
    rows = torch.randperm(len(data), generator=rng)[:count]
    pa = data.parents[rows]
    cf_pa = pa.clone()
    turns = [*range(len(graph.variables)), *(k for k, v in enumerate(graph.variables) if v.categorical)]
    variable = torch.tensor(turns)[torch.arange(len(rows)) % len(turns)]
    for i, k in enumerate(variable.tolist()):
        donors = data.parents[torch.randint(len(data), (32,), generator=rng)]
        other = (donors[:, k] != pa[i, k]).int().argmax()
        name = graph.names[k]
        columns = [k, *(graph.index(n) for n in graph.descendants(name))]
        cf_pa[i, columns] = donors[other, columns]
    return Questions(data[rows].x, pa, cf_pa, variable)


def asked(graph: CausalGraph, run: Fit, settings: int, total: int = ANSWERS) -> Questions:
    """Questions about validation images on the run's device, more of them in longer runs, and under few settings."""
    fewest, most = max(FEWEST, len(graph.variables)), max(MANY, total // settings)
    return questions(graph, run.valid, min(most, max(fewest, run.images // 500)), run.rng).to(run.device)


def answers(
    q: Questions,
    abduct: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
    predict: Callable[[Mapping[str, Tensor], Tensor, Tensor, Setting], Tensor],
) -> Answer:
    """The function of a setting that answers from one abduction.

    Args:
        q: the questions.
        abduct: of images and parents: the noise.
        predict: of noise, new parents [B, D], the variables that are set [B], and a setting: the images.
    """
    n = min(NULLS, len(q.pa))
    u = {name: torch.cat([value, value[:n]]) for name, value in abduct(q.x, q.pa).items()}
    pa, variable = torch.cat([q.cf_pa, q.pa[:n]]), torch.cat([q.variable, q.variable[:n]])
    return lambda setting: predict(u, pa, variable, setting).split([len(q.pa), n])


@dataclass(frozen=True)
class Curve:
    """What was found under each setting: a row of means each, and scores [S, B] of every question by name.

    Among the scores are ``change`` and, as far as they were asked, ``composition`` [S, n]; ``variable`` [B] is the one
    that a question sets, of those with ``names``.
    """

    settings: Sequence[Setting]
    scores: Mapping[str, Tensor]
    variable: Tensor
    names: Sequence[str]

    def rows(self) -> list[Row]:
        """A row of means for each setting."""
        ones = {name: torch.ones(1, self.scores[name].shape[1]) for name in ("change", "composition")}
        return next(self._weighted(ones))

    def resamples(self, count: int = RESAMPLES) -> Iterator[list[Row]]:
        """Rows as other questions would have given: drawn with replacement, as many about each variable."""
        rng = torch.Generator().manual_seed(0)
        groups = [(self.variable == k).nonzero()[:, 0].cpu() for k in range(len(self.names))]
        nulls = torch.arange(self.scores["composition"].shape[1])

        def weights(groups: Sequence[Tensor], size: int) -> Tensor:
            drawn = [g[torch.randint(len(g), (count, len(g)), generator=rng)] for g in groups if len(g)]
            index = torch.cat(drawn, dim=1)
            return torch.zeros(count, size).scatter_add_(1, index, torch.ones(index.shape))

        size = len(self.variable)
        yield from self._weighted({"change": weights(groups, size), "composition": weights([nulls], len(nulls))})

    def _weighted(self, weights: Mapping[str, Tensor]) -> Iterator[list[Row]]:
        """Rows of means under weights [R, B] of the questions and [R, n] of those asked for composition, R times."""
        means: dict[str, Tensor] = {}
        for name, score in self.scores.items():
            weight = weights["composition" if name == "composition" else "change"].to(score)
            if name == "effectiveness":
                own = F.one_hot(self.variable, len(self.names)).to(score)
                each = torch.einsum("rb,sb,bk->rsk", weight, score, own) / (weight @ own)[:, None]
                means[name] = each.mean(2)
                means |= {f"{name}/{v}": each[:, :, k] for k, v in enumerate(self.names)}
            else:
                means[name] = weight @ score.T / weight.sum(1, keepdim=True)
        lists = {name: values.tolist() for name, values in means.items()}
        for r in range(len(weights["change"])):
            yield [
                {**setting, **{name: values[r][i] for name, values in lists.items()}}
                for i, setting in enumerate(self.settings)
            ]


def curve(
    run: Fit,
    q: Questions,
    names: Sequence[str],
    settings: Sequence[Setting],
    answer: Answer,
    score: Callable[[Tensor], Mapping[str, Tensor]],
) -> Curve:
    """The curve over the settings, its rows logged: absolute change and composition error in [0, 1], and scores."""
    found: dict[str, list[Tensor]] = {}
    for number, setting in enumerate(settings, start=1):
        image, null = answer(setting)
        scores = {
            name: (a - b).abs().flatten(1).mean(1)
            for name, a, b in (("change", image, q.x), ("composition", null, q.x[: len(null)]))
        }
        for name, value in {**scores, **score(image)}.items():
            found.setdefault(name, []).append(value.float())
        one = Curve([setting], {name: values[-1][None] for name, values in found.items()}, q.variable, names)
        run.log({"stage": "guidance", **one.rows()[0]})
        run.progress("guidance", number, len(settings))
    return Curve(settings, {name: torch.stack(values) for name, values in found.items()}, q.variable, names)


def effectiveness(clean: ParentPredictor, encoder: ParentEncoder, q: Questions, image: Tensor) -> Tensor:
    """What a predictor of clean images finds in each answer [B, C, H, W] of what was asked [B].

    See `ParentPredictor.success`.
    """
    z = clean.best(clean(2 * image - 1, 0))
    success = clean.success(z, encoder.standardise(q.cf_pa), encoder.standardise(q.pa))
    return success[torch.arange(len(success), device=success.device), q.variable]


def guided(rows: Sequence[Row]) -> list[Row]:
    """The rows that have guidance."""
    return [row for row in rows if row["scale"]]


def choose(rows: Sequence[Row], rule: str, ratio: float) -> Row:
    """The row that the rule picks among those that are guided: without guidance nothing that is asked is answered.

    ``cld``: the smallest divergence. ``effectiveness``: of the rows with at least ``ratio`` times the best
    effectiveness, the one that moves the images least, asked (``change``) and unasked (``composition``) together;
    with one contrast that is the smallest scale. Of rows within `TIE` it is the first.
    """
    rows = guided(rows)
    if rule == "cld":
        return min(rows, key=lambda row: row["cld"])
    bar = ratio * max(row["effectiveness"] for row in rows)
    effective = (row for row in rows if row["effectiveness"] >= bar)
    return min(effective, key=lambda row: round((row["change"] + row["composition"]) / TIE))


def scale_of_each(rows: Sequence[Row], best: Row, variables: Sequence[Variable], ratio: float) -> list[float]:
    """The scale of each parent by its own curve at the contrast of the best row.

    It is the smallest scale that has ``ratio`` times the best effectiveness for a class, or `VALUES` of it for a value.
    """
    same = sorted((row for row in guided(rows) if row["contrast"] == best["contrast"]), key=lambda row: row["scale"])

    def smallest(variable: Variable) -> float:
        column = f"effectiveness/{variable.name}"
        bar = (ratio if variable.categorical else VALUES) * max(row[column] for row in same)
        return next(row["scale"] for row in same if row[column] >= bar)

    return [smallest(variable) for variable in variables]


@dataclass(frozen=True)
class Choice:
    """The row that is nearest to what was chosen, its contrast if there is one, and the scale or that of each variable.

    ``rows`` are those of the whole curve.
    """

    rows: Sequence[Row]
    row: Row
    scale: Scale


def settle(found: Curve, rule: Rule) -> Choice:
    """What the rule picks in the mean of resampled questions: the most frequent contrast, and at it the mean scale.

    The mean is the geometric one, to two digits.
    """
    picked = [rule(rows) for rows in found.resamples()]
    contrast = Counter(row.get("contrast") for row, _ in picked).most_common(1)[0][0]
    scales = torch.tensor([scale for row, scale in picked if row.get("contrast") == contrast], dtype=torch.float64)
    means: list[float] = [float(f"{s:.2g}") for s in scales.log().mean(0).exp().reshape(-1).tolist()]
    rows = found.rows()
    row = _nearest(rows, contrast, math.exp(sum(map(math.log, means)) / len(means)))
    return Choice(rows, row, means if scales.ndim > 1 else means[0])


def _nearest(rows: Sequence[Row], contrast: float | None, scale: float) -> Row:
    """The guided row at a contrast whose scale is nearest, in ratio."""
    same = [row for row in guided(rows) if row.get("contrast") == contrast]
    if len(same) == 1:  # of a scale that is given, which may be one for each variable
        return same[0]
    return min(same, key=lambda row: abs(math.log(row["scale"] / scale)))


def remarks(rows: Sequence[Row], best: Row, scale: Scale, names: Sequence[str], rule: str) -> list[str]:
    """What a reader of the table must know of the choice: what guidance does not move, and that none would be better.

    Args:
        rows: the curve, with the row that has no guidance.
        best: the row that was chosen, and ``scale`` with it: one scale, or that of each variable.
        names: of the variables.
        rule: by which it was chosen.
    """
    none = next(row for row in rows if not row["scale"])
    found = []
    if rule == "cld" and none["cld"] <= best["cld"]:
        found.append(f"no guidance at all has a CLD of {none['cld']:.3f}, the chosen scale {best['cld']:.3f}")
    for k, name in enumerate(names):
        column, own = f"effectiveness/{name}", scale[k] if isinstance(scale, Sequence) else best["scale"]
        row = _nearest(rows, best["contrast"], own)
        if column in none and row[column] <= none[column] + IDLE:
            found.append(
                f"guidance does not steer {name}: effectiveness {row[column]:.2f} on validation data at scale "
                f"{row['scale']:g}, {none[column]:.2f} without guidance"
            )
    return found
