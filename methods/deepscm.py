"""A deep structural causal model whose image mechanism is a conditional VAE with an explicit residual."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.contract import Fit, Method
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.rng import Streams

from .parents import ParentEncoder

__all__ = ["DeepSCM", "Terms", "logit", "logit_inverse", "logit_log_det"]

ALPHA = 0.05
LEVELS = 256
LOG_EVERY = 100
VALID = 2000
"""Validation images that the bound is reported on."""


def logit(v: Tensor) -> Tensor:
    """Grey levels v in [0, 256) as unbounded y, v = 256 (sigmoid(y) - alpha) / (1 - alpha) with alpha = .05."""
    v = v.clamp(max=LEVELS - 1e-3)  # single precision rounds the brightest dequantised values up to 256
    return torch.logit(ALPHA + (1 - ALPHA) * v / LEVELS)


def logit_inverse(y: Tensor) -> Tensor:
    """The grey levels that `logit` maps to y; below 0 where y is darker than black."""
    return LEVELS * (torch.sigmoid(y) - ALPHA) / (1 - ALPHA)


def logit_log_det(y: Tensor) -> Tensor:
    """log |dy/dv| of `logit`, element by element."""
    return math.log((1 - ALPHA) / LEVELS) - F.logsigmoid(y) - F.logsigmoid(-y)


class Terms(NamedTuple):
    """The evidence lower bound of log p(v | pa) in nats per image [B]: likelihood - kl, in grey levels."""

    likelihood: Tensor
    kl: Tensor


def _stages(height: int, width: int) -> int:
    """How often the sides are halved: at least once, and until they are at most 8."""
    return max(1, math.ceil(math.log2(max(height, width) / 8)))


def _channels(width: int, stages: int) -> list[int]:
    return [width * 2 ** min(k, 2) for k in range(stages)]


class Encoder(nn.Module):
    """Mean and log-variance [B, latent] of q(z | x, pa) from y [B, C, H, W] and encoded parents [B, E]."""

    def __init__(self, shape: tuple[int, int, int], parents: int, latent: int, width: int, hidden: int) -> None:
        super().__init__()
        channels = _channels(width, _stages(*shape[1:]))
        step = 2 ** len(channels)
        rows, columns = (math.ceil(side / step) for side in shape[1:])
        self.pad = (0, columns * step - shape[2], 0, rows * step - shape[1])
        self.first = nn.Conv2d(4 * shape[0], width, 3, 1, 1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(channels))
        self.mix = nn.Linear(channels[-1] * rows * columns + parents, hidden)
        self.out = nn.Linear(hidden + parents, 2 * latent)

    def forward(self, y: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        h = F.pixel_unshuffle(F.pad(y, self.pad, mode="replicate"), 2).contiguous(memory_format=torch.channels_last)
        h = F.silu(self.first(h), inplace=True)
        for down in self.down:
            h = F.silu(down(h), inplace=True)
        h = h.permute(0, 2, 3, 1).flatten(1)
        h = F.silu(self.mix(torch.cat([h, e], dim=1)), inplace=True)
        mean, log_variance = self.out(torch.cat([h, e], dim=1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 8)


class Decoder(nn.Module):
    """The mean y [B, C, H, W] of p(y | z, pa) from z [B, latent] and encoded parents [B, E]."""

    def __init__(self, shape: tuple[int, int, int], parents: int, latent: int, width: int, hidden: int) -> None:
        super().__init__()
        self.shape = shape
        channels = _channels(width, _stages(*shape[1:]))[::-1]
        rows, columns = (math.ceil(side / 2 ** len(channels)) for side in shape[1:])
        self.grid = (rows, columns, channels[0])
        self.mix = nn.Linear(latent + parents, hidden)
        self.scale = nn.Linear(parents, hidden)
        self.deep = nn.Linear(hidden, hidden)
        self.spread = nn.Linear(hidden, math.prod(self.grid))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(channels))
        self.last = nn.Conv2d(width, 4 * shape[0], 3, 1, 1)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        h = F.silu(self.mix(torch.cat([z, e], dim=1)) * (1 + self.scale(e)))
        h = h + F.silu(self.deep(h), inplace=True)
        h = F.silu(self.spread(h).unflatten(1, self.grid).permute(0, 3, 1, 2))
        for up in self.up:
            h = F.silu(up(h), inplace=True)
        return F.pixel_shuffle(self.last(h), 2)[:, :, : self.shape[1], : self.shape[2]]


class DeepSCM(Method):
    """The variational deep SCM: z ~ q(z | x, pa), eps = (y - mu(z, pa)) / sigma, and y* = mu(z, pa*) + sigma eps.

    Pawlowski, Castro, Glocker, "Deep structural causal models for tractable counterfactual inference", NeurIPS 2020,
    https://arxiv.org/abs/2006.06485. The likelihood is Gaussian with one variance for all pixels in the logit space
    of dequantised grey levels. Abduction takes the posterior mean, or ``particles`` samples whose images are averaged.

    The residual in full makes composition exact whatever was learned. It keeps detail that z lost, which serves
    interventions that leave the shape in place, and leaves traces of the factual's shape under those that do not.
    The paper fixes log sigma^2 = -5 and beta = 1 (preset ``paper``, trained on a one-sample bound here); learned,
    sigma follows the fit, and beta decides how much of the parents leaks into z: effectiveness rises with it.

    Args:
        latent: dimensions of z.
        beta: weight of the KL divergence.
        width: channels of the largest feature map.
        hidden: units of the dense layers.
        log_variance: fixed log sigma^2 in logit space; None learns it.
        batch: images a step.
        lr: largest learning rate of Adam.
        schedule: ``cosine`` (after a short warm-up) or ``constant``.
        particles: samples of z in abduction; 0 takes the posterior mean.
        residual: whether predictions carry eps: ``none``, ``scaled`` by tau, or ``full``.
        tau: scale of eps under ``scaled``.

    Raises:
        UserError: residual or schedule is not one of its values.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset({"residual", "tau", "particles"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "latent": 16,
            "beta": 1.0,
            "width": 64,
            "hidden": 1024,
            "log_variance": -5.0,
            "batch": 256,
            "lr": 1e-4,
            "schedule": "constant",
            "particles": 32,
            "residual": "full",
        }
    }
    paper: ClassVar[str] = "https://arxiv.org/abs/2006.06485"

    def __init__(
        self,
        graph: CausalGraph,
        latent: int = 16,
        beta: float = 14.0,
        width: int = 32,
        hidden: int = 256,
        log_variance: float | None = None,
        batch: int = 64,
        lr: float = 3e-3,
        schedule: Literal["cosine", "constant"] = "cosine",
        particles: int = 0,
        residual: Literal["none", "scaled", "full"] = "full",
        tau: float = 0.5,
    ) -> None:
        super().__init__(graph)
        _one_of("residual", residual, ("none", "scaled", "full"))
        _one_of("schedule", schedule, ("cosine", "constant"))
        self.beta, self.batch, self.lr, self.schedule = beta, batch, lr, schedule
        self.particles, self.residual = particles, residual
        self.tau = {"none": 0.0, "scaled": tau, "full": 1.0}[residual]
        self.parents = ParentEncoder(graph)
        self.encoder = Encoder(graph.shape, self.parents.dim, latent, width, hidden)
        self.decoder = Decoder(graph.shape, self.parents.dim, latent, width, hidden)
        start = torch.tensor(0.0 if log_variance is None else log_variance)
        self.log_variance = nn.Parameter(start, requires_grad=log_variance is None)
        self.to(memory_format=torch.channels_last)

    @property
    def evaluations(self) -> Mapping[str, float]:
        samples = max(self.particles, 1)
        return {"abduct": 1 + samples * (self.tau > 0), "predict": samples}

    def terms(self, v: Tensor, pa: Tensor, noise: Tensor) -> Terms:
        """One-sample bound for grey levels v [B, C, H, W] in [0, 256), with z drawn by ``noise`` [B, latent]."""
        y, e = logit(v), self.parents(pa)
        mean, log_variance = self.encoder(y, e)
        error = y - self.decoder(mean + noise * (log_variance / 2).exp(), e)
        squares = error.square().flatten(1).sum(1) * torch.exp(-self.log_variance)
        pixels = error[0].numel()
        likelihood = logit_log_det(y).flatten(1).sum(1) - 0.5 * (
            squares + pixels * (self.log_variance + math.log(2 * math.pi))
        )
        return Terms(likelihood, 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1))

    @torch.enable_grad()
    def fit(self, run: Fit) -> None:
        self.parents.fit(run.train.parents)
        steps = (run.images - run.seen) // self.batch
        optimiser = torch.optim.Adam(self.parameters(), lr=self.lr, eps=1e-5, fused=True)
        for step, (x, pa) in enumerate(run.batches(steps, self.batch)):
            for group in optimiser.param_groups:
                group["lr"] = self.lr * self._pace(step, steps)
            terms = self._sample(x, pa, run)
            loss = (self.beta * terms.kl - terms.likelihood).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % LOG_EVERY == 0 or step == steps - 1:
                run.log(self._row(step, terms))
                run.progress("fit", step, steps, loss.item())
        with torch.no_grad():
            held = run.valid[:VALID]
            terms = self._sample(held.x.to(run.device), held.parents.to(run.device), run)
        run.record("valid", self._row(steps, terms))

    def _sample(self, x: Tensor, pa: Tensor, run: Fit) -> Terms:
        v = 255 * x + torch.rand(x.shape, generator=run.rng).to(x)
        noise = torch.randn(len(x), self.encoder.out.out_features // 2, generator=run.rng).to(x)
        return self.terms(v, pa, noise)

    def _pace(self, step: int, steps: int) -> float:
        """The learning rate as a share of its maximum."""
        if self.schedule == "constant":
            return 1.0
        return min((step + 1) / (0.02 * steps + 1), 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))

    def _row(self, step: int, terms: Terms) -> dict[str, float]:
        likelihood, kl = terms.likelihood.mean().item(), terms.kl.mean().item()
        return {
            "step": step,
            "elbo": likelihood - kl,
            "likelihood": likelihood,
            "kl": kl,
            "sigma": math.exp(self.log_variance.item() / 2),
        }

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
        """Latents z [B, P, latent] and residuals eps [B, P, C, H, W] (empty without a residual)."""
        y, e = logit(255 * x + 0.5), self.parents(pa)
        mean, log_variance = self.encoder(y, e)
        z = mean[:, None]
        if self.particles:
            z = z + rng.normal(self.particles, mean.shape[1]) * (log_variance / 2).exp()[:, None]
        if not self.tau:
            return z, y.new_empty(len(x), z.shape[1], 0)
        return z, (y[:, None] - self._decode(z, e)) * torch.exp(-self.log_variance / 2)

    def predict(self, u: tuple[Tensor, Tensor], pa: Tensor, rng: Streams) -> Tensor:
        z, eps = u
        y = self._decode(z, self.parents(pa))
        if self.tau:
            y = y + self.tau * eps * torch.exp(self.log_variance / 2)
        return ((logit_inverse(y).mean(1) - 0.5) / 255).clamp(0, 1)

    def _decode(self, z: Tensor, e: Tensor) -> Tensor:
        """Means [B, P, C, H, W] for z [B, P, latent]."""
        y = self.decoder(z.flatten(0, 1), e.repeat_interleave(z.shape[1], dim=0))
        return y.unflatten(0, z.shape[:2])


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"deepscm: {name} is {value!r}; choose one of {', '.join(known)}")
