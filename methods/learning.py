"""How Diff-SCM trains its networks: one after the other, on shares of one budget of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cfbench.contract import Fit

from . import cld
from .training import Loss, train

if TYPE_CHECKING:
    from .diffscm import DiffSCM

__all__ = ["draw_t", "fit"]


def fit(method: DiffSCM, run: Fit) -> None:
    """Train the predictors, the VAE that tuning needs, and on what is left of the budget the diffusion model."""
    method.encoder.fit(run.train.parents)
    method.denoiser.observe(run.train.images)
    batch = method.batch or min(256, max(32, 2 ** round(math.log2(run.images / 4000))))
    images = {name: int(share * run.images) for name, share in method.shares.items()}

    def noisy(x: Tensor, pa: Tensor) -> Tensor:
        t, number = draw_t(method, len(x), run)
        x = method.denoiser.noised(2 * x - 1, _draw(x, run), t)
        return -method.predictor.log_probs(method.predictor(x, number), method.encoder.standardise(pa)).sum(1).mean()

    def clean(x: Tensor, pa: Tensor) -> Tensor:
        out = method.clean.read(2 * x - 1, 0)
        return -method.clean.log_probs(out, method.encoder.standardise(pa)).sum(1).mean()

    def denoise(x: Tensor, pa: Tensor) -> Tensor:
        return method.denoiser.loss(2 * x - 1, _draw(x, run), draw_t(method, len(x), run)[0])

    def learn(net: nn.Module, loss: Loss, stage: str, images: int, lr: float) -> None:
        train(run, net, loss, images, stage=stage, lr=lr, batch=batch, **method.training_params)

    if method.shares["clean"]:
        learn(method.clean, clean, "clean predictor", images["clean"], method.predictor_lr)
    if method.shares["vae"]:
        learn(method.vae, cld.loss(method.vae), "vae", images["vae"], method.predictor_lr)
    learn(method.predictor, noisy, "predictor", images["predictor"], method.predictor_lr)
    learn(method.denoiser, denoise, "diffusion", run.images - run.seen, method.lr)


def _draw(x: Tensor, run: Fit) -> Tensor:
    return torch.randn(x.shape, generator=run.rng).to(x.device)


def draw_t(method: DiffSCM, count: int, run: Fit) -> tuple[Tensor, Tensor]:
    """Steps t [count] to train on, and what the predictor is told of them."""
    total = len(method.levels)
    if method.respaced:
        number = torch.randint(method.respaced, (count,), generator=run.rng).to(run.device)
        return number * (total // method.respaced), number
    u, far = torch.rand(2, count, generator=run.rng)
    t = (u * torch.where(far < 0.1, 1.0, method.focus) * total).long().to(run.device)
    return t, t
