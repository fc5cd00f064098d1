"""Samplers: both directions between an image and its noise, behind one signature.

A sampler needs a noise function eps(x, t), the noise in images x [B, C, H, W] at network step t, and an aligned
`Route`. It carries an image up the route to a state, and a state down the route to an image:

    sampler = make("belm", route)
    u = sampler.invert(eps, x, route)              # {"x": noise, ..}; x in [-1, 1]
    x = sampler.generate(guided, u, route)         # another noise function where one direction only is guided
    u = sampler.state(eps, noise, route)           # a state to draw fresh images from

The state is a dict of tensors, "x" the noisy image at the far end; samplers that return exactly need more of it
and find it under "y". Further keys are left alone, so that a method may add its own. ``invert`` shows every noisy
image on its way, and its step, to ``watch``. Between levels i samplers work with x̄ = x / ā_i as a function of
s_i = σ_i / ā_i, where ā² = ᾱ and σ² = 1 - ᾱ: there the flow is dx̄/ds = ε, and DDIM is Euler's method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise

from torch import Tensor

from cfbench.errors import UserError

from .diffusion import Move, Noise, Route, ddim

__all__ = ["BDIA", "BELM", "DDIM", "EDICT", "SAMPLERS", "Adams", "Noise", "Sampler", "State", "Watch", "make"]

Watch = Callable[[Tensor, int], None]
State = dict[str, Tensor]


def ignore(x: Tensor, t: int) -> None:
    """Watch nothing."""


class Sampler(ABC):
    """Both directions of travel; see the module for the signature."""

    exact = False
    """Whether ``generate`` undoes ``invert`` up to rounding when both have the same noise function."""
    aligned = True
    """Whether both directions must pass the same levels."""

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
    ``fixed_point`` iterations each move up solves the move back, by y <- ddim(x, ε(y)), first from where the previous
    move's noise leads: one iteration then costs one evaluation a move, and one more is made at the start.
    """

    aligned = False

    def __init__(self, fixed_point: int = 0) -> None:
        self.fixed_point = fixed_point

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        e = eps(x, route.up[0].t)
        for i, move in enumerate(route.up):
            if i and not self.fixed_point:
                e = eps(x, move.t)
            y = ddim(x, e, move.start, move.end)
            for _ in range(self.fixed_point):
                e = eps(y, move.t_end)
                y = ddim(x, e, move.start, move.end)
            x = y
            watch(x, move.t_end)
        return {"x": x}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        x = u["x"]
        for move in route.down:
            e = eps(x, move.t) if push is None else eps(x, move.t) + push(x, move.t)
            x = ddim(x, e, move.start, move.end)
        return x

    def evaluations(self, moves: int) -> tuple[int, int]:
        return (1 + moves * self.fixed_point if self.fixed_point else moves), moves


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
            shift = _shift(push, x, move)
            x, before = _adams(eps(x, move.t), x, move.start, move.end, before)
            x = x + move.end**0.5 * shift
        return x

    def evaluations(self, moves: int) -> tuple[int, int]:
        return moves, moves


def _adams(
    e: Tensor, x: Tensor, start: float, end: float, before: tuple[Tensor, float] | None
) -> tuple[Tensor, tuple[Tensor, float]]:
    h = _ratio(end) - _ratio(start)
    if before is None:
        return ddim(x, e, start, end), (e, h)
    past, h_past = before
    r = h / h_past
    return ddim(x, (1 + r / 2) * e - r / 2 * past, start, end), (e, h)


def _shift(push: Noise | None, x: Tensor, move: Move) -> Tensor | float:
    """How far ``push`` carries x̄ in a move, by Euler's method."""
    return 0.0 if push is None else (_ratio(move.end) - _ratio(move.start)) * push(x, move.t)


def _ratio(a: float) -> float:
    """s = σ / ā at signal level a."""
    return ((1 - a) / a) ** 0.5


class EDICT(Sampler):
    """Two coupled images, each moved along the other's noise and then mixed (Wallace et al. 2023, arXiv 2211.12446).

    Down from level i: x' = A x + B ε(y), y' = A y + B ε(x'), x <- p x' + (1 - p) y', y <- p y' + (1 - p) x, where
    A x + B ε is the DDIM move; x and y change roles at every other level. Up, each line is solved for what went in.
    Two evaluations a move. Rounding grows by 1/p² with each move up.
    """

    exact = True

    def __init__(self, mixing: float = 0.93) -> None:
        self.p = mixing

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        p, y = self.p, x
        for i, move in enumerate(route.up):
            x, y = (x, y) if i % 2 else (y, x)
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            y = ddim(y, eps(x, move.t_end), move.start, move.end)
            x = ddim(x, eps(y, move.t_end), move.start, move.end)
            x, y = (x, y) if i % 2 else (y, x)
            watch(x, move.t_end)
        return {"x": x, "y": y}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        p, x, y = self.p, u["x"], u["y"]
        for i, move in reversed(list(enumerate(reversed(route.down)))):
            shift = move.end**0.5 * _shift(push, x, move)
            x, y = (x, y) if i % 2 else (y, x)
            x = ddim(x, eps(y, move.t), move.start, move.end)
            y = ddim(y, eps(x, move.t), move.start, move.end)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            x, y = (x, y) if i % 2 else (y, x)
            x, y = x + shift, y + shift
        return x

    def state(self, eps: Noise, noise: Tensor, route: Route) -> State:
        return {"x": noise, "y": noise}

    def evaluations(self, moves: int) -> tuple[int, int]:
        return 2 * moves, 2 * moves


class TwoStep(Sampler):
    """Samplers whose next image is linear in the last two and in the noise of the last; "y" is the last but one.

    The first move up has no image before it: it is a DDIM move, solved by fixed-point iterations. Its accuracy depends
    on their number, the way back does not.
    """

    exact = True

    def __init__(self, fixed_point: int = 1) -> None:
        self.fixed_point = fixed_point

    @abstractmethod
    def weights(self, lower: float, here: float, upper: float) -> tuple[float, float, float]:
        """(p, q, r) of x_{i-1} = p x_{i+1} + q x_i + r ε(x_i, i) at signal levels of i - 1, i and i + 1."""

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        before, x = x, DDIM(self.fixed_point).invert(eps, x, Route(route.up[:1], ()), watch)["x"]
        for move, after in pairwise(route.up):
            p, q, r = self.weights(move.start, move.end, after.end)
            before, x = x, (before - q * x - r * eps(x, after.t)) / p
            watch(x, after.t_end)
        return {"x": x, "y": before}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        above = route.down[0]
        shift = _shift(push, u["x"], above)
        after, x = u["x"] + above.start**0.5 * shift, u["y"] + above.end**0.5 * shift
        for above, move in pairwise(route.down):
            p, q, r = self.weights(move.end, move.start, above.start)
            shift = _shift(push, x, move)
            y = p * after + q * x + r * eps(x, move.t)
            after, x = x + move.start**0.5 * shift, y + move.end**0.5 * shift
        return x

    def state(self, eps: Noise, noise: Tensor, route: Route) -> State:
        move = route.down[0]
        return {"x": noise, "y": ddim(noise, eps(noise, move.t), move.start, move.end)}

    def evaluations(self, moves: int) -> tuple[int, int]:
        return self.fixed_point + moves, moves - 1


class BDIA(TwoStep):
    """Bidirectional integration (Zhang et al. 2023, arXiv 2307.10829).

    x_{i-1} = γ x_{i+1} + D_{i→i-1}(x_i) - γ D_{i→i+1}(x_i), with D the DDIM moves along ε(x_i, i). The way up divides
    by γ at every move: below 1 rounding grows.
    """

    def __init__(self, fixed_point: int = 1, gamma: float = 1.0) -> None:
        super().__init__(fixed_point)
        self.gamma = gamma

    def weights(self, lower: float, here: float, upper: float) -> tuple[float, float, float]:
        down, up = _ddim_weights(here, lower), _ddim_weights(here, upper)
        return self.gamma, down[0] - self.gamma * up[0], down[1] - self.gamma * up[1]


def _ddim_weights(start: float, end: float) -> tuple[float, float]:
    scale = (end / start) ** 0.5
    return scale, (1 - end) ** 0.5 - scale * (1 - start) ** 0.5


class BELM(TwoStep):
    """O-BELM, the explicit two-step method of least local error (Wang et al. 2024, arXiv 2410.07273); second order.

    x̄_{i-1} = r² x̄_{i+1} + (1 - r²) x̄_i - h_i (1 + r) ε(x_i, i) with h_i = s_i - s_{i-1} and r = h_i / h_{i+1}.
    """

    def weights(self, lower: float, here: float, upper: float) -> tuple[float, float, float]:
        s = [_ratio(a) for a in (lower, here, upper)]
        h = s[1] - s[0]
        r = h / (s[2] - s[1])
        scale = lower**0.5
        return r * r * scale / upper**0.5, (1 - r * r) * scale / here**0.5, -h * (1 + r) * scale


SAMPLERS: Mapping[str, type[Sampler]] = {"adams": Adams, "bdia": BDIA, "belm": BELM, "ddim": DDIM, "edict": EDICT}


def make(name: str, route: Route, fixed_point: int = 1) -> Sampler:
    """The sampler called ``name`` for a route, with its published settings.

    ``fixed_point`` iterations solve every move up of DDIM, or the first one of BDIA and BELM.

    Raises:
        UserError: another name, or a route whose directions pass different levels for a sampler that needs the same.
    """
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name!r}; known: {', '.join(sorted(SAMPLERS))}")
    kind = SAMPLERS[name]
    if kind.aligned and not route.aligned:
        raise UserError(f"sampler {name} needs the same levels both ways; set aligned=true or sampler=ddim")
    return kind(fixed_point) if issubclass(kind, DDIM | TwoStep) else kind()
