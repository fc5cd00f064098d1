"""Minimality: whether a counterfactual stays closer to its factual than real images of the wanted value do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence
from .pixels import GREY, l1

__all__ = ["CLD", "FactualDistance", "cld", "kl", "pools"]

Code = tuple[Tensor, Tensor]
"""Means and standard deviations [..., Z] of Gaussian codes."""
UNIFORM = "one uniform or mean image for all questions can score better than the truth"
BINS = 10
CHUNK = 64
PAIRS = 2**24
"""Number of pairs of an image and a real one above which divergences are computed from matrix products."""


def kl(p: Code, q: Code) -> Tensor:
    """KL(p ‖ q) of diagonal Gaussians with codes [..., Z] that broadcast: float64 [...], 0 exactly on equal codes."""
    (mu_p, sd_p), (mu_q, sd_q) = p, q
    ratio = (sd_p.double() / sd_q.double()).square()
    shift = ((mu_p.double() - mu_q.double()) / sd_q.double()).square()
    return 0.5 * (ratio - 1 - ratio.log() + shift).sum(-1)


def _product(p: Code, q: Code) -> Tensor:
    """KL(p ‖ q) of every code of p [P, Z] and of q [R, Z]: float64 [R, P], equal to `kl` but for rounding."""
    (mu_p, var_p), (mu_q, var_q) = ((mean.double(), std.double().square()) for mean, std in (p, q))
    centre = mu_p.mean(0)
    mu_p, mu_q = mu_p - centre, mu_q - centre
    own = torch.cat([var_p + mu_p.square(), -2 * mu_p], 1)
    other = torch.cat([1 / var_q, mu_q / var_q], 1)
    fixed = (mu_q.square() / var_q + var_q.log() - 1).sum(1)
    return (other @ own.T).add_(fixed[:, None]).sub_(var_p.log().sum(1)).mul_(0.5)


def cld(p1: Tensor, p2: Tensor, weight: float = 1.0, other: float = 1.0) -> Tensor:
    """ln(weight e^p1 + other e^p2)."""
    return (weight * p1.exp() + other * p2.exp()).log()


def pools(evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
    """Pool numbers of the intervened variable's value in pa [N], in cf_pa [N] and in the real images [M].

    Classes match exactly; continuous values match where they lie between the same deciles of the real images'
    values (values beyond the outer deciles belong to the outer pools).
    """
    k = evidence.graph.index(evidence.do)
    values = tuple(t[:, k].double() for t in (evidence.pa, evidence.cf_pa, evidence.real.parents))
    if evidence.graph[evidence.do].categorical:
        factual, wanted, real = (v.round().long() for v in values)
    else:
        edges = torch.quantile(values[2], torch.arange(1, BINS).to(values[2]) / BINS)
        factual, wanted, real = (torch.bucketize(v, edges, right=True) for v in values)
    return factual, wanted, real


def _share(
    compare: Callable[[Tensor, Tensor], Tensor], div: Tensor, code: Code, pool: Tensor, real: Code, real_pool: Tensor
) -> Tensor:
    """Per row [N] the share of real images of the row's pool whose divergence compares with ``div``; NaN: no pool."""
    share, many = torch.full_like(div, torch.nan), len(div) * len(real_pool) > PAIRS
    for number in pool.unique():
        members = real_pool == number
        if not members.any():
            continue
        reference = (real[0][members], real[1][members])  # [P, Z]
        for rows in (pool == number).nonzero()[:, 0].split(CHUNK):
            own = (code[0][rows], code[1][rows])
            spread = _product(reference, own) if many else kl(reference, (own[0][:, None], own[1][:, None]))  # [R, P]
            share[rows] = compare(spread, div[rows, None]).double().mean(1)
    return share.masked_fill(div.isnan(), torch.nan)


class CLD(Metric):
    """Counterfactual latent divergence (Sanchez & Tsaftaris 2022, arXiv 2202.10166).

    With D(a, b) = KL(N_a ‖ N_b) between posteriors of an unconditional VAE, div = D(x*, x) and S_v = {D(x', x)}
    over real images x' that have value v of the intervened variable and trained no method:
    ``p1`` = P(S_pa* <= div), ``p2`` = P(S_pa >= div), ``cld`` = ln(e^p1 + e^p2) in [ln 2, 1 + ln 2], and
    ``cld_weighted`` = ln(.8 e^p1 + .2 e^p2) in [0, 1] (Melistas et al. 2024, arXiv 2403.20287).
    A copy of the factual scores 1.3133 and .2954. NaN where a pool is empty. Both forms reward small changes of
    any kind, so neither is won by the true counterfactual for certain, and noise may improve an unchanged image.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "cld": Column(
            "counterfactual latent divergence",
            "lower",
            "nat",
            math.log(2),
            1 + math.log(2),
            heading="CLD",
            printed=True,
            order=40,
            caveat=UNIFORM,
        ),
        "cld_weighted": Column(
            "counterfactual latent divergence, weights .8 and .2",
            "lower",
            "nat",
            0.0,
            1.0,
            heading="CLD weighted",
            printed=True,
            order=41,
            caveat=UNIFORM,
        ),
        "p1": Column(
            "real images of the wanted value nearer to the factual",
            "lower",
            "share of images",
            0.0,
            1.0,
            printed=False,
            caveat=UNIFORM,
        ),
        "p2": Column(
            "real images of the factual's value farther from it",
            "lower",
            "share of images",
            0.0,
            1.0,
            printed=False,
            caveat=UNIFORM,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64."""
        code = evidence.judge("encode", "x")
        real = evidence.judge_real("encode")
        div = kl(evidence.judge("encode", "answer"), code)
        factual, wanted, members = pools(evidence)
        p1 = _share(torch.le, div, code, wanted, real, members)
        p2 = _share(torch.ge, div, code, factual, real, members)
        return {"cld": cld(p1, p2), "cld_weighted": cld(p1, p2, 0.8, 0.2), "p1": p1, "p2": p2}


class FactualDistance(Metric):
    """Mean absolute change from the factual, ``l1_factual`` [N]: 0 for doing nothing, so read it with effectiveness."""

    columns: ClassVar[Mapping[str, Column]] = {
        "l1_factual": Column(
            "mean absolute change from the factual",
            "lower",
            GREY,
            0.0,
            255.0,
            heading="L1 factual",
            printed=True,
            order=70,
        ),
    }

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64."""
        return {"l1_factual": l1(evidence.answer, evidence.x)}
