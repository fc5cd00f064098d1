"""The weights of a fit that are best on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cfbench.contract import Fit
from cfbench.nn import WeightAverage

__all__ = ["BestWeights", "Losses"]

Losses = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Of images x [B, C, H, W] in [0, 1], their parents pa [B, D] and a generator for all noise: a loss of each [B], or of
the batch where it is not one of single images."""

SHARES = (1 / 4, 1 / 2, 5 / 8, 3 / 4, 13 / 16, 7 / 8, 15 / 16, 1)
"""When a fit is validated, as shares of its steps."""
FEWEST, MOST = 100, 1000
"""Images that it is validated on; where one for every 100 training images is fewer than ``FEWEST`` it is not."""
CHUNK = 100


class BestWeights:
    """The averaged weights of a network with the least loss on validation images, each with the same noise every time.

    Eight passes forward of one image for every hundred that are trained on cost under 3 % of a fit. Nothing is drawn
    from the fit's own generator, so that the training is the same with and without.

    Args:
        net: that is trained, and whose parameters are kept.
        losses: what it is judged by.
        images: of the training; they decide how many validation images are used, and if any.
        steps: of the training.
        stage: of the training; rows of the log have the stage ``STAGE validation``.
    """

    def __init__(self, run: Fit, net: nn.Module, losses: Losses, images: int, steps: int, stage: str) -> None:
        self.run, self.net, self.losses, self.stage = run, net, losses, f"{stage} validation"
        wanted = images // 100 if images >= 100 * FEWEST else 0
        self.part = run.valid[: min(wanted, MOST)]
        self.due = {math.ceil(share * steps) for share in SHARES} if len(self.part) else set[int]()
        self.parameters: list[Tensor] = list(net.parameters())
        self.best: list[Tensor] = []
        self.row: dict[str, Any] = {}

    def step(self, done: int, average: WeightAverage) -> None:
        """Validate the averaged weights after ``done`` steps, if it is time to, and keep them if they are the best."""
        if done not in self.due:
            return
        own = [p.detach().clone() for p in self.parameters]
        average.apply()
        loss = self._loss()
        row = {"images": self.run.seen, "loss": loss.mean().item(), "se": loss.std().item() / math.sqrt(len(loss))}
        self.run.log({"stage": self.stage, **row})
        if not self.row or row["loss"] < self.row["loss"]:
            self.best, self.row = [p.detach().clone() for p in self.parameters], row
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, own)

    @torch.no_grad()
    def _loss(self) -> Tensor:
        """The loss of each validation image [N]."""
        rng, device = torch.Generator().manual_seed(0), self.run.device
        self.net.eval()
        parts = (self.part[rows] for rows in torch.arange(len(self.part)).split(CHUNK))
        found = torch.cat([self.losses(p.x.to(device), p.parents.to(device), rng) for p in parts])
        self.net.train()
        return found.double()

    def apply(self) -> None:
        """Give the network the best weights, if there are any, and log which they are."""
        if not self.row:
            return
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.best)
        self.run.log({"stage": self.stage, **self.row, "kept": True})

    def state_dict(self) -> dict[str, Any]:
        """The best weights so far, and the row of the log that they had."""
        return {"best": self.best, "row": self.row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.best = [torch.empty_like(p).copy_(b) for p, b in zip(self.parameters, state["best"], strict=False)]
        self.row = dict(state["row"])
