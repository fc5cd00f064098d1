"""Networks of a hierarchical VAE: a bottom-up encoder, and a top-down decoder of Gaussian layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.nn import crop

from .discretised import Gaussian
from .unet import unshuffle

__all__ = ["Choose", "Hierarchy", "Layer"]

MIN_LOG_SCALE = 9.0
"""Pixels' log-scales lie between minus this and 0."""


class Block(nn.Module):
    """SiLU and a convolution for each of ``kernels``: h [B, cin, H, W] -> [B, cout, H, W], added to h if asked."""

    def __init__(self, cin: int, mid: int, cout: int, kernels: Sequence[int], residual: bool = False) -> None:
        super().__init__()
        channels = [cin, *[mid] * (len(kernels) - 1), cout]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, padding=k // 2) for (a, b), k in zip(pairwise(channels), kernels, strict=True)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for conv in self.convs:
            h = conv(F.silu(h))
        return x + h if self.residual else h

    def scale(self, factor: float) -> Block:
        """This block with its last convolution scaled."""
        with torch.no_grad():
            self.convs[-1].weight.mul_(factor)  # type: ignore[operator, union-attr]
            self.convs[-1].bias.mul_(factor)  # type: ignore[operator, union-attr]
        return self


class Down(nn.Module):
    """A map of ``grid`` as one of half its size, or as a vector: pooled, or by a dense layer where ``dense``."""

    def __init__(self, cin: int, cout: int, grid: tuple[int, int], target: tuple[int, int], dense: bool) -> None:
        super().__init__()
        self.target = None if dense and target == (1, 1) else target
        self.conv = nn.Conv2d(cin, cout, 1 if self.target else grid)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.adaptive_avg_pool2d(h, self.target) if self.target else h)


class Up(nn.Module):
    """A map enlarged to ``target`` by its nearest neighbours, or a vector by a dense layer; a learned map is added."""

    def __init__(self, cin: int, cout: int, grid: tuple[int, int], target: tuple[int, int], dense: bool) -> None:
        super().__init__()
        self.target = target
        spread = target if dense and grid == (1, 1) else (1, 1)
        self.conv = nn.ConvTranspose2d(cin, cout, spread, bias=False)
        self.bias = nn.Parameter(torch.zeros(1, cout, *target))

    def forward(self, h: Tensor) -> Tensor:
        h = self.conv(h)
        return (h if h.shape[2:] == self.target else F.interpolate(h, size=self.target)) + self.bias


class Mix(nn.Module):
    """A residual block whose input h the parents scale and shift."""

    def __init__(self, width: int, parents: int, mid: int, kernels: Sequence[int], depth: int) -> None:
        super().__init__()
        self.film = nn.Linear(parents, 2 * width)
        with torch.no_grad():
            self.film.weight[:width] = self.film.bias[:width] = 0
        self.block = Block(width, mid, width, kernels, residual=True).scale(depth**-0.5)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        scale, shift = self.film(e)[:, :, None, None].chunk(2, dim=1)
        return self.block(torch.addcmul(shift, h, 1 + scale))


class Layer(nn.Module):
    """One stochastic layer: prior and posterior of its latent z [B, Z, H, W], and how z and the parents enter h.

    Without ``mediator`` the prior reads s, the stream of latents alone, so that z is independent of the parents.
    """

    def __init__(
        self, width: int, latent: int, parents: int, mid: int, kernels: Sequence[int], depth: int, mediator: bool,
        start: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.split = (2 * latent, width)
        self.prior_block = Block(width, mid, 2 * latent + width, kernels).scale(0.0)
        self.posterior_block = Block(2 * width, mid, 2 * latent, kernels)
        with torch.no_grad():
            self.posterior_block.convs[-1].bias[latent:] += start  # type: ignore[operator, union-attr, index]
        self.prior_parents = nn.Linear(parents, width) if mediator else None
        self.posterior_parents = nn.Linear(parents, width)
        self.z_in = nn.Conv2d(latent, width, 1)
        with torch.no_grad():
            self.z_in.weight.mul_(depth**-0.5)
        self.mix = Mix(width, parents, mid, kernels, depth)
        self.stream = nn.Conv2d(latent + width, width, 1)

    def prior(self, s: Tensor, e: Tensor) -> tuple[Gaussian, Tensor]:
        """p(z | z above) or, with ``mediator``, p(z | z above, pa), and features [B, width, H, W]."""
        conditioned = s if self.prior_parents is None else s + self.prior_parents(e)[:, :, None, None]
        out, features = self.prior_block(conditioned).split(self.split, dim=1)
        return Gaussian.of(out), features

    def posterior(self, h: Tensor, encoded: Tensor, e: Tensor) -> Gaussian:
        """q(z | z above, x, pa) with x as the encoder's map ``encoded`` [B, width, H, W]."""
        return Gaussian.of(
            self.posterior_block(torch.cat([h + self.posterior_parents(e)[:, :, None, None], encoded], dim=1))
        )

    def forward(self, h: Tensor, features: Tensor, z: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """h after this layer, and the stream s for the next prior."""
        return self.mix(h + features + self.z_in(z), e), self.stream(torch.cat([z, features], dim=1))


Choose = Callable[[int, Layer, Gaussian, Tensor], Tensor]
"""The latent [B, Z, H, W] of a layer, from its number, itself, its prior and what h is above it."""


class Hierarchy(nn.Module):
    """Images [B, C, H, W] in [0, 1] under encoded parents e [B, E], through latents of several sizes.

    Level 0 is the finest: the image in patches; each next has half the size, the last is a single position. From
    there the decoder descends: every layer takes its latent, and adds it and the parents to h (Ribeiro et al. 2023,
    https://arxiv.org/abs/2306.15764, figure 3, after Child 2021, https://arxiv.org/abs/2011.10650).

    Args:
        shape: of an image.
        parents: E.
        patch: pixels a side that are read as one position.
        widths, latents, blocks, layers: of each level: channels, channels of its latents, residual blocks of the
            encoder, stochastic layers of the decoder.
        kernels, bottleneck: of every block: its convolutions, and by what its inner width is smaller.
        stem: kernel of the first convolution.
        dense: whether the last level's vector is read and written by dense layers.
        mediator: whether the prior sees the parents.
        start: added to the posteriors' first log standard deviations; latents that start sharp are soon in use.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        parents: int,
        *,
        patch: int,
        widths: Sequence[int],
        latents: Sequence[int],
        blocks: Sequence[int],
        layers: Sequence[int],
        kernels: Sequence[int],
        bottleneck: float,
        stem: int,
        dense: bool,
        mediator: bool,
        start: float,
    ) -> None:
        super().__init__()
        self.shape, self.patch = shape, patch
        self.grids = list(_grids(shape, patch, len(widths)))
        depth = sum(layers)

        def sides(grid: tuple[int, int]) -> list[int]:
            return [k if max(grid) > 2 else 1 for k in kernels]

        def mid(width: int) -> int:
            return max(1, round(width / bottleneck))

        self.inlet = nn.Conv2d(shape[0] * patch**2, widths[0], stem, padding=stem // 2)
        self.encoder = nn.ModuleList(
            nn.ModuleList(Block(w, mid(w), w, sides(g), residual=True).scale(sum(blocks) ** -0.5) for _ in range(n))
            for w, g, n in zip(widths, self.grids, blocks, strict=True)
        )
        steps = list(zip(pairwise(widths), pairwise(self.grids), strict=True))
        self.downs = nn.ModuleList(Down(a, b, g, to, dense) for (a, b), (g, to) in steps)
        self.ups = nn.ModuleList(Up(b, a, g, to, dense) for (a, b), (to, g) in steps)
        self.ups_s = nn.ModuleList(Up(b, a, g, to, dense) for (a, b), (to, g) in steps)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [Layer(w, z, parents, mid(w), sides(g), depth, mediator, start) for _ in range(n)]
                or [Mix(w, parents, mid(w), sides(g), depth)]
            )
            for w, z, g, n in zip(widths, latents, self.grids, layers, strict=True)
        )
        self.top = nn.Parameter(torch.zeros(1, widths[-1], *self.grids[-1]))
        self.outlet = nn.Conv2d(widths[0], 2 * shape[0] * patch**2, 1)
        self.shared = nn.Parameter(torch.zeros(()))
        self.level = [k for k in reversed(range(len(layers))) for _ in range(layers[k])]
        self.noise_shapes = [(latents[k], *self.grids[k]) for k in self.level]
        self.to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> list[Tensor]:
        """What every level sees of images, finest first."""
        h = self.inlet(unshuffle(2 * x - 1, self.patch))
        encoded = []
        for level, blocks in enumerate(self.encoder):
            h = self.downs[level - 1](h) if level else h
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h)
            encoded.append(h)
        return encoded

    def descend(self, e: Tensor, choose: Choose, pixelwise: float = 1.0) -> Gaussian:
        """Mean and log-scale of every pixel [B, C, H, W], with the latents that ``choose`` takes from above down.

        ``pixelwise`` is the part of the log-scale that pixels have of their own, beside the one that they share.
        """
        h = s = self.top.expand(len(e), -1, -1, -1)
        number = 0
        for level in reversed(range(len(self.layers))):
            if level < len(self.layers) - 1:
                h, s = self.ups[level](h), self.ups_s[level](s)
            for layer in self.layers[level]:  # type: ignore[attr-defined]
                if isinstance(layer, Mix):
                    h = layer(h, e)
                    continue
                prior, features = layer.prior(s, e)
                z = choose(number, layer, prior, h)
                h, s = layer(h, features, z, e)
                number += 1
        return self._pixels(self.outlet(F.silu(h)), pixelwise)

    def posterior(self, x: Tensor, e: Tensor) -> Callable[[int, Layer, Tensor], Gaussian]:
        """The posterior of a layer given images, from the layer's number, the layer and h."""
        encoded = self.encode(x)
        return lambda number, layer, h: layer.posterior(h, encoded[self.level[number]], e)

    def _pixels(self, out: Tensor, pixelwise: float) -> Gaussian:
        height, width = self.shape[1:]
        mean, raw = crop(F.pixel_shuffle(out, self.patch), (height, width)).chunk(2, dim=1)
        return Gaussian(0.5 + torch.tanh(mean), -MIN_LOG_SCALE * torch.sigmoid(-1 - self.shared - pixelwise * raw))


def _grids(shape: tuple[int, int, int], patch: int, levels: int) -> Iterator[tuple[int, int]]:
    height, width = (math.ceil(side / patch) for side in shape[1:])
    for _ in range(levels - 1):
        yield height, width
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    yield 1, 1
