"""How well a predictor finds the parents at each noise level, on images that it has and has not learned from."""

from __future__ import annotations

import torch
from torch import Tensor

from cfbench.contract import Fit, Split
from cfbench.nn import ParentEncoder

from ..nn.predictor import ParentPredictor
from .denoiser import Denoiser

__all__ = ["accuracies", "likelihoods"]

HELD_OUT = 400
"""Images of each split that it is checked on."""
LEVELS = 10


@torch.no_grad()
def accuracies(
    run: Fit, predictor: ParentPredictor, denoiser: Denoiser, encoder: ParentEncoder, clean: ParentPredictor | None
) -> list[dict[str, float]]:
    """A row for each of ten noise levels t: `ParentPredictor.accuracy` on validation images, by variable.

    The first row, of a predictor of clean images if there is one, has t = -1.
    """
    x, z = _part(run, run.valid, encoder)
    rows = [{"t": -1.0, **clean.accuracy(clean(x, 0), z)}] if clean else []
    for t in _levels(denoiser):
        rows.append({"t": t, **predictor.accuracy(_read(run, predictor, denoiser, x, t), z)})
    return rows


@torch.no_grad()
def likelihoods(
    run: Fit, predictor: ParentPredictor, denoiser: Denoiser, encoder: ParentEncoder
) -> list[dict[str, float]]:
    """A row for each of ten noise levels: log p(pa | x_t) in nats on training and on validation images.

    Where ``train`` is far above ``valid``, the predictor knows its training images by heart.
    """
    parts = {"train": _part(run, run.train, encoder), "valid": _part(run, run.valid, encoder)}
    return [
        {"level": t}
        | {
            name: predictor.log_probs(_read(run, predictor, denoiser, x, t), z).sum(1).mean().item()
            for name, (x, z) in parts.items()
        }
        for t in _levels(denoiser)
    ]


def _levels(denoiser: Denoiser) -> range:
    count = len(denoiser.alpha_bar)
    return range(0, count, max(1, count // LEVELS))


def _part(run: Fit, split: Split, encoder: ParentEncoder) -> tuple[Tensor, Tensor]:
    part = split[:HELD_OUT]
    return 2 * part.x.to(run.device) - 1, encoder.standardise(part.parents.to(run.device))


def _read(run: Fit, predictor: ParentPredictor, denoiser: Denoiser, x: Tensor, t: int) -> Tensor:
    """What the predictor says of images with noise of level t."""
    steps = torch.full((len(x),), t, device=run.device)
    eps = torch.randn(x.shape, generator=run.rng).to(run.device)
    return predictor(denoiser.noised(x, eps, steps), steps)
