"""Diff-SCM: counterfactual images by deterministic diffusion and the gradient of anti-causal predictors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

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
from .training import train

__all__ = ["DiffSCM"]

PROCESSES: Mapping[str, Process | None] = {"final": None, "none": None, "steps": clip, "normalise": normalised}


class DiffSCM(Method):
    """Counterfactuals of algorithm 1 of Sanchez & Tsaftaris 2022 (https://arxiv.org/abs/2202.10166), repaired.

    Abduction runs an unconditional diffusion model from the image to noise u; prediction runs it back, guided by
    the gradient of log p(pa* | x_t) under predictors that read the parents off the noisy image:

        e = ε(x_t, t) - s sqrt(1 - ᾱ_t) ∇ [ sum_k log p(pa*_k | x_t, t) - c sum_k log p(pa_k | x_t, t) ].

    Guidance by *all* parents, Gaussian densities for continuous ones, and the contrast c with the factual parents
    (part of u; over classes only, as a Gaussian density that is subtracted moves the optimum) extend the paper,
    which has one class and c = 0. Parents are taken as independent given x_t.

    Args:
        schedule, width, mult, blocks, patch, attention, dropout, output: of the diffusion model (`signal_levels`,
            `UNet`, `Denoiser`).
        focus: nine tenths of the training noise levels lie below this share of all of them.
        batch, cycle, ema: of the training of every network (`train`); lr: of the diffusion model's, predictor_lr:
            of all others'.
        predictor_width, predictor_mult, predictor_patch, predictor_pool: of the trunk of the guiding predictor.
        predictor_share, clean_share: parts of the image budget for the guiding predictor and for the one that
            tuning judges clean images by; the rest is the diffusion model's.
        respaced: where not 0, train on this many noise levels only and show the predictor their number in place
            of t, as the official code does; guidance then shows it t.
        rule: by which `tune` chooses: ``effectiveness`` or ``cld`` (the paper's; it needs a small VAE, trained
            on ``cld_share`` of the budget).
        scale, contrast: s and c; what is left open is tuned.
        steps, start: moves each way, and the share of the noise levels that they span.
        fixed_point: iterations that solve each move of the abduction (`invert`).
        clip: the image is cut to [-1, 1] at the end (``final``), or its estimate in every move both ways as in
            the official code (``steps``), there also normalised (``normalise``).
        aligned: whether abduction and prediction pass the same noise levels (`route`).
        enough: the rule ``effectiveness`` asks for this part of the best effectiveness.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset(
        {"scale", "contrast", "steps", "start", "fixed_point", "clip", "aligned", "enough"}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "schedule": "cosine", "width": 64, "mult": (1, 2, 4), "patch": 1, "attention": True, "output": "eps",
            "focus": 1.0, "batch": 256, "lr": 1e-4, "predictor_lr": 1e-4, "cycle": False, "ema": 0.0,
            "predictor_mult": (1, 2, 4, 4), "predictor_patch": 1, "predictor_pool": "attention",
            "predictor_share": 0.09, "clean_share": 0.0,
            "scale": 0.7, "contrast": 0.0, "steps": 1000, "start": 1.0, "fixed_point": 0, "clip": "steps",
            "aligned": False,
        },
        "repo": {
            "width": 32, "mult": (1, 2, 2), "patch": 1, "attention": True, "dropout": 0.1, "output": "eps",
            "focus": 1.0, "batch": 100, "lr": 1e-4, "predictor_lr": 1e-4, "cycle": False, "ema": 0.0,
            "predictor_mult": (1, 2, 4, 4), "predictor_patch": 1, "predictor_pool": "attention",
            "predictor_share": 0.25, "clean_share": 0.0,
            "respaced": 100, "scale": 1.0, "contrast": 0.0, "steps": 75, "start": 0.75, "fixed_point": 0,
            "clip": "normalise", "aligned": False,
        },
    }  # fmt: skip
    residual: ClassVar[str] = "none"
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
        batch: int = 32,
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
        clip: Literal["final", "none", "steps", "normalise"] = "final",
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
        self.training_params: dict[str, Any] = {"batch": batch, "cycle": cycle, "ema": ema}
        self.lr, self.predictor_lr = lr, predictor_lr
        self.shares = {"predictor": predictor_share, "clean": clean_share, "vae": cld_share * (rule == "cld")}
        self.rule, self.enough = rule, enough
        self.open = tuple(n for n, v in (("scale", scale), ("contrast", contrast)) if v is None)
        if self.open and rule == "effectiveness" and not clean_share:
            raise UserError(f"diffscm: {self.open[0]} is open and clean_share 0; give a value or tune with rule=cld")
        self.scale = 2.0 if scale is None else scale
        self.contrast = 0.5 if contrast is None else contrast
        self.fixed_point, self.clip, self.process = fixed_point, clip, PROCESSES[clip]
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
        images = {name: int(share * run.images) for name, share in self.shares.items()}

        def noisy(x: Tensor, pa: Tensor) -> Tensor:
            t, number = self._draw_t(len(x), run)
            x = self.denoiser.noised(2 * x - 1, self._draw(x, run), t)
            return -self.predictor.log_probs(self.predictor(x, number), self.encoder.standardise(pa)).sum(1).mean()

        def clean(x: Tensor, pa: Tensor) -> Tensor:
            out = self.clean(2 * x - 1, torch.zeros(len(x), device=x.device))
            return -self.clean.log_probs(out, self.encoder.standardise(pa)).sum(1).mean()

        def denoise(x: Tensor, pa: Tensor) -> Tensor:
            return self.denoiser.loss(2 * x - 1, self._draw(x, run), self._draw_t(len(x), run)[0])

        if self.shares["clean"]:
            train(
                run,
                self.clean,
                clean,
                images["clean"],
                stage="clean predictor",
                lr=self.predictor_lr,
                **self.training_params,
            )
        if self.shares["vae"]:
            train(
                run,
                self.vae,
                cld.loss(self.vae),
                images["vae"],
                stage="vae",
                lr=self.predictor_lr,
                **self.training_params,
            )
        train(
            run,
            self.predictor,
            noisy,
            images["predictor"],
            stage="predictor",
            lr=self.predictor_lr,
            **self.training_params,
        )
        left = run.images - run.seen
        train(run, self.denoiser, denoise, left, stage="diffusion", lr=self.lr, **self.training_params)
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
        """The noised image and the factual parents, which the contrast needs."""
        u = invert(self._eps, 2 * x - 1, self.route.up, self.fixed_point, self.process)
        return {"x": u, "pa": pa}

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams | None = None) -> Tensor:
        """The image that the noise gives on the way back under guidance by ``pa``."""
        wanted, factual = self.encoder.standardise(pa), self.encoder.standardise(u["pa"])
        guide = (lambda x, t: self.scale * self.guidance(x, t, wanted, factual)) if self.scale else None
        x = generate(self._eps, u["x"], self.route.down, guide, self.process)
        x = (x + 1) / 2
        return x if self.clip == "none" else x.clamp(0, 1)

    def guidance(self, x: Tensor, t: int, wanted: Tensor, factual: Tensor) -> Tensor:
        """The gradient [B, C, H, W] of the contrast at x [B, C, H, W], step t, for standardised parents [B, D]."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = self.predictor(x, torch.full((len(x),), t, device=x.device))
            contrast = self.contrast * torch.tensor([float(v.categorical) for v in self.graph.variables])
            score = self.predictor.log_probs(out, wanted)
            if self.contrast:
                score = score - contrast.to(x) * self.predictor.log_probs(out, factual)
            return torch.autograd.grad(score.sum(), x)[0]

    def read(self, x: Tensor) -> Tensor:
        """The standardised parents [B, D] that the clean predictor sees in images [B, C, H, W] in [0, 1]."""
        return self.clean.best(self.clean(2 * x - 1, torch.zeros(len(x), device=x.device)))

    def _eps(self, x: Tensor, t: int) -> Tensor:
        return self.denoiser(x, torch.full((len(x),), t, device=x.device))

    @property
    def evaluations(self) -> Mapping[str, float]:
        """U-Net evaluations of ``abduct``; U-Net evaluations and gradients of the predictor of ``predict``."""
        steps = len(self.route.down)
        gradients = steps if self.scale else 0
        abduct = steps * self.fixed_point + 1 if self.fixed_point else steps
        return {"abduct": abduct, "predict": steps + gradients, "predict_gradients": gradients}
