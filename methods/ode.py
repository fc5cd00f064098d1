"""Explicit solvers of ordinary differential equations, and flows that can be undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["COST", "SOLVERS", "Field", "Solver", "flow", "unflow"]

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


def flow(v: Field, x: Tensor, times: Sequence[float], solver: Solver, missed: Tensor | None = None) -> Tensor:
    """x [B, ...] at the last of ``times`` from x at the first, along dx/dt = v(x, t).

    ``missed`` [B, steps, ...] is added after the steps, in the order in which `unflow` found it on its way here.
    """
    for i, (t, end) in enumerate(pairwise(times)):
        x = solver(v, x, t, end - t)
        x = x if missed is None else x + missed[:, -1 - i]
    return x


def unflow(
    v: Field, x: Tensor, times: Sequence[float], solver: Solver, rounds: int = 0, carry: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The x [B, ...] at ``times[-1]`` from which `flow` along the reversed times reaches x at ``times[0]``.

    Each step is solved backwards by y <- y + (x - step(y)) from an explicit step: ``rounds`` iterations, which
    converge where the step is shorter than the inverse Lipschitz constant of the velocity. With ``carry`` what is
    left of x - step(y) at each step [B, steps, ...] comes with it, else None.
    """
    missed = []
    for t, end in pairwise(times):
        y = solver(v, x, t, end - t)
        for _ in range(rounds):
            y = y + (x - solver(v, y, end, t - end))
        if carry:
            missed.append(x - solver(v, y, end, t - end))
        x = y
    return x, torch.stack(missed, dim=1) if carry else None
