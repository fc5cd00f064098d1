"""Diff-SCM: counterfactual images by deterministic diffusion and the gradient of anti-causal predictors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cfbench.contract import Fit, Method
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.rng import Streams

from . import cld, learning, tuning
from .denoiser import Denoiser
from .diffusion import Noise, Process, Route, clip, normalised, processed, route, signal_levels
from .networks import UNet
from .parents import ParentEncoder
from .predictor import ParentPredictor
from .presets import PRESETS
from .samplers import make

__all__ = ["DiffSCM"]

PROCESSES: Mapping[str, Process | None] = {"final": None, "steps": clip, "normalise": normalised}


class DiffSCM(Method):
    """Counterfactuals of algorithm 1 of Sanchez & Tsaftaris 2022 (https://arxiv.org/abs/2202.10166), repaired.

    Abduction runs an unconditional diffusion model from the image to noise u; prediction runs it back, guided by
    the gradient of log p(pa* | x_t) under predictors that read the parents off the noisy image:

        e = ε(x_t, t) - sqrt(1 - ᾱ_t) ∇ sum_k s_k [ log p(pa*_k | x_t, t) - c log p(pa_k | x_t, t) ].

    Three things extend the paper, which has one class and c = 0. Guidance is by *all* parents, taken as independent
    given x_t, with Gaussian densities for continuous ones. The contrast c turns from the factual classes, which are
    part of u; values have none, as a Gaussian density that is subtracted moves the optimum. Values are steered
    relative to what the predictor reads off the factual at each noise level (``residuals``).

    Args:
        schedule, width, mult, blocks, patch, attention, dropout, output: of the diffusion model (`signal_levels`,
            `UNet`, `Denoiser`).
        focus: nine tenths of the training noise levels lie below this share of all of them.
        batch, cycle, ema: of the training of every network (`train`); a batch that is left open grows with the budget,
            from 32 at 130,000 images to 256. lr: of the diffusion model's training, predictor_lr: of all others'.
        predictor_width, predictor_mult, predictor_patch, predictor_pool: of the trunk of the guiding predictor.
        predictor_share, clean_share: parts of the image budget for the guiding predictor and for the one that
            tuning judges clean images by; the rest is the diffusion model's.
        respaced: where not 0, train on this many noise levels only and show the predictor their number in place
            of t, as the official code does; guidance then shows it t.
        rule: by which `tune` chooses: ``effectiveness`` or ``cld`` (the paper's; it needs a small VAE, trained
            on ``cld_share`` of the budget).
        scale, contrast: s_k, one for all parents or one for each (on a command line ``4/3/3``), and c; what is left
            open is tuned.
        sampler, steps, start, bend: how to move (`samplers`), how often each way, which share of the noise levels to
            span, and how to space them (`route`).
        residuals: whether continuous parents are steered relative to what the predictor reads off the factual at the
            same noise level (`ParentPredictor.aim`), so that its errors are abducted too and cancel.
        fixed_point: iterations that solve each move of an abduction by ddim, or the first one by bdia and belm.
        clip: the image is cut to the grey scale at the end only (``final``), or its estimate in every move both ways
            as in the official code (``steps``), there also normalised (``normalise``).
        aligned: whether abduction and prediction pass the same noise levels (`route`).
        enough: the rule ``effectiveness`` asks for this part of the best effectiveness.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset(
        {"scale", "contrast", "sampler", "steps", "start", "bend", "fixed_point", "residuals", "clip", "aligned"}
        | {"enough"}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    paper: ClassVar[str] = (
        "Sanchez & Tsaftaris 2022, Diffusion Causal Models for Counterfactual Estimation, CLeaR, arXiv 2202.10166"
    )

    def __init__(
        self,
        graph: CausalGraph,
        *,
        schedule: Literal["linear", "cosine"] = "linear",
        width: int = 32,
        mult: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        patch: int = 2,
        attention: bool = False,
        dropout: float = 0.0,
        output: Literal["eps", "v", "residual"] = "residual",
        focus: float = 0.75,
        batch: int | None = None,
        lr: float = 4e-3,
        predictor_lr: float = 2e-3,
        cycle: bool = True,
        ema: float = 0.995,
        predictor_width: int = 32,
        predictor_mult: Sequence[int] = (1, 2, 2),
        predictor_patch: int = 2,
        predictor_pool: Literal["flatten", "attention"] = "flatten",
        predictor_share: float = 0.5,
        clean_share: float = 0.1,
        respaced: int = 0,
        rule: Literal["effectiveness", "cld"] = "effectiveness",
        cld_share: float = 0.1,
        scale: float | Sequence[float] | str | None = None,
        contrast: float | None = None,
        sampler: Literal["adams", "bdia", "belm", "ddim", "direct", "edict"] = "adams",
        steps: int = 12,
        start: float = 0.7,
        bend: float = 1.25,
        fixed_point: int = 1,
        residuals: bool = True,
        clip: Literal["final", "steps", "normalise"] = "final",
        aligned: bool = True,
        enough: float = 0.97,
    ) -> None:
        super().__init__(graph)
        for name, value, known in (("clip", clip, PROCESSES), ("rule", rule, tuning.RULES)):
            if value not in known:
                raise UserError(f"diffscm: {name} is {value!r}; known: {', '.join(sorted(known))}")
        self.levels = signal_levels(schedule)
        self.route: Route = route(self.levels, steps, start, aligned, bend)
        self.sampler = make(sampler, self.route, fixed_point)
        self.residual = self.sampler.residual
        self.unet_params: dict[str, Any] = {
            "width": width, "mult": mult, "blocks": blocks, "patch": patch, "attention": attention,
            "dropout": dropout,
        }  # fmt: skip
        self.trunk_params: dict[str, Any] = {
            "width": predictor_width, "mult": predictor_mult, "patch": predictor_patch, "pool": predictor_pool,
        }  # fmt: skip
        self.output = output
        self.focus, self.respaced = focus, respaced
        self.training_params: dict[str, Any] = {"cycle": cycle, "ema": ema}
        self.batch = batch
        self.lr, self.predictor_lr = lr, predictor_lr
        self.shares = {"predictor": predictor_share, "clean": clean_share, "vae": cld_share * (rule == "cld")}
        self.rule, self.enough = rule, enough
        self.open = tuple(n for n, v in (("scale", scale), ("contrast", contrast)) if v is None)
        if self.open and rule == "effectiveness" and not clean_share:
            raise UserError(f"diffscm: {self.open[0]} is open and clean_share 0; give a value or tune with rule=cld")
        self.scale: float | Sequence[float] | Tensor = 2.0 if scale is None else self._scale(scale)
        self.contrast = 0.5 if contrast is None else contrast
        self.residuals = residuals and not all(v.categorical for v in graph.variables)
        self.process = PROCESSES[clip]
        self.encoder = ParentEncoder(graph)
        with self._seeded(0):
            self._build()

    def _scale(self, scale: float | Sequence[float] | str) -> float | list[float]:
        if isinstance(scale, int | float):
            return scale
        try:
            each = [float(s) for s in (scale.split("/") if isinstance(scale, str) else scale)]
        except ValueError:
            each = []
        if len(each) != len(self.graph.variables):
            raise UserError(f"diffscm: scale is {scale!r}; give one number, or one for each of {self.graph.names}")
        return each

    @staticmethod
    @contextmanager
    def _seeded(seed: int) -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield

    def _build(self) -> None:
        graph = self.graph
        self.denoiser = Denoiser(UNet(graph.shape[0], **self.unet_params), graph.shape, self.levels, self.output)
        self.predictor = ParentPredictor(graph, **self.trunk_params)
        if self.shares["clean"]:
            self.clean = ParentPredictor(graph, **{**self.trunk_params, "pool": "flatten"})
        if self.shares["vae"]:
            self.vae = cld.VAE(graph.shape)

    def fit(self, run: Fit) -> None:
        """Train the networks (`learning`), and record how well the predictor reads noisy images."""
        with self._seeded(int(torch.randint(2**62, (1,), generator=run.rng))):
            self._build()
            self.to(run.device)
            learning.fit(self, run)
            tuning.report(self, run)

    def tune(self, run: Fit) -> Mapping[str, Any]:
        """Scale and contrast, as far as left open, by the method's rule on ``run.valid``; see `tuning`."""
        return tuning.tune(self, run) if self.open else {}

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams | None = None) -> dict[str, Tensor]:
        """The noise, the factual parents, and what the predictor reads of them on the way (``residuals``)."""
        reads: list[Tensor] = []

        def watch(y: Tensor, t: int) -> None:
            if self.residuals:
                reads.append(self.predictor.moments(self.predictor.read(y, t).float()))

        u = {**self.sampler.invert(self._eps, 2 * x - 1, self.route, watch), "pa": pa}
        return {**u, "read": torch.stack(reads, dim=1)} if reads else u

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams | None = None) -> Tensor:
        """The image that the noise gives on the way back under guidance by ``pa``."""
        return self._image(self.sampler.generate(self._eps, u, self.route, self._push(pa, u)))

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        """Fresh images [B, C, H, W] under guidance by ``pa``, from noise of the moments that noised data have."""
        a = self.route.down[0].start
        mean, var = a**0.5 * self.denoiser.mean, a * self.denoiser.var + 1 - a
        u = self.sampler.state(self._eps, mean + var.sqrt() * rng.normal(*self.graph.shape), self.route)
        return self._image(self.sampler.generate(self._eps, u, self.route, self._push(pa)))

    def _push(self, pa: Tensor, u: Mapping[str, Tensor] | None = None) -> Noise | None:
        """What guidance by ``pa`` adds to the noise; from a factual's noise away from its classes, relative to it."""
        weights = torch.as_tensor(self.scale, dtype=torch.float32, device=pa.device)
        if not weights.any():
            return None
        wanted = self.encoder.standardise(pa)
        factual, contrast = (wanted, 0.0) if u is None else (self.encoder.standardise(u["pa"]), self.contrast)
        read = u["read"] if u is not None and self.residuals else None
        level = {move.t: i for i, move in enumerate(reversed(self.route.down))}

        def push(x: Tensor, t: int) -> Tensor:
            aim = wanted if read is None else self.predictor.aim(wanted, factual, read[:, level[t]])
            gradient = self.predictor.gradient(x, t, aim, factual, contrast, read is not None, weights)
            return -math.sqrt(1 - float(self.levels[t])) * gradient

        return push

    @staticmethod
    def _image(x: Tensor) -> Tensor:
        return ((x + 1) / 2).clamp(0, 1)

    def read(self, x: Tensor) -> Tensor:
        """The standardised parents [B, D] that the clean predictor sees in images [B, C, H, W] in [0, 1]."""
        return self.clean.best(self.clean.read(2 * x - 1, 0))

    def _eps(self, x: Tensor, t: int) -> Tensor:
        eps = self.denoiser(x, torch.full((len(x),), t, device=x.device)).to(x.dtype)
        return eps if self.process is None else processed(x, eps, float(self.levels[t]), self.process)

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Evaluations of the U-Net and the predictor in each step; a gradient of the predictor counts once."""
        moves = len(self.route.down)
        up, down = self.sampler.evaluations(moves)
        gradients = moves if torch.as_tensor(self.scale).any() else 0
        return {"abduct": up + moves * self.residuals, "predict": down + gradients, "predict_gradients": gradients}
