"""Counterfactual latent divergence under a small VAE of the method's own: the rule that the paper tunes by."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.contract import Split
from cfbench.graph import CausalGraph

from ..nn.validation import Losses
from .guidance_tuning import Questions

__all__ = ["VAE", "divergence", "latent_divergence", "losses", "of_answers"]

LATENT = 16


class VAE(nn.Module):
    """Mean and log-variance [B, 16] of the code of images x [B, C, H, W] in [0, 1], by dense layers."""

    def __init__(self, shape: tuple[int, int, int], hidden: int = 256) -> None:
        super().__init__()
        pixels = math.prod(shape)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.SiLU(), nn.Linear(hidden, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, hidden), nn.SiLU(), nn.Linear(hidden, pixels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return mean, log_var.clamp(-10, 10)


def losses(vae: VAE) -> Losses:
    """The negative evidence lower bound of each image in nats, with cross-entropy on grey levels."""

    def negative_elbo(x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        mean, log_var = vae(x)
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        logits = vae.decoder(mean + torch.exp(0.5 * log_var) * noise)
        bound = F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none").sum(1)
        return bound + 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)

    return negative_elbo


def divergence(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """KL(a_i ‖ b_j) in nats [A, B] between diagonal Gaussians given by means and log-variances [A, L] and [B, L]."""
    (mean_a, log_a), (mean_b, log_b) = (m[:, None] for m in a), (m[None] for m in b)
    ratio = (log_a.exp() + (mean_a - mean_b) ** 2) * torch.exp(-log_b)
    return 0.5 * (ratio - 1 + log_b - log_a).sum(2)


def latent_divergence(vae: VAE, x_cf: Tensor, x: Tensor, pool: Tensor, near_new: Tensor, near_old: Tensor) -> Tensor:
    """CLD [B] = ln(e^p1 + e^p2) of counterfactuals x_cf [B, C, H, W] of x, ln 2 to ln 2e, lower is better.

    p1 is the share of real images at the new value that are at most as far from x as x_cf is, p2 that of real
    images at the old value at least as far (Sanchez & Tsaftaris 2022, section 5). ``near_new`` and ``near_old``
    [B, N] mark them in ``pool`` [N, C, H, W].
    """
    real = vae(x)
    own = divergence(vae(x_cf), real).diagonal()[:, None]
    others = divergence(vae(pool), real).T
    p1 = ((others <= own) & near_new).sum(1) / near_new.sum(1).clamp(min=1)
    p2 = ((others >= own) & near_old).sum(1) / near_old.sum(1).clamp(min=1)
    return torch.log(p1.exp() + p2.exp())


def of_answers(vae: VAE, graph: CausalGraph, q: Questions, x_cf: Tensor, pool: Split) -> Tensor:
    """The CLD [B] of answers x_cf [B, C, H, W]; the nearest tenth of ``pool`` counts as being at a value."""
    real, rows = pool.parents.to(q.pa), torch.arange(len(q.pa))
    categorical = torch.tensor([v.categorical for v in graph.variables], device=q.pa.device)[q.variable]
    near = []
    for pa in (q.cf_pa, q.pa):
        distance = (real[:, q.variable].T - pa[rows, q.variable][:, None]).abs()
        limit = distance.kthvalue(max(1, len(real) // 10), dim=1, keepdim=True).values
        near.append(torch.where(categorical[:, None], distance == 0, distance <= limit))
    return latent_divergence(vae, x_cf, q.x, pool.x.to(q.x), near[0], near[1])
