"""Training of the judges: each network separately, with its own number of images and its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from ..contract import Dataset, Split
from ..graph import CausalGraph
from ..rng import derive
from .augmentation import NOISE, moved, noisy, with_blurred
from .autoencoders import AutoEncoder
from .panel import Judges, seeded

__all__ = ["JudgeBudget", "train_judges"]

NOISY = 0.5
"""The share of the reader's images that are noisy."""
Progress = Callable[..., None]


@dataclass(frozen=True)
class JudgeBudget:
    """The number of training images of each judge, and the batch size.

    ``reader`` and ``vae`` count for their network, ``class_encoder`` for the auto-encoder of each class,
    ``all_encoder`` for that of all classes. Auto-encoders, which have few images, use a quarter of ``batch``.
    """

    reader: int = 150_000
    vae: int = 30_000
    class_encoder: int = 7_000
    all_encoder: int = 8_000
    batch: int = 64

    def scaled(self, factor: float) -> JudgeBudget:
        """The budget with ``factor`` times the images, at the same batch size."""
        counts = {f.name: int(getattr(self, f.name) * factor) for f in fields(self) if f.name != "batch"}
        return JudgeBudget(**counts, batch=self.batch)


def _silent(stage: str, done: int, total: int, loss: float | None = None) -> None:
    pass


@dataclass(frozen=True)
class _Trainer:
    """AdamW under a one-cycle learning rate on the rows of a split."""

    data: Split
    batch: int
    device: torch.device
    seed: int
    progress: Progress

    def __call__(self, module: nn.Module, loss: Callable[..., Tensor], images: int, rate: float, stage: str) -> None:
        """Train ``module`` by ``loss(x, pa, rng)`` on ``images`` images and freeze it."""
        rng = torch.Generator().manual_seed(derive(self.seed, "judge", stage))
        _initialise(module, derive(self.seed, "initial weights", stage))
        module.requires_grad_(True).train()
        batch = min(self.batch, len(self.data))
        steps = max(2, images // batch)
        rise = max(0.2, 1.1 / steps)  # with a rise of exactly one step, OneCycleLR divides by zero
        optimiser = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rate, total_steps=steps, pct_start=rise, final_div_factor=1e3, cycle_momentum=False
        )
        with torch.enable_grad():
            for step, rows in enumerate(_rows(len(self.data), batch, steps, rng)):
                value = loss(*self._take(rows), rng)
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                schedule.step()
                if step % 20 == 0:
                    self.progress(stage, step, steps, float(value.detach()))
        self.progress(stage, steps, steps)
        module.zero_grad()
        module.requires_grad_(False).eval()

    def _take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x = self.data.images[rows].to(self.device).float().div_(255)
        return x.contiguous(memory_format=torch.channels_last), self.data.parents[rows].to(self.device)


def _rows(count: int, batch: int, steps: int, rng: torch.Generator) -> Iterator[Tensor]:
    """``steps`` batches of row numbers, drawn without replacement epoch by epoch."""
    queue = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(queue) < batch:
            queue = torch.cat([queue, torch.randperm(count, generator=rng)])
        yield queue[:batch]
        queue = queue[batch:]


def _initialise(module: nn.Module, seed: int) -> None:
    """PyTorch's default initial weights, drawn from ``seed``."""
    with seeded(seed):
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.GroupNorm):
                part.reset_parameters()


def train_judges(
    dataset: Dataset,
    root: Path,
    graph: CausalGraph,
    budget: JudgeBudget,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: Progress = _silent,
) -> Judges:
    """The judges of ``dataset``, trained and frozen; the same seed gives the same weights.

    The reader learns from ``judge_split``, where the data set has removed the confounding, so that it predicts each
    variable from its own effect on the image; its budget is multiplied by ``dataset.reader_scale``. VAE and
    auto-encoders learn from the ordinary training split: CLD and IM refer to the distribution of the data themselves.
    The class auto-encoders of a variable start from the same weights, so that their differences come from their
    images; one whose class has no training image is filled with NaN.
    """
    device = torch.device(device)
    judges = Judges(graph).to(device)
    unconfounded, train = dataset.judge_split(root, "train"), dataset.split(root, "train")
    judges.reader.standardise_by(unconfounded.parents)

    def on(data: Split, share: int = 1) -> _Trainer:
        return _Trainer(data, max(1, budget.batch // share), device, seed, progress)

    def varied(x: Tensor, rng: torch.Generator) -> Tensor:
        moves = moved(x, dataset.moves, rng) if dataset.moves else x
        spread = NOISE * torch.rand(len(x), generator=rng) * (torch.rand(len(x), generator=rng) < NOISY)
        return noisy(moves, spread, rng).contiguous(memory_format=torch.channels_last)

    def bound(x: Tensor, pa: Tensor, rng: torch.Generator) -> Tensor:
        return judges.vae.loss(x, torch.randn(len(x), judges.sizes["latents"], generator=rng).to(x.device))

    rng = torch.Generator().manual_seed(derive(seed, "judge", "blurred rows"))
    count = min(len(unconfounded) // 4, budget.reader // 40)
    seen = with_blurred(unconfounded, dataset, graph, count, rng)
    images = int(budget.reader * dataset.reader_scale)
    on(seen)(judges.reader, lambda x, pa, rng: judges.reader.loss(varied(x, rng), pa), images, 4e-3, "reader")
    on(train)(judges.vae, bound, budget.vae, 2e-3, "vae")
    on(train, 4)(judges.all_encoder, _of(judges.all_encoder), budget.all_encoder, 1e-2, "auto-encoder")
    for d, v in enumerate(graph.variables):
        for k, coder in enumerate(judges.coders(v.name)):
            rows = train[train.parents[:, d] == k]
            if len(rows):
                on(rows, 4)(coder, _of(coder), budget.class_encoder, 1e-2, f"auto-encoders of {v.name}")
            else:
                for parameter in coder.parameters():
                    nn.init.constant_(parameter, torch.nan)
    return judges.eval()


def _of(coder: AutoEncoder) -> Callable[..., Tensor]:
    return lambda x, pa, rng: coder.loss(x)
