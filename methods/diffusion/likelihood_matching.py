"""The loss by which a predictor's gradient, and not only its densities, becomes right."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.predictor import ParentPredictor
from .denoiser import Denoiser

__all__ = ["gradient_errors"]


def gradient_errors(
    predictor: ParentPredictor, denoiser: Denoiser, x: Tensor, eps: Tensor, t: Tensor, shown: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """How far the predictor's gradient is from what the noise lacks [B], and its log-probabilities [B, D].

    Denoising likelihood score matching (Chao et al. 2022, "Denoising likelihood score matching for conditional
    score-based data generation", https://arxiv.org/abs/2203.14206): the squared error, summed over each
    image, of ε(x_t, t) - sqrt(1 - ᾱ_t) ∇ log p(pa | x_t) as the noise in x_t. Where the
    predictor's densities are those of the data this is least; a predictor that was trained on its likelihood alone
    has gradients that need not be near. Errors count 1 / ᾱ_t as much, as those of v do (Salimans & Ho 2022).

    Args:
        denoiser: of the unconditional noise; it is not trained.
        x: clean images [B, C, H, W] in [-1, 1].
        eps: the noise to be added [B, C, H, W], at steps t [B].
        shown: what the predictor is shown in place of t [B].
        z: standardised parents [B, D].
    """
    x_t = denoiser.noised(x, eps, t)
    with torch.no_grad():
        unconditional = denoiser(x_t, t)
    with torch.enable_grad():
        log_probs = predictor.log_probs(predictor(x_t.requires_grad_(), shown), z)
        (gradient,) = torch.autograd.grad(log_probs.sum(), x_t, create_graph=True)
    a = denoiser.alpha_bar[t][:, None, None, None]
    error = (unconditional - (1 - a).sqrt() * gradient - eps).square() / a
    return error.flatten(1).sum(1), log_probs
