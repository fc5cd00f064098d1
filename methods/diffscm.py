"""Diff-SCM: counterfactual images by deterministic diffusion and the gradient of anti-causal predictors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cfbench.contract import Fit, Method
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.rng import Streams

from . import cld, tuning
from .denoiser import Denoiser
from .diffusion import Process, Route, clip, generate, invert, normalised, route, signal_levels
from .networks import UNet
from .parents import ParentEncoder
from .predictor import ParentPredictor
from .presets import PRESETS
from .training import Loss, train

__all__ = ["DiffSCM"]

PROCESSES: Mapping[str, Process | None] = {"final": None, "steps": clip, "normalise": normalised}


class DiffSCM(Method):
    """Counterfactuals of algorithm 1 of Sanchez & Tsaftaris 2022 (https://arxiv.org/abs/2202.10166), repaired.

    Abduction runs an unconditional diffusion model from the image to noise u; prediction runs it back, guided by
    the gradient of log p(pa* | x_t) under predictors that read the parents off the noisy image:

        e = ε(x_t, t) - s sqrt(1 - ᾱ_t) ∇ [ sum_k log p(pa*_k | x_t, t) - c sum_k log p(pa_k | x_t, t) ].

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
        scale, contrast: s and c; what is left open is tuned.
        steps, start: moves each way, and the share of the noise levels that they span.
        residuals: whether continuous parents are steered relative to what the predictor reads off the factual at the
            same noise level (`ParentPredictor.aim`), so that its errors are abducted too and cancel.
        fixed_point: iterations that solve each move of the abduction (`invert`).
        clip: the image is cut to the grey scale at the end only (``final``), or its estimate in every move both ways
            as in the official code (``steps``), there also normalised (``normalise``).
        aligned: whether abduction and prediction pass the same noise levels (`route`).
        enough: the rule ``effectiveness`` asks for this part of the best effectiveness.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset(
        {"scale", "contrast", "steps", "start", "fixed_point", "residuals", "clip", "aligned", "enough"}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    residual: str = "none"
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
        scale: float | None = None,
        contrast: float | None = None,
        steps: int = 20,
        start: float = 0.75,
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
        self.route: Route = route(self.levels, steps, start, aligned)
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
        self.scale = 2.0 if scale is None else scale
        self.contrast = 0.5 if contrast is None else contrast
        self.residuals = residuals and not all(v.categorical for v in graph.variables)
        self.fixed_point, self.process = fixed_point, PROCESSES[clip]
        self.encoder = ParentEncoder(graph)
        with self._seeded(0):
            self._build()

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
        """Train the predictors, the diffusion model and, where tuning needs it, a VAE, one after the other."""
        with self._seeded(int(torch.randint(2**62, (1,), generator=run.rng))):
            self._build()
            self.to(run.device)
            self._fit(run)

    def _fit(self, run: Fit) -> None:
        self.encoder.fit(run.train.parents)
        self.denoiser.observe(run.train.images)
        batch = self.batch or min(256, max(32, 2 ** round(math.log2(run.images / 4000))))
        images = {name: int(share * run.images) for name, share in self.shares.items()}

        def noisy(x: Tensor, pa: Tensor) -> Tensor:
            t, number = self._draw_t(len(x), run)
            x = self.denoiser.noised(2 * x - 1, self._draw(x, run), t)
            return -self.predictor.log_probs(self.predictor(x, number), self.encoder.standardise(pa)).sum(1).mean()

        def clean(x: Tensor, pa: Tensor) -> Tensor:
            return -self.clean.log_probs(self.clean.read(2 * x - 1, 0), self.encoder.standardise(pa)).sum(1).mean()

        def denoise(x: Tensor, pa: Tensor) -> Tensor:
            return self.denoiser.loss(2 * x - 1, self._draw(x, run), self._draw_t(len(x), run)[0])

        def learn(net: nn.Module, loss: Loss, stage: str, images: int, lr: float) -> None:
            train(run, net, loss, images, stage=stage, lr=lr, batch=batch, **self.training_params)

        if self.shares["clean"]:
            learn(self.clean, clean, "clean predictor", images["clean"], self.predictor_lr)
        if self.shares["vae"]:
            learn(self.vae, cld.loss(self.vae), "vae", images["vae"], self.predictor_lr)
        learn(self.predictor, noisy, "predictor", images["predictor"], self.predictor_lr)
        learn(self.denoiser, denoise, "diffusion", run.images - run.seen, self.lr)
        tuning.report(self, run)

    @staticmethod
    def _draw(x: Tensor, run: Fit) -> Tensor:
        return torch.randn(x.shape, generator=run.rng).to(x.device)

    def _draw_t(self, count: int, run: Fit) -> tuple[Tensor, Tensor]:
        """Steps t [count] to train on, and what the predictor is told of them."""
        total = len(self.levels)
        if self.respaced:
            number = torch.randint(self.respaced, (count,), generator=run.rng).to(run.device)
            return number * (total // self.respaced), number
        u, far = torch.rand(2, count, generator=run.rng)
        t = (u * torch.where(far < 0.1, 1.0, self.focus) * total).long().to(run.device)
        return t, t

    def tune(self, run: Fit) -> Mapping[str, Any]:
        """Scale and contrast, as far as left open, by the method's rule on ``run.valid``; see `tuning`."""
        return tuning.tune(self, run) if self.open else {}

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams | None = None) -> dict[str, Tensor]:
        """The noised image, the factual parents, and what the predictor reads of them on the way (``residuals``)."""
        read: list[Tensor] = []
        watch = (
            (lambda y, t: read.append(self.predictor.moments(self.predictor.read(y, t)))) if self.residuals else None
        )
        u = {"x": invert(self._eps, 2 * x - 1, self.route.up, self.fixed_point, self.process, watch), "pa": pa}
        return {**u, "read": torch.stack(read, dim=1)} if read else u

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams | None = None) -> Tensor:
        """The image that the noise gives on the way back under guidance by ``pa``."""
        wanted, factual = self.encoder.standardise(pa), self.encoder.standardise(u["pa"])
        level = {move.t: i for i, move in enumerate(reversed(self.route.down))}

        def guide(y: Tensor, t: int) -> Tensor:
            aim = self.predictor.aim(wanted, factual, u["read"][:, level[t]]) if self.residuals else wanted
            return self.scale * self.predictor.gradient(y, t, aim, factual, self.contrast, self.residuals)

        x = generate(self._eps, u["x"], self.route.down, guide if self.scale else None, self.process)
        return ((x + 1) / 2).clamp(0, 1)

    def read(self, x: Tensor) -> Tensor:
        """The standardised parents [B, D] that the clean predictor sees in images [B, C, H, W] in [0, 1]."""
        return self.clean.best(self.clean.read(2 * x - 1, 0))

    def _eps(self, x: Tensor, t: int) -> Tensor:
        return self.denoiser(x, torch.full((len(x),), t, device=x.device))

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Evaluations of the U-Net and the predictor in each step; a gradient of the predictor counts once."""
        steps = len(self.route.down)
        gradients = steps if self.scale else 0
        abduct = steps * self.fixed_point + 1 if self.fixed_point else steps
        abduct += steps if self.residuals else 0
        return {"abduct": abduct, "predict": steps + gradients, "predict_gradients": gradients}
