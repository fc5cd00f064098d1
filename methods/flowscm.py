"""A deep structural causal model whose image mechanism is an exactly invertible conditional normalising flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cfbench.contract import Fit, Method, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

from .nn.flow_glow import SqueezeFlow
from .nn.flow_wavelet import PyramidFlow
from .nn.smoothed import Observation, entropy
from .nn.training import default_batch, train

__all__ = ["FlowSCM"]

LEVELS = 256
OBSERVED = 4000
"""Training images that scales are taken from."""
VALID = 2000
"""Validation images that the likelihood is reported on."""
GUESSED = 200
"""Training images that tell how far images are from their means given noised ones."""
CHUNK = 100
KINDS: Mapping[str, type[SqueezeFlow] | type[PyramidFlow]] = {"squeeze": SqueezeFlow, "wavelet": PyramidFlow}


class FlowSCM(Method):
    """Counterfactuals by a conditional flow f: u = f(y; pa), y* = f^-1(u; pa*); exact whatever was learned.

    The image mechanism of Pawlowski, Castro & Glocker 2020 (https://arxiv.org/abs/2006.06485) with another flow.
    A flow can ignore classes, which are worth a few bits among thousands. Here every coupling adds a template of its
    own for every value of the parents, in the place where it belongs (`SqueezeFlow`); or a few coarse numbers are
    modelled first, among which classes are worth much, and all else given those (`PyramidFlow`).

    The density is that of y = (x + dequantisation) + ``noise`` eps: smoothed, it does not spend itself on the grey
    levels of the background, and its scales stay moderate. Answers are abducted from the clean image, for which
    eps = 0 is the mean, or with eps drawn and taken off again (``dither``).

    To read: this file, `nn/coupling`, `nn/flow_glow`, and for ``kind=wavelet`` `nn/flow_wavelet`. `cfbench.nn` and
    `nn/training` are standard parts.

    Args:
        noise: standard deviation of eps as a share of the grey range; 0 is plain dequantisation.
        kind: ``squeeze``, the flow by convolutions at several resolutions, or ``wavelet``, the pyramid.
        width, depth, couplings: at each resolution from coarse to fine, see `SqueezeFlow`; or of the coarse flow, of
            the dense details and of the convolutional ones, see `PyramidFlow`.
        limit: of every layer's log-scales.
        template: of ``squeeze``: whether each network adds a learned image for every value of the parents.
        batch, lr, weight_decay, ema: of the training (`train`); where no batch is given it grows with the budget
            (`default_batch`), and where no ema is, its horizon (`average_decay`).
        dither: whether abduction adds the noise that training had.

    Raises:
        UserError: a value is out of range.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset({"dither"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sharp": {"noise": 0.0},
        "untemplated": {"template": False},
        "wavelet": {"kind": "wavelet", "width": (384, 512, 32), "depth": (2, 2, 2), "couplings": (12, 3, 0)},
    }
    residual: str = "exact-inverse"
    paper: ClassVar[str] = "https://arxiv.org/abs/2006.06485"

    def __init__(
        self,
        graph: CausalGraph,
        *,
        noise: float = 0.05,
        kind: Literal["squeeze", "wavelet"] = "squeeze",
        width: Sequence[int] = (64, 32),
        depth: Sequence[int] = (2, 2),
        couplings: Sequence[int] = (3, 4),
        limit: float = 2.0,
        template: bool = True,
        batch: int | None = None,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        ema: float | None = None,
        dither: bool = False,
    ) -> None:
        super().__init__(graph)
        if not (noise >= 0 and limit > 0):
            raise UserError(f"flowscm: noise is {noise} and limit {limit}; noise must be at least 0, limit above 0")
        if kind not in KINDS:
            raise UserError(f"flowscm: kind is {kind!r}; known: {', '.join(KINDS)}")
        lengths = {len(width), len(depth), len(couplings)}
        if len(lengths) > 1 or 0 in lengths or (kind == "wavelet" and lengths != {3}):
            found = f"{len(width)}, {len(depth)} and {len(couplings)} numbers"
            raise UserError(f"flowscm: width, depth and couplings have {found}; give each as many, for wavelet 3")
        self.noise, self.dither = noise, dither
        self.batch, self.lr, self.weight_decay, self.ema = batch, lr, weight_decay, ema
        self.parents = ParentEncoder(graph)
        extra = {"template": template} if kind == "squeeze" else {}
        self.flow = KINDS[kind](graph.shape, self.parents.dim, width, depth, couplings, limit, **extra)
        self.to(memory_format=torch.channels_last)

    def fit(self, run: Fit) -> None:
        """Fit the flow by maximum likelihood and report bits per dimension on validation data."""
        self.parents.fit(run.train.parents)
        first = run.train.images[torch.randperm(len(run.train), generator=run.rng)[:OBSERVED]]
        self.flow.observe(self._blurred(first.to(run.device).float() / 255, run.rng))
        images, pixels = run.images - run.seen, math.prod(self.graph.shape)
        batch = self.batch or default_batch(images)

        def losses(x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
            return -torch.stack(self.log_density(self._blurred(x, rng), pa)).sum(0) / pixels

        train(
            run, self.flow, losses, images,
            stage="flow", batch=batch, lr=self.lr, ema=self.ema, weight_decay=self.weight_decay, valid=losses,
        )  # fmt: skip
        self._report(run)

    def log_density(self, y: Tensor, pa: Tensor) -> list[Tensor]:
        """Parts of log p(y | pa) in nats per image [B], coarse to fine, for padded images y of range [0, 1]."""
        return self.flow(y, self.parents(pa))[1]

    @torch.no_grad()
    def _report(self, run: Fit) -> None:
        """Record a bound on the bits of the 8-bit image, and its parts: of the noised image, its noise, what is left.

        The image given the noised one is taken to be about its mean, as wide as on training images (`Observation`).
        """
        pixels, padded = math.prod(self.graph.shape), math.prod(self.flow.padded)
        rows = torch.randperm(len(run.train), generator=run.rng)[:GUESSED]
        x, guess, _ = self._noised(run.train[rows], run)
        observation = Observation(x, guess)
        x, guess, density = self._noised(run.valid[:VALID], run)
        grey = math.log2(LEVELS) * padded / pixels
        parts = {
            "noised_bits": grey - float(density.mean()) / pixels / math.log(2),
            "noise_bits": entropy(LEVELS * self.noise) * padded / pixels,
            "observation_bits": -float(observation.log_prob(x, guess).mean()) / math.log(2) if self.noise else 0.0,
        }
        bits = parts["noised_bits"] - parts["noise_bits"] + parts["observation_bits"]
        run.record("likelihood", {"bits_per_dim": bits, "bound": True, **parts})

    def _noised(self, part: Split, run: Fit) -> tuple[Tensor, Tensor, Tensor]:
        """Images, the means of images given the noised ones, and the log-densities [B] of these in nats."""
        found = []
        for rows in torch.arange(len(part)).split(CHUNK):
            x, pa = part[rows].x.to(run.device), part[rows].parents.to(run.device)
            y = self._blurred(x, run.rng)
            mean, density = self._denoised(y, pa)
            found.append((x, self._image(mean), density))
        x, guess, density = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        return x, guess, density

    def _blurred(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Padded images as the flow is trained on them."""
        x = self.flow.pad(x)
        uniform, normal = torch.rand(x.shape, generator=rng), torch.randn(x.shape, generator=rng)
        return self._dequantised(x, uniform.to(x.device)) + self.noise * normal.to(x.device)

    @staticmethod
    def _dequantised(x: Tensor, uniform: Tensor | float = 0.5) -> Tensor:
        """x in [0, 1] as y in [0, 1), each of 256 grey levels spread over its own interval."""
        return ((LEVELS - 1) * x + uniform) / LEVELS

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> tuple[Tensor, ...]:
        """The latents, one tensor or one a scale, and the dither that was added, 0 unless asked for."""
        x = self.flow.pad(x)
        dither = torch.zeros_like(x)
        if self.dither:
            uniform, normal = rng.uniform(*x.shape[1:]), rng.normal(*x.shape[1:])
            dither = (uniform - 0.5) / LEVELS + self.noise * normal
        return *self.flow(self._dequantised(x) + dither, self.parents(pa))[0], dither

    def predict(self, u: tuple[Tensor, ...], pa: Tensor, rng: Streams) -> Tensor:
        """The image that has these latents under ``pa``, without the dither."""
        *latents, dither = u
        return self._image(self.flow.inverse(latents, self.parents(pa)) - dither)

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        """A fresh image under ``pa``: the mean of clean images given a blurred one, y + noise² ∇ log p(y | pa).

        The correction is Tweedie's, exact for the flow's own density.
        """
        latents = [rng.normal(*shape) for shape in self.flow.noise_shapes]
        return self._image(self._denoised(self.flow.inverse(latents, self.parents(pa)), pa)[0])

    def _denoised(self, y: Tensor, pa: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of padded images given noised ones y, and log p(y | pa) [B] in nats."""
        if not self.noise:
            return y, torch.stack(self.log_density(y, pa)).sum(0)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            density = torch.stack(self.log_density(y, pa)).sum(0)
            (score,) = torch.autograd.grad(density.sum(), y)
        return y.detach() + self.noise**2 * score, density.detach()

    def _image(self, y: Tensor) -> Tensor:
        return ((LEVELS * self.flow.crop(y) - 0.5) / (LEVELS - 1)).clamp(0, 1)

    @property
    def evaluations(self) -> Mapping[str, float]:
        return {"abduct": 1, "predict": 1}
