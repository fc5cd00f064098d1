"""Images that methods may answer with and data do not hold: blurred and noisy ones, with the labels that they have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import Dataset, Split
from ..graph import CausalGraph

__all__ = ["NOISE", "blurred", "blurred_labels", "moved", "noisy", "with_blurred"]

NOISE = 12 / 255
"""The greatest standard deviation of the noise that a reader learns from, of images in [0, 1]."""


def blurred(x: Tensor, weight: Tensor) -> Tensor:
    """Images [B, C, H, W] between x (weight 0) and x smoothed by the binomial kernel 1 2 1 along both axes (1)."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    smooth = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
    return x.lerp(smooth, weight[:, None, None, None])


def noisy(x: Tensor, spread: Tensor, rng: torch.Generator) -> Tensor:
    """x [B, C, H, W] with Gaussian noise of each image's standard deviation ``spread`` [B], cut to [0, 1]."""
    noise = torch.randn(x.shape, generator=rng).to(x.device)
    return (x + spread[:, None, None, None].to(x) * noise).clamp_(0, 1)


def moved(x: Tensor, pixels: int, rng: torch.Generator) -> Tensor:
    """x [B, C, H, W], each image moved by up to ``pixels`` along both axes; its border continues into the gap."""
    height, width = x.shape[2:]
    down, right = torch.randint(0, 2 * pixels + 1, (2, len(x)), generator=rng).to(x.device)
    rows = (torch.arange(height, device=x.device) + down[:, None] - pixels).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + right[:, None] - pixels).clamp(0, width - 1)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    # Indices on both sides of the channels come first in the result.
    return x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def blurred_labels(dataset: Dataset, graph: CausalGraph, x: Tensor, pa: Tensor, soft: Tensor) -> Tensor:
    """The parents [B, D] that the blurred images ``soft`` of x show, where x shows ``pa``.

    A class stays. A value changes by as much as its measurement does: blur lowers the grey level of a thin stroke and
    widens it, so that a reader trained on the labels of x would misjudge each blurred answer.
    Values that the data set does not measure are NaN.
    """
    before, after = dataset.measure(x) or {}, dataset.measure(soft) or {}
    return torch.stack(
        [_label(v.name, v.categorical, pa[:, d], before, after) for d, v in enumerate(graph.variables)], 1
    )


def _label(
    name: str, categorical: bool, value: Tensor, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> Tensor:
    if categorical:
        return value
    return value + (after[name] - before[name]).to(value) if name in before else torch.full_like(value, torch.nan)


def with_blurred(data: Split, dataset: Dataset, graph: CausalGraph, count: int, rng: torch.Generator) -> Split:
    """``data`` and ``count`` of its rows blurred by random weights, repeated until they are a fifth of the result.

    They have the labels of `blurred_labels`; measuring is slow, so few are measured and these are seen more often.
    """
    rows = data[torch.randperm(len(data), generator=rng)[:count]]
    soft = (255 * blurred(rows.x, torch.rand(len(rows), generator=rng))).round().to(torch.uint8)
    labels = blurred_labels(dataset, graph, rows.x, rows.parents, soft.float() / 255)
    times = max(1, round(len(data) / 4 / max(1, len(rows))))
    return Split(
        torch.cat([data.images, *[soft] * times]),
        torch.cat([data.parents, *[labels] * times]),
        torch.cat([data.index, *[rows.index] * times]),
    )
