"""The choice of a guidance: questions on validation images, the curve of the answers, and the rule.

Methods give functions of a setting, a mapping such as {"contrast": 0.5, "scale": 3.0}:

    q = asked(graph, run)
    rows = curve(run, q, settings, answers(q, abduct, predict), score)
    best = choose(rows, "effectiveness", 0.97)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfbench.contract import Fit, Split
from cfbench.graph import CausalGraph, Variable

from ..nn.parents import ParentEncoder
from ..nn.predictor import ParentPredictor

__all__ = [
    "CONTRASTS", "LABELS", "POOL", "REST", "RULES", "SCALES", "Questions", "answers", "asked",
    "choose", "curve", "effectiveness", "guided", "questions", "remarks", "scale_of_each",
]  # fmt: skip

RULES = ("effectiveness", "cld")
CONTRASTS: Mapping[float, tuple[float, ...]] = {0.0: (3.0, 7.0), 0.5: (2.0, 3.0, 4.5, 6.0), 1.0: (2.0, 3.5)}
"""The scales tried at each contrast; at one that is given, all of them. No guidance at all is shown, never chosen."""
SCALES = (0.0, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 18.0, 30.0)
"""The scales of the rule ``cld``, those of the paper's figure and beyond: fewer steps want larger ones."""
REST = 3.0
"""The scale of the parents that a question is not about, while one scale for each parent is tuned."""
VALUES = 0.9
"""Of values this part of the best effectiveness is enough: together they overshoot sooner than each alone."""
FEWEST, MOST = 8, 96
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
    """One question for each of ``count`` rows, the variables in turn.

    The new value and those of the variable's descendants come from one other row, so that they fit together; a
    class always changes where one of 32 rows has another one.
    """
    rows = torch.randperm(len(data), generator=rng)[:count]
    pa = data.parents[rows]
    cf_pa = pa.clone()
    variable = torch.arange(len(rows)) % len(graph.variables)
    for i, k in enumerate(variable.tolist()):
        donors = data.parents[torch.randint(len(data), (32,), generator=rng)]
        other = (donors[:, k] != pa[i, k]).int().argmax()
        name = graph.names[k]
        columns = [k, *(graph.index(n) for n in graph.descendants(name))]
        cf_pa[i, columns] = donors[other, columns]
    return Questions(data[rows].x, pa, cf_pa, variable)


def asked(graph: CausalGraph, run: Fit) -> Questions:
    """Questions about validation images, more of them in longer runs, on the run's device."""
    return questions(graph, run.valid, min(MOST, max(FEWEST, run.images // 1000)), run.rng).to(run.device)


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


def curve(
    run: Fit, q: Questions, settings: Sequence[Setting], answer: Answer, score: Callable[[Tensor], Row]
) -> list[Row]:
    """A row for each setting, logged: mean absolute change and composition error in [0, 1] grey levels, and scores."""
    rows: list[Row] = []
    for setting in settings:
        image, null = answer(setting)
        change, composition = (float((a - b).abs().mean()) for a, b in ((image, q.x), (null, q.x[: len(null)])))
        rows.append({**setting, "change": change, "composition": composition, **score(image)})
        run.log({"stage": "guidance", **rows[-1]})
        run.progress("guidance", len(rows), len(settings))
    return rows


def effectiveness(clean: ParentPredictor, encoder: ParentEncoder, q: Questions, image: Tensor) -> Row:
    """What a predictor of clean images finds in the answers [B, C, H, W] of what was asked, overall and by variable.

    See `ParentPredictor.success`.
    """
    z = clean.best(clean(2 * image - 1, 0))
    success = clean.success(z, encoder.standardise(q.cf_pa), encoder.standardise(q.pa))
    parts = {
        f"effectiveness/{v.name}": float(success[q.variable == k, k].mean()) for k, v in enumerate(encoder.variables)
    }
    return {"effectiveness": sum(parts.values()) / len(parts), **parts}


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
        row = next((row for row in rows if (row["contrast"], row["scale"]) == (best["contrast"], own)), best)
        if column in none and row[column] <= none[column] + IDLE:
            found.append(
                f"guidance does not steer {name}: effectiveness {row[column]:.2f} on validation data at scale {own:g}, "
                f"{none[column]:.2f} without guidance"
            )
    return found
