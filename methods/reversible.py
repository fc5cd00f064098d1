"""Samplers that come back to the image up to rounding, by a second image beside the first.

Both directions subtract what is nearly equal, so that images are moved in double precision; noise functions see them,
and states hold them, in the precision of the image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from .diffusion import Noise, Route, ddim
from .flows import DDIM, Sampler, State, Watch, ignore, ratio, shift

__all__ = ["BDIA", "BELM", "EDICT", "TwoStep"]


class EDICT(Sampler):
    """Two coupled images, each moved along the other's noise and then mixed (Wallace et al. 2023, arXiv 2211.12446).

    Down from level i: x' = A x + B ε(y), y' = A y + B ε(x'), x <- p x' + (1 - p) y', y <- p y' + (1 - p) x, where
    A x + B ε is the DDIM move; x and y change roles at every other level. Up, each line is solved for what went in.
    Two evaluations a move. The images grow apart by 1/p² with each move up.
    """

    exact = True
    residual = "exact-inverse"

    def __init__(self, mixing: float = 0.93) -> None:
        self.p = mixing

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        p, kind = self.p, x.dtype
        x = y = x.double()
        for i, move in enumerate(route.up):
            x, y = (x, y) if i % 2 else (y, x)
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            y = ddim(y, eps(x.to(kind), move.t_end), move.start, move.end)
            x = ddim(x, eps(y.to(kind), move.t_end), move.start, move.end)
            x, y = (x, y) if i % 2 else (y, x)
            watch(x.to(kind), move.t_end)
        return {"x": x.to(kind), "y": y.to(kind)}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        p, kind, x, y = self.p, u["x"].dtype, u["x"].double(), u["y"].double()
        for i, move in reversed(list(enumerate(reversed(route.down)))):
            step = move.end**0.5 * shift(push, x.to(kind), move)
            x, y = (x, y) if i % 2 else (y, x)
            x = ddim(x, eps(y.to(kind), move.t), move.start, move.end)
            y = ddim(y, eps(x.to(kind), move.t), move.start, move.end)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            x, y = (x, y) if i % 2 else (y, x)
            x, y = x + step, y + step
        return x.to(kind)

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
    residual = "exact-inverse"

    def __init__(self, fixed_point: int = 1) -> None:
        self.fixed_point = fixed_point

    @abstractmethod
    def weights(self, lower: float, here: float, upper: float) -> tuple[float, float, float]:
        """(p, q, r) of x_{i-1} = p x_{i+1} + q x_i + r ε(x_i, i) at signal levels of i - 1, i and i + 1."""

    def invert(self, eps: Noise, x: Tensor, route: Route, watch: Watch = ignore) -> State:
        kind = x.dtype
        one = DDIM(self.fixed_point).invert(eps, x, Route(route.up[:1], ()), watch)["x"]
        before, x = x.double(), one.double()
        for move, after in pairwise(route.up):
            p, q, r = self.weights(move.start, move.end, after.end)
            before, x = x, (before - q * x - r * eps(x.to(kind), after.t)) / p
            watch(x.to(kind), after.t_end)
        return {"x": x.to(kind), "y": before.to(kind)}

    def generate(self, eps: Noise, u: Mapping[str, Tensor], route: Route, push: Noise | None = None) -> Tensor:
        kind, above = u["x"].dtype, route.down[0]
        step = shift(push, u["x"], above)
        after, x = u["x"].double() + above.start**0.5 * step, u["y"].double() + above.end**0.5 * step
        for above, move in pairwise(route.down):
            p, q, r = self.weights(move.end, move.start, above.start)
            step = shift(push, x.to(kind), move)
            y = p * after + q * x + r * eps(x.to(kind), move.t)
            after, x = x + move.start**0.5 * step, y + move.end**0.5 * step
        return x.to(kind)

    def state(self, eps: Noise, noise: Tensor, route: Route) -> State:
        move = route.down[0]
        return {"x": noise, "y": ddim(noise, eps(noise, move.t), move.start, move.end)}

    def evaluations(self, moves: int) -> tuple[int, int]:
        return self.fixed_point + bool(self.fixed_point) + moves, moves - 1


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
        s = [ratio(a) for a in (lower, here, upper)]
        h = s[1] - s[0]
        r = h / (s[2] - s[1])
        scale = lower**0.5
        return r * r * scale / upper**0.5, (1 - r * r) * scale / here**0.5, -h * (1 + r) * scale
