"""An anti-causal predictor: the log-probabilities of all parents given a noisy image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.graph import CausalGraph, Variable

from .unet import Encoder

__all__ = ["ParentPredictor"]

LOWEST = 2 * math.log(0.1)
"""The smallest log-variance of a standardised parent: a tenth of its standard deviation in the data."""
LEAST = 0.01
"""The smallest share of a value's variance that an image counts as explaining, so that no value is ignored."""


class ParentPredictor(nn.Module):
    """Densities p(pa_k | x_t, t) of every parent from one trunk: softmax over classes, Gaussian over values.

    The parents are taken as independent of each other *given x_t*: log p(pa | x_t) = sum_k log p(pa_k | x_t).
    Means and log-variances depend on the image and its noise level. Parents z [B, D] are standardised.

    Args:
        graph: variables and image shape.
        width, mult, patch, pool: of the trunk, see `Encoder`.
    """

    def __init__(
        self, graph: CausalGraph, width: int, mult: Sequence[int], patch: int = 1, pool: str = "flatten"
    ) -> None:
        super().__init__()
        self.variables = graph.variables
        self.sizes = [v.size if v.categorical else 2 for v in self.variables]
        self.trunk = Encoder(graph.shape, sum(self.sizes), width, mult, patch, pool)

    def forward(self, x: Tensor, t: int | Tensor) -> Tensor:
        """Logits, means and log-variances [B, numbers] of images x [B, C, H, W] in [-1, 1] at a step or steps t [B]."""
        return self.trunk(x, torch.as_tensor(t, device=x.device).expand(len(x)))

    def _heads(self, out: Tensor) -> Iterator[tuple[int, Variable, Tensor]]:
        yield from zip(range(len(self.sizes)), self.variables, out.split(self.sizes, dim=1), strict=True)

    def log_probs(self, out: Tensor, z: Tensor, detach_variance: bool = False) -> Tensor:
        """log p(z_k | x_t) [B, D] in nats; with ``detach_variance`` no gradient flows through the variances."""
        terms = []
        for k, v, head in self._heads(out):
            if v.categorical:
                terms.append(-F.cross_entropy(head, z[:, k].round().long(), reduction="none"))
            else:
                mean, log_var = self._gaussian(head)
                log_var = log_var.detach() if detach_variance else log_var
                square = (z[:, k] - mean) ** 2 * torch.exp(-log_var)
                terms.append(-0.5 * (square + log_var + math.log(2 * math.pi)))
        return torch.stack(terms, dim=1)

    def losses(self, x: Tensor, t: int | Tensor, z: Tensor, detach_variance: bool = False) -> Tensor:
        """-log p(z | x_t) of images x [B, C, H, W] in [-1, 1] at a step or steps t: [B], in nats."""
        return -self.log_probs(self(x, t), z, detach_variance).sum(1)

    @staticmethod
    def _gaussian(head: Tensor) -> tuple[Tensor, Tensor]:
        return head[:, 0], LOWEST + F.softplus(head[:, 1] - LOWEST)

    def moments(self, out: Tensor) -> Tensor:
        """For each parent the mean, and the share of its variance that x_t explains [B, D, 2]; 0 for classes.

        A predictor that is less sure than the data's own spread explains nothing; it counts as explaining `LEAST`.
        """
        found = torch.zeros(len(out), len(self.sizes), 2, dtype=out.dtype, device=out.device)
        for k, v, head in self._heads(out):
            if not v.categorical:
                mean, log_var = self._gaussian(head)
                found[:, k] = torch.stack([mean, (1 - log_var.exp()).clamp(min=LEAST)], dim=1)
        return found

    def target(self, wanted: Tensor, factual: Tensor, moments: Tensor) -> Tensor:
        """What the predictor should find [B, D] in the counterfactual, given the ``moments`` it found in the factual.

        Values keep the predictor's residual on the factual: mean + share * (wanted - factual), as the mean moves by
        ``share`` when the value moves by 1. Classes are what is wanted.
        """
        return torch.where(self._classes(wanted), wanted, moments[..., 0] + moments[..., 1] * (wanted - factual))

    def gradient(
        self,
        x: Tensor,
        t: int,
        target: Tensor,
        factual: Tensor,
        contrast: float,
        detach_variance: bool = False,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The gradient [B, C, H, W] at x of log p(target | x, t) - contrast * log p(factual classes | x, t), nats.

        With ``weights``, [D] or [B, D], each parent's part of it counts as often. A target relative to the predictor's
        own mean has no expected square, so its variances are detached: the gradient is then 0 where the mean is the
        target.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = self(x, t)
            score = self.log_probs(out, target, detach_variance)
            if contrast:
                score = score - contrast * self._classes(target) * self.log_probs(out, factual)
            return torch.autograd.grad((score if weights is None else score * weights).sum(), x)[0]

    def _classes(self, z: Tensor) -> Tensor:
        return torch.tensor([v.categorical for v in self.variables], device=z.device)

    def best(self, out: Tensor) -> Tensor:
        """The most probable parents z [B, D]."""
        return torch.stack(
            [h.argmax(1).to(h.dtype) if v.categorical else h[:, 0] for _, v, h in self._heads(out)], dim=1
        )

    def success(self, z: Tensor, wanted: Tensor, factual: Tensor) -> Tensor:
        """How much of what was wanted is there [B, D], 0 to 1, for predicted, wanted and factual parents [B, D].

        Classes: whether they agree. Values: 1 - |z - wanted| / |factual - wanted|, at least 0.
        """
        same = (z == wanted).to(z.dtype)
        share = 1 - (z - wanted).abs() / (factual - wanted).abs().clamp(min=1e-6)
        return torch.where(self._classes(z), same, share.clamp(min=0))

    def accuracy(self, out: Tensor, z: Tensor) -> dict[str, float]:
        """How well the most probable parents agree with z [B, D], by variable.

        Classes: the share that is right. Values: 1 - mean squared error / variance.
        """
        best = self.best(out)
        return {
            v.name: float(
                (best[:, k] == z[:, k]).float().mean()
                if v.categorical
                else 1 - (best - z)[:, k].square().mean() / z[:, k].var()
            )
            for k, v in enumerate(self.variables)
        }
