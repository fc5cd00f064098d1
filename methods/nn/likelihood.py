"""Gaussian likelihoods of an image about a mean, each with the root of its covariance that whitens residuals."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.errors import UserError

__all__ = ["Diagonal", "FullRank", "Likelihood", "LowRank", "Scalar", "likelihood"]

FLOOR = -8.0
"""Smallest log-variance of a pixel; dequantisation alone leaves -7.6 in the logit space of black pixels."""
LARGEST = 1024
"""Most values of an image that a covariance of full rank is kept for."""


class Likelihood(nn.Module):
    """N(mean, S) over the values of an image; residuals are r = y - mean [B, C, H, W].

    The covariance S may depend on further ``maps`` [B, extra C, H, W] that the decoder draws. `whiten` gives
    eps = R^-1 r and `colour` r = R eps with R R^T = S, so that eps ~ N(0, 1) under the model.
    """

    extra = 0

    def log_prob(self, r: Tensor, maps: Tensor) -> Tensor:
        """The log-density of r in nats [B]."""
        raise NotImplementedError

    def whiten(self, r: Tensor, maps: Tensor) -> Tensor:
        raise NotImplementedError

    def colour(self, eps: Tensor, maps: Tensor) -> Tensor:
        raise NotImplementedError

    def variance(self, maps: Tensor) -> Tensor:
        """The variance of each value, or their mean, in a shape that broadcasts to [B, C, H, W]."""
        raise NotImplementedError


def _density(squares: Tensor, log_det: Tensor, values: int) -> Tensor:
    return -0.5 * (squares + log_det + values * math.log(2 * math.pi))


class Scalar(Likelihood):
    """One variance for all values, learned or fixed."""

    def __init__(self, log_variance: float, learned: bool) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor(log_variance), requires_grad=learned)

    def log_prob(self, r: Tensor, maps: Tensor) -> Tensor:
        values = r[0].numel()
        squares = r.square().flatten(1).sum(1) * torch.exp(-self.log_variance)
        return _density(squares, values * self.log_variance, values)

    def whiten(self, r: Tensor, maps: Tensor) -> Tensor:
        return r * torch.exp(-self.log_variance / 2)

    def colour(self, eps: Tensor, maps: Tensor) -> Tensor:
        return eps * torch.exp(self.log_variance / 2)

    def variance(self, maps: Tensor) -> Tensor:
        return self.log_variance.exp()


class Diagonal(Likelihood):
    """A variance for each value, drawn by the decoder: a map m with log S_ii = FLOOR + softplus(m - FLOOR)."""

    extra = 1

    def log_prob(self, r: Tensor, maps: Tensor) -> Tensor:
        log_variance = _floored(maps)
        squares = r.square() * torch.exp(-log_variance)
        return _density(squares.flatten(1).sum(1), log_variance.flatten(1).sum(1), r[0].numel())

    def whiten(self, r: Tensor, maps: Tensor) -> Tensor:
        return r * torch.exp(-_floored(maps) / 2)

    def colour(self, eps: Tensor, maps: Tensor) -> Tensor:
        return eps * torch.exp(_floored(maps) / 2)

    def variance(self, maps: Tensor) -> Tensor:
        return _floored(maps).exp()


def _floored(maps: Tensor) -> Tensor:
    return FLOOR + F.softplus(maps - FLOOR)


class LowRank(Likelihood):
    """S = D^1/2 (1 + V V^T) D^1/2 with D diagonal and V of ``rank`` columns, drawn by the decoder.

    R = D^1/2 (1 + V V^T)^1/2 with the symmetric root, which stays local: a pixel's eps is about that pixel.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise UserError(f"rank is {rank}; a covariance of low rank needs at least 1")
        self.extra = 1 + rank

    def _parts(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of D [B, C, H, W] and V [B, CHW, rank]."""
        log_d, v = maps.unflatten(1, (self.extra, -1)).split([1, self.extra - 1], dim=1)
        return _floored(log_d[:, 0]), v.flatten(2).mT

    def log_prob(self, r: Tensor, maps: Tensor) -> Tensor:
        log_d, v = self._parts(maps)
        a = (r * torch.exp(-log_d / 2)).flatten(1)[:, :, None]
        root = torch.linalg.cholesky(torch.eye(self.extra - 1).to(v) + v.mT @ v)
        shared = torch.linalg.solve_triangular(root, v.mT @ a, upper=False)
        squares = a.square().sum((1, 2)) - shared.square().sum((1, 2))
        log_det = log_d.flatten(1).sum(1) + 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return _density(squares, log_det, a.shape[1])

    def whiten(self, r: Tensor, maps: Tensor) -> Tensor:
        log_d, v = self._parts(maps)
        return _rooted(r * torch.exp(-log_d / 2), v, inverse=True)

    def colour(self, eps: Tensor, maps: Tensor) -> Tensor:
        log_d, v = self._parts(maps)
        return _rooted(eps, v, inverse=False) * torch.exp(log_d / 2)

    def variance(self, maps: Tensor) -> Tensor:
        log_d, v = self._parts(maps)
        return log_d.exp() * (1 + v.square().sum(2)).view_as(log_d)


def _rooted(a: Tensor, v: Tensor, *, inverse: bool) -> Tensor:
    """(1 + V V^T)^(1/2 or -1/2) a, by the eigenvalues k of V^T V; in double precision, as k may be very large."""
    basis = v.double()
    k, q = torch.linalg.eigh(basis.mT @ basis)
    basis = basis @ q  # [B, CHW, rank], columns of squared length k
    root = (1 + k.clamp(min=0)).sqrt()
    weight = -1 / (root * (1 + root)) if inverse else 1 / (1 + root)
    flat = a.double().flatten(1)[:, :, None]
    return (flat + basis @ (weight[:, :, None] * (basis.mT @ flat))).view_as(a).to(a)


class FullRank(Likelihood):
    """One covariance S = R R^T for all images, R lower triangular and learned; for small images."""

    def __init__(self, values: int) -> None:
        super().__init__()
        if values > LARGEST:
            raise UserError(f"an image has {values} values, too many for a full covariance ({LARGEST}); use lowrank")
        self.below = nn.Parameter(torch.zeros(values, values))
        self.log_scale = nn.Parameter(torch.zeros(values))

    @property
    def root(self) -> Tensor:
        """R [CHW, CHW]."""
        return self.below.tril(-1) + self.log_scale.exp().diag()

    def log_prob(self, r: Tensor, maps: Tensor) -> Tensor:
        squares = self.whiten(r, maps).flatten(1).square().sum(1)
        return _density(squares, 2 * self.log_scale.sum(), r[0].numel())

    def whiten(self, r: Tensor, maps: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.root, r.flatten(1).mT, upper=False).mT.view_as(r)

    def colour(self, eps: Tensor, maps: Tensor) -> Tensor:
        return (eps.flatten(1) @ self.root.mT).view_as(eps)

    def variance(self, maps: Tensor) -> Tensor:
        return self.root.square().sum(1).mean()


def likelihood(
    name: Literal["fixed", "scalar", "diagonal", "lowrank", "full"], values: int, log_variance: float, rank: int
) -> Likelihood:
    """The likelihood of that name for images of ``values`` values; the scalar ones start at ``log_variance``."""
    if name in ("fixed", "scalar"):
        return Scalar(log_variance, learned=name == "scalar")
    if name == "lowrank":
        return LowRank(rank)
    return Diagonal() if name == "diagonal" else FullRank(values)
