"""An exactly invertible map between images and noise: convolutional couplings at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coupling import Affine, ConvNet, ImageFlow, log_normal

__all__ = ["SqueezeFlow"]


class Rotation(nn.Module):
    """A fixed random rotation of the channels of z [B, channels, h, w]."""

    turn: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("turn", torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0].float())

    def forward(self, z: Tensor) -> Tensor:
        return F.conv2d(z, self.turn[:, :, None, None])

    def inverse(self, z: Tensor) -> Tensor:
        return F.conv2d(z, self.turn.T[:, :, None, None])


class SqueezeFlow(ImageFlow):
    """Noise u [B, C 4^L, h, w] from images y [B, *padded] and parents e [B, E], all pixels to the last coupling.

    L times, 2 × 2 pixels become channels, until the sides are at most 8. After each time come couplings: a fixed
    random rotation of the channels, then one half moved and scaled by what a `ConvNet` reads off the other half and
    the parents. As in Glow (Kingma & Dhariwal 2018, arXiv 1807.03039), but nothing is factored out, and the network
    adds a template of its own for every value of the parents.

    Args:
        shape: of the images; ``padded`` is the next shape that can be halved as often as needed.
        width, depth, couplings: at each resolution from coarse to fine; the last holds for all finer ones.
        limit: of every layer's log-scales.
        template: whether networks have one; without, the flow keeps classes in its noise.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        parents: int,
        width: Sequence[int],
        depth: Sequence[int],
        couplings: Sequence[int],
        limit: float,
        template: bool = True,
    ) -> None:
        super().__init__(shape)
        self.levels: list[int] = []
        self.couplings, self.rotations = nn.ModuleList(), nn.ModuleList()
        for level, grid in enumerate(reversed(self.grids)):
            channels = shape[0] * 4 ** (level + 1)
            k = min(len(self.grids) - 1 - level, len(couplings) - 1)
            for _ in range(couplings[k]):
                net = ConvNet(channels // 2, parents, channels // 2, width[k], depth[k], grid, template)
                self.couplings.append(Affine(net, limit))
                self.rotations.append(Rotation(channels))
                self.levels.append(level + 1)
        self.register_buffer("mean", torch.zeros(1, *self.padded))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def observe(self, y: Tensor) -> None:
        """Take the mean image and the spread around it from images y [N, *padded]."""
        self.mean.copy_(y.mean(0, keepdim=True))
        self.scale.copy_((y - self.mean).square().mean().sqrt().clamp(min=1e-3))

    def forward(self, y: Tensor, e: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The noise, and log p(y | parents) [B] in nats, each as the only item of a list."""
        z = (y - self.mean) / self.scale
        log_det, now = -y[0].numel() * self.scale.log(), 0
        for coupling, rotation, level in zip(self.couplings, self.rotations, self.levels, strict=True):
            z, now = _squeeze(z, level - now), level
            seen, moved = rotation(z).chunk(2, dim=1)
            moved, more = coupling(moved, seen, e)
            z, log_det = torch.cat([seen, moved], dim=1), log_det + more
        z = _squeeze(z, len(self.grids) - now)
        return [z], [log_normal(z) + log_det]

    def inverse(self, noise: Sequence[Tensor], e: Tensor) -> Tensor:
        """The images y [B, *padded] that have this noise under parents e."""
        z, now = noise[0], len(self.grids)
        couplings, rotations = cast(list[Affine], self.couplings), cast(list[Rotation], self.rotations)
        for coupling, rotation, level in reversed(list(zip(couplings, rotations, self.levels, strict=True))):
            z, now = _squeeze(z, level - now), level
            seen, moved = z.chunk(2, dim=1)
            z = rotation.inverse(torch.cat([seen, coupling.inverse(moved, seen, e)], dim=1))
        return _squeeze(z, -now) * self.scale + self.mean

    @property
    def noise_shapes(self) -> list[tuple[int, ...]]:
        return [(self.shape[0] * 4 ** len(self.grids), *self.grids[0])]


def _squeeze(z: Tensor, times: int) -> Tensor:
    """2 × 2 pixels as channels, so many times; back again where negative."""
    for _ in range(abs(times)):
        z = F.pixel_unshuffle(z, 2) if times > 0 else F.pixel_shuffle(z, 2)
    return z
