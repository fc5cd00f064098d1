"""Counterfactual fine-tuning: an anti-causal predictor must find the counterfactual parents in the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cfbench.contract import Fit
from cfbench.nn import ParentEncoder

from .predictor import ParentPredictor
from .training import train

__all__ = ["Parts", "finetune", "shuffled"]

DAMPING, RATE = 0.05, 1e-3
"""What a nat of excess adds to the weight of the bound: at once, and for good at every step."""

Parts = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of images x, their parents and other parents: the negative bound in nats, and the counterfactuals x*."""


def shuffled(pa: Tensor, rng: torch.Generator) -> Tensor:
    """Other parents [B, D] from the batch: one column, or all of them, of other rows."""
    rows = torch.randperm(len(pa), generator=rng).to(pa.device)
    column = int(torch.randint(pa.shape[1] + 1, (1,), generator=rng))
    if column == pa.shape[1]:
        return pa[rows]
    other = pa.clone()
    other[:, column] = pa[rows, column]
    return other


def finetune(
    run: Fit,
    net: nn.Module,
    parts: Parts,
    bound: float,
    predictor: ParentPredictor,
    parents: ParentEncoder,
    images: Mapping[str, int],
    options: Mapping[str, Any],
) -> None:
    """Train the predictor, then ``net`` to raise log p(pa* | x*) while its negative bound stays near ``bound``.

    The Lagrangian of Ribeiro et al. 2023 (https://arxiv.org/abs/2306.15764), section 3.4, with its multiplier by
    damped ascent. As a method does not know how parents respond to each other, pa* are those of `shuffled`.

    Args:
        images: how many of the budget for ``predictor`` and for ``finetune``.
        options: of `train`.
    """
    multiplier = torch.ones(1, dtype=torch.float64)

    def predicted(x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        return predictor.losses(2 * x - 1, 0, parents.standardise(pa))

    def lagrangian(x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        other = shuffled(pa, rng)
        negative, image = parts(x, pa, other)
        excess = negative - bound
        weight = max(0.0, multiplier.item() + DAMPING * excess.item())
        multiplier.add_(RATE * excess.item()).clamp_min_(0)
        effect = predictor.losses(2 * image - 1, 0, parents.standardise(other), detach_variance=True).mean()
        return (effect + weight * excess) / math.prod(x.shape[1:])

    own = {**options, "lr": 2e-3}
    train(run, predictor, predicted, images["predictor"], stage="predictor", valid=predicted, **own)
    predictor.requires_grad_(False)
    train(run, net, lagrangian, images["finetune"], stage="finetune", also={"multiplier": [multiplier]}, **options)
