"""Noise schedules, trajectories through them, the DDIM step, and thresholds on the estimate of the clean image.

The signal level ᾱ (``a`` in code) is the share of the image's variance that is left at network step t:
x_t = sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) ε. The clean image is at ᾱ = 1.
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
    "Eps", "Step", "Threshold", "Trajectory", "alpha_bars", "clip", "ddim", "dynamic_threshold", "noised",
    "thresholded", "trajectory",
]  # fmt: skip

Threshold = Callable[[Tensor], Tensor]
Eps = Callable[[Tensor, int], Tensor]
"""The noise ε [B, C, H, W] in images x [B, C, H, W] at network step t."""


def alpha_bars(kind: Literal["linear", "cosine"], count: int = 1000) -> Tensor:
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
class Step:
    """From signal level ``a`` to ``a_next``; networks see the image at step ``t`` before it, ``t_next`` after it."""

    a: float
    a_next: float
    t: int
    t_next: int


@dataclass(frozen=True)
class Trajectory:
    """The steps of inversion, from image to noise, and of generation, from noise to image."""

    inversion: tuple[Step, ...]
    generation: tuple[Step, ...]

    @property
    def aligned(self) -> bool:
        """Whether both directions pass the same levels."""
        back = [(s.a_next, s.a, s.t) for s in reversed(self.generation)]
        return [(s.a, s.a_next, s.t_next) for s in self.inversion] == back


def trajectory(alpha_bar: Tensor, steps: int, start: float = 1.0, aligned: bool = True, rho: float = 1.0) -> Trajectory:
    """``steps`` steps from the clean image to network step ``start`` × T, and back.

    Aligned: both directions pass the same levels 1, ᾱ_{t_1}, .., ᾱ_{t_steps} with t_i = start T (i / steps)^ρ - 1:
    evenly spaced where ρ is 1, denser near the image where it is larger (the exponent of Karras et al. 2022, arXiv
    2206.00364, equation 5, on t in place of σ). Not aligned, as in the official code of Diff-SCM: inversion takes the
    clean image for one at ᾱ_0 and ends one level beyond the one that generation starts from, evenly spaced.

    Raises:
        UserError: more steps than there are levels, or none.
    """
    count = round(len(alpha_bar) * start)
    if not 1 <= steps <= count <= len(alpha_bar):
        raise UserError(f"{steps} steps to {start} of {len(alpha_bar)} noise levels; ask for 1 to {count} steps")
    if not aligned:
        return _misaligned(alpha_bar, steps, count)
    t: list[int] = []
    for i in range(1, steps + 1):
        t.append(max(math.floor(count * (i / steps) ** rho + 1e-9) - 1, t[-1] + 1 if t else 0))
    a = [1.0] + [float(alpha_bar[k]) for k in t]
    t = [0, *t]
    inversion = tuple(Step(a[i], a[i + 1], t[i], t[i + 1]) for i in range(steps))
    generation = tuple(Step(a[i + 1], a[i], t[i + 1], t[i]) for i in reversed(range(steps)))
    return Trajectory(inversion, generation)


def _misaligned(alpha_bar: Tensor, steps: int, count: int) -> Trajectory:
    t = [i * count // steps for i in range(steps)]
    a = [float(alpha_bar[k]) for k in t]
    beyond = float(alpha_bar[count]) if count < len(alpha_bar) else 0.0
    above, below, after = [*a[1:], beyond], [1.0, *a[:-1]], [*t[1:], t[-1]]
    inversion = tuple(Step(a[i], above[i], t[i], after[i]) for i in range(steps))
    generation = tuple(Step(a[i], below[i], t[i], t[max(i - 1, 0)]) for i in reversed(range(steps)))
    return Trajectory(inversion, generation)


def ddim(x: Tensor, eps: Tensor, a: float, a_next: float) -> Tensor:
    """x moved from signal level a to a_next along its noise (Song et al. 2021, arXiv 2010.02502, eq. 12)."""
    scale = math.sqrt(a_next / a)
    return scale * x + (math.sqrt(1 - a_next) - scale * math.sqrt(1 - a)) * eps


def clip(x0: Tensor) -> Tensor:
    """Static thresholding: grey levels cut to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic_threshold(x0: Tensor) -> Tensor:
    """Dynamic thresholding: each channel over its 0.99 quantile of |x0| where that exceeds 1, then cut to [-1, 1].

    From Diff-SCM's later code (Sanchez et al. 2022, arXiv 2207.12268), after Saharia et al. 2022 (arXiv 2205.11487).
    """
    q = x0.abs().flatten(2).quantile(0.99, dim=2).clamp(min=1)[:, :, None, None]
    return torch.minimum(torch.maximum(x0, -q), q) / q


def thresholded(x: Tensor, eps: Tensor, a: float, threshold: Threshold) -> Tensor:
    """The noise in x at signal level a that agrees with the thresholded estimate of the clean image."""
    x0 = threshold((x - math.sqrt(1 - a) * eps) / math.sqrt(a))
    return (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
