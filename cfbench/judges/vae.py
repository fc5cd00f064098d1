"""The unconditional variational auto-encoder whose posteriors give distances between images."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..graph import CausalGraph
from .reader import halved

__all__ = ["VAE"]


def _halvings(shape: tuple[int, int, int]) -> int:
    """How often the image is halved: at least twice, and until no side has more than 8 pixels."""
    times = 2
    while halved(max(shape[1:]), times) > 8:
        times += 1
    return times


class VAE(nn.Module):
    """A convolutional VAE of the image alone, without parents, so that its code contains both class and style.

    The likelihood is Gaussian with one scale for all pixels at its optimum (Rybkin et al. 2021,
    https://arxiv.org/abs/2006.13202), so that no weight between reconstruction and prior has to be chosen for each
    data set.

    Args:
        graph: gives the image's shape, any number of channels and sides of 8 pixels or more.
        latents: dimensions of the code.
        width: channels of the outer convolutions; the inner ones have twice as many.
        hidden: units between convolutions and code.
    """

    def __init__(self, graph: CausalGraph, latents: int = 16, width: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.shape = graph.shape
        times = _halvings(graph.shape)
        wide = [graph.shape[0], width] + [2 * width] * (times - 1)
        inner = (wide[-1], *(halved(n, times) for n in graph.shape[1:]))
        flat = math.prod(inner)
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for before, out in pairwise(wide):
            down += [nn.Conv2d(before, out, 5, 2, 2), nn.SiLU(inplace=True)]
            up = [nn.SiLU(inplace=True), nn.ConvTranspose2d(out, before, 4, 2, 1), *up]
        self.encoder = nn.Sequential(
            *down, nn.Flatten(), nn.Linear(flat, hidden), nn.SiLU(inplace=True), nn.Linear(hidden, 2 * latents)
        )
        self.expand = nn.Sequential(
            nn.Linear(latents, hidden), nn.SiLU(inplace=True), nn.Linear(hidden, flat), nn.Unflatten(1, inner)
        )
        self.draw = nn.Sequential(*up, nn.Sigmoid())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and STANDARD DEVIATION (neither variance nor a logarithm) [B, Z] of the posterior of x in [0, 1]."""
        mean, log_variance = self.encoder(2 * x - 1).chunk(2, dim=1)
        return mean, (log_variance.clamp(-20, 10) / 2).exp()

    def decode(self, z: Tensor) -> Tensor:
        """The mean image [B, C, H, W] in [0, 1] of codes z [B, Z]."""
        image = self.draw(self.expand(z).contiguous(memory_format=torch.channels_last))
        return image[:, :, : self.shape[1], : self.shape[2]]

    def forward(self, x: Tensor) -> Tensor:
        """The image of the posterior's mean."""
        return self.decode(self.encode(x)[0])

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """The negative evidence bound in nats an image, up to a constant, with posterior noise [B, Z]."""
        mean, std = self.encode(x)
        squared = (self.decode(mean + std * noise) - x).square().mean()
        kl = (mean.square() + std.square() - 1).sum(1).mean() / 2 - std.log().sum(1).mean()
        return kl + x[0].numel() / 2 * torch.log(squared + 1e-8)
