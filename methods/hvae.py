"""HVAE: a deep structural causal model whose image mechanism is a hierarchical VAE with latents free of the parents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from cfbench.contract import Fit, Method
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.rng import Streams

from .hierarchy import Gaussian, Hierarchy, Layer, log_prob
from .parents import ParentEncoder
from .training import train

__all__ = ["HVAE", "Terms"]

VALID = 1000
"""Validation images that the bound is reported on."""


class Terms(NamedTuple):
    """The negative bound on log p(x | pa) in nats per image: nll [B] and each layer's KL divergence [B, L]."""

    nll: Tensor
    kl: Tensor


class HVAE(Method):
    """x = mu(z, pa) + sigma(z, pa) u with a hierarchy of latents z, as of Ribeiro et al. 2023."""

    answer_params: ClassVar[frozenset[str]] = frozenset({"residual", "tau", "particles", "alpha"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "patch": 1, "widths": (16, 32, 64, 128, 256), "latents": (16,) * 5, "blocks": (3, 3, 3, 3, 4),
            "layers": (4,) * 5, "kernels": (1, 3, 3, 1), "bottleneck": 4, "stem": 7, "dense": False,
            "beta": 1.0, "warm_up": 0.0, "ramp": 0.0, "lr": 1e-3, "batch": 32, "cycle": False, "ema": 0.999,
            "residual": "full",
        }
    }  # fmt: skip
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.15764"

    def __init__(
        self,
        graph: CausalGraph,
        *,
        prior: Literal["exogenous", "mediator"] = "exogenous",
        alpha: float = 0.65,
        likelihood: Literal["gaussian", "logistic"] = "gaussian",
        patch: int = 2,
        widths: Sequence[int] = (32, 48, 64, 128),
        latents: Sequence[int] = (4, 8, 8, 16),
        blocks: Sequence[int] = (1, 1, 1, 1),
        layers: Sequence[int] = (0, 1, 1, 2),
        kernels: Sequence[int] = (3, 3),
        bottleneck: float = 2.0,
        stem: int = 3,
        dense: bool = True,
        beta: float = 2.0,
        warm_up: float = 0.5,
        ramp: float = 1.0,
        lr: float = 3e-3,
        batch: int = 64,
        cycle: bool = True,
        ema: float = 0.995,
        particles: int = 0,
        residual: Literal["none", "scaled", "full"] = "full",
        tau: float = 0.5,
    ) -> None:
        super().__init__(graph)
        _one_of("prior", prior, ("exogenous", "mediator"))
        _one_of("likelihood", likelihood, ("gaussian", "logistic"))
        _one_of("residual", residual, ("none", "scaled", "full"))
        self.mediator, self.alpha, self.likelihood = prior == "mediator", alpha, likelihood
        self.beta, self.warm_up, self.ramp = beta, warm_up, ramp
        self.training_params: dict[str, Any] = {"lr": lr, "batch": batch, "cycle": cycle, "ema": ema}
        self.particles, self.residual = particles, residual
        self.tau = {"none": 0.0, "scaled": tau, "full": 1.0}[residual]
        self.parents = ParentEncoder(graph)
        self.net = Hierarchy(
            graph.shape, self.parents.dim, patch=patch, widths=widths, latents=latents, blocks=blocks, layers=layers,
            kernels=kernels, bottleneck=bottleneck, stem=stem, dense=dense, mediator=self.mediator,
        )  # fmt: skip

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Passes through encoder and decoder."""
        samples = max(self.particles, 1)
        return {"abduct": 2 * samples, "predict": samples}

    def terms(self, x: Tensor, pa: Tensor, noise: Sequence[Tensor], own: float = 1.0) -> Terms:
        """The bound for images x [B, C, H, W] in [0, 1], every latent drawn by its standard normal noise."""
        e, kl = self.parents(pa), []
        posterior = self.net.posterior(x, e)

        def choose(number: int, layer: Layer, prior: Gaussian, h: Tensor) -> Tensor:
            q = posterior(number, layer, h)
            kl.append(q.kl(prior))
            return q.at(noise[number])

        pixels = self.net.descend(e, choose, own)
        nll = -log_prob(x, *pixels, self.likelihood).flatten(1).sum(1)
        return Terms(nll, torch.stack(kl, dim=1))

    def fit(self, run: Fit) -> None:
        self.parents.fit(run.train.parents)
        images = run.images - run.seen
        start, pixels = run.seen, math.prod(self.graph.shape)

        def loss(x: Tensor, pa: Tensor) -> Tensor:
            done = (run.seen - start) / images
            beta, own = (min(1.0, done / w) if w else 1.0 for w in (self.warm_up, self.ramp))
            terms = self.terms(x, pa, self._noise(len(x), run), own)
            return (terms.nll + beta * self.beta * terms.kl.sum(1)).mean() / pixels

        train(run, self.net, loss, images, stage="fit", **self.training_params)
        self._report(run)

    def _noise(self, count: int, run: Fit) -> list[Tensor]:
        return [torch.randn(count, *s, generator=run.rng).to(run.device) for s in self.net.noise_shapes]

    @torch.no_grad()
    def _report(self, run: Fit) -> None:
        """Record the bound on held-out images, in bits a pixel, and the KL of every layer in nats."""
        held = run.valid[:VALID]
        parts = [
            self.terms(held[r].x.to(run.device), held[r].parents.to(run.device), self._noise(len(held[r]), run))
            for r in (slice(i, i + 100) for i in range(0, len(held), 100))
        ]
        nll, kl = torch.cat([p.nll for p in parts]), torch.cat([p.kl for p in parts])
        bits = (nll + kl.sum(1)).mean().item() / math.prod(self.graph.shape) / math.log(2)
        run.record("likelihood", {"bits_per_dim": bits, "bound": True})
        run.record("valid", {"nll": nll.mean().item(), "kl": kl.mean(0).tolist()})

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> dict[str, Tensor]:
        """Latents z0, z1, ... [B, P, ...] and residuals u [B, P, C, H, W]."""
        e, p = self.parents(pa), max(self.particles, 1)
        x, e = x.repeat_interleave(p, dim=0), e.repeat_interleave(p, dim=0)
        posterior, found = self.net.posterior(x, e), {}

        def choose(number: int, layer: Layer, prior: Gaussian, h: Tensor) -> Tensor:
            q = posterior(number, layer, h)
            eps = torch.zeros_like(q.mean)
            if self.particles:
                eps = rng.normal(p, *q.mean.shape[1:]).flatten(0, 1)
            z = q.at(eps)
            kept = torch.stack([q.mean, q.log_std.exp(), eps], dim=1) if self.mediator else z
            found[f"z{number}"] = kept.unflatten(0, (-1, p))
            return z

        mean, scale = self._located(self.net.descend(e, choose))
        u = (x - mean) / scale if self.tau else x[:, :0]
        return {**found, "u": u.unflatten(0, (-1, p))}

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams) -> Tensor:
        e = self.parents(pa).repeat_interleave(u["u"].shape[1], dim=0)

        def choose(number: int, layer: Layer, prior: Gaussian, h: Tensor) -> Tensor:
            z = u[f"z{number}"].flatten(0, 1)
            return self._mixed(prior, *z.unbind(1)) if self.mediator else z

        mean, scale = self._located(self.net.descend(e, choose))
        image = mean + self.tau * scale * u["u"].flatten(0, 1) if self.tau else mean
        return image.unflatten(0, (len(pa), -1)).mean(1).clamp(0, 1)

    def _mixed(self, prior: Gaussian, mean: Tensor, std: Tensor, eps: Tensor) -> Tensor:
        a = self.alpha
        spread = (a * std).square() + ((1 - a) * prior.log_std.exp()).square()
        return a * mean + (1 - a) * prior.mean + spread.sqrt() * eps

    @staticmethod
    def _located(pixels: Gaussian) -> tuple[Tensor, Tensor]:
        return pixels.mean.clamp(0, 1), pixels.log_std.exp()

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        """Images [B, C, H, W] in [0, 1]: the mean under latents that are drawn from the prior."""

        def choose(number: int, layer: Layer, prior: Gaussian, h: Tensor) -> Tensor:
            return prior.at(rng.normal(*prior.mean.shape[1:]))

        return self._located(self.net.descend(self.parents(pa), choose))[0]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"hvae: {name} is {value!r}; choose one of {', '.join(known)}")
