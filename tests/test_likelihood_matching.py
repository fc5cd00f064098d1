"""The predictor's gradient, matched with what the unconditional noise lacks."""

from __future__ import annotations

import math

import pytest
import torch
from cfbench_methods.diffscm import DiffSCM
from cfbench_methods.diffusion.denoiser import Denoiser
from cfbench_methods.diffusion.likelihood_matching import gradient_errors
from cfbench_methods.diffusion.schedule import alpha_bars
from fits import STRIPES, session, stripes
from torch import nn

pytestmark = pytest.mark.portable

MEAN, VAR = torch.tensor([0.9, -0.4, 0.2, 0.6]).view(1, 1, 2, 2), 0.3
"""Images of four pixels: x = z MEAN + sqrt(VAR) n with z and n standard normal, so that all densities are known."""


class Unconditional(nn.Module):
    """The noise in x_t by the marginal density of x_t, a Gaussian."""

    def __init__(self, alpha_bar):
        super().__init__()
        self.alpha_bar = alpha_bar

    noised = Denoiser.noised

    def forward(self, x, t):
        a = self.alpha_bar[t].view(-1, 1, 1)
        m = MEAN.view(1, 4, 1)
        covariance = a * (m @ m.mT + VAR * torch.eye(4)) + (1 - a) * torch.eye(4)
        return (1 - a).sqrt().unsqueeze(-1) * torch.linalg.solve(covariance, x.view(-1, 4, 1)).view_as(x)


class Posterior(nn.Module):
    """p(z | x_t), a Gaussian: 1 / var = 1 + a |m|² / w with w = a VAR + 1 - a, and mean = var sqrt(a) <m, x_t> / w."""

    def __init__(self, alpha_bar, sharpness=1.0):
        super().__init__()
        self.alpha_bar, self.sharpness = alpha_bar, sharpness

    def forward(self, x, t):
        a = self.alpha_bar[t]
        w = a * VAR + 1 - a
        var = 1 / (1 + a * MEAN.square().sum() / w)
        return torch.stack([var * a.sqrt() * (MEAN * x).flatten(1).sum(1) / w, var], dim=1)

    def log_probs(self, out, z):
        mean, var = out.unbind(1)
        return (-0.5 * self.sharpness * (z[:, 0] - mean).square() / var - 0.5 * var.log())[:, None]


def batch(count=4096):
    g = torch.Generator().manual_seed(0)
    z, n, eps = (torch.randn(count, *shape, generator=g) for shape in ((1,), (1, 2, 2), (1, 2, 2)))
    return z[:, :, None, None] * MEAN + math.sqrt(VAR) * n, eps, torch.randint(0, 700, (count,), generator=g), z


def test_the_true_posterior_turns_the_marginal_noise_into_the_conditional_one():
    alpha_bar = alpha_bars("linear").float()
    x, eps, t, z = batch()
    error, _ = gradient_errors(Posterior(alpha_bar), Unconditional(alpha_bar), x, eps, t, t, z)
    a = alpha_bar[t].view(-1, 1, 1, 1)
    x_t = a.sqrt() * x + (1 - a).sqrt() * eps
    conditional = (1 - a).sqrt() * (x_t - a.sqrt() * z[:, :, None, None] * MEAN) / (a * VAR + 1 - a)
    assert error.mean().item() == pytest.approx(
        ((conditional - eps).square() / a).flatten(1).sum(1).mean().item(), rel=1e-4
    )


def test_the_error_is_least_for_the_true_posterior():
    alpha_bar = alpha_bars("linear").float()
    x, eps, t, z = batch()
    errors = [
        gradient_errors(Posterior(alpha_bar, s), Unconditional(alpha_bar), x, eps, t, t, z)[0].mean().item()
        for s in (0.0, 0.7, 1.0, 1.3)
    ]
    assert min(errors) == errors[2]


def held_out_error(method, split):
    """The gradient's error on a split, and that of no gradient at all."""
    g = torch.Generator().manual_seed(3)
    x, z = 2 * split.x - 1, method.encoder.standardise(split.parents)
    eps, t = torch.randn(x.shape, generator=g), torch.randint(0, 500, (len(x),), generator=g)
    error, _ = gradient_errors(method.predictor, method.denoiser, x, eps, t, t, z)
    a = method.denoiser.alpha_bar[t].view(-1, 1, 1, 1)
    with torch.no_grad():
        plain = method.denoiser(method.denoiser.noised(x, eps, t), t)
    return error.mean().item(), ((plain - eps).square() / a).flatten(1).sum(1).mean().item()


def test_a_matched_predictor_brings_the_noise_nearer_to_the_truth_and_an_unmatched_one_less():
    small = {"width": 8, "mult": (1, 2), "predictor_width": 8, "predictor_mult": (1, 2), "steps": 4, "scale": 1.0}
    train, valid = stripes(400)[0], stripes(200, seed=1)[0]
    errors = {}
    for matched in (0.0, 0.5):
        method = DiffSCM(STRIPES, **small, matched=matched, matched_lr=2e-3)
        method.fit(session(train, 8000, valid))
        errors[matched], none = held_out_error(method.eval(), valid)
    assert errors[0.5] < 0.99 * none
    assert errors[0.5] < errors[0.0]


def test_a_budget_too_small_for_matching_is_spent_on_the_likelihood():
    stages: dict[str, int] = {}
    small = {"width": 8, "mult": (1, 2), "predictor_width": 8, "predictor_mult": (1, 2), "steps": 4, "scale": 1.0}
    run = session(stripes(100)[0], 1000, log=lambda row: stages.update({str(row["stage"]): 1}))
    DiffSCM(STRIPES, **small).fit(run)
    assert "predictor" in stages
    assert "predictor's gradient" not in stages
    assert run.images - run.seen < 3 * 32  # no stage leaves a whole batch
