"""The score of the image, unconditional or given a vector: a U-Net that predicts the noise at every level."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cfbench.errors import UserError

from ..nn.unet import UNet
from .schedule import noised

__all__ = ["Denoiser", "observe_pixels"]

SMALLEST = 0.02


def observe_pixels(images: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write mean and variance [C, H, W] of each pixel, in [-1, 1], of uint8 images [N, C, H, W] into two tensors."""
    total, square = torch.zeros_like(mean), torch.zeros_like(mean)
    for part in images.split(4096):
        x = part.to(mean.device).float() / 127.5 - 1
        total += x.sum(0)
        square += x.square().sum(0)
    mean.copy_(total / len(images))
    var.copy_((square / len(images) - mean**2).clamp(min=SMALLEST**2))


class Denoiser(nn.Module):
    """The noise ε [B, C, H, W] in images x_t [B, C, H, W] in [-1, 1] at steps t [B], given c [B, condition] or not.

    ``output`` says what the U-Net's own output F stands for. ``eps``: ε itself. ``v``: sqrt(a) ε - sqrt(1 - a) x_0
    (Salimans & Ho 2022, arXiv 2202.00512). ``residual``: what is left of ε, in its own standard deviation, after
    the best guess of a pixel from its own grey level, its mean and its variance in the data; the preconditioning
    of Karras et al. 2022 (arXiv 2206.00364, section 5) with statistics for each pixel. The three are the same
    model of ε, and the same loss trains them.
    """

    mean: Tensor
    var: Tensor
    alpha_bar: Tensor

    def __init__(
        self, unet: UNet, shape: tuple[int, int, int], alpha_bar: Tensor, output: Literal["eps", "v", "residual"]
    ) -> None:
        super().__init__()
        if output not in ("eps", "v", "residual"):
            raise UserError(f"unknown output {output!r} of the U-Net; known: eps, residual, v")
        self.unet, self.output = unet, output
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))

    def observe(self, images: Tensor) -> None:
        """Take mean and variance of each pixel from uint8 images [N, C, H, W]."""
        observe_pixels(images, self.mean, self.var)

    def forward(self, x: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        out = self.unet(x, t) if c is None else self.unet(x, t, c)
        if self.output == "eps":
            return out
        a = self.alpha_bar[t][:, None, None, None]
        if self.output == "v":
            return (1 - a).sqrt() * x + a.sqrt() * out
        total = a * self.var + 1 - a
        return (1 - a).sqrt() / total * (x - a.sqrt() * self.mean) + (a * self.var / total).sqrt() * out

    def noised(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Images x [B, C, H, W] in [-1, 1] with noise ``eps`` at steps t [B]."""
        return noised(x, eps, self.alpha_bar[t])

    def losses(self, x: Tensor, eps: Tensor, t: Tensor, c: Tensor | None = None, velocity: bool = False) -> Tensor:
        """Mean squared error of ε [B] for clean images; with ``velocity`` that of v, 1 / a as much."""
        error = (self(self.noised(x, eps, t), t, c) - eps).square().flatten(1).mean(1)
        return error / self.alpha_bar[t] if velocity else error
