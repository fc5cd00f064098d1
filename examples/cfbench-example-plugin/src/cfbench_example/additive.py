"""An additive noise model of images, fitted in closed form."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cfbench.contract import Fit, Method
from cfbench.graph import CausalGraph
from cfbench.rng import Streams

__all__ = ["Additive"]


class Additive(Method):
    """x = W f(pa) + u: abduction takes the part of the factual that its parents do not explain, prediction adds it.

    f holds a constant, indicators of classes and standardised values; W solves a ridge regression. Additive noise
    models: Hoyer et al., "Nonlinear causal discovery with additive noise models", NeurIPS 2008. Composition is exact
    whatever was learned. Shapes that move or change are beyond it: it lightens and darkens pixels.

    Args:
        ridge: weight of the penalty on W, as a share of an image.
        batch: images that are added to the normal equations at once.
    """

    residual = "full"
    paper: ClassVar[str] = "https://papers.nips.cc/paper/3548-nonlinear-causal-discovery-with-additive-noise-models"
    mean: Tensor
    std: Tensor
    weight: Tensor

    def __init__(self, graph: CausalGraph, ridge: float = 1e-3, batch: int = 256) -> None:
        super().__init__(graph)
        self.ridge, self.batch = ridge, batch
        features = 1 + sum(v.size for v in graph.variables)
        self.register_buffer("mean", torch.zeros(len(graph.variables)))
        self.register_buffer("std", torch.ones(len(graph.variables)))
        self.register_buffer("weight", torch.zeros(features, prod(graph.shape)))

    def fit(self, run: Fit) -> None:
        """Sum the normal equations over the training images that the budget allows, and solve them."""
        pa = run.train.parents
        spread = pa.std(0, correction=0)
        self.mean.copy_(pa.mean(0))
        self.std.copy_(torch.where(spread > 0, spread, 1.0))
        size = min(self.batch, run.images, len(run.train))
        steps = min(run.images, len(run.train)) // size
        features, pixels = self.weight.shape
        square = torch.zeros(features, features, dtype=torch.float64, device=run.device)
        product = torch.zeros(features, pixels, dtype=torch.float64, device=run.device)
        for x, parents in run.batches(steps, size):
            f = self._features(parents).double()
            square += f.T @ f
            product += f.T @ x.flatten(1).double()
        penalty = self.ridge * steps * size * torch.eye(features, dtype=torch.float64, device=run.device)
        self.weight.copy_(torch.linalg.solve(square + penalty, product))
        held = run.valid[:1000]
        error = held.x.to(run.device) - self._explained(held.parents.to(run.device))
        run.log({"stage": "fit", "images": run.seen, "loss": error.square().mean().item()})

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        """u [B, C, H, W]."""
        return x - self._explained(pa)

    def predict(self, u: Tensor, pa: Tensor, rng: Streams) -> Tensor:
        return (self._explained(pa) + u).clamp(0, 1)

    def _explained(self, pa: Tensor) -> Tensor:
        return (self._features(pa) @ self.weight).unflatten(1, self.graph.shape)

    def _features(self, pa: Tensor) -> Tensor:
        """A constant, indicators of classes and standardised values [B, F]."""
        parts = [torch.ones_like(pa[:, :1])]
        for i, v in enumerate(self.graph.variables):
            values = (pa[:, i : i + 1] - self.mean[i]) / self.std[i]
            parts.append(F.one_hot(pa[:, i].round().long(), v.size).float() if v.categorical else values)
        return torch.cat(parts, 1)
