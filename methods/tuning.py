"""How Diff-SCM chooses its guidance: questions on validation images, the curve of the answers, and the rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cfbench.contract import Fit, Split
from cfbench.graph import CausalGraph, Variable

from . import cld

if TYPE_CHECKING:
    from .diffscm import DiffSCM

__all__ = ["RULES", "Questions", "choose", "curve", "guided", "questions", "remarks", "report", "tune"]

RULES = ("effectiveness", "cld")
GRID: Mapping[float, tuple[float, ...]] = {0.0: (3.0, 7.0), 0.5: (2.0, 3.0, 4.5, 6.0), 1.0: (2.0, 3.5)}
"""The scales tried at each contrast; at one that is given, all of them. No guidance at all is shown, never chosen."""
FIGURE = (0.0, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 18.0, 30.0)
"""The scales of the rule ``cld``, those of the paper's figure and beyond: fewer moves want larger ones."""
REST = 3.0
"""The scale of the parents that a question is not about, while one scale for each parent is tuned."""
SHORT = 0.9
"""Of values this part of the best effectiveness is enough: together they overshoot sooner than each alone."""
FEWEST, FACTUALS = 8, 96
NULLS = 24
IDLE = 0.02
"""A variable whose effectiveness guidance raises by no more than this is reported as not steered."""
POOL = 500
REPORT = 400
TIE = 1e-4
"""Changes of images, in [0, 1] grey levels, that are nearer to each other than this are the same."""
Row = dict[str, Any]
Scale = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Questions:
    """Factuals x [B, C, H, W] with parents pa [B, D], new parents cf_pa [B, D], and which variable is set [B]."""

    x: Tensor
    pa: Tensor
    cf_pa: Tensor
    variable: Tensor


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


def curve(method: DiffSCM, q: Questions, pool: Split, settings: Sequence[tuple[float, Scale]]) -> Iterator[Row]:
    """A row for each (contrast, scale): effectiveness by the clean predictor, overall and by variable, mean absolute
    change and composition error in [0, 1] grey levels, and CLD where the method has a VAE."""
    z, z_cf = method.encoder.standardise(q.pa), method.encoder.standardise(q.cf_pa)
    u = method.abduct(q.x, q.pa)
    n = min(NULLS, len(q.pa))
    both = {name: torch.cat([value, value[:n]]) for name, value in u.items()}
    asked = F.one_hot(torch.cat([q.variable, q.variable[:n]]), len(method.graph.names)).bool()
    for method.contrast, scale in settings:
        method.scale = torch.where(asked, torch.as_tensor(scale), REST) if _each(method) and scale else scale
        answer, null = method.predict(both, torch.cat([q.cf_pa, q.pa[:n]])).split([len(q.pa), n])
        row: Row = {"contrast": method.contrast, "scale": scale}
        row |= {"change": float((answer - q.x).abs().mean()), "composition": float((null - q.x[:n]).abs().mean())}
        if method.shares["clean"]:
            success = method.clean.success(method.read(answer), z_cf, z)
            parts = {
                f"effectiveness/{v.name}": float(success[q.variable == k, k].mean())
                for k, v in enumerate(method.graph.variables)
            }
            row |= {"effectiveness": sum(parts.values()) / len(parts), **parts}
        if method.shares["vae"]:
            row["cld"] = float(_cld(method, q, answer, pool))
        yield row


def _each(method: DiffSCM) -> bool:
    """Whether tuning looks for one scale for each parent; the rule ``cld`` knows one for all."""
    return "scale" in method.open and method.rule != "cld" and len(method.graph.names) > 1


def _cld(method: DiffSCM, q: Questions, answer: Tensor, pool: Split) -> Tensor:
    real = pool.parents.to(q.pa)
    rows = torch.arange(len(q.pa))
    near = []
    for pa in (q.cf_pa, q.pa):
        distance = (real[:, q.variable].T - pa[rows, q.variable][:, None]).abs()
        nearest = distance.kthvalue(max(1, len(real) // 10), dim=1, keepdim=True).values
        classes = torch.tensor([v.categorical for v in method.graph.variables], device=pa.device)[q.variable]
        near.append(torch.where(classes[:, None], distance == 0, distance <= nearest))
    return cld.latent_divergence(method.vae, answer, q.x, pool.x.to(q.x), near[0], near[1]).mean()


def choose(rows: Sequence[Row], rule: str, enough: float) -> Row:
    """The row that the rule picks among those that are guided: without guidance nothing that is asked is answered.

    ``cld``: the smallest divergence. ``effectiveness``: of the rows with at least ``enough`` times the best
    effectiveness, the one that moves the images least, asked (``change``) and unasked (``composition``) together;
    with one contrast that is the smallest scale. Of rows within `TIE` it is the first.
    """
    rows = guided(rows)
    if rule == "cld":
        return min(rows, key=lambda row: row["cld"])
    bar = enough * max(row["effectiveness"] for row in rows)
    effective = (row for row in rows if row["effectiveness"] >= bar)
    return min(effective, key=lambda row: round((row["change"] + row["composition"]) / TIE))


def guided(rows: Sequence[Row]) -> list[Row]:
    """The rows that have guidance."""
    return [row for row in rows if row["scale"]]


def remarks(rows: Sequence[Row], best: Row, scale: Scale, names: Sequence[str], rule: str) -> list[str]:
    """What a reader of the table must know of the choice: what guidance does not move, and that none would be better.

    Args:
        rows: the curve, with the row that has no guidance.
        best: the row that was chosen, and ``scale`` with it: one scale, or that of each variable.
        names: of the variables.
        rule: by which it was chosen.
    """
    none = next(row for row in rows if not row["scale"])
    said = []
    if rule == "cld" and none["cld"] <= best["cld"]:
        said.append(f"no guidance at all has a CLD of {none['cld']:.3f}, the chosen scale {best['cld']:.3f}")
    for k, name in enumerate(names):
        column, own = f"effectiveness/{name}", scale[k] if isinstance(scale, Sequence) else best["scale"]
        row = next((row for row in rows if (row["contrast"], row["scale"]) == (best["contrast"], own)), best)
        if column in none and row[column] <= none[column] + IDLE:
            said.append(
                f"guidance does not steer {name}: effectiveness {row[column]:.2f} on validation data at scale {own:g}, "
                f"{none[column]:.2f} without guidance"
            )
    return said


def _settings(method: DiffSCM) -> list[tuple[float, Scale]]:
    """Pairs (contrast, scale): the grid, without a contrast where no parent is a class, and what is fixed as fixed."""
    categorical = any(v.categorical for v in method.graph.variables)
    contrasts = tuple(GRID) if "contrast" in method.open and categorical else (method.contrast * categorical,)
    finest = tuple(sorted({scale for scales in GRID.values() for scale in scales}))
    if "scale" not in method.open:
        return [(c, method.scale) for c in contrasts]
    if method.rule == "cld":
        return [(c, s) for c in contrasts for s in FIGURE]
    return [(contrasts[0], 0.0), *((c, s) for c in contrasts for s in (GRID[c] if len(contrasts) > 1 else finest))]


@torch.no_grad()
def tune(method: DiffSCM, run: Fit) -> Mapping[str, Any]:
    """Values of the open parameters among ``scale`` and ``contrast``; records the table ``guidance``."""
    settings = _settings(method)
    count = min(FACTUALS, max(FEWEST, run.images // 1000))
    q = questions(method.graph, run.valid, count, run.rng)
    q = Questions(*(part.to(run.device) for part in (q.x, q.pa, q.cf_pa, q.variable)))
    pool = run.valid[torch.randperm(len(run.valid), generator=run.rng)[:POOL]]
    rows = []
    for row in curve(method, q, pool, settings):
        rows.append(row)
        run.log({"stage": "guidance", **row})
        run.progress("guidance", len(rows), len(settings))
    best = choose(rows, method.rule, method.enough)
    method.contrast = best["contrast"]
    method.scale = scales(method, rows, best) if "scale" in method.open else best["scale"]
    run.record("guidance", [{**row, "chosen": row is best, "scales": method.scale} for row in rows])
    if "scale" in method.open and (said := remarks(rows, best, method.scale, method.graph.names, method.rule)):
        run.record("remarks", said)
    return {name: getattr(method, name) for name in method.open}


def scales(method: DiffSCM, rows: Sequence[Row], best: Row) -> Scale:
    """One scale, or that of each parent by its own curve at the contrast of the best row.

    It is the smallest scale that has ``enough`` of the best effectiveness for a class, or `SHORT` of it for a value.
    """
    if not _each(method):
        return best["scale"]
    same = sorted((row for row in guided(rows) if row["contrast"] == best["contrast"]), key=lambda row: row["scale"])

    def own(variable: Variable) -> float:
        column = f"effectiveness/{variable.name}"
        bar = (method.enough if variable.categorical else SHORT) * max(row[column] for row in same)
        return next(row["scale"] for row in same if row[column] >= bar)

    return [own(variable) for variable in method.graph.variables]


@torch.no_grad()
def report(method: DiffSCM, run: Fit) -> None:
    """Record, as ``predictor``, how well the guiding predictor reads the parents at each noise level.

    Classes: accuracy. Values: 1 - mean squared error / variance. The clean predictor's row has t = -1.
    """
    part = run.valid[:REPORT]
    x, z = 2 * part.x.to(run.device) - 1, method.encoder.standardise(part.parents.to(run.device))
    rows = []
    if method.shares["clean"]:
        rows.append({"t": -1, **_scores(method, method.read(part.x.to(run.device)), z)})
    for t in range(0, len(method.levels), len(method.levels) // 10):
        steps = torch.full((len(x),), t, device=run.device)
        eps = torch.randn(x.shape, generator=run.rng).to(run.device)
        out = method.predictor(method.denoiser.noised(x, eps, steps), steps)
        rows.append({"t": t, **_scores(method, method.predictor.best(out), z)})
    for row in rows:
        run.log({"stage": "predictor accuracy", **row})
    run.record("predictor", rows)


def _scores(method: DiffSCM, read: Tensor, z: Tensor) -> Row:
    return {
        v.name: float(
            (read[:, k] == z[:, k]).float().mean()
            if v.categorical
            else 1 - (read - z)[:, k].square().mean() / z[:, k].var()
        )
        for k, v in enumerate(method.graph.variables)
    }
