"""Conditional flow matching: a velocity field given the parents, and its flow from image to noise and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from cfbench.contract import Fit, Method
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

from .diffusion.denoiser import observe_pixels
from .diffusion.guidance import classifier_free
from .diffusion.ode import COST, SOLVERS, Field, integrate, invert
from .nn.training import default_batch, train
from .nn.unet import UNet

__all__ = ["FlowMatching", "Velocity", "couple"]

CLASS_COST = 1e6
"""What it costs to couple an image with the noise of another class: more than any distance between images."""


def couple(x: Tensor, eps: Tensor, z: Tensor, classes: Tensor, parent_cost: float) -> Tensor:
    """``eps`` [B, ...] in the order in which it belongs to images x [B, ...]: optimal transport within equal parents.

    Noise i comes with the parents z [B, D] of image i, standardised, and may go to image j at the cost |x_j - eps_i|² +
    parent_cost |z_i - z_j|², and only where the ``classes`` [D] among them are equal; so the noise that an image gets
    stays independent of its parents as ``parent_cost`` grows. Minibatch optimal transport of Tong et al. 2024
    (https://arxiv.org/abs/2302.00482), conditional as in Kerrigan et al. 2024 (https://arxiv.org/abs/2404.04240).
    """
    cost = torch.cdist(x.flatten(1), eps.flatten(1)).square()
    cost = cost + parent_cost * torch.cdist(z[:, ~classes], z[:, ~classes]).square()
    if classes.any():
        cost = cost + CLASS_COST * (z[:, None, classes] != z[None, :, classes]).any(2)
    _, chosen = linear_sum_assignment(cost.cpu().double().numpy())
    return eps[torch.as_tensor(chosen, device=eps.device)]


class Velocity(nn.Module):
    """E[eps - x | x_t, c] [B, C, H, W] at x_t = (1 - t) x + t eps, for images x in [-1, 1], t in [0, 1] and c [B, E].

    The U-Net adds to the best guess of a pixel's velocity from its own grey level, its mean m and its variance s² in
    the data, in units of the standard deviation that this guess leaves, s / sqrt((1 - t)² s² + t²); the
    preconditioning of Karras et al. 2022 (https://arxiv.org/abs/2206.00364, section 5) on the straight path.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, unet: UNet, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))

    def observe(self, images: Tensor) -> None:
        """Take mean and variance of each pixel from uint8 images [N, C, H, W]."""
        observe_pixels(images, self.mean, self.var)

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out = self.unet(x, 1000 * t, c)
        t = t[:, None, None, None]
        total = (1 - t) ** 2 * self.var + t**2
        guess = (t - (1 - t) * self.var) / total * (x - (1 - t) * self.mean) - self.mean
        return guess + (self.var / total).sqrt() * out

    def losses(self, x: Tensor, eps: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Mean squared error of the velocity for each image [B]."""
        at = t[:, None, None, None]
        return (self((1 - at) * x + at * eps, t, c) - (eps - x)).square().flatten(1).mean(1)


class FlowMatching(Method):
    """Counterfactuals by the flow of a velocity field that is given the parents.

    Lipman et al., "Flow matching for generative modeling", ICLR 2023, https://arxiv.org/abs/2210.02747, on the
    straight path of Liu et al. 2023 (https://arxiv.org/abs/2209.03003). Abduction solves dx/dt = v(x, t, pa) from the
    image at t = 0 to u at t = ``start`` under the factual parents; prediction solves it back under the new ones.

    To read: this file, `diffusion/ode`, `diffusion/guidance`. `nn/unet`, `cfbench.nn`, `nn/training` and the statistics
    of pixels in `diffusion/denoiser` are standard parts.

    Args:
        width, mult, blocks, patch, attention, dropout: of the velocity network (`UNet`).
        batch, lr, ema: of its training (`train`); where no batch is given it grows with the budget (`default_batch`),
            and where no ema is, its horizon (`average_decay`).
        coupling: of images and noise in training: ``independent``, or ``ot`` within each batch (`couple`).
        parent_cost: the price of unlike continuous parents under ``ot``.
        solver, steps, rho: of the ordinary differential equation, both ways; step i of n ends at (i / n) ** rho.
        fixed_point: iterations by which abduction solves prediction's steps backwards (`invert`).
        residual: ``none``, or ``full``: what these leave of each step is kept in u and added on the way back.
        start: the time that abduction ends at; below 1 some of the factual's coarse shape stays in u.
        guidance: w in v(base) + w (v(pa*) - v(base)), where ``base`` has the values of pa* and the factual classes,
            which are part of u. 1 is the plain model, and where no class changes no w changes anything.

    Raises:
        UserError: a setting is not one of its values.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset(
        {"solver", "steps", "rho", "fixed_point", "residual", "start", "guidance"}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "carried": {"residual": "full", "solver": "euler", "rho": 1.0}
    }
    paper: ClassVar[str] = "https://arxiv.org/abs/2210.02747"
    classes: Tensor

    def __init__(
        self,
        graph: CausalGraph,
        *,
        width: int = 24,
        mult: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        patch: int = 2,
        attention: bool = False,
        dropout: float = 0.0,
        batch: int | None = None,
        lr: float = 4e-3,
        ema: float | None = None,
        coupling: Literal["independent", "ot"] = "independent",
        parent_cost: float = 100.0,
        solver: Literal["euler", "heun", "midpoint", "rk4"] = "midpoint",
        steps: int = 10,
        rho: float = 1.5,
        fixed_point: int = 0,
        residual: Literal["none", "full"] = "none",
        start: float = 1.0,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(graph)
        settings = {"solver": solver, "coupling": coupling, "residual": residual}
        allowed = {"solver": SOLVERS, "coupling": ("independent", "ot"), "residual": ("none", "full")}
        for name, value in settings.items():
            if value not in (known := allowed[name]):
                raise UserError(f"flowmatching: {name} is {value!r}; known: {', '.join(sorted(known))}")
        if not 0 < start <= 1 or steps < 1:
            raise UserError(f"flowmatching: {steps} steps to start={start}; ask for at least 1 step and 0 < start <= 1")
        self.batch, self.lr, self.ema = batch, lr, ema
        self.coupling, self.parent_cost = coupling, parent_cost
        self.solver, self.cost = SOLVERS[solver], COST[solver]
        self.fixed_point, self.residual, self.guidance = fixed_point, residual, guidance
        self.times = [start * (i / steps) ** rho for i in range(steps + 1)]
        self.encoder = ParentEncoder(graph)
        unet = UNet(graph.shape[0], width, mult, blocks, patch, attention, dropout, condition=self.encoder.dim + 1)
        self.velocity = Velocity(unet, graph.shape)
        self.register_buffer("classes", torch.tensor([v.categorical for v in graph.variables]), persistent=False)

    def fit(self, run: Fit) -> None:
        """Train the velocity on the whole budget."""
        self.encoder.fit(run.train.parents)
        self.velocity.observe(run.train.images)
        batch = self.batch or default_batch(run.images)
        images = run.images - run.seen
        train(
            run, self.velocity, self._losses, images,
            stage="flow", batch=batch, lr=self.lr, ema=self.ema, valid=self._losses,
        )  # fmt: skip

    def _losses(self, x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        x, eps = 2 * x - 1, torch.randn(x.shape, generator=rng).to(x.device)
        t = torch.rand(len(x), generator=rng).to(x.device)
        if self.coupling == "ot":
            eps = couple(x, eps, self.encoder.standardise(pa), self.classes, self.parent_cost)
        return self.velocity.losses(x, eps, t, self.encoder.token(pa))

    def _field(self, pa: Tensor) -> Field:
        c = self.encoder.token(pa)
        return lambda x, t: self.velocity(x, torch.full((len(x),), t, device=x.device), c)

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams | None = None) -> dict[str, Tensor]:
        """The noise at the end of the flow under the factual parents, these, and the residual where it is kept."""
        u, residual = invert(
            self._field(pa), 2 * x - 1, self.times, self.solver, self.fixed_point, self.residual == "full"
        )
        return {"x": u, "pa": pa} | ({} if residual is None else {"residual": residual})

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams | None = None) -> Tensor:
        """The image at the start of the flow under ``pa``."""
        base = self._field(self.encoder.swap(pa, u["pa"]))
        field = classifier_free(self._field(pa), base, self.guidance)
        x = integrate(field, u["x"], self.times[::-1], self.solver, u.get("residual"))
        return ((x + 1) / 2).clamp(0, 1)

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        """Fresh images of the model under ``pa``."""
        times = [t / self.times[-1] for t in self.times[::-1]]
        x = integrate(self._field(pa), rng.normal(*self.graph.shape), times, self.solver)
        return ((x + 1) / 2).clamp(0, 1)

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Evaluations of the velocity, two at each of prediction's where it is guided."""
        steps = self.cost * (len(self.times) - 1)
        return {
            "abduct": steps * (1 + self.fixed_point + (self.fixed_point > 0 or self.residual == "full")),
            "predict": steps * (1 if self.guidance == 1 else 2),
        }
