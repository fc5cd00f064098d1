"""Noise schedules, routes through their signal levels, moves between two of them, and what shapes the noise.

The signal level a is the share of the image's variance that is left, written ᾱ in the literature:
x_a = sqrt(a) x_0 + sqrt(1 - a) ε. The clean image is at a = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cfbench.errors import UserError

__all__ = [
    "Move", "Noise", "Process", "Route", "clip", "ddim", "noised", "normalised", "processed", "route",
    "signal_levels",
]  # fmt: skip

Process = Callable[[Tensor], Tensor]
Noise = Callable[[Tensor, int], Tensor]
"""The noise ε [B, C, H, W] in images x [B, C, H, W] at network step t."""


def signal_levels(kind: Literal["linear", "cosine"], count: int = 1000) -> Tensor:
    """Signal levels ᾱ [count], float64, of the noise schedule named ``kind``.

    ``linear``: β from 1e-4 to 0.02 (Ho et al. 2020, arXiv 2006.11239), the range scaled by 1000 / count.
    ``cosine``: offset 0.008, β at most 0.999 (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17).

    Raises:
        UserError: another kind.
    """
    if kind == "linear":
        beta = torch.linspace(1e-4, 0.02, count, dtype=torch.float64) * (1000 / count)
    elif kind == "cosine":
        f = torch.cos((torch.arange(count + 1, dtype=torch.float64) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = 1 - f[1:] / f[:-1]
    else:
        raise UserError(f"unknown noise schedule {kind!r}; known: cosine, linear")
    return torch.cumprod(1 - beta.clamp(max=0.999), dim=0)


def noised(x: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """Images x [B, C, H, W] at signal levels a [B], with noise ``eps`` of the shape of x."""
    a = a[:, None, None, None]
    return a.sqrt() * x + (1 - a).sqrt() * eps


@dataclass(frozen=True)
class Move:
    """A step from signal level ``start`` to ``end``; the network reads the image at step ``t``.

    ``t_end`` is the network's step at the other end, which a fixed-point iteration reads.
    """

    start: float
    end: float
    t: int
    t_end: int


@dataclass(frozen=True)
class Route:
    """The moves from image to noise and back."""

    up: tuple[Move, ...]
    down: tuple[Move, ...]

    @property
    def aligned(self) -> bool:
        """Whether both ways pass the same levels."""
        return [(m.start, m.end, m.t_end) for m in self.up] == [(m.end, m.start, m.t) for m in reversed(self.down)]


def route(levels: Tensor, steps: int, reach: float = 1.0, aligned: bool = True, bend: float = 1.0) -> Route:
    """``steps`` moves from the clean image to ``reach`` × T, and back.

    Aligned: both ways pass the same levels 1, ᾱ_{t_1}, .., ᾱ_{t_steps} with t_i = reach T (i / steps)^bend - 1: evenly
    spaced where ``bend`` is 1, denser near the image where it is larger. Not aligned, as in the official code of
    Diff-SCM: the way up takes the clean image for one at ᾱ_0 and ends one level beyond the one that the way down
    starts from, and levels are evenly spaced.

    Raises:
        UserError: more steps than levels within reach, or none.
    """
    count = round(len(levels) * reach)
    if not 1 <= steps <= count <= len(levels):
        raise UserError(f"{steps} steps to {reach} of {len(levels)} noise levels; ask for 1 to {count} steps")
    if not aligned:
        return _misaligned(levels, steps, count)
    t: list[int] = []
    for i in range(1, steps + 1):
        t.append(max(math.floor(count * (i / steps) ** bend + 1e-9) - 1, t[-1] + 1 if t else 0))
    a = [1.0] + [float(levels[k]) for k in t]
    t = [0, *t]
    up = tuple(Move(a[i], a[i + 1], t[i], t[i + 1]) for i in range(steps))
    down = tuple(Move(a[i + 1], a[i], t[i + 1], t[i]) for i in reversed(range(steps)))
    return Route(up, down)


def _misaligned(levels: Tensor, steps: int, count: int) -> Route:
    t = [i * count // steps for i in range(steps)]
    a = [float(levels[k]) for k in t]
    beyond = float(levels[count]) if count < len(levels) else 0.0
    above, below, after = [*a[1:], beyond], [1.0, *a[:-1]], [*t[1:], t[-1]]
    up = tuple(Move(a[i], above[i], t[i], after[i]) for i in range(steps))
    down = tuple(Move(a[i], below[i], t[i], t[max(i - 1, 0)]) for i in reversed(range(steps)))
    return Route(up, down)


def ddim(x: Tensor, eps: Tensor, start: float, end: float) -> Tensor:
    """x moved from signal level ``start`` to ``end`` along its noise (Song et al. 2021, arXiv 2010.02502, eq. 12)."""
    scale = math.sqrt(end / start)
    return scale * x + (math.sqrt(1 - end) - scale * math.sqrt(1 - start)) * eps


def clip(x0: Tensor) -> Tensor:
    """Grey levels cut to [-1, 1]."""
    return x0.clamp(-1, 1)


def normalised(x0: Tensor) -> Tensor:
    """Dynamic normalisation: each channel over its 0.99 quantile of |x0| where that exceeds 1, then cut to [-1, 1].

    From Diff-SCM's later code (Sanchez et al. 2022, arXiv 2207.12268), after Saharia et al. 2022 (arXiv 2205.11487).
    """
    q = x0.abs().flatten(2).quantile(0.99, dim=2).clamp(min=1)[:, :, None, None]
    return torch.minimum(torch.maximum(x0, -q), q) / q


def processed(x: Tensor, eps: Tensor, a: float, process: Process) -> Tensor:
    """The noise in x at signal level ``a`` that agrees with the processed estimate of the clean image."""
    x0 = process((x - math.sqrt(1 - a) * eps) / math.sqrt(a))
    return (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
