"""A deep structural causal model whose image mechanism is a conditional VAE with an explicit residual."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cfbench.contract import Fit, Method
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

from .nn.likelihood import likelihood as make_likelihood
from .nn.training import default_batch, train
from .nn.vae import Decoder, Encoder, logit, logit_inverse, logit_log_det

__all__ = ["DeepSCM", "Terms", "fade"]

VALID, DRAWS, CHUNK = 1000, 16, 64
"""Validation images that the bound is reported on, draws of z for each, and images at a time."""
BATCH = (64, 8000)
"""Smallest batch, as 32 costs a third more and gives the same; and steps that larger budgets have (`default_batch`)."""
WINDOW = 5
"""Side of the neighbourhood, in pixels, that the residual is faded by."""


class Terms(NamedTuple):
    """Bounds of log p(v | pa) in nats per image [B], v in grey levels: likelihood - kl, and the tighter importance."""

    likelihood: Tensor
    kl: Tensor
    importance: Tensor


def fade(old: Tensor, new: Tensor, variance: Tensor) -> Tensor:
    """How much of a residual stays at each value, [B, C, H, W] in [0, 2], when a mean ``old`` becomes ``new``.

    The slope of the linear fit of the new on the old mean in a neighbourhood, cov(old, new) / var(old), each with
    the residual's variance added: 1 where nothing changes, 0 where a stroke goes, the ratio where contrast changes.
    """

    def mean(a: Tensor) -> Tensor:
        return F.avg_pool2d(a, WINDOW, 1, WINDOW // 2, count_include_pad=False)

    centre = mean(old)
    shared = mean(old * new) - centre * mean(new)
    own = mean(old * old) - centre * centre
    return ((shared + variance) / (own + variance)).clamp(0, 2)


class DeepSCM(Method):
    """The variational deep SCM: z ~ q(z | x, pa), eps = R^-1 (y - mu(z, pa)), and y* = mu(z, pa*) + w R* eps.

    Pawlowski, Castro, Glocker, "Deep structural causal models for tractable counterfactual inference", NeurIPS 2020,
    https://arxiv.org/abs/2006.06485. The likelihood is Gaussian in the logit space of dequantised grey levels, with
    covariance R R^T. Abduction takes the posterior mean, or ``particles`` samples whose images are averaged.

    The residual makes composition exact whatever was learned. In full (w = 1, the paper) it keeps detail that z lost,
    and leaves traces of the factual's shape where the shape changes. ``faded`` (ours) lets it follow the change: w is
    `fade` of the two means, which is 1 under the null intervention.
    The paper fixes log sigma^2 = -5 and beta = 1 (preset ``paper``); learned, sigma follows the fit, and beta decides
    how much of the parents leaks into z: effectiveness rises with it.

    To read: this file, `nn/vae`, `nn/likelihood`. `cfbench.nn` is a standard part.

    Args:
        latent: dimensions of z.
        beta: weight of the KL divergence.
        width: channels of the largest feature map.
        hidden: units of the dense layers.
        likelihood: ``fixed`` or learned ``scalar`` variance, ``diagonal`` (a variance for each pixel and image),
            ``lowrank`` (a diagonal and ``rank`` shared factors for each image), ``full`` (one covariance for all
            images, which must be small).
        log_variance: log sigma^2 in logit space that ``fixed`` keeps and ``scalar`` starts from.
        rank: factors of ``lowrank``.
        batch, lr, ema: of the training (`train`); where no batch is given it is 64, or more where the budget is large
            (`default_batch`), and where no ema is, its horizon follows the steps (`average_decay`).
        schedule: of the learning rate: ``cosine`` (`one_cycle`, with clipped gradients) or ``constant``.
        samples: draws of z for each image of a training step.
        particles: samples of z in abduction; 0 takes the posterior mean.
        residual: whether predictions carry eps: ``none``, ``scaled`` by tau, ``faded`` or ``full``.
        tau: scale of eps under ``scaled``.

    Raises:
        UserError: residual, schedule or likelihood is not one of its values, or does not suit the image.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset({"residual", "tau", "particles"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "latent": 16,
            "beta": 1.0,
            "width": 64,
            "hidden": 1024,
            "likelihood": "fixed",
            "log_variance": -5.0,
            "batch": 256,
            "lr": 1e-4,
            "schedule": "constant",
            "ema": 0.0,
            "samples": 4,
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
        likelihood: Literal["fixed", "scalar", "diagonal", "lowrank", "full"] = "scalar",
        log_variance: float = 0.0,
        rank: int = 10,
        batch: int | None = None,
        lr: float = 3e-3,
        schedule: Literal["cosine", "constant"] = "cosine",
        ema: float | None = None,
        samples: int = 1,
        particles: int = 0,
        residual: Literal["none", "scaled", "faded", "full"] = "faded",
        tau: float = 0.5,
    ) -> None:
        super().__init__(graph)
        _one_of("residual", residual, ("none", "scaled", "faded", "full"))
        _one_of("schedule", schedule, ("cosine", "constant"))
        _one_of("likelihood", likelihood, ("fixed", "scalar", "diagonal", "lowrank", "full"))
        self.latent, self.beta, self.batch, self.lr, self.schedule, self.ema = latent, beta, batch, lr, schedule, ema
        self.samples, self.particles, self.residual = samples, particles, residual
        self.tau = {"none": 0.0, "scaled": tau}.get(residual, 1.0)
        self.parents = ParentEncoder(graph)
        self.likelihood = make_likelihood(likelihood, math.prod(graph.shape), log_variance, rank)
        self.encoder = Encoder(graph.shape, self.parents.dim, latent, width, hidden)
        self.decoder = Decoder(graph.shape, self.parents.dim, latent, width, hidden, self.likelihood.extra)
        self.to(memory_format=torch.channels_last)

    @property
    def evaluations(self) -> Mapping[str, float]:
        particles = max(self.particles, 1)
        return {"abduct": 1 + particles * (self.tau > 0), "predict": particles}

    def terms(self, v: Tensor, pa: Tensor, noise: Tensor) -> Terms:
        """Bounds for grey levels v [B, C, H, W] in [0, 256), with K draws of z by ``noise`` [B, K, latent]."""
        y, e = logit(v), self.parents(pa)
        mean, log_variance = self.encoder(y, e)
        z = mean[:, None] + noise * (log_variance / 2).exp()[:, None]
        mu, maps = self._decode(z, e)
        error = (y[:, None] - mu).flatten(0, 1)
        likelihood = self.likelihood.log_prob(error, maps.flatten(0, 1)).unflatten(0, noise.shape[:2])
        likelihood = likelihood + logit_log_det(y).flatten(1).sum(1, keepdim=True)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        ratio = 0.5 * (noise.square() - z.square() + log_variance[:, None]).sum(2)  # log p(z) - log q(z | v, pa)
        importance = torch.logsumexp(likelihood + ratio, dim=1) - math.log(noise.shape[1])
        return Terms(likelihood.mean(1), kl, importance)

    def fit(self, run: Fit) -> None:
        """Maximise the bound, and record it on validation data."""
        self.parents.fit(run.train.parents)
        images, parts = run.images - run.seen, dict[str, Tensor]()

        def losses(x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
            terms = self._sampled(x, pa, rng, self.samples)
            parts.update(likelihood=terms.likelihood.detach(), kl=terms.kl.detach())
            return self._losses(terms)

        train(
            run, self, losses, images,
            stage="fit", batch=self.batch or default_batch(images, *BATCH), lr=self.lr, ema=self.ema,
            cycle=self.schedule == "cosine", weight_decay=0.0, valid=losses, columns=parts,
        )  # fmt: skip
        self._report(run)

    def _losses(self, terms: Terms) -> Tensor:
        """What is minimised [B], in nats for each value of the image."""
        return (self.beta * terms.kl - terms.likelihood) / math.prod(self.graph.shape)

    def _sampled(self, x: Tensor, pa: Tensor, rng: torch.Generator, draws: int) -> Terms:
        v = 255 * x + torch.rand(x.shape, generator=rng).to(x)
        return self.terms(v, pa, torch.randn(len(x), draws, self.latent, generator=rng).to(x))

    @torch.no_grad()
    def _report(self, run: Fit) -> None:
        """Record bounds on validation data: bits for each value of the 8-bit image, and the parts in nats an image."""
        held = run.valid[:VALID]
        parts = zip(held.x.split(CHUNK), held.parents.split(CHUNK), strict=True)
        terms = [self._sampled(x.to(run.device), pa.to(run.device), run.rng, DRAWS) for x, pa in parts]
        likelihood, kl, importance = (torch.cat(part).mean().item() for part in zip(*terms, strict=True))
        bits = -importance / math.log(2) / math.prod(self.graph.shape)
        table = {"bits_per_dim": bits, "bound": True, "draws": DRAWS, "log_likelihood": importance}
        run.record("likelihood", table | {"elbo": likelihood - kl, "kl": kl})

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> tuple[Tensor, ...]:
        """Latents z [B, P, latent], and residuals eps [B, P, C, H, W]; to fade them, also the mean and maps of old."""
        y, e = logit(255 * x + 0.5), self.parents(pa)
        mean, log_variance = self.encoder(y, e)
        z = mean[:, None]
        if self.particles:
            z = z + rng.normal(self.particles, self.latent) * (log_variance / 2).exp()[:, None]
        if not self.tau:
            return (z,)
        mu, maps = self._decode(z, e)
        eps = self.likelihood.whiten((y[:, None] - mu).flatten(0, 1), maps.flatten(0, 1)).view_as(mu)
        return (z, eps, mu, maps) if self.residual == "faded" else (z, eps)

    def predict(self, u: tuple[Tensor, ...], pa: Tensor, rng: Streams) -> Tensor:
        z, *rest = u
        y, maps = self._decode(z, self.parents(pa))
        if rest:
            eps, *old = (part.flatten(0, 1) for part in rest)
            r = self.tau * self.likelihood.colour(eps, maps.flatten(0, 1))
            if old:
                r = r * fade(old[0], y.flatten(0, 1), self.likelihood.variance(old[1]))
            y = y + r.view_as(y)
        return self._image(y)

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        """A fresh image [B, C, H, W] under parents pa [B, D]: the mean for a z from the prior, without pixel noise."""
        return self.predict((rng.normal(1, self.latent),), pa, rng)

    def _image(self, y: Tensor) -> Tensor:
        """The mean of the particles' images [B, P, C, H, W] in [0, 1]."""
        return ((logit_inverse(y).mean(1) - 0.5) / 255).clamp(0, 1)

    def _decode(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Means [B, P, C, H, W] and the likelihood's maps [B, P, extra C, H, W] for z [B, P, latent]."""
        drawn = self.decoder(z.flatten(0, 1), e.repeat_interleave(z.shape[1], dim=0)).unflatten(0, z.shape[:2])
        channels = self.graph.shape[0]
        return drawn[:, :, :channels], drawn[:, :, channels:]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"deepscm: {name} is {value!r}; choose one of {', '.join(known)}")
