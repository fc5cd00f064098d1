"""Explicit solvers of ordinary differential equations, fixed-point iterations, and integration both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["COST", "SOLVERS", "Field", "Solver", "fixed_point", "integrate", "invert"]

Field = Callable[[Tensor, float], Tensor]


def euler(v: Field, x: Tensor, t: float, h: float) -> Tensor:
    """x(t + h) from x(t), of first order."""
    return x + h * v(x, t)


def midpoint(v: Field, x: Tensor, t: float, h: float) -> Tensor:
    """Of second order, two evaluations."""
    return x + h * v(x + h / 2 * v(x, t), t + h / 2)


def heun(v: Field, x: Tensor, t: float, h: float) -> Tensor:
    """Of second order, two evaluations, both at the ends of the step."""
    first = v(x, t)
    return x + h / 2 * (first + v(x + h * first, t + h))


def rk4(v: Field, x: Tensor, t: float, h: float) -> Tensor:
    """Of fourth order, four evaluations."""
    a = v(x, t)
    b = v(x + h / 2 * a, t + h / 2)
    c = v(x + h / 2 * b, t + h / 2)
    return x + h / 6 * (a + 2 * b + 2 * c + v(x + h * c, t + h))


Solver = Callable[[Field, Tensor, float, float], Tensor]
SOLVERS: Mapping[str, Solver] = {"euler": euler, "heun": heun, "midpoint": midpoint, "rk4": rk4}
COST: Mapping[str, int] = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
"""Evaluations of the velocity in a step of each solver."""


def fixed_point(step: Callable[[Tensor], Tensor], y: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The y [B, ...] that comes nearest to y = step(y) among the iterates, and step(y); ``iterations`` + 1 evaluations.

    Each image keeps the iterate of the smallest residual |step(y) - y| and stops where the next one is not smaller:
    y <- step(y) converges only where the step is a contraction, and moves away elsewhere.
    """
    image = step(y)
    for _ in range(iterations):
        found = step(image)
        better = _norms(found - image) < _norms(image - y)
        y, image = torch.where(better, image, y), torch.where(better, found, image)
    return y, image


def _norms(x: Tensor) -> Tensor:
    """The norm of each image [B, ...], in a shape that broadcasts over it."""
    return x.reshape(len(x), -1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))


def integrate(v: Field, x: Tensor, times: Sequence[float], solver: Solver, residual: Tensor | None = None) -> Tensor:
    """x [B, ...] at the last of ``times`` from x at the first, along dx/dt = v(x, t).

    ``residual`` [B, steps, ...] is added after the steps, in the order in which `invert` found it.
    """
    for i, (t, end) in enumerate(pairwise(times)):
        x = solver(v, x, t, end - t)
        x = x if residual is None else x + residual[:, -1 - i]
    return x


def invert(
    v: Field, x: Tensor, times: Sequence[float], solver: Solver, iterations: int = 0, carry: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The x [B, ...] at ``times[-1]`` from which `integrate` along the reversed times reaches x at ``times[0]``.

    Each step is solved backwards by y <- y + (x - step(y)) from an explicit step: ``iterations`` of `fixed_point`,
    which converge where the step is shorter than the inverse Lipschitz constant of the velocity. With ``carry`` what is
    left of x - step(y) at each step [B, steps, ...] comes with it, else None.
    """
    residuals = []
    for t, end in pairwise(times):
        y = solver(v, x, t, end - t)
        if iterations:
            y, again = fixed_point(partial(_corrected, v, x, end, t - end, solver), y, iterations)
            left = again - y
        elif carry:
            left = x - solver(v, y, end, t - end)
        if carry:
            residuals.append(left)
        x = y
    return x, torch.stack(residuals, dim=1) if carry else None


def _corrected(v: Field, x: Tensor, t: float, h: float, solver: Solver, y: Tensor) -> Tensor:
    """y moved by how far a step of h from it misses x."""
    return y + (x - solver(v, y, t, h))
