"""The auto-encoders behind IM1 and IM2: one of a single class, one of all classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AllClassAutoEncoder", "AutoEncoder", "ClassAutoEncoder"]


def _conv(before: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(before, out, 3, padding=1), nn.ReLU(inplace=True)]


class AutoEncoder(nn.Module):
    """Reconstruction of images [B, C, H, W] in [0, 1] with black = 0; the output is not clipped.

    The architectures are those of Van Looveren & Klaise 2019 (https://arxiv.org/abs/1907.02584) for 28x28 images.
    Images whose sides are no multiples of 4 are padded with black at the right and at the bottom, and cropped again.
    """

    net: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % 4, 0, -height % 4))
        return self.net(padded)[:, :, :height, :width]

    def loss(self, x: Tensor) -> Tensor:
        """The mean squared error."""
        return F.mse_loss(self(x), x)


class ClassAutoEncoder(AutoEncoder):
    """The auto-encoder of one class, with a code of 8 channels at a quarter of the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        encoder = [*_conv(channels, 16), nn.MaxPool2d(2), *_conv(16, 8), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1)]
        decoder = [*_conv(8, 8), nn.Upsample(scale_factor=2), *_conv(8, 16), nn.Upsample(scale_factor=2)]
        self.net = nn.Sequential(*encoder, *decoder, nn.Conv2d(16, channels, 3, padding=1))


class AllClassAutoEncoder(AutoEncoder):
    """The auto-encoder of all classes, with a code of as many channels as the image at half the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        encoder = [*_conv(channels, 16), *_conv(16, 16), nn.MaxPool2d(2), nn.Conv2d(16, channels, 3, padding=1)]
        decoder = [*_conv(channels, 16), nn.Upsample(scale_factor=2), *_conv(16, 16)]
        self.net = nn.Sequential(*encoder, *decoder, nn.Conv2d(16, channels, 3, padding=1))
