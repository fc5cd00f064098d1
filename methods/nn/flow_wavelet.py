"""An exactly invertible map between images and noise: a wavelet pyramid of conditional affine flows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .coupling import Affine, ConvNet, DenseNet, ImageFlow, log_normal

__all__ = ["CoarseFlow", "DetailFlow", "PyramidFlow", "haar", "unhaar"]


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sums [B, C, H/2, W/2] and differences [B, 3C, H/2, W/2] over 2 × 2 pixels, orthonormal; sides must be even."""
    a, b, c, d = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4)).unbind(2)
    bands = torch.stack([a - b + c - d, a + b - c - d, a - b - c + d], dim=2)
    return (a + b + c + d) / 2, bands.flatten(1, 2) / 2


def unhaar(low: Tensor, detail: Tensor) -> Tensor:
    """The image [B, C, H, W] that `haar` takes apart."""
    h, v, d = detail.unflatten(1, (-1, 3)).unbind(2)
    pixels = torch.stack([low + h + v + d, low - h + v - d, low + h - v - d, low - h - v + d], dim=2)
    return F.pixel_shuffle(pixels.flatten(1, 2) / 2, 2)


class CoarseFlow(nn.Module):
    """Noise u [B, D] from few numbers z [B, D] given parents: whitened, moved and scaled by parents, then coupled.

    The first step is the parents' own location and scale for every principal component (class templates); each
    coupling turns z by a fixed random rotation and maps one half by what the other half and the parents say.
    """

    mean: Tensor
    whiten: Tensor
    colour: Tensor
    log_volume: Tensor
    rotations: Tensor

    def __init__(self, size: int, parents: int, width: int, depth: int, couplings: int, limit: float) -> None:
        super().__init__()
        self.kept = size // 2
        self.template = Affine(DenseNet(0, parents, size, width, 1), limit)
        self.couplings = nn.ModuleList(
            Affine(DenseNet(self.kept, parents, size - self.kept, width, depth), limit) for _ in range(couplings)
        )
        turns = [torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0] for _ in range(couplings)]
        self.register_buffer("rotations", torch.stack(turns).float() if turns else torch.empty(0, size, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whiten", torch.eye(size))
        self.register_buffer("colour", torch.eye(size))
        self.register_buffer("log_volume", torch.zeros(()))

    @torch.no_grad()
    def observe(self, z: Tensor, least: float = 1e-3) -> None:
        """Take the whitening from z [N, D]; no direction is taken for narrower than ``least``."""
        self.mean.copy_(z.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov(z.T.double(), correction=0).reshape(2 * z.shape[1:]))
        std = values.clamp(min=0).sqrt().clamp(min=least)
        self.whiten.copy_(vectors / std)
        self.colour.copy_((vectors * std).T)
        self.log_volume.copy_(-std.log().sum())

    def forward(self, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        z = (z - self.mean) @ self.whiten
        z, log_det = self.template(z, z[:, :0], e)
        for coupling, rotation in zip(self.couplings, self.rotations, strict=True):
            seen, moved = (z @ rotation).split([self.kept, z.shape[1] - self.kept], dim=1)
            moved, more = coupling(moved, seen, e)
            z, log_det = torch.cat([seen, moved], dim=1), log_det + more
        return z, log_det + self.log_volume

    def inverse(self, u: Tensor, e: Tensor) -> Tensor:
        for coupling, rotation in zip(
            reversed(cast(list[Affine], [*self.couplings])), self.rotations.flip(0), strict=True
        ):
            seen, moved = u.split([self.kept, u.shape[1] - self.kept], dim=1)
            u = torch.cat([seen, coupling.inverse(moved, seen, e)], dim=1) @ rotation.T
        return self.template.inverse(u, u[:, :0], e) @ self.colour + self.mean


class DetailFlow(nn.Module):
    """Noise u [B, 3C, h, w] from differences d of the same shape, given the sums low [B, C, h, w] and parents.

    All differences are moved and scaled by what low and the parents say; then ``couplings`` maps, in turn, of the
    first bands given the others and of the others given the first.

    Args:
        dense: whether networks read the whole grid at once (`DenseNet`) or by convolutions (`ConvNet`).
    """

    scales: Tensor

    def __init__(
        self, channels: int, grid: tuple[int, int], parents: int, width: int, depth: int, couplings: int, limit: float,
        dense: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dense = dense
        self.first = 3 * channels // 2
        parts = [self.first, 3 * channels - self.first]
        cells = math.prod(grid)

        def layer(inputs: int, outputs: int) -> Affine:
            if dense:
                return Affine(DenseNet(inputs * cells, parents, outputs * cells, width, depth), limit)
            return Affine(ConvNet(inputs, parents, outputs, width, depth, grid), limit)

        self.template = layer(channels, 3 * channels)
        self.couplings = nn.ModuleList(layer(channels + parts[1 - k % 2], parts[k % 2]) for k in range(couplings))
        self.register_buffer("scales", torch.ones(2))

    @torch.no_grad()
    def observe(self, d: Tensor, low: Tensor, least: float = 1e-3) -> None:
        """Take the typical size of differences and sums from data."""
        self.scales.copy_(torch.stack([d.square().mean(), low.square().mean()]).sqrt().clamp(min=least))

    def forward(self, d: Tensor, low: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        shape, low = d.shape, low / self.scales[1]
        u, log_det = self.template(self._flat(d / self.scales[0]), self._flat(low), e)
        for k, coupling in enumerate(self.couplings):
            parts = self._parts(u.reshape(shape))
            seen = self._flat(torch.cat([low, parts[1 - k % 2]], dim=1))
            moved, more = coupling(self._flat(parts[k % 2]), seen, e)
            parts[k % 2] = moved.reshape(parts[k % 2].shape)
            u, log_det = torch.cat(parts, dim=1), log_det + more
        return u.reshape(shape), log_det - d[0].numel() * self.scales[0].log()

    def inverse(self, u: Tensor, low: Tensor, e: Tensor) -> Tensor:
        shape, low = u.shape, low / self.scales[1]
        for k, coupling in reversed(list(enumerate(cast(list[Affine], self.couplings)))):
            parts = self._parts(u)
            seen = self._flat(torch.cat([low, parts[1 - k % 2]], dim=1))
            moved = coupling.inverse(self._flat(parts[k % 2]), seen, e)
            parts[k % 2] = moved.reshape(parts[k % 2].shape)
            u = torch.cat(parts, dim=1)
        return self.template.inverse(self._flat(u), self._flat(low), e).reshape(shape) * self.scales[0]

    def _flat(self, z: Tensor) -> Tensor:
        return z.flatten(1) if self.dense else z

    def _parts(self, u: Tensor) -> list[Tensor]:
        return [u[:, : self.first], u[:, self.first :]]


class PyramidFlow(ImageFlow):
    """Noise, one tensor a scale from coarse to fine, from images y [B, *padded] and parents e [B, E].

    The image is halved by `haar` until its sides are at most 8. What is left goes through a `CoarseFlow`; the
    differences of each halving through a `DetailFlow` given the sums: dense at the coarsest scale, convolutions above
    (the factorisation of Wavelet Flow, Yu, Derpanis & Brubaker 2020, arXiv 2010.13821).

    Args:
        shape: of the images; ``padded`` is the next shape whose sides can be halved as often as needed.
        width, depth, couplings: of the coarse flow, of the dense details, and of the convolutional ones.
        limit: of every layer's log-scales.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        parents: int,
        width: Sequence[int],
        depth: Sequence[int],
        couplings: Sequence[int],
        limit: float,
    ) -> None:
        super().__init__(shape)
        self.coarsest = (shape[0], *self.grids[0])
        self.coarse = CoarseFlow(math.prod(self.coarsest), parents, width[0], depth[0], couplings[0], limit)
        self.details = nn.ModuleList()
        for level, grid in enumerate(self.grids):
            k = min(level, 1) + 1
            self.details.append(
                DetailFlow(shape[0], grid, parents, width[k], depth[k], couplings[k], limit, dense=not level)
            )

    def observe(self, y: Tensor) -> None:
        """Take the scales of all parts from images y [N, *padded]."""
        z, parts = self._pyramid(y)
        self.coarse.observe(z.flatten(1))
        for flow, (d, low) in zip(cast(list[DetailFlow], self.details), parts, strict=True):
            flow.observe(d, low)

    def forward(self, y: Tensor, e: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The noise u, and the log densities [B] of the parts whose sum is log p(y | parents), both coarse to fine."""
        z, parts = self._pyramid(y)
        found = [self.coarse(z.flatten(1), e)]
        found += [flow(d, low, e) for flow, (d, low) in zip(self.details, parts, strict=True)]
        return [u for u, _ in found], [log_normal(u) + log_det for u, log_det in found]

    def inverse(self, noise: Sequence[Tensor], e: Tensor) -> Tensor:
        """The images y [B, *padded] that have this noise under parents e."""
        low = self.coarse.inverse(noise[0], e).unflatten(1, self.coarsest)
        for flow, u in zip(cast(list[DetailFlow], self.details), noise[1:], strict=True):
            low = unhaar(low, flow.inverse(u, low, e))
        return low

    @property
    def noise_shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the noise of one image."""
        bands = 3 * self.shape[0]
        return [(math.prod(self.coarsest),), *((bands, *grid) for grid in self.grids)]

    def _pyramid(self, y: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The coarsest sums, and from coarse to fine the differences of each halving with their sums."""
        parts = []
        for _ in self.details:
            y, d = haar(y)
            parts.append((d, y))
        return y, parts[::-1]
