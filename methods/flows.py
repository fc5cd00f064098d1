"""The flow between images and noise: what every sampler of it offers, and those that follow it by single images.

Between levels i samplers work with x̄ = x / ā_i as a function of s_i = σ_i / ā_i, where ā² = ᾱ and σ² = 1 - ᾱ: there the
flow is dx̄/ds = ε, and DDIM is Euler's method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from .diffusion import Move, Noise, Route, ddim
from .ode import fixed_point

__all__ = ["DDIM", "Adams", "Direct", "Sampler", "State", "Watch", "ignore", "ratio", "shift"]

Watch = Callable[[Tensor, int], None]
State = dict[str, Tensor]


def ignore(x: Tensor, t: int) -> None:
    """Watch nothing."""


class Sampler(ABC):
    """Both directions of travel; see `samplers` for their use."""

    exact = False
    """Whether ``generate`` undoes ``invert`` up to rounding when both have the same noise function."""
    aligned = True
    """Whether both directions must pass the same levels."""
    residual = "none"
    """What the state carries beside the noise, in the words of `Method.residual`."""

    @abstractmethod
    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        """The state at the far end of the route that images x [B, C, H, W] belong to."""

    @abstractmethod
    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        """The images [B, C, H, W] that a state leads to, where the noise followed is eps + push."""

    def state(self, eps: Noise, noise: Tensor, route: Route) -> State:
        """A state at the far end, from standard normal ``noise`` [B, C, H, W]."""
        return {"x": noise}

    @abstractmethod
    def evaluations(self, moves: int) -> tuple[int, int]:
        """How often ``invert`` and ``generate`` evaluate the noise on a route of so many moves."""


class DDIM(Sampler):
    """DDIM (Song et al. 2021, arXiv 2010.02502): each move follows the noise at its start.

    Abduction reads the noise at the clean end of each move while prediction reads it at the noisy end. With
    ``fixed_point`` iterations each move up solves the move back, e = ε(ddim(x, e)), first from where the last two
    noises lead. They cost one evaluation each, another for the residual of the last (`fixed_point`), and one at the
    start.
    """

    aligned = False

    def __init__(self, fixed_point: int = 0) -> None:
        self.fixed_point = fixed_point

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        e = past = eps(x, route.up[0].t)
        for i, move in enumerate(route.up):
            if i and not self.fixed_point:
                e = eps(x, move.t)
            if self.fixed_point:
                lead, past = 2 * e - past if i > 1 else e, e
                lead, e = fixed_point(partial(_next_noise, eps, x, move), lead, self.fixed_point)
                x = ddim(x, lead, move.start, move.end)
            else:
                x = ddim(x, e, move.start, move.end)
            watch(x, move.t_end)
        return {"x": x}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        x = u["x"]
        for move in route.down:
            e = eps(x, move.t) if push is None else eps(x, move.t) + push(x, move.t)
            x = ddim(x, e, move.start, move.end)
        return x

    def evaluations(self, moves: int) -> tuple[int, int]:
        return (1 + moves * (self.fixed_point + 1) if self.fixed_point else moves), moves


def _next_noise(eps: Noise, x: Tensor, move: Move, e: Tensor) -> Tensor:
    """The noise at the end of a move of x along e."""
    return eps(ddim(x, e, move.start, move.end), move.t_end)


class Direct(Sampler):
    """DDIM that carries what its way up missed (after direct inversion, Ju et al. 2023, arXiv 2310.01506).

    Up, each move follows where the last two noises lead, f_i = 2 ε_{i-1} - ε_{i-2}, and keeps what that misses,
    f_i - ε_i with ε_i = ε(x_i, i); down, it follows ε(x, i) + f_i - ε_i. Stable where two-step samplers are not, at one
    evaluation a move, but "y" [B, moves, C, H, W] is a residual carried in full.
    """

    exact = True
    residual = "full"

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        e = past = eps(x, route.up[0].t)
        missed = []
        for i, move in enumerate(route.up):
            lead = 2 * e - past if i > 1 else e
            x = ddim(x, lead, move.start, move.end)
            past, e = e, eps(x, move.t_end)
            missed.append(lead - e)
            watch(x, move.t_end)
        return {"x": x, "y": torch.stack(missed, dim=1)}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        missed = iter(u["y"].unbind(1)[::-1])
        return DDIM().generate(lambda x, t: eps(x, t) + next(missed), u, route, push)

    def state(self, eps: Noise, noise: Tensor, route: Route) -> State:
        return {"x": noise, "y": noise.new_zeros(len(noise), len(route.up), *noise.shape[1:])}

    def evaluations(self, moves: int) -> tuple[int, int]:
        return moves + 1, moves


class Adams(Sampler):
    """Two-step Adams-Bashforth in s, second order at one evaluation a move.

    x̄_{i+1} = x̄_i + h_i [(1 + r/2) ε_i - r/2 ε_{i-1}] with h_i = s_{i+1} - s_i and r = h_i / h_{i-1}; the first move is
    Euler's. The noise form of a two-step multistep solver (Lu et al. 2022, arXiv 2211.01095).
    """

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        before: tuple[Tensor, float] | None = None
        for move in route.up:
            x, before = _adams(eps(x, move.t), x, move.start, move.end, before)
            watch(x, move.t_end)
        return {"x": x}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        x, before = u["x"], None
        for move in route.down:
            step = shift(push, x, move)
            x, before = _adams(eps(x, move.t), x, move.start, move.end, before)
            x = x + move.end**0.5 * step
        return x

    def evaluations(self, moves: int) -> tuple[int, int]:
        return moves, moves


def _adams(
    e: Tensor, x: Tensor, start: float, end: float, before: tuple[Tensor, float] | None
) -> tuple[Tensor, tuple[Tensor, float]]:
    h = ratio(end) - ratio(start)
    if before is None:
        return ddim(x, e, start, end), (e, h)
    past, h_past = before
    r = h / h_past
    return ddim(x, (1 + r / 2) * e - r / 2 * past, start, end), (e, h)


def shift(push: Noise | None, x: Tensor, move: Move) -> Tensor | float:
    """How far ``push`` carries x̄ in a move, by Euler's method."""
    return 0.0 if push is None else (ratio(move.end) - ratio(move.start)) * push(x, move.t)


def ratio(a: float) -> float:
    """s = σ / ā at signal level a."""
    return ((1 - a) / a) ** 0.5
