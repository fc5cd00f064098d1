"""One training loop for every network of a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cfbench.contract import Fit
from cfbench.nn import WeightAverage

__all__ = ["Loss", "default_batch", "one_cycle", "train"]

Loss = Callable[[Tensor, Tensor], Tensor]


def default_batch(images: int) -> int:
    """The batch for a budget of so many images: a power of two, from 32 at 130,000 images to 256."""
    return min(256, max(32, 2 ** round(math.log2(max(images, 1) / 4000))))


def one_cycle(n: int, steps: int) -> float:
    """The learning rate at step n of ``steps`` over its peak: a tenth of the steps up, then a cosine down to 0."""
    top = max(1, steps // 10)
    if n < top:
        return (n + 1) / top
    return 0.5 * (1 + math.cos(math.pi * (n - top) / max(1, steps - top)))


def train(
    run: Fit,
    net: nn.Module,
    loss: Loss,
    images: int,
    *,
    stage: str,
    batch: int,
    lr: float,
    cycle: bool = True,
    ema: float = 0.0,
    weight_decay: float = 0.01,
    also: Mapping[str, Any] | None = None,
) -> None:
    """Train ``net`` in place on ``images`` images of the budget, with AdamW.

    Args:
        loss: of a batch x [B, C, H, W] in [0, 1], pa [B, D]: a scalar.
        cycle: the learning rate goes through `one_cycle`, and gradients are clipped to norm 1;
            otherwise the rate stays at ``lr``.
        also: what else ``loss`` changes, as `Fit.batches` keeps it.
        ema: decay of the `WeightAverage` that is kept; with 0 it is the last weights.
    """
    batch = min(batch, images)
    steps = images // batch if batch else 0
    if not steps:
        return
    parameters: list[Tensor] = list(net.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99 if cycle else 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: one_cycle(n, steps) if cycle else 1.0)
    average = WeightAverage(net, ema)
    net.train()
    keep = {"net": net, "optimiser": optimiser, "schedule": schedule, "average": average, **(also or {})}
    for x, pa in run.batches(steps, batch, stage, keep=keep):
        n = schedule.last_epoch
        with torch.enable_grad():
            value = loss(x, pa)
            value.backward()
        if cycle:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        average.update()
        if n % 25 == 0 or n == steps - 1:
            run.log({"stage": stage, "step": n, "images": run.seen, "loss": float(value.detach())})
            run.progress(stage, n + 1, steps, float(value.detach()))
    average.apply()
    net.eval()
