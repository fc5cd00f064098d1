"""One training loop for every network of a method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cfbench.contract import Fit
from cfbench.nn import WeightAverage

from .validation import BestWeights, Losses

__all__ = ["average_decay", "default_batch", "one_cycle", "peak", "train"]

STEPS = 4000
"""Steps of a fit on 130,000 images, for which learning rates were chosen."""
CLIP = 1.0
"""Largest norm of a gradient."""


def default_batch(images: int, smallest: int = 32, steps: int = STEPS) -> int:
    """The batch for a budget of so many images: a power of two that makes about so many steps, to 256 at most."""
    return min(256, max(smallest, 2 ** round(math.log2(max(images, 1) / steps))))


def average_decay(steps: int) -> float:
    """The decay of an average over about the last twentieth of the steps: .995 for 4,000, .9997 for 60,000."""
    return max(0.0, 1 - 20 / max(steps, 1))


def peak(lr: float, steps: int) -> float:
    """The largest learning rate of a fit: ``lr`` up to 4,000 steps, then as one over the root of their number."""
    return lr * min(1.0, math.sqrt(STEPS / max(steps, 1)))


def one_cycle(n: int, steps: int) -> float:
    """The learning rate at step n of ``steps`` over its peak: a tenth of the steps up, then a cosine down to 0."""
    top = max(1, steps // 10)
    if n < top:
        return (n + 1) / top
    return 0.5 * (1 + math.cos(math.pi * (n - top) / max(1, steps - top)))


def train(
    run: Fit,
    net: nn.Module,
    losses: Losses,
    images: int,
    *,
    stage: str,
    batch: int,
    lr: float,
    cycle: bool = True,
    ema: float | None = None,
    weight_decay: float = 0.01,
    also: Mapping[str, Any] | None = None,
    valid: Losses | None = None,
    columns: Mapping[str, Tensor] | None = None,
) -> None:
    """Train ``net`` in place on ``images`` images of the budget, with AdamW.

    Args:
        losses: of a batch, with noise by the run's generator; their mean is minimised.
        cycle: the learning rate goes through `one_cycle` with the `peak` of ``lr``, and gradients are clipped to
            norm 1; otherwise the rate stays at ``lr``.
        also: what else ``losses`` changes, as `Fit.batches` keeps it.
        ema: decay of the `WeightAverage` that is kept; with 0 it is the last weights, None is `average_decay`.
        valid: what validation images are judged by, ``losses`` in most fits; the average that had the least is kept
            (`BestWeights`), unless the rate stays as it is, as in published settings, whose last weights are kept.
        columns: further columns of the training log, which ``losses`` sets to values [B]; their means are logged.
    """
    batch = min(batch, images)
    steps = images // batch if batch else 0
    if not steps:
        return
    parameters: list[Tensor] = list(net.parameters())
    top = peak(lr, steps) if cycle else lr
    betas = (0.9, 0.99 if cycle else 0.999)
    optimiser = torch.optim.AdamW(parameters, lr=top, weight_decay=weight_decay, betas=betas, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: one_cycle(n, steps) if cycle else 1.0)
    average = WeightAverage(net, average_decay(steps) if ema is None else ema)
    best = BestWeights(run, net, valid, images, steps, stage) if valid else None
    net.train()
    keep = {"net": net, "optimiser": optimiser, "schedule": schedule, "average": average, **(also or {})}
    for x, pa in run.batches(steps, batch, stage, keep=keep | ({"best": best} if best else {})):
        n = schedule.last_epoch
        with torch.enable_grad():
            value = losses(x, pa, run.rng).mean()
            value.backward()
        if cycle:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        average.update()
        if n % 25 == 0 or n == steps - 1:
            means = {name: float(part.detach().mean()) for name, part in (columns or {}).items()}
            run.log({"stage": stage, "step": n, "images": run.seen, "loss": float(value.detach()), **means})
            run.progress(stage, n + 1, steps, float(value.detach()))
        if best:
            best.step(n + 1, average)
    average.apply()
    if best and cycle:
        best.apply()
    net.eval()
