"""Samplers: both directions between an image and its noise, behind one signature.

A sampler needs a noise prediction eps(x, t), the noise in images x [B, C, H, W] at network step t, and a `Trajectory`.
It inverts an image to a state, and generates an image from a state:

    sampler = make("edict", path)
    u = sampler.invert(eps, x, path)                    # {"x": noise, ..}; x in [-1, 1]
    x = sampler.generate(other, u, path)                # under another noise prediction than in the inversion
    x = sampler.generate(eps, u, path, guidance)        # as for eps + guidance, and stable where guidance is large
    u = sampler.from_noise(eps, noise, path)            # a state to draw fresh images from

The state is a dict of tensors, "x" the noisy image at the end of the inversion; samplers that return exactly need more
of it and find it under "y". Further keys are ignored, so that a method may add its own. ``invert`` shows every noisy
image and its network step to ``callback``. Guidance has an argument of its own: samplers of several steps or images
would take a large term in ``eps`` for curvature, while guidance moves all that they carry alike.

Between signal levels samplers work with x̄ = x / sqrt(ᾱ) as a function of s = sqrt((1 - ᾱ) / ᾱ): there the probability
flow is dx̄/ds = ε, and DDIM is Euler's method. Samplers that return up to rounding subtract what is nearly equal, so
that they move images in double precision; noise predictions see images, and states hold them, in their own precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from cfbench.errors import UserError

from .ode import fixed_point
from .schedule import Eps, Step, Trajectory, ddim

__all__ = [
    "BDIA", "BELM", "DDIM", "EDICT", "SAMPLERS", "Adams", "Callback", "Direct", "Sampler", "State", "TwoStep", "make",
]  # fmt: skip

Callback = Callable[[Tensor, int], None]
State = dict[str, Tensor]


def _ignore(x: Tensor, t: int) -> None:
    """The callback that does nothing."""


class Sampler(ABC):
    """Inversion and generation along the probability flow."""

    exact = False
    """Whether ``generate`` undoes ``invert`` up to rounding when both have the same noise prediction."""
    aligned = True
    """Whether both directions must pass the same signal levels."""
    residual = "none"
    """What the state carries beside the noise, in the words of `Method.residual`."""

    @abstractmethod
    def invert(self, eps: Eps, x: Tensor, path: Trajectory, callback: Callback = _ignore) -> State:
        """The state at the end of the inversion of images x [B, C, H, W]."""

    @abstractmethod
    def generate(self, eps: Eps, u: Mapping[str, Tensor], path: Trajectory, guidance: Eps | None = None) -> Tensor:
        """The images [B, C, H, W] that a state leads to, where the noise followed is eps + guidance."""

    def from_noise(self, eps: Eps, noise: Tensor, path: Trajectory) -> State:
        """A state to generate from, of standard normal ``noise`` [B, C, H, W]."""
        return {"x": noise}

    @abstractmethod
    def evaluations(self, steps: int) -> tuple[int, int]:
        """How often ``invert`` and ``generate`` evaluate the noise prediction in so many steps."""


class DDIM(Sampler):
    """DDIM (Song et al. 2021, arXiv 2010.02502): each step follows the noise at its start.

    Inversion predicts the noise at the clean end of each step while generation predicts it at the noisy end. With
    ``fixed_point`` iterations each step of the inversion solves that of generation, e = ε(ddim(x, e)), first from the
    extrapolation of the last two noises. They cost one evaluation each, another for the residual of the last
    (`fixed_point`), and one at the start.
    """

    aligned = False

    def __init__(self, fixed_point: int = 0) -> None:
        self.fixed_point = fixed_point

    def invert(self, eps: Eps, x: Tensor, path: Trajectory, callback: Callback = _ignore) -> State:
        e = e_last = eps(x, path.inversion[0].t)
        for i, step in enumerate(path.inversion):
            if self.fixed_point:
                first, e_last = 2 * e - e_last if i > 1 else e, e
                solved, e = fixed_point(partial(_eps_after, eps, x, step), first, self.fixed_point)
                x = ddim(x, solved, step.a, step.a_next)
            else:
                e = eps(x, step.t) if i else e
                x = ddim(x, e, step.a, step.a_next)
            callback(x, step.t_next)
        return {"x": x}

    def generate(self, eps: Eps, u: Mapping[str, Tensor], path: Trajectory, guidance: Eps | None = None) -> Tensor:
        x = u["x"]
        for step in path.generation:
            e = eps(x, step.t) if guidance is None else eps(x, step.t) + guidance(x, step.t)
            x = ddim(x, e, step.a, step.a_next)
        return x

    def evaluations(self, steps: int) -> tuple[int, int]:
        return (1 + steps * (self.fixed_point + 1) if self.fixed_point else steps), steps


def _eps_after(eps: Eps, x: Tensor, step: Step, e: Tensor) -> Tensor:
    """The noise at the end of a step of x along e."""
    return eps(ddim(x, e, step.a, step.a_next), step.t_next)


class Direct(Sampler):
    """DDIM that carries what its inversion missed (after direct inversion, Ju et al. 2023, arXiv 2310.01506).

    Inversion follows the extrapolation of the last two noises, f_i = 2 ε_{i-1} - ε_{i-2}, and keeps what that misses,
    f_i - ε_i with ε_i = ε(x_i, i); generation follows ε(x, i) + f_i - ε_i. Stable where two-step samplers are not, at
    one evaluation a step, but "y" [B, steps, C, H, W] is a residual carried in full.
    """

    exact = True
    residual = "full"

    def invert(self, eps: Eps, x: Tensor, path: Trajectory, callback: Callback = _ignore) -> State:
        e = e_last = eps(x, path.inversion[0].t)
        residual = []
        for i, step in enumerate(path.inversion):
            extrapolated = 2 * e - e_last if i > 1 else e
            x = ddim(x, extrapolated, step.a, step.a_next)
            e_last, e = e, eps(x, step.t_next)
            residual.append(extrapolated - e)
            callback(x, step.t_next)
        return {"x": x, "y": torch.stack(residual, dim=1)}

    def generate(self, eps: Eps, u: Mapping[str, Tensor], path: Trajectory, guidance: Eps | None = None) -> Tensor:
        residual = iter(u["y"].unbind(1)[::-1])
        return DDIM().generate(lambda x, t: eps(x, t) + next(residual), u, path, guidance)

    def from_noise(self, eps: Eps, noise: Tensor, path: Trajectory) -> State:
        return {"x": noise, "y": noise.new_zeros(len(noise), len(path.inversion), *noise.shape[1:])}

    def evaluations(self, steps: int) -> tuple[int, int]:
        return steps + 1, steps


class Adams(Sampler):
    """Two-step Adams-Bashforth in s, second order at one evaluation a step.

    x̄_{i+1} = x̄_i + h_i [(1 + r/2) ε_i - r/2 ε_{i-1}] with h_i = s_{i+1} - s_i and r = h_i / h_{i-1}; the first step is
    Euler's. The noise form of a two-step multistep solver (Lu et al. 2022, arXiv 2211.01095).
    """

    def invert(self, eps: Eps, x: Tensor, path: Trajectory, callback: Callback = _ignore) -> State:
        last: tuple[Tensor, float] | None = None
        for step in path.inversion:
            x, last = _adams(eps(x, step.t), x, step, last)
            callback(x, step.t_next)
        return {"x": x}

    def generate(self, eps: Eps, u: Mapping[str, Tensor], path: Trajectory, guidance: Eps | None = None) -> Tensor:
        x, last = u["x"], None
        for step in path.generation:
            shift = _guidance_shift(guidance, x, step)
            x, last = _adams(eps(x, step.t), x, step, last)
            x = x + step.a_next**0.5 * shift
        return x

    def evaluations(self, steps: int) -> tuple[int, int]:
        return steps, steps


def _adams(e: Tensor, x: Tensor, step: Step, last: tuple[Tensor, float] | None) -> tuple[Tensor, tuple[Tensor, float]]:
    """x after a step, and its noise and length in s; ``last`` is that of the step before."""
    h = _s(step.a_next) - _s(step.a)
    if last is None:
        return ddim(x, e, step.a, step.a_next), (e, h)
    e_last, h_last = last
    r = h / h_last
    return ddim(x, (1 + r / 2) * e - r / 2 * e_last, step.a, step.a_next), (e, h)


def _guidance_shift(guidance: Eps | None, x: Tensor, step: Step) -> Tensor | float:
    """How far guidance moves x̄ in a step, by Euler's method."""
    return 0.0 if guidance is None else (_s(step.a_next) - _s(step.a)) * guidance(x, step.t)


def _s(a: float) -> float:
    """The ratio of noise to signal at signal level ᾱ = a."""
    return ((1 - a) / a) ** 0.5


class EDICT(Sampler):
    """Two coupled images, each moved along the other's noise and then mixed (Wallace et al. 2023, arXiv 2211.12446).

    Generation: x' = A x + B ε(y), y' = A y + B ε(x'), x <- p x' + (1 - p) y', y <- p y' + (1 - p) x, where A x + B ε is
    the DDIM step; x and y change roles at every other level. Inversion solves each line for what went in. Two
    evaluations a step. The images grow apart by 1/p² with each step of the inversion.
    """

    exact = True
    residual = "exact-inverse"

    def __init__(self, mixing: float = 0.93) -> None:
        self.p = mixing

    def invert(self, eps: Eps, x: Tensor, path: Trajectory, callback: Callback = _ignore) -> State:
        p, dtype = self.p, x.dtype
        x = y = x.double()
        for i, step in enumerate(path.inversion):
            x, y = (x, y) if i % 2 else (y, x)
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            y = ddim(y, eps(x.to(dtype), step.t_next), step.a, step.a_next)
            x = ddim(x, eps(y.to(dtype), step.t_next), step.a, step.a_next)
            x, y = (x, y) if i % 2 else (y, x)
            callback(x.to(dtype), step.t_next)
        return {"x": x.to(dtype), "y": y.to(dtype)}

    def generate(self, eps: Eps, u: Mapping[str, Tensor], path: Trajectory, guidance: Eps | None = None) -> Tensor:
        p, dtype, x, y = self.p, u["x"].dtype, u["x"].double(), u["y"].double()
        for i, step in reversed(list(enumerate(reversed(path.generation)))):
            shift = step.a_next**0.5 * _guidance_shift(guidance, x.to(dtype), step)
            x, y = (x, y) if i % 2 else (y, x)
            x = ddim(x, eps(y.to(dtype), step.t), step.a, step.a_next)
            y = ddim(y, eps(x.to(dtype), step.t), step.a, step.a_next)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            x, y = (x, y) if i % 2 else (y, x)
            x, y = x + shift, y + shift
        return x.to(dtype)

    def from_noise(self, eps: Eps, noise: Tensor, path: Trajectory) -> State:
        return {"x": noise, "y": noise}

    def evaluations(self, steps: int) -> tuple[int, int]:
        return 2 * steps, 2 * steps


class TwoStep(Sampler):
    """Samplers whose next image is linear in the last two and in the noise of the last; "y" is the last but one.

    The first step of the inversion has no image before it: it is a DDIM step, solved by fixed-point iterations. Its
    accuracy depends on their number, exact return does not.
    """

    exact = True
    residual = "exact-inverse"

    def __init__(self, fixed_point: int = 1) -> None:
        self.fixed_point = fixed_point

    @abstractmethod
    def weights(self, a_low: float, a: float, a_high: float) -> tuple[float, float, float]:
        """(p, q, r) of x_{i-1} = p x_{i+1} + q x_i + r ε(x_i, i) at signal levels of i - 1, i and i + 1."""

    def invert(self, eps: Eps, x: Tensor, path: Trajectory, callback: Callback = _ignore) -> State:
        dtype = x.dtype
        first = DDIM(self.fixed_point).invert(eps, x, Trajectory(path.inversion[:1], ()), callback)["x"]
        x_last, x = x.double(), first.double()
        for last, step in pairwise(path.inversion):
            p, q, r = self.weights(last.a, last.a_next, step.a_next)
            x_last, x = x, (x_last - q * x - r * eps(x.to(dtype), step.t)) / p
            callback(x.to(dtype), step.t_next)
        return {"x": x.to(dtype), "y": x_last.to(dtype)}

    def generate(self, eps: Eps, u: Mapping[str, Tensor], path: Trajectory, guidance: Eps | None = None) -> Tensor:
        dtype, first = u["x"].dtype, path.generation[0]
        shift = _guidance_shift(guidance, u["x"], first)
        x_last, x = u["x"].double() + first.a**0.5 * shift, u["y"].double() + first.a_next**0.5 * shift
        for last, step in pairwise(path.generation):
            p, q, r = self.weights(step.a_next, step.a, last.a)
            shift = _guidance_shift(guidance, x.to(dtype), step)
            x_next = p * x_last + q * x + r * eps(x.to(dtype), step.t)
            x_last, x = x + step.a**0.5 * shift, x_next + step.a_next**0.5 * shift
        return x.to(dtype)

    def from_noise(self, eps: Eps, noise: Tensor, path: Trajectory) -> State:
        step = path.generation[0]
        return {"x": noise, "y": ddim(noise, eps(noise, step.t), step.a, step.a_next)}

    def evaluations(self, steps: int) -> tuple[int, int]:
        return self.fixed_point + bool(self.fixed_point) + steps, steps - 1


class BDIA(TwoStep):
    """Bidirectional integration (Zhang et al. 2023, arXiv 2307.10829).

    x_{i-1} = γ x_{i+1} + D_{i→i-1}(x_i) - γ D_{i→i+1}(x_i), with D the DDIM steps along ε(x_i, i). Inversion divides by
    γ at every step: below 1 rounding grows.
    """

    def __init__(self, fixed_point: int = 1, gamma: float = 1.0) -> None:
        super().__init__(fixed_point)
        self.gamma = gamma

    def weights(self, a_low: float, a: float, a_high: float) -> tuple[float, float, float]:
        low, high = _ddim_weights(a, a_low), _ddim_weights(a, a_high)
        return self.gamma, low[0] - self.gamma * high[0], low[1] - self.gamma * high[1]


def _ddim_weights(a: float, a_next: float) -> tuple[float, float]:
    scale = (a_next / a) ** 0.5
    return scale, (1 - a_next) ** 0.5 - scale * (1 - a) ** 0.5


class BELM(TwoStep):
    """O-BELM, the explicit two-step method of least local error (Wang et al. 2024, arXiv 2410.07273); second order.

    x̄_{i-1} = r² x̄_{i+1} + (1 - r²) x̄_i - h_i (1 + r) ε(x_i, i) with h_i = s_i - s_{i-1} and r = h_i / h_{i+1}.
    """

    def weights(self, a_low: float, a: float, a_high: float) -> tuple[float, float, float]:
        s = [_s(level) for level in (a_low, a, a_high)]
        h = s[1] - s[0]
        r = h / (s[2] - s[1])
        scale = a_low**0.5
        return r * r * scale / a_high**0.5, (1 - r * r) * scale / a**0.5, -h * (1 + r) * scale


SAMPLERS: Mapping[str, type[Sampler]] = {
    "adams": Adams, "bdia": BDIA, "belm": BELM, "ddim": DDIM, "direct": Direct, "edict": EDICT,
}  # fmt: skip


def make(name: str, path: Trajectory, fixed_point: int = 1) -> Sampler:
    """The sampler called ``name`` for a trajectory, with its published settings.

    ``fixed_point`` iterations solve every step of the inversion by DDIM, or the first one of BDIA and BELM.

    Raises:
        UserError: another name, or a trajectory whose directions pass different levels for a sampler that needs the
            same.
    """
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name!r}; known: {', '.join(sorted(SAMPLERS))}")
    kind = SAMPLERS[name]
    if kind.aligned and not path.aligned:
        raise UserError(f"sampler {name} needs the same levels both ways; set aligned=true or sampler=ddim")
    return kind(fixed_point) if issubclass(kind, DDIM | TwoStep) else kind()
