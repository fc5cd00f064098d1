"""The judge card: the errors of each judge on images that trained none of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contract import Dataset, Split
from ..graph import CausalGraph, Variable
from ..rng import derive
from .augmentation import blurred, blurred_labels, noisy
from .panel import Judges

__all__ = ["ENOUGH", "card"]

CARD_NOISE = 8 / 255
"""The standard deviation of the noise of the card's noisy images, of images in [0, 1]."""
ENOUGH = {"categorical": 0.97, "continuous": 0.9}
"""The accuracy, or the share of variance explained, from which a reader is good enough to compare methods."""
Row = dict[str, Any]
Data = tuple[Tensor, Tensor]
"""Images [N, C, H, W] in [0, 1] and their parents [N, D]."""


def card(judges: Judges, dataset: Dataset, root: Path, seed: int = 0, rows: int = 2000, truths: int = 500) -> list[Row]:
    """A row {judge, variable, data, error, unit, n, good} for each judge and kind of data.

    Data are ``unconfounded`` (held-out rows of ``judge_split``), ``real`` (the validation split), ``oracle`` (true
    counterfactuals of validation rows, one intervention on each variable drawn from its training marginal; absent
    where the data set has none), ``blurred`` and ``noisy`` (validation images, each blurred by a random weight or with
    noise of 8 grey levels). A blurred image has the labels of `blurred_labels`; values that are not measured have no
    row there, nor have measurements, which those labels follow. Errors are the share of images read wrongly for
    classes, the mean absolute error in the variable's unit for values, and the mean absolute difference in grey
    levels for the VAE and the auto-encoders. ``good`` says whether a reader reaches `ENOUGH` on real images and is
    None elsewhere.

    Args:
        judges: the judges.
        dataset: the data set.
        root: its data root.
        seed: seed of the interventions.
        rows: maximum number of held-out images of each kind.
        truths: maximum number of factuals for the oracle, and of blurred and noisy images.
    """
    valid = dataset.split(root, "valid")[:rows]
    judge = dataset.judge_split(root, "valid")[:rows]
    data = {"unconfounded": (judge.x, judge.parents), "real": (valid.x, valid.parents)}
    if (truth := _truths(dataset, root, valid[:truths], seed)) is not None:
        data["oracle"] = truth
    table: list[Row] = []
    for name, (x, pa) in data.items():
        table += _readings("reader", judges.read(x), judges.graph, pa, name)
        table += _readings("measured", dataset.measure(x) or {}, judges.graph, pa, name)
    return table + _disturbed(judges, dataset, valid[:truths], seed) + _reconstructions(judges, valid)


def _disturbed(judges: Judges, dataset: Dataset, valid: Split, seed: int) -> list[Row]:
    """The readings of blurred and of noisy images."""
    x, pa, graph = valid.x, valid.parents, judges.graph
    rng = torch.Generator().manual_seed(derive(seed, "judge card", "blurred and noisy"))
    soft = blurred(x, torch.rand(len(x), generator=rng))
    rough = noisy(x, torch.full((len(x),), CARD_NOISE), rng)
    table = _readings("reader", judges.read(soft), graph, blurred_labels(dataset, graph, x, pa, soft), "blurred")
    table += _readings("reader", judges.read(rough), graph, pa, "noisy")
    return table + _readings("measured", dataset.measure(rough) or {}, graph, pa, "noisy")


def _readings(judge: str, found: Mapping[str, Tensor], graph: CausalGraph, pa: Tensor, data: str) -> list[Row]:
    """The errors of the variables that are ``found``, but of those of which no parent is known (NaN)."""
    known = pa.isfinite()
    return [
        _reading(judge, found[v.name][known[:, d]], v, pa[known[:, d], d], data)
        for d, v in enumerate(graph.variables)
        if v.name in found and known[:, d].any()
    ]


def _reading(judge: str, found: Tensor, variable: Variable, target: Tensor, data: str) -> Row:
    """The error of ``found`` (classes, their probabilities, or values) against ``target`` [N]."""
    if variable.categorical:
        wrong = (found.argmax(1) if found.ndim == 2 else found.round()) != target
        error = wrong.double().mean()
        enough = 1 - error >= ENOUGH["categorical"]
    else:
        miss = found.double() - target.double()
        error = miss.abs().mean()
        enough = 1 - miss.square().mean() / target.double().var(correction=0) >= ENOUGH["continuous"]
    unit = "share wrong" if variable.categorical else variable.unit
    return _row(judge, variable.name, data, error, unit, len(target), bool(enough) if data == "real" else None)


def _reconstructions(judges: Judges, valid: Split) -> list[Row]:
    """Reconstruction errors of VAE and auto-encoders on held-out images, also with those of other classes."""
    x, pa, graph = valid.x, valid.parents, judges.graph
    first = graph.names[0]
    pairs = [
        ("vae", "", "real", judges.draw(x)),
        ("auto-encoder", "", "real", judges.reconstruct(x, first)),
    ]
    for d, v in enumerate(graph.variables):
        if v.categorical:
            own = pa[:, d]
            pairs.append(("class auto-encoder", v.name, "real", judges.reconstruct(x, v.name, own)))
            other = (own + 1 + valid.index.to(own.device) % (v.size - 1)) % v.size
            pairs.append(("class auto-encoder", v.name, "real, other class", judges.reconstruct(x, v.name, other)))
    return [
        _row(judge, variable, data, 255 * (x - y).abs().double().mean(), "grey levels", len(x), None)
        for judge, variable, data, y in pairs
    ]


def _row(judge: str, variable: str, data: str, error: Tensor, unit: str, n: int, good: bool | None) -> Row:
    about = {"judge": judge, "variable": variable, "data": data}
    return {**about, "error": float(error), "unit": unit, "n": n, "good": good}


def _truths(dataset: Dataset, root: Path, valid: Split, seed: int) -> Data | None:
    """True counterfactuals under one intervention on each variable; None if the data set has none."""
    rng = torch.Generator().manual_seed(derive(seed, "judge card"))
    train = dataset.split(root, "train").parents
    images, parents = [], []
    for d, v in enumerate(dataset.graph.variables):
        value = _draw(v, train[:, d], valid.parents[:, d], rng)
        cf_pa = dataset.act(valid.parents, {v.name: value}, rng)
        truth = None if cf_pa is None else dataset.oracle(root, "valid", valid.index, cf_pa)
        if cf_pa is not None and truth is not None:
            known = truth.flatten(1).isfinite().all(1)
            images.append(truth[known])
            parents.append(cf_pa[known])
    if not sum(map(len, images)):
        return None
    return torch.cat(images), torch.cat(parents)


def _draw(variable: Variable, marginal: Tensor, factual: Tensor, rng: torch.Generator) -> Tensor:
    """A value of the training marginal for each row; of a class, one other than the factual's."""
    if not variable.categorical:
        return marginal[torch.randint(len(marginal), factual.shape, generator=rng)]
    weight = torch.bincount(marginal.long(), minlength=variable.size).double().repeat(len(factual), 1)
    weight.scatter_(1, factual.long()[:, None], 0)
    return torch.multinomial(weight, 1, generator=rng)[:, 0].to(factual.dtype)
