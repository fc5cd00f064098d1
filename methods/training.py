"""One training loop for every network of a method."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cfbench.contract import Fit

__all__ = ["train"]


def train(
    run: Fit,
    net: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: int,
    *,
    stage: str,
    batch: int,
    lr: float,
    cycle: bool = True,
    ema: float = 0.0,
    weight_decay: float = 0.01,
) -> None:
    """Train ``net`` in place on ``images`` images of the budget, with AdamW.

    Args:
        loss: of a batch x [B, C, H, W] in [0, 1], pa [B, D]: a scalar.
        cycle: a one-cycle learning rate (a tenth of the steps up, a cosine down) with gradients clipped to norm 1;
            otherwise the rate stays at ``lr``.
        ema: where not 0, the weights that are kept are the average with decay min(ema, (1 + n) / (10 + n)).
    """
    batch = min(batch, images)
    steps = images // batch if batch else 0
    if not steps:
        return
    parameters = list(net.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=run.device.type != "mps")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=max(steps, 2), pct_start=0.1)
    mean = copy.deepcopy(parameters)
    net.train()
    for n, (x, pa) in enumerate(run.batches(steps, batch, stage)):
        with torch.enable_grad():
            value = loss(x, pa)
            value.backward()
        if cycle:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if cycle:
            schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(mean, parameters, 1 - min(ema, (1 + n) / (10 + n)))
        if n % 25 == 0 or n == steps - 1:
            run.log({"stage": stage, "step": n, "images": run.seen, "loss": float(value)})
            run.progress(stage, n + 1, steps, float(value))
    with torch.no_grad():
        torch._foreach_copy_(parameters, mean)
    net.eval()
