"""Classifier-free Diff-SCM: one diffusion model that is given the parents or nothing, guided by their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cfbench.contract import Fit, Method
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

from .diffusion import guidance_tuning, samplers
from .diffusion.denoiser import Denoiser
from .diffusion.guidance import classifier_free
from .diffusion.guidance_tuning import Row, Setting
from .diffusion.schedule import Eps, alpha_bars, trajectory
from .nn.predictor import ParentPredictor
from .nn.training import default_batch, train
from .nn.unet import UNet
from .nn.validation import Losses

__all__ = ["DiffSCMCFG"]

GRID = (1.0, 1.5, 2.0, 3.0, 4.5)
"""The guidance scales that tuning tries."""
ANSWERS = 720
"""About as many answers as they may have together."""
ABDUCTIONS, BASES, LOSSES = ("factual", "null"), ("classes", "factual", "null"), ("eps", "v")


class DiffSCMCFG(Method):
    """Counterfactuals of a diffusion model that is given the parents, steered by classifier-free guidance.

    The classifier-free variant of Diff-SCM (Sanchez et al. 2022, "What is healthy?", https://arxiv.org/abs/2207.12268)
    for any number of classes and values. One network gives ε(x_t, t, pa), and ε(x_t, t, ∅) under the null token, which
    stands for the parents in a share ``drop`` of its training. Abduction carries the image to noise under the tokens
    ``abduction``. Prediction goes back along

        e = ε(x_t, t, base) + w [ε(x_t, t, pa*) - ε(x_t, t, base)].

    As published the base is ∅, and guidance acts on the null intervention too. With the ``factual`` parents pa as base
    it turns from what is there to what is wanted, and vanishes at pa* = pa for every w. The default, ``classes``, is
    pa* with the classes of pa: only what sets classes is amplified, as values that are amplified overshoot.

    To read: this file, `diffusion/guidance`, `diffusion/schedule`, `diffusion/samplers`, `diffusion/denoiser`, and for
    the choice of w `diffusion/guidance_tuning`. `nn/unet`, `cfbench.nn` and `nn/training` hold standard parts.

    Args:
        schedule, width, mult, blocks, patch, attention, dropout, output: of the diffusion model (`alpha_bars`,
            `UNet`, `Denoiser`).
        loss: the squared error of ``eps``, or of ``v`` (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512), which
            weighs the noisiest levels more; there the parents decide the shape.
        focus: nine tenths of the training noise levels lie below this share of all of them.
        batch, lr, ema: of the training of both networks (`train`); where no batch is given it grows with the budget
            (`default_batch`). clean_lr: of the predictor that tuning judges by.
        drop: how often training hides the parents.
        clean_share: part of the image budget for the predictor that tuning judges by; 0 where ``scale`` is given.
        abduction: ``factual``: under the factual parents; ``null``: under the null token, as published.
        base: of the guidance: ``classes``, ``factual`` or ``null``.
        scale: w; where it is not given it is tuned.
        effectiveness_ratio: tuning asks for this part of the best effectiveness.
        sampler, fixed_point: see `samplers`; the iterations are those of ``ddim``, ``bdia`` and ``belm``.
        steps, start, rho: steps each way, the share of the noise levels that they span, and their spacing
            (`trajectory`).

    Raises:
        UserError: a setting is not one of its values, or tuning lacks its predictor.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset(
        {"abduction", "base", "scale", "effectiveness_ratio", "sampler", "fixed_point", "steps", "start", "rho"}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "loss": "eps",
            "abduction": "null",
            "base": "null",
            "scale": 3.0,
            "drop": 0.35,
            "clean_share": 0.0,
            "sampler": "ddim",
            "fixed_point": 0,
            "steps": 75,
            "start": 0.75,
            "rho": 1.0,
        },
    }
    paper: ClassVar[str] = "https://arxiv.org/abs/2207.12268"

    def __init__(
        self,
        graph: CausalGraph,
        *,
        schedule: Literal["linear", "cosine"] = "linear",
        width: int = 24,
        mult: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        patch: int = 2,
        attention: bool = False,
        dropout: float = 0.0,
        output: Literal["eps", "v", "residual"] = "residual",
        loss: Literal["eps", "v"] = "v",
        focus: float = 0.9,
        batch: int | None = None,
        lr: float = 4e-3,
        ema: float | None = None,
        drop: float = 0.1,
        clean_lr: float = 2e-3,
        clean_share: float = 0.1,
        abduction: Literal["null", "factual"] = "factual",
        base: Literal["classes", "factual", "null"] = "classes",
        scale: float | None = None,
        effectiveness_ratio: float = 0.97,
        sampler: Literal["adams", "bdia", "belm", "ddim", "direct", "edict"] = "direct",
        fixed_point: int = 1,
        steps: int = 12,
        start: float = 0.9,
        rho: float = 1.25,
    ) -> None:
        super().__init__(graph)
        for name, value, known in (("abduction", abduction, ABDUCTIONS), ("base", base, BASES), ("loss", loss, LOSSES)):
            if value not in known:
                raise UserError(f"diffscm-cfg: {name} is {value!r}; known: {', '.join(known)}")
        if scale is None and not clean_share:
            raise UserError("diffscm-cfg: scale is open and clean_share 0; give a value or some of the budget")
        alpha_bar = alpha_bars(schedule)
        self.path, self.whole_path = (trajectory(alpha_bar, steps, share, rho=rho) for share in (start, 1.0))
        self.sampler = samplers.make(sampler, self.path, fixed_point)
        self.loss, self.focus, self.drop = loss, focus, drop
        self.batch, self.lr, self.ema = batch, lr, ema
        self.clean_lr, self.clean_share = clean_lr, clean_share
        self.abduction, self.base = abduction, base
        self.tuned, self.scale = scale is None, 2.0 if scale is None else scale
        self.effectiveness_ratio = effectiveness_ratio
        self.residual = self.sampler.residual
        self.encoder = ParentEncoder(graph)
        unet = UNet(graph.shape[0], width, mult, blocks, patch, attention, dropout, condition=self.encoder.dim + 1)
        self.denoiser = Denoiser(unet, graph.shape, alpha_bar, output)
        if clean_share:
            self.clean = ParentPredictor(graph, width=32, mult=(1, 2, 2), patch=2)

    def fit(self, run: Fit) -> None:
        """Train the predictor that tuning judges by, then the diffusion model on the rest of the budget."""
        self.encoder.fit(run.train.parents)
        self.denoiser.observe(run.train.images)
        batch = self.batch or default_batch(run.images)

        def learn(net: nn.Module, losses: Losses, stage: str, images: int, lr: float) -> None:
            train(run, net, losses, images, stage=stage, lr=lr, batch=batch, ema=self.ema, valid=losses)

        if self.clean_share:
            images = int(self.clean_share * run.images)
            learn(self.clean, self._predicted, "clean predictor", images, self.clean_lr)
        learn(self.denoiser, self._denoised, "diffusion", run.images - run.seen, self.lr)

    def _predicted(self, x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        return self.clean.losses(2 * x - 1, 0, self.encoder.standardise(pa))

    def _denoised(self, x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        eps = torch.randn(x.shape, generator=rng).to(x.device)
        at, far, hide = torch.rand(3, len(x), generator=rng).to(x.device)
        t = (at * torch.where(far < 0.1, 1.0, self.focus) * len(self.denoiser.alpha_bar)).long()
        c = self.encoder.token(pa, hide >= self.drop)
        return self.denoiser.losses(2 * x - 1, eps, t, c, velocity=self.loss == "v")

    def _eps(self, pa: Tensor, null: bool = False) -> Eps:
        """ε(x, t) given parents pa [B, D], or under as many null tokens."""
        c = self.encoder.token(pa, torch.zeros(len(pa), dtype=torch.bool, device=pa.device) if null else None)
        return lambda x, t: self.denoiser(x, torch.full((len(x),), t, device=x.device), c)

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams | None = None) -> dict[str, Tensor]:
        """The sampler's state at the end of the inversion, and the factual parents."""
        return {**self.sampler.invert(self._eps(pa, self.abduction == "null"), 2 * x - 1, self.path), "pa": pa}

    def predict(self, u: Mapping[str, Tensor], pa: Tensor, rng: Streams | None = None) -> Tensor:
        """The image that the state leads to under guidance to ``pa``."""
        return self._generate(u, pa, self.scale)

    def _generate(self, u: Mapping[str, Tensor], pa: Tensor, scale: float) -> Tensor:
        base_pa = self.encoder.swap(pa, u["pa"]) if self.base == "classes" else u["pa"]
        eps = classifier_free(self._eps(pa), self._eps(base_pa, self.base == "null"), scale)
        return ((self.sampler.generate(eps, u, self.path) + 1) / 2).clamp(0, 1)

    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        """Fresh images of the model given ``pa``, from noise at the last level and without guidance."""
        eps = self._eps(pa)
        u = self.sampler.from_noise(eps, rng.normal(*self.graph.shape), self.whole_path)
        return ((self.sampler.generate(eps, u, self.whole_path) + 1) / 2).clamp(0, 1)

    @property
    def evaluations(self) -> Mapping[str, float]:
        inversion, generation = self.sampler.evaluations(len(self.path.generation))
        return {"abduct": inversion, "predict": generation * (1 if self.scale == 1 else 2)}

    @torch.no_grad()
    def tune(self, run: Fit) -> Mapping[str, Any]:
        """The scale, where it is not given: of those whose answers reach ``effectiveness_ratio`` of the best
        effectiveness, the one that moves images least, asked and unasked; records the curve as ``guidance``."""
        if not self.tuned:
            return {}
        settings = [{"scale": scale} for scale in GRID]
        q = guidance_tuning.asked(self.graph, run, len(settings), ANSWERS)

        def predict(u: Mapping[str, Tensor], pa: Tensor, variable: Tensor, setting: Setting) -> Tensor:
            return self._generate(u, pa, setting["scale"])

        def score(image: Tensor) -> dict[str, Tensor]:
            return {"effectiveness": guidance_tuning.effectiveness(self.clean, self.encoder, q, image)}

        def rule(rows: Sequence[Row]) -> tuple[Row, float]:
            best = guidance_tuning.choose(rows, "effectiveness", self.effectiveness_ratio)
            return best, best["scale"]

        answer = guidance_tuning.answers(q, self.abduct, predict)
        choice = guidance_tuning.settle(guidance_tuning.curve(run, q, self.graph.names, settings, answer, score), rule)
        run.record("guidance", [{**row, "chosen": row is choice.row} for row in choice.rows])
        run.record("labels", guidance_tuning.LABELS)
        assert isinstance(choice.scale, float)
        self.scale = choice.scale
        return {"scale": self.scale}
