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
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

from .nn.discretised import Gaussian, log_prob
from .nn.finetuning import finetune
from .nn.hvae import Hierarchy, Layer
from .nn.predictor import ParentPredictor
from .nn.training import default_batch, train

__all__ = ["HVAE", "Terms"]

VALID = 1000
"""Validation images that the bound is reported on."""


class Terms(NamedTuple):
    """The negative bound on log p(x | pa) in nats per image: nll [B] and KL of layers [B, L]; latents drawn for it."""

    nll: Tensor
    kl: Tensor
    z: list[Tensor]


class HVAE(Method):
    """x = mu(z, pa) + sigma(z, pa) u with a hierarchy of latents z that are independent of the parents.

    Ribeiro et al., "High Fidelity Image Counterfactuals with Probabilistic Causal Models", ICML 2023,
    https://arxiv.org/abs/2306.15764. Abduction takes z from q(z | x, pa), layer by layer, and u = (x - mu) / sigma;
    prediction is mu(z, pa*) + tau min(sigma(z, pa*), a sigma(z, pa)) u, means cut to the grey scale. As sigma is
    small where the counterfactual is certain, little of a residual is left where nothing of it belongs. The paper
    has a = infinity, by which small errors of a certain factual become specks.

    To read: this file, `nn/hvae`, `nn/discretised`, and for ``finetuned`` `nn/finetuning` with `nn/predictor`.
    `cfbench.nn` and `nn/training` are standard parts.

    Args:
        prior: ``exogenous``: p(z) knows no parents, z is kept. ``mediator``: p(z | pa), and prediction draws z* from
            a normal with the mean of alpha q(z | x, pa) + (1 - alpha) p(z | pa*), taken as a sum; its residual is
            that of the factual's z, so that composition is not exact even where it is carried in full.
        likelihood: of grey levels: ``gaussian`` or ``logistic``, cut into 256 bins (`log_prob`).
        patch, widths, latents, blocks, layers, kernels, bottleneck, stem, dense, start: see `Hierarchy`.
        beta: weight of the KL divergence; it decides how much of the parents leaks into z.
        warm_up: the part of the training in which beta rises to its value.
        ramp: the part in which the pixels' scales go from one for all of them to one for each. Pixels with scales of
            their own call a stroke noise rather than learn where it is.
        lr, batch, cycle, ema: of the training (`train`); where no batch is given it grows with the budget
            (`default_batch`), and where no ema is, its horizon (`average_decay`).
        finetuned: part of the images for counterfactual fine-tuning (`finetune`), with ``predictor_share`` more for
            the predictor that it needs; finetune_lr: its learning rate.
        particles: samples of z in abduction, whose images are averaged; 0 takes the posterior's mean.
        residual: whether predictions carry u: ``none``, ``scaled`` by tau, or ``full``.
        amplify: a, by how much a residual may grow; None sets no limit.

    Raises:
        UserError: prior, likelihood or residual is not one of its values.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset({"residual", "tau", "amplify", "particles", "alpha"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "patch": 1, "widths": (16, 32, 64, 128, 256), "latents": (16,) * 5, "blocks": (3, 3, 3, 3, 4),
            "layers": (4,) * 5, "kernels": (1, 3, 3, 1), "bottleneck": 4, "stem": 7, "dense": False, "start": 0.0,
            "beta": 1.0, "warm_up": 0.0, "ramp": 0.0, "lr": 1e-3, "batch": 32, "cycle": False, "ema": 0.999,
            "residual": "full", "amplify": None,
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
        start: float = -2.0,
        beta: float = 6.0,
        warm_up: float = 0.5,
        ramp: float = 1.0,
        lr: float = 3e-3,
        batch: int | None = None,
        cycle: bool = True,
        ema: float | None = None,
        finetuned: float = 0.0,
        predictor_share: float = 0.15,
        finetune_lr: float = 1e-3,
        particles: int = 0,
        residual: Literal["none", "scaled", "full"] = "full",
        tau: float = 0.5,
        amplify: float | None = 1.5,
    ) -> None:
        super().__init__(graph)
        _one_of("prior", prior, ("exogenous", "mediator"))
        _one_of("likelihood", likelihood, ("gaussian", "logistic"))
        _one_of("residual", residual, ("none", "scaled", "full"))
        self.mediator, self.alpha, self.likelihood = prior == "mediator", alpha, likelihood
        self.beta, self.warm_up, self.ramp = beta, warm_up, ramp
        self.batch = batch
        self.training_params: dict[str, Any] = {"lr": lr, "cycle": cycle, "ema": ema}
        self.shares = {"predictor": predictor_share * (finetuned > 0), "finetune": finetuned}
        self.finetune_lr = finetune_lr
        self.particles, self.residual = particles, residual
        self.tau = {"none": 0.0, "scaled": tau, "full": 1.0}[residual]
        self.amplify = math.inf if amplify is None else amplify
        self.parents = ParentEncoder(graph)
        self.net = Hierarchy(
            graph.shape, self.parents.dim, patch=patch, widths=widths, latents=latents, blocks=blocks, layers=layers,
            kernels=kernels, bottleneck=bottleneck, stem=stem, dense=dense, mediator=self.mediator,
            start=start,
        )  # fmt: skip
        if finetuned:
            self.predictor = ParentPredictor(graph, 32, (1, 2, 2), 2)

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Passes through encoder and decoder."""
        return {"abduct": 2 * max(self.particles, 1), "predict": max(self.particles, 1)}

    def terms(self, x: Tensor, pa: Tensor, noise: Sequence[Tensor], own: float = 1.0) -> Terms:
        """The bound for images x [B, C, H, W] in [0, 1], latents drawn by standard normal noise; ``own``: see net."""
        e, kl, z = self.parents(pa), [], []
        posterior = self.net.posterior(x, e)

        def choose(number: int, layer: Layer, prior: Gaussian, h: Tensor) -> Tensor:
            q = posterior(number, layer, h)
            kl.append(q.kl(prior))
            z.append(q.at(noise[number]))
            return z[-1]

        pixels = self.net.descend(e, choose, own)
        nll = -log_prob(x, *pixels, self.likelihood).flatten(1).sum(1)
        return Terms(nll, torch.stack(kl, dim=1), z)

    def _imagined(self, x: Tensor, pa: Tensor, other: Tensor, noise: Sequence[Tensor]) -> tuple[Terms, Tensor]:
        """The bound, and the mean image under the ``other`` parents with the same latents."""
        terms = self.terms(x, pa, noise)
        pixels = self.net.descend(self.parents(other), lambda number, *_: terms.z[number])
        return terms, pixels.mean.clamp(0, 1)

    def fit(self, run: Fit) -> None:
        self.parents.fit(run.train.parents)
        start, budget, pixels = run.seen, run.images - run.seen, math.prod(self.graph.shape)
        images = {name: int(share * budget) for name, share in self.shares.items()}
        images["fit"] = budget - sum(images.values())
        parts: dict[str, Tensor] = {}

        def losses(x: Tensor, pa: Tensor, rng: torch.Generator, done: float = 1.0) -> Tensor:
            beta, own = (min(1.0, done / w) if w else 1.0 for w in (self.warm_up, self.ramp))
            terms = self.terms(x, pa, self._noise(len(x), rng), own)
            parts["kl"] = terms.kl.detach().sum(1)
            return (terms.nll + beta * self.beta * terms.kl.sum(1)) / pixels

        def rising(x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
            return losses(x, pa, rng, (run.seen - start) / images["fit"])

        options = {**self.training_params, "batch": self.batch or default_batch(budget)}
        train(run, self.net, rising, images["fit"], stage="fit", valid=losses, columns=parts, **options)
        if images["finetune"]:
            self._finetune(run, images, self._report(run), {**options, "lr": self.finetune_lr})
        self._report(run)

    def _finetune(self, run: Fit, images: Mapping[str, int], bound: float, options: Mapping[str, Any]) -> None:
        def parts(x: Tensor, pa: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
            terms, image = self._imagined(x, pa, new, self._noise(len(x), run.rng))
            return (terms.nll + self.beta * terms.kl.sum(1)).mean(), image

        finetune(run, self.net, parts, bound, self.predictor, self.parents, images, options)

    def _noise(self, count: int, rng: torch.Generator) -> list[Tensor]:
        device = self.parents.mean.device
        return [torch.randn(count, *s, generator=rng).to(device) for s in self.net.noise_shapes]

    @torch.no_grad()
    def _report(self, run: Fit) -> float:
        """Record the bound on held-out images in bits a pixel and each layer's KL in nats; the loss in nats."""
        held = run.valid[:VALID]
        parts = [
            self.terms(held[r].x.to(run.device), held[r].parents.to(run.device), self._noise(len(held[r]), run.rng))
            for r in (slice(i, i + 100) for i in range(0, len(held), 100))
        ]
        nll, kl = torch.cat([p.nll for p in parts]), torch.cat([p.kl for p in parts])
        bits = (nll + kl.sum(1)).mean().item() / math.prod(self.graph.shape) / math.log(2)
        run.record("likelihood", {"bits_per_dim": bits, "bound": True})
        run.record("valid", {"nll": nll.mean().item(), "kl": kl.mean(0).tolist()})
        return (nll + self.beta * kl.sum(1)).mean().item()

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> dict[str, Tensor]:
        """Latents z0, z1, ... [B, P, ...], and residuals u and their scales [B, P, 2, C, H, W]."""
        p = max(self.particles, 1)
        x, e = x.repeat_interleave(p, dim=0), self.parents(pa).repeat_interleave(p, dim=0)
        posterior, found = self.net.posterior(x, e), {}

        def choose(number: int, layer: Layer, prior: Gaussian, h: Tensor) -> Tensor:
            q = posterior(number, layer, h)
            shape = q.mean.shape[1:]
            eps = rng.normal(p, *shape).flatten(0, 1) if self.particles else torch.zeros_like(q.mean)
            z = q.at(eps)
            kept = torch.stack([q.mean, q.log_std, eps], dim=1) if self.mediator else z
            found[f"z{number}"] = kept.unflatten(0, (-1, p))
            return z

        mean, scale = self._located(self.net.descend(e, choose))
        u = torch.stack([(x - mean) / scale, scale], dim=1) if self.tau else x[:, :0]
        return {**found, "u": u.unflatten(0, (-1, p))}

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams) -> Tensor:
        e = self.parents(pa).repeat_interleave(u["u"].shape[1], dim=0)

        def choose(number: int, layer: Layer, prior: Gaussian, h: Tensor) -> Tensor:
            z = u[f"z{number}"].flatten(0, 1)
            if not self.mediator:
                return z
            mean, log_std, eps = z.unbind(1)
            return Gaussian(mean, log_std).mixed(prior, self.alpha).at(eps)

        image, scale = self._located(self.net.descend(e, choose))
        if self.tau:
            residual, own = u["u"].flatten(0, 1).unbind(1)
            image = image + self.tau * residual * torch.minimum(scale, self.amplify * own)
        return image.unflatten(0, (len(pa), -1)).mean(1).clamp(0, 1)

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
