"""The attribute judge: one convolutional network that predicts every variable from an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import CausalGraph

__all__ = ["Reader", "halved"]


def halved(n: int, times: int = 1) -> int:
    """The length of a side after ``times`` convolutions of stride 2 that keep half a pixel at the border."""
    return -(-n // 2**times)


def _trunk(shape: tuple[int, int, int], width: int) -> tuple[list[nn.Module], int]:
    """Convolutions down to a side of at most 4, flattened, and the length of the flat vector."""
    channels, *side = shape
    plan = [(5, width, 2 if max(side) >= 16 else 1), (3, 2 * width, 2), (3, 2 * width, 1)]
    layers: list[nn.Module] = []
    while plan:
        kernel, out, stride = plan.pop(0)
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        layers += [conv, nn.GroupNorm(1, out), nn.ReLU(inplace=True)]
        channels, side = out, [halved(n, stride - 1) for n in side]
        if not plan and max(side) > 4:
            plan.append((3, 4 * width, 2))
    return [*layers, nn.Flatten()], channels * side[0] * side[1]


class Reader(nn.Module):
    """Class logits or a standardised value for each variable, from one convolutional trunk.

    The penultimate layer, after its ReLU and so non-negative, holds the features for FID and KID. A continuous
    variable is read as the mean of a Gaussian of fixed scale: mean squared error in units of the standard deviation
    that the variable has on the judge's training data (buffers ``mean`` and ``std``, 0 and 1 for classes).

    Args:
        graph: names the variables and the image's shape: any number of channels, sides of 8 pixels or more.
        width: channels of the first convolution; the last has four times as many.
        features: units of the penultimate layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, graph: CausalGraph, width: int = 32, features: int = 64) -> None:
        super().__init__()
        self.variables = graph.variables
        layers, flat = _trunk(graph.shape, width)
        self.trunk = nn.Sequential(*layers, nn.Linear(flat, features), nn.ReLU(inplace=True))
        self.head = nn.Linear(features, sum(v.size for v in self.variables))
        self.register_buffer("mean", torch.zeros(len(self.variables)))
        self.register_buffer("std", torch.ones(len(self.variables)))

    def standardise_by(self, pa: Tensor) -> None:
        """Set the mean and standard deviation of the continuous variables from parents pa [N, D]."""
        for d, v in enumerate(self.variables):
            if not v.categorical:
                self.mean[d] = pa[:, d].double().mean().float()
                spread = pa[:, d].double().std(correction=0).float()
                self.std[d] = spread if spread > 0 else 1.0

    def features(self, x: Tensor) -> Tensor:
        """Non-negative features [B, F] of images x [B, C, H, W] in [0, 1]."""
        return self.trunk(2 * x - 1)

    def _outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, K] or a standardised value [B, 1] for each variable."""
        return self.head(self.features(x)).split([v.size for v in self.variables], dim=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """For each variable the class probabilities [B, K], or the value in raw units [B]."""
        outputs = self._outputs(x)
        return {
            v.name: out.softmax(1) if v.categorical else out[:, 0] * self.std[d] + self.mean[d]
            for d, (v, out) in enumerate(zip(self.variables, outputs, strict=True))
        }

    def loss(self, x: Tensor, pa: Tensor) -> Tensor:
        """Cross-entropy of the classes plus squared errors of the standardised values, summed over variables.

        A value that is not known (NaN) does not count.
        """
        total = x.new_zeros(())
        for d, (v, out) in enumerate(zip(self.variables, self._outputs(x), strict=True)):
            if v.categorical:
                total = total + F.cross_entropy(out, pa[:, d].long())
            else:
                value, known = (pa[:, d] - self.mean[d]) / self.std[d], pa[:, d].isfinite()
                total = total + F.mse_loss(out[:, 0].where(known, 0), value.where(known, 0))
        return total
