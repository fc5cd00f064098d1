"""IM1 and IM2: whether auto-encoders find an image typical of its new class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence

__all__ = ["EPS", "IM", "IMOfMeans"]

BLANK = "one blank or mean image for all questions can be level with real images of what was asked"
BLURRED = "auto-encoders draw a mean image better than a true one"
EPS = 1e-7
SLACK = 1e-4


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared L2 distance per image, float64 [N]."""
    return (a.double() - b.double()).square().flatten(1).sum(1)


def _terms(evidence: Evidence) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numerator and denominator of IM1 and of IM2, each [N].

    Raises:
        ValueError: an answer leaves [0, 1], on which IM2's denominator depends.
    """
    x, k = evidence.answer, evidence.graph.index(evidence.do)
    if ((x < -SLACK) | (x > 1 + SLACK)).any():
        raise ValueError(f"IM1 and IM2 need pixels in [0, 1], found {x.min():.4g} to {x.max():.4g}: clamp the answers")
    assert evidence.judges is not None
    target = evidence.judges.reconstruct(x, evidence.do, evidence.cf_pa[:, k])
    source = evidence.judges.reconstruct(x, evidence.do, evidence.pa[:, k])
    every = evidence.judges.reconstruct(x, evidence.do)
    return _squared(x, target), _squared(x, source), _squared(target, every), x.double().abs().flatten(1).sum(1)


class IM(Metric):
    """Interpretability scores of Van Looveren & Klaise 2019 (arXiv 1907.02584), black = 0.

    With auto-encoders AE_i of the wanted class, AE_t0 of the factual's and AE of all classes:
    ``im1`` = ‖x* - AE_i(x*)‖² / (‖x* - AE_t0(x*)‖² + ε), ``im2`` = ‖AE_i(x*) - AE(x*)‖² / (‖x*‖₁ + ε), ε = 1e-7.
    One ratio an image, so that methods can be compared question by question; their mean has a heavy upper tail
    (an empty image alone can rule IM2's), which `IMOfMeans` has not. Small adversarial changes please both.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "im1": Column(
            "error of the wanted class's auto-encoder over that of the factual's",
            "lower",
            "",
            0.0,
            heading="IM1",
            printed=True,
            order=60,
            caveat=BLANK,
        ),
        "im2": Column(
            "wanted class's auto-encoder against that of all classes, over the ink",
            "lower",
            "",
            0.0,
            heading="IM2",
            printed=False,
            caveat=BLURRED,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64; nothing for an intervention on a continuous variable."""
        if not evidence.graph[evidence.do].categorical:
            return {}
        a, b, c, d = evidence.each("im", _terms)
        return {"im1": a / (b + EPS), "im2": c / (d + EPS)}


class IMOfMeans(Metric):
    """IM1 and IM2 as ratios of means over the images (Schut et al. 2021, arXiv 2103.08951): robust, set scores."""

    columns: ClassVar[Mapping[str, Column]] = {
        "im1_of_means": Column(
            "IM1, mean numerator over mean denominator",
            "lower",
            "",
            0.0,
            heading="IM1 of means",
            printed=False,
            caveat=BLANK,
        ),
        "im2_of_means": Column(
            "IM2, mean numerator over mean denominator",
            "lower",
            "",
            0.0,
            heading="IM2 of means",
            printed=False,
            caveat=BLURRED,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64; nothing for an intervention on a continuous variable."""
        if not evidence.graph[evidence.do].categorical:
            return {}
        means = torch.stack(evidence.each("im", _terms)).mean(1)
        return {"im1_of_means": means[0] / (means[1] + EPS), "im2_of_means": means[2] / (means[3] + EPS)}
