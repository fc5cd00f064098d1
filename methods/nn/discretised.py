"""Gaussian maps, and the likelihood of an image's 256 grey levels under a location and a scale at every pixel."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Gaussian", "log_cdf", "log_prob"]

BIN = 1 / 255
"""The distance of two grey levels of an image in [0, 1]."""
SPREAD = 4.0
"""Log standard deviations of latents lie within plus and minus this."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian over a map [B, Z, H, W]."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def of(cls, out: Tensor) -> Gaussian:
        """From unbounded numbers [B, 2 Z, H, W]."""
        mean, raw = out.chunk(2, dim=1)
        return cls(mean, SPREAD * torch.tanh(raw / SPREAD))

    def at(self, eps: Tensor) -> Tensor:
        """The value that standard normal noise eps stands for."""
        return torch.addcmul(self.mean, self.log_std.exp(), eps)

    def mixed(self, other: Gaussian, share: float) -> Gaussian:
        """The law of share * a + (1 - share) * b for independent a of this Gaussian and b of the other."""
        variance = (share * self.log_std.exp()).square() + ((1 - share) * other.log_std.exp()).square()
        return Gaussian(share * self.mean + (1 - share) * other.mean, 0.5 * variance.log())

    def kl(self, prior: Gaussian) -> Tensor:
        """KL(self || prior) in nats [B]."""
        gap = self.log_std - prior.log_std
        square = ((self.mean - prior.mean) * torch.exp(-prior.log_std)).square()
        return (0.5 * (torch.exp(2 * gap) + square - 1) - gap).flatten(1).sum(1)


def log_prob(x: Tensor, mean: Tensor, log_scale: Tensor, kind: Literal["gaussian", "logistic"]) -> Tensor:
    """log p(x) of 256 grey levels x in [0, 1], element by element: the mass between the middles of its neighbours.

    The lowest and the highest level take the tails, so that the masses sum to 1. Logarithms of differences are taken
    in closed form on the side of the smaller tail, so that no mass is rounded to 0.
    """
    inverse = torch.exp(-log_scale)
    low, high = (x - mean - BIN / 2) * inverse, (x - mean + BIN / 2) * inverse
    first, last = x < BIN / 2, x > 1 - BIN / 2
    if kind == "logistic":
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)) for the sigmoid s
        middle = torch.log(-torch.expm1(-BIN * inverse))
        return (
            F.logsigmoid(high).masked_fill(last, 0)
            + F.logsigmoid(-low).masked_fill(first, 0)
            + middle.masked_fill(first | last, 0)
        )
    upper = low > 0
    under = log_cdf(torch.where(upper, -high, low).masked_fill(first | last, -1))
    over = log_cdf(torch.where(first, high, torch.where(last | upper, -low, high)))
    return over + torch.log(-torch.expm1((under - over).clamp(max=-1e-6))).masked_fill(first | last, 0)


def log_cdf(x: Tensor) -> Tensor:
    """log Phi(x) of the standard normal; below -30 its asymptote, whose slope single precision can hold."""
    near, far = x.clamp(min=-30), x.clamp(max=-30)
    tail = -0.5 * far.square() - torch.log(-far) - 0.5 * math.log(2 * math.pi)
    return torch.where(x < -30, tail, torch.special.log_ndtr(near))
