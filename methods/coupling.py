"""Affine coupling layers: exactly invertible maps whose shift and scale a network reads off numbers and parents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Affine", "ConvNet", "DenseNet"]


class DenseNet(nn.Module):
    """Shift and log-scale of ``outputs`` numbers from numbers z [B, inputs] and parents e [B, E], 0 at the start.

    Every layer reads the parents again.
    """

    def __init__(self, inputs: int, parents: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.inlet = nn.Linear(inputs + parents, width)
        self.hidden = nn.ModuleList(nn.Linear(width + parents, width) for _ in range(depth - 1))
        self.outlet = nn.Linear(width + parents, 2 * outputs)
        _zero(self.outlet)

    def forward(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        h = F.silu(self.inlet(torch.cat([z, e], dim=1)))
        for layer in self.hidden:
            h = h + F.silu(layer(torch.cat([h, e], dim=1)))
        shift, log_scale = self.outlet(torch.cat([h, e], dim=1)).chunk(2, dim=1)
        return shift, log_scale


class ConvNet(nn.Module):
    """`DenseNet` for maps z [B, inputs, h, w]: 3 × 3 convolutions, parents as a bias per position and as FiLM."""

    def __init__(self, inputs: int, parents: int, outputs: int, width: int, depth: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(inputs, width, 3, padding=1)
        self.template = nn.Linear(parents, math.prod(grid) * width)
        self.shape = (*grid, width)
        self.hidden = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.film = nn.ModuleList(nn.Linear(parents, 2 * width) for _ in range(depth))
        self.outlet = nn.Conv2d(width, 2 * outputs, 3, padding=1)
        _zero(self.template)
        _zero(self.outlet)

    def forward(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inlet(z.contiguous(memory_format=torch.channels_last))
        h = F.silu(h + self.template(e).unflatten(1, self.shape).permute(0, 3, 1, 2))
        for layer, film in zip(self.hidden, self.film, strict=True):
            scale, shift = film(e)[:, :, None, None].chunk(2, dim=1)
            h = h + F.silu(torch.addcmul(shift, layer(h), 1 + scale))
        shift, log_scale = self.outlet(h).chunk(2, dim=1)
        return shift, log_scale


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Affine(nn.Module):
    """u = (z - shift) exp(bounded log-scale), both from what ``net`` reads; exactly inverted whatever it says.

    A log-scale r is bounded to ± limit by limit · tanh(r / limit), so that no layer can blow up or collapse.
    """

    def __init__(self, net: nn.Module, limit: float) -> None:
        super().__init__()
        self.net, self.limit = net, limit

    def _read(self, seen: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.net(seen, e)
        return shift, self.limit * torch.tanh(log_scale / self.limit)

    def forward(self, z: Tensor, seen: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """u like z, and log |du/dz| [B]."""
        shift, log_scale = self._read(seen, e)
        return (z - shift) * log_scale.exp(), log_scale.flatten(1).sum(1)

    def inverse(self, u: Tensor, seen: Tensor, e: Tensor) -> Tensor:
        shift, log_scale = self._read(seen, e)
        return u * torch.exp(-log_scale) + shift
