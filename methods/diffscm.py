"""Diff-SCM: counterfactual images by deterministic diffusion and the gradient of anti-causal predictors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfbench.contract import Fit, Method, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

from .diffusion import cld, guidance_tuning
from .diffusion.denoiser import Denoiser
from .diffusion.guidance_tuning import CONTRASTS, REST, SCALES, SCALES_OF_EACH, Questions, Row, Scale, Setting
from .diffusion.likelihood_matching import gradient_errors
from .diffusion.predictor_report import accuracies, likelihoods
from .diffusion.samplers import make
from .diffusion.schedule import Eps, Threshold, alpha_bars, clip, dynamic_threshold, thresholded, trajectory
from .nn.predictor import ParentPredictor
from .nn.training import default_batch, train
from .nn.unet import UNet
from .nn.validation import Losses

__all__ = ["PRESETS", "DiffSCM"]

THRESHOLDS: Mapping[str, Threshold | None] = {"final": None, "steps": clip, "normalise": dynamic_threshold}
FEWEST = 50
"""Steps of matching: a gradient that has hardly learned is steep, and answers that it guides are chaotic."""

_PUBLISHED: Mapping[str, Any] = {
    "patch": 1, "attention": True, "output": "eps", "focus": 1.0, "lr": 1e-4, "predictor_lr": 1e-4, "cycle": False,
    "ema": 0.0, "predictor_width": 32, "predictor_mult": (1, 2, 4, 4), "predictor_patch": 1,
    "predictor_pool": "attention", "clean_share": 0.0, "contrast": 0.0, "sampler": "ddim", "fixed_point": 0,
    "residuals": False, "aligned": False, "matched": 0.0,
}  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        **_PUBLISHED, "schedule": "cosine", "width": 64, "mult": (1, 2, 4), "batch": 256, "predictor_share": 0.09,
        "scale": 0.7, "steps": 1000, "start": 1.0, "clip": "steps",
    },
    "repo": {
        **_PUBLISHED, "width": 32, "mult": (1, 2, 2), "dropout": 0.1, "batch": 100, "predictor_share": 0.25,
        "respaced": 100, "scale": 1.0, "steps": 75, "start": 0.75, "clip": "normalise",
    },
}  # fmt: skip
"""``paper``: vios-s/Diff-SCM of March 2022, the state nearest the paper. ``repo``: its last state, with the quirks
that `DiffSCM` repairs: normalisation in every step, levels that do not match, a predictor trained on 100 levels by
their number. Both sample from the raw weights."""


class DiffSCM(Method):
    """Counterfactuals of algorithm 1 of Sanchez & Tsaftaris 2022 (https://arxiv.org/abs/2202.10166), repaired.

    Abduction inverts an unconditional diffusion model from the image to noise u; prediction generates from it, guided
    by the gradient of log p(pa* | x_t) under predictors of the parents in a noisy image:

        e = ε(x_t, t) - sqrt(1 - ᾱ_t) ∇ sum_k s_k [ log p(pa*_k | x_t, t) - c log p(pa_k | x_t, t) ].

    Four things extend the paper, which has one class and c = 0. Guidance is by *all* parents, taken as independent
    given x_t, with Gaussian densities for continuous ones. The contrast c turns from the factual classes, which are
    part of u; values have none, as a Gaussian density that is subtracted moves the optimum. Values are guided
    relative to what the predictor says of the factual at each noise level (``residuals``). And the predictor's
    gradient is trained, not its densities alone (``matched``).

    To read: this file, `diffusion/schedule`, `diffusion/samplers`, `nn/predictor`, `diffusion/denoiser`,
    `diffusion/likelihood_matching`, and for the choice of s and c `diffusion/guidance_tuning`. `nn/unet`, `cfbench.nn`
    and `nn/training` hold standard parts.

    Args:
        schedule, width, mult, blocks, patch, attention, dropout, output: of the diffusion model (`alpha_bars`,
            `UNet`, `Denoiser`).
        focus: nine tenths of the training noise levels lie below this share of all of them.
        batch, cycle, ema: of the training of every network (`train`); where no batch is given it grows with the budget
            (`default_batch`). lr: of the diffusion model's training, predictor_lr: of all others'.
        predictor_width, predictor_mult, predictor_patch, predictor_pool: of the trunk of the guiding predictor.
        predictor_share, clean_share: parts of the image budget for the guiding predictor and for the one that
            tuning judges clean images by; the rest is the diffusion model's.
        matched: the last part of the guiding predictor's images, on which its gradient also learns what the diffusion
            model's noise lacks given the parents (`gradient_errors`), in batches half as large, where these are
            `FEWEST` at least; matched_lr: the learning rate there.
        respaced: where not 0, train on this many noise levels only and show the predictor their number in place
            of t, as the official code does; guidance then shows it t.
        rule: by which `tune` chooses: ``effectiveness`` or ``cld`` (the paper's; it needs a small VAE, trained
            on ``cld_share`` of the budget).
        scale, contrast: s_k, one for all parents or one for each (on a command line ``4/3/3``), and c; what is None
            is tuned. Validation questions hardly tell contrasts apart, so that c is given by default.
        sampler, steps, start, rho: which sampler (`samplers`), how many steps each way, the share of the noise levels
            that they span, and their spacing (`trajectory`).
        residuals: whether continuous parents are guided relative to what the predictor says of the factual at the
            same noise level (`ParentPredictor.target`), so that its errors are abducted too and cancel.
        fixed_point: iterations that solve each step of an abduction by ddim, or the first one by bdia and belm.
        clip: the image is cut to the grey scale at the end only (``final``), or its estimate in every step both ways
            as in the official code (``steps``), there also normalised (``normalise``).
        aligned: whether abduction and prediction pass the same noise levels (`trajectory`).
        effectiveness_ratio: the rule ``effectiveness`` asks for this part of the best effectiveness.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset(
        {"scale", "contrast", "sampler", "steps", "start", "rho", "fixed_point", "residuals", "clip", "aligned"}
        | {"effectiveness_ratio"}
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
        ema: float | None = None,
        predictor_width: int = 32,
        predictor_mult: Sequence[int] = (1, 2, 2),
        predictor_patch: int = 2,
        predictor_pool: Literal["flatten", "attention"] = "flatten",
        predictor_share: float = 0.5,
        matched: float = 0.15,
        matched_lr: float = 1e-3,
        clean_share: float = 0.1,
        respaced: int = 0,
        rule: Literal["effectiveness", "cld"] = "effectiveness",
        cld_share: float = 0.1,
        scale: float | Sequence[float] | str | None = None,
        contrast: float | None = 0.5,
        sampler: Literal["adams", "bdia", "belm", "ddim", "direct", "edict"] = "direct",
        steps: int = 11,
        start: float = 0.7,
        rho: float = 1.25,
        fixed_point: int = 1,
        residuals: bool = True,
        clip: Literal["final", "steps", "normalise"] = "final",
        aligned: bool = True,
        effectiveness_ratio: float = 0.97,
    ) -> None:
        super().__init__(graph)
        for name, value, known in (("clip", clip, THRESHOLDS), ("rule", rule, guidance_tuning.RULES)):
            if value not in known:
                raise UserError(f"diffscm: {name} is {value!r}; known: {', '.join(sorted(known))}")
        self.alpha_bar = alpha_bars(schedule)
        self.path = trajectory(self.alpha_bar, steps, start, aligned, rho)
        self.sampler = make(sampler, self.path, fixed_point)
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
        self.matched, self.matched_lr = matched, matched_lr
        self.shares = {"predictor": predictor_share, "clean": clean_share, "vae": cld_share * (rule == "cld")}
        self.rule, self.effectiveness_ratio = rule, effectiveness_ratio
        self.tuned = tuple(n for n, v in (("scale", scale), ("contrast", contrast)) if v is None)
        if self.tuned and rule == "effectiveness" and not clean_share:
            raise UserError(f"diffscm: {self.tuned[0]} is open and clean_share 0; give a value or tune with rule=cld")
        self.scale: Scale = 2.0 if scale is None else self._scale(scale)
        self.contrast = 0.5 if contrast is None else contrast
        self.residuals = residuals and not all(v.categorical for v in graph.variables)
        self.threshold = THRESHOLDS[clip]
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
        self.denoiser = Denoiser(UNet(graph.shape[0], **self.unet_params), graph.shape, self.alpha_bar, self.output)
        self.predictor = ParentPredictor(graph, **self.trunk_params)
        if self.shares["clean"]:
            self.clean = ParentPredictor(graph, **{**self.trunk_params, "pool": "flatten"})
        if self.shares["vae"]:
            self.vae = cld.VAE(graph.shape)

    def fit(self, run: Fit) -> None:
        """Train all networks, and record how well the predictor finds the parents in noisy images."""
        with self._seeded(int(torch.randint(2**62, (1,), generator=run.rng))):
            self._build()
            self.to(run.device)
            self._train(run)
            self._report(run)

    def _train(self, run: Fit) -> None:
        """Train what tuning needs, the diffusion model on what the predictor leaves of the budget, and the predictor.

        The predictor comes last, as its gradient is matched with what the diffusion model lacks.
        """
        self.encoder.fit(run.train.parents)
        self.denoiser.observe(run.train.images)
        batch = self.batch or default_batch(run.images)
        images = {name: int(share * run.images) for name, share in self.shares.items()}
        half, last = max(1, batch // 2), int(self.matched * images["predictor"])
        if last // half < FEWEST:
            last = 0

        def learn(net: nn.Module, losses: Losses, stage: str, images: int, lr: float, batch: int = batch) -> None:
            train(run, net, losses, images, stage=stage, lr=lr, batch=batch, valid=losses, **self.training_params)

        if self.shares["clean"]:
            learn(self.clean, self._cleaned, "clean predictor", images["clean"], self.predictor_lr)
        if self.shares["vae"]:
            learn(self.vae, cld.losses(self.vae), "vae", images["vae"], self.predictor_lr)
        learn(self.denoiser, self._denoised, "diffusion", run.images - run.seen - images["predictor"], self.lr)
        learn(self.predictor, self._predicted, "predictor", images["predictor"] - last, self.predictor_lr)
        learn(self.predictor, self._matched, "predictor's gradient", last, self.matched_lr, half)

    def _cleaned(self, x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        return self.clean.losses(2 * x - 1, 0, self.encoder.standardise(pa))

    def _denoised(self, x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        (t, _), eps = self._draw_t(x, rng), _noise_like(x, rng)
        return self.denoiser.losses(2 * x - 1, eps, t)

    def _predicted(self, x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        (t, shown), eps = self._draw_t(x, rng), _noise_like(x, rng)
        return self.predictor.losses(self.denoiser.noised(2 * x - 1, eps, t), shown, self.encoder.standardise(pa))

    def _matched(self, x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        (t, shown), eps = self._draw_t(x, rng), _noise_like(x, rng)
        z = self.encoder.standardise(pa)
        error, log_probs = gradient_errors(self.predictor, self.denoiser, 2 * x - 1, eps, t, shown, z)
        return error - log_probs.sum(1)

    def _draw_t(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Steps t [B] to train on, and what the predictor is shown in their place."""
        total = len(self.alpha_bar)
        if self.respaced:
            number = torch.randint(self.respaced, (len(x),), generator=rng).to(x.device)
            return number * (total // self.respaced), number
        at, far = torch.rand(2, len(x), generator=rng)
        t = (at * torch.where(far < 0.1, 1.0, self.focus) * total).long().to(x.device)
        return t, t

    def _report(self, run: Fit) -> None:
        """Record how well the predictors find the parents (``predictor``), and how probable they find them."""
        nets = self.predictor, self.denoiser, self.encoder
        rows = accuracies(run, *nets, self.clean if self.shares["clean"] else None)
        for row in rows:
            run.log({"stage": "predictor accuracy", **row})
        run.record("predictor", rows)
        run.record("predictor_likelihood", likelihoods(run, *nets))

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams | None = None) -> dict[str, Tensor]:
        """The noise, the factual parents, and the predictor's moments of them at every noise level (``residuals``)."""
        moments: list[Tensor] = []

        def keep_moments(x_t: Tensor, t: int) -> None:
            if self.residuals:
                moments.append(self.predictor.moments(self.predictor(x_t, t).float()))

        u = {**self.sampler.invert(self._eps, 2 * x - 1, self.path, keep_moments), "pa": pa}
        return {**u, "moments": torch.stack(moments, dim=1)} if moments else u

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams | None = None) -> Tensor:
        """The image that the noise gives under guidance by ``pa``."""
        return self._generate(u, pa, self.scale, self.contrast)

    def _generate(self, u: Mapping[str, Tensor], pa: Tensor, scale: Scale, contrast: float) -> Tensor:
        return self._image(self.sampler.generate(self._eps, u, self.path, self._guidance(pa, scale, contrast, u)))

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        """Fresh images [B, C, H, W] under guidance by ``pa``, from noise of the moments that noised data have."""
        a = self.path.generation[0].a
        mean, var = a**0.5 * self.denoiser.mean, a * self.denoiser.var + 1 - a
        noise = mean + var.sqrt() * rng.normal(*self.graph.shape)
        u = self.sampler.from_noise(self._eps, noise, self.path)
        return self._image(self.sampler.generate(self._eps, u, self.path, self._guidance(pa, self.scale)))

    def _guidance(
        self, pa: Tensor, scale: Scale, contrast: float = 0.0, u: Mapping[str, Tensor] | None = None
    ) -> Eps | None:
        """What guidance by ``pa`` adds to the noise; with a factual's noise away from its classes, relative to it."""
        weights = torch.as_tensor(scale, dtype=torch.float32, device=pa.device)
        if not weights.any():
            return None
        wanted = self.encoder.standardise(pa)
        factual = wanted if u is None else self.encoder.standardise(u["pa"])
        moments = u["moments"] if u is not None and self.residuals else None
        level = {step.t: i for i, step in enumerate(reversed(self.path.generation))}

        def guidance(x: Tensor, t: int) -> Tensor:
            target = wanted if moments is None else self.predictor.target(wanted, factual, moments[:, level[t]])
            gradient = self.predictor.gradient(x, t, target, factual, contrast, moments is not None, weights)
            return -math.sqrt(1 - float(self.alpha_bar[t])) * gradient

        return guidance

    @staticmethod
    def _image(x: Tensor) -> Tensor:
        return ((x + 1) / 2).clamp(0, 1)

    def _eps(self, x: Tensor, t: int) -> Tensor:
        eps = self.denoiser(x, torch.full((len(x),), t, device=x.device)).to(x.dtype)
        return eps if self.threshold is None else thresholded(x, eps, float(self.alpha_bar[t]), self.threshold)

    @torch.no_grad()
    def tune(self, run: Fit) -> Mapping[str, Any]:
        """Scale and contrast, as far as not given, by the method's rule on ``run.valid``; records ``guidance``."""
        if not self.tuned:
            return {}
        settings = self._settings()
        q = guidance_tuning.asked(self.graph, run, len(settings))
        pool = run.valid[torch.randperm(len(run.valid), generator=run.rng)[: guidance_tuning.POOL]]
        answer = guidance_tuning.answers(q, self.abduct, self._under)
        found = guidance_tuning.curve(
            run, q, self.graph.names, settings, answer, lambda image: self._scores(q, pool, image)
        )
        choice = guidance_tuning.settle(found, self._rule)
        self.contrast = choice.row["contrast"]
        if "scale" in self.tuned:
            self.scale = choice.scale
        run.record("guidance", [{**row, "chosen": row is choice.row, "scales": self.scale} for row in choice.rows])
        run.record("labels", guidance_tuning.LABELS)
        if "scale" in self.tuned:
            remarks = guidance_tuning.remarks(choice.rows, choice.row, self.scale, self.graph.names, self.rule)
            if remarks:
                run.record("remarks", remarks)
        return {name: getattr(self, name) for name in self.tuned}

    def _rule(self, rows: Sequence[Row]) -> tuple[Row, Scale]:
        """The row that the rule picks, and the scale or scales with it; where these are given, any."""
        best = guidance_tuning.choose(rows, self.rule, self.effectiveness_ratio)
        if "scale" not in self.tuned:
            return best, 1.0
        if not self._one_each:
            return best, best["scale"]
        return best, guidance_tuning.scale_of_each(rows, best, self.graph.variables, self.effectiveness_ratio)

    @property
    def _one_each(self) -> bool:
        """Whether tuning looks for one scale for each parent; the rule ``cld`` knows one for all."""
        return "scale" in self.tuned and self.rule != "cld" and len(self.graph.names) > 1

    def _settings(self) -> list[Setting]:
        """What tuning tries: no contrast where no parent is a class, and what is given as given."""
        categorical = any(v.categorical for v in self.graph.variables)
        contrasts = tuple(CONTRASTS) if "contrast" in self.tuned and categorical else (self.contrast * categorical,)
        if "scale" not in self.tuned:
            pairs: list[tuple[float, Any]] = [(c, self.scale) for c in contrasts]
        elif self.rule == "cld":
            pairs = [(c, s) for c in contrasts for s in SCALES]
        else:
            pairs = [(contrasts[0], 0.0)]
            pairs += [(c, s) for c in contrasts for s in (CONTRASTS[c] if len(contrasts) > 1 else SCALES_OF_EACH)]
        return [{"contrast": c, "scale": s} for c, s in pairs]

    def _under(self, u: Mapping[str, Tensor], pa: Tensor, variable: Tensor, setting: Setting) -> Tensor:
        """The images under a setting, in which other parents than the one that is asked about keep `REST`."""
        scale = setting["scale"]
        if self._one_each and scale:
            own = F.one_hot(variable, len(self.graph.names)).bool()
            scale = torch.where(own, torch.as_tensor(scale), REST)
        return self._generate(u, pa, scale, setting["contrast"])

    def _scores(self, q: Questions, pool: Split, image: Tensor) -> dict[str, Tensor]:
        scores = {}
        if self.shares["clean"]:
            scores["effectiveness"] = guidance_tuning.effectiveness(self.clean, self.encoder, q, image)
        if self.shares["vae"]:
            scores["cld"] = cld.of_answers(self.vae, self.graph, q, image, pool)
        return scores

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Evaluations of the U-Net and the predictor in each direction; a gradient of the predictor counts once."""
        steps = len(self.path.generation)
        inversion, generation = self.sampler.evaluations(steps)
        gradients = steps if torch.as_tensor(self.scale).any() else 0
        return {
            "abduct": inversion + steps * self.residuals,
            "predict": generation + gradients,
            "predict_gradients": gradients,
        }


def _noise_like(x: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=rng).to(x.device)
