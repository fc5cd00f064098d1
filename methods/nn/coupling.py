"""Affine coupling layers: exactly invertible maps whose shift and scale a network reads off numbers and parents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.nn import crop, pad_to_multiple

__all__ = ["Affine", "ConvNet", "DenseNet", "ImageFlow", "grids", "log_normal"]

SMALL = 8
"""Images are halved until their sides are at most this."""


def grids(height: int, width: int) -> list[tuple[int, int]]:
    """Grids of the pyramid from coarse to fine, each half of the next, rounded up; at least one halving."""
    sizes: list[tuple[int, int]] = []
    while not sizes or max(height, width) > SMALL:
        height, width = -(-height // 2), -(-width // 2)
        sizes.append((height, width))
    coarsest = sizes[-1]
    return [(coarsest[0] * 2**k, coarsest[1] * 2**k) for k in range(len(sizes))]


def log_normal(u: Tensor) -> Tensor:
    """log density [B] of u [B, ...] under independent standard normals."""
    return -0.5 * (u.flatten(1).square().sum(1) + u[0].numel() * math.log(2 * math.pi))


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
    """`DenseNet` for maps z [B, inputs, h, w]: 3 × 3 convolutions, with parents as a template and as FiLM.

    The template is a value for each position and channel, linear in the parents; without it parents only
    scale and shift whole channels, and the value for each position is the same for all.
    """

    def __init__(
        self, inputs: int, parents: int, outputs: int, width: int, depth: int, grid: tuple[int, int],
        template: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.inlet = nn.Conv2d(inputs, width, 3, padding=1)
        self.template = nn.Linear(parents, math.prod(grid) * width)
        self.shape = (*grid, width)
        self.hidden = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.film = nn.ModuleList(nn.Linear(parents, 2 * width) for _ in range(depth))
        self.outlet = nn.Conv2d(width, 2 * outputs, 3, padding=1)
        _zero(self.template).weight.requires_grad_(template)
        _zero(self.outlet)

    def forward(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inlet(z.contiguous(memory_format=torch.channels_last))
        h = F.silu(h + self.template(e).unflatten(1, self.shape).permute(0, 3, 1, 2))
        for layer, film in zip(self.hidden, self.film, strict=True):
            scale, shift = film(e)[:, :, None, None].chunk(2, dim=1)
            h = h + F.silu(torch.addcmul(shift, layer(h), 1 + scale))
        shift, log_scale = self.outlet(h).chunk(2, dim=1)
        return shift, log_scale


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


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


class ImageFlow(nn.Module):
    """A flow of images [B, *shape], padded so that they can be halved until their sides are at most 8.

    Attributes:
        grids: from coarse to fine, see `grids`.
        padded: the padded shape.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape, self.grids = shape, grids(*shape[1:])
        self.padded = (shape[0], 2 * self.grids[-1][0], 2 * self.grids[-1][1])

    def pad(self, x: Tensor) -> Tensor:
        """Images [B, *shape] with black pixels added below and to the right."""
        return pad_to_multiple(x, 2 ** len(self.grids))

    def crop(self, y: Tensor) -> Tensor:
        """What `pad` was given."""
        return crop(y, self.shape)

    def observe(self, y: Tensor) -> None:
        """Take the scales of all parts from images y [N, *padded]."""
        raise NotImplementedError

    def forward(self, y: Tensor, e: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The noise u, and the log densities [B] of the parts whose sum is log p(y | parents)."""
        raise NotImplementedError

    def inverse(self, noise: Sequence[Tensor], e: Tensor) -> Tensor:
        """The images y [B, *padded] that have this noise under parents e [B, E]."""
        raise NotImplementedError

    @property
    def noise_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the noise of one image."""
        raise NotImplementedError
