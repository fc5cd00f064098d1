"""The logit space of grey levels, and the encoder and decoder of a conditional VAE in it."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.nn import crop, pad_to_multiple

__all__ = ["Decoder", "Encoder", "logit", "logit_inverse", "logit_log_det"]

ALPHA = 0.05
LEVELS = 256


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
        self.multiple = 2 ** len(channels)
        rows, columns = (math.ceil(side / self.multiple) for side in shape[1:])
        self.first = nn.Conv2d(4 * shape[0], width, 3, 1, 1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(channels))
        self.mix = nn.Linear(channels[-1] * rows * columns + parents, hidden)
        self.out = nn.Linear(hidden + parents, 2 * latent)

    def forward(self, y: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        h = F.pixel_unshuffle(pad_to_multiple(y, self.multiple, "replicate"), 2).contiguous(
            memory_format=torch.channels_last
        )
        h = F.silu(self.first(h), inplace=True)
        for down in self.down:
            h = F.silu(down(h), inplace=True)
        h = h.permute(0, 2, 3, 1).flatten(1)
        h = F.silu(self.mix(torch.cat([h, e], dim=1)), inplace=True)
        mean, log_variance = self.out(torch.cat([h, e], dim=1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 8)


class Decoder(nn.Module):
    """Maps [B, (1 + extra) C, H, W] from z [B, latent] and encoded parents [B, E]: the mean y of p(y | z, pa), and
    ``extra`` maps a channel that a likelihood asks for."""

    def __init__(
        self, shape: tuple[int, int, int], parents: int, latent: int, width: int, hidden: int, extra: int = 0
    ) -> None:
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
        self.last = nn.Conv2d(width, 4 * (1 + extra) * shape[0], 3, 1, 1)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        h = F.silu(self.mix(torch.cat([z, e], dim=1)) * (1 + self.scale(e)))
        h = h + F.silu(self.deep(h), inplace=True)
        h = F.silu(self.spread(h).unflatten(1, self.grid).permute(0, 3, 1, 2))
        for up in self.up:
            h = F.silu(up(h), inplace=True)
        return crop(F.pixel_shuffle(self.last(h), 2), self.shape)
