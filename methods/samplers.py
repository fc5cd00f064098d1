"""Samplers: both directions between an image and its noise, behind one signature.

A sampler needs a noise function eps(x, t), the noise in images x [B, C, H, W] at network step t, and an aligned
`Route`. It carries an image up the route to a state, and a state down the route to an image:

    sampler = make("edict", route)
    u = sampler.invert(eps, x, route)              # {"x": noise, ..}; x in [-1, 1]
    x = sampler.generate(other, u, route)          # under another noise function than on the way up
    x = sampler.generate(eps, u, route, push)      # the same as for eps + push, and stable where push is large
    u = sampler.state(eps, noise, route)           # a state to draw fresh images from

The state is a dict of tensors, "x" the noisy image at the far end; samplers that return exactly need more of it
and find it under "y". Further keys are left alone, so that a method may add its own. ``invert`` shows every noisy
image on its way, and its step, to ``watch``. Guidance belongs into ``push``: samplers of several steps or images
would take a large term in ``eps`` for curvature, while a push moves all that they carry alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from cfbench.errors import UserError

from .diffusion import Noise, Route
from .flows import DDIM, Adams, Direct, Sampler, State, Watch
from .reversible import BDIA, BELM, EDICT, TwoStep

__all__ = [
    "BDIA", "BELM", "DDIM", "EDICT", "SAMPLERS", "Adams", "Direct", "Noise", "Sampler", "State", "Watch", "make",
]  # fmt: skip

SAMPLERS: Mapping[str, type[Sampler]] = {
    "adams": Adams, "bdia": BDIA, "belm": BELM, "ddim": DDIM, "direct": Direct, "edict": EDICT,
}  # fmt: skip


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
