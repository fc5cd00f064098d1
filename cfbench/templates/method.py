"""A conditional VAE: the latent holds what an image's parents do not say, and keeps when they change.

To try it:

    cfbench check mine.py
    cfbench run --methods mine,deepscm --plugin mine.py --split valid
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.contract import Fit, Method
from cfbench.graph import CausalGraph
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams


def dense(i: int, o: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(i, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, o))


class Mine(Method):
    """z is the mean of q(z | x, pa); the answer is the decoder's image of z under the new parents, plus a residual."""

    # What it is asked for as: --methods mine. Without this line: the class's name in lower case.
    name = "mine"

    # Keywords that change answers but not the fit, so that the rows mine and mine[keep=0] share one.
    answer_params = frozenset({"keep"})

    # Keywords with types and defaults are the settings that a row can change: mine[latent=32,lr=0.002].
    # A dict `presets = {"small": {"width": 128}}` would name some: mine:small.
    def __init__(
        self, graph: CausalGraph, latent: int = 16, width: int = 512, batch: int = 64, lr: float = 1e-3, keep: float = 1
    ) -> None:
        super().__init__(graph)  # keeps self.graph: .variables (name, kind, size, low, high, parents), .shape (C, H, W)
        self.latent, self.batch, self.lr, self.keep = latent, batch, lr, keep
        # What answers carry of x - decoder(z, pa): none, scaled, faded (as far as the image stays alike), full or
        # exact-inverse. The table shows it, since a residual makes composition perfect whatever was learned.
        self.residual = "faded" if keep else "none"
        # pa [B, D] in raw units, a column for each variable -> indicators of classes and standardised values. Answers
        # are given by a new object that gets the state dict: what is learned must be a parameter or a buffer, as here.
        self.features = ParentEncoder(graph)
        pixels, parents = prod(graph.shape), self.features.dim
        self.encoder = dense(pixels + parents, 2 * latent, width)
        self.decoder = dense(latent + parents, pixels, width)

    def encode(self, x: Tensor, pa: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, latent] of z."""
        return self.encoder(torch.cat([x.flatten(1), self.features(pa)], 1)).chunk(2, 1)

    def decode(self, z: Tensor, pa: Tensor) -> Tensor:
        """Images [B, C, H, W], a little inside of (0, 1)."""
        logits = self.decoder(torch.cat([z, self.features(pa)], 1)).unflatten(1, self.graph.shape)
        return 0.001 + 0.998 * logits.sigmoid()

    # run.train and run.valid hold .images (uint8), .x (floats in [0, 1]) and .parents. run.images is the budget, the
    # same for all methods; run.batches draws shuffled batches within it, on run.device. Initial weights are seeded;
    # take other randomness from run.rng. What run.log gets goes to disk; a loss that is not finite ends the fit.
    def fit(self, run: Fit) -> None:
        self.features.fit(run.train.parents)
        steps = run.images // self.batch
        optimiser = torch.optim.Adam(self.parameters(), self.lr, fused=True)
        for step, (x, pa) in enumerate(run.batches(steps, self.batch)):  # x [batch, C, H, W], pa [batch, D]
            mean, log_variance = self.encode(x, pa)
            noise = torch.randn(mean.shape, generator=run.rng).to(x)
            image = self.decode(mean + noise * (log_variance / 2).exp(), pa)
            kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
            loss = (F.binary_cross_entropy(image, x, reduction="sum") + kl) / len(x)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % 50 == 0:
                run.log({"step": step, "loss": loss.item()})

    # Called once for each factual, without gradients; x and pa may not be changed. What comes out is the exogenous
    # noise: a tensor, or a tuple or dict of tensors, whose first dimension is the image. Take random numbers from rng
    # (rng.normal(latent) is [B, latent]): it has a stream for each image, so that answers do not depend on the batch.
    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> tuple[Tensor, Tensor, Tensor]:
        z, _ = self.encode(x, pa)
        return z, x, self.decode(z, pa)

    # Called for every intervention with rows of that noise and the parents pa [B, D] as they are after it, and with
    # the factual's own parents for composition. The answer is [B, C, H, W] in [0, 1].
    def predict(self, u: tuple[Tensor, Tensor, Tensor], pa: Tensor, rng: Streams) -> Tensor:
        z, x, old = u
        new = self.decode(z, pa)
        share = torch.minimum(new / old, (1 - new) / (1 - old)).clamp(max=1)  # 1 where new = old, less where it moves
        return (new + self.keep * share * (x - old)).clamp(0, 1)

    # A method sample(self, pa, rng) that returns self.decode(rng.normal(self.latent), pa), fresh images of its model,
    # would let the control resample[of=mine] show what the abducted noise is worth.
