"""Realism: whether a set of counterfactuals is distributed like real images, or like the true counterfactuals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence
from .density import MANY, NEAREST, PART, Balls, coverage, density, pack, radii, spaced
from .frechet import Moments, frechet, reference
from .kernel import mean_kernel, paired_mmd, within

__all__ = ["Neighbours", "Realism", "TrueRealism"]


def _row(evidence: Evidence) -> Tensor:
    """Row numbers of the images, which identify copies in a resample with replacement."""
    rows: Tensor = evidence.once("row", lambda: torch.arange(len(evidence)))
    return rows


def _unusable(*features: Tensor) -> bool:
    return not all(f.isfinite().all() for f in features)


_NAN = torch.tensor(torch.nan, dtype=torch.float64)


class Realism(Metric):
    """Distance of the answers to real test images on the judge's features (no Inception net: images may be grey).

    ``fid_real`` is the Fréchet distance (Heusel et al. 2017), ``kid_real`` the unbiased squared MMD with kernel
    (aᵀb / F + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401), to be preferred for few images; it may be negative.
    Real images do not follow the law of the interventions, so even true counterfactuals score above 0. 0-d.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "fid_real": Column(
            "Fréchet distance to real images", "lower", "features²", 0.0, heading="FID real", printed=True, order=50
        ),
        "kid_real": Column("kernel distance to real images", "lower", heading="KID real", printed=True, order=51),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64; NaN where a feature is not finite.

        Raises:
            ValueError: fewer than two answers or real images.
        """
        answers, real = evidence.judge("features", "answer"), evidence.judge_real("features")
        if _unusable(answers):
            return dict.fromkeys(self.columns, _NAN.clone())
        moments: Moments = evidence.of_real("frechet", lambda: reference(real))
        own = within(answers, _row(evidence))
        among = evidence.of_real("kernel", lambda: within(real))
        cross = evidence.once("kernel:real", lambda: mean_kernel(answers, real))  # [N]
        return {"fid_real": frechet(answers, moments), "kid_real": own + among - 2 * cross.mean()}


class TrueRealism(Metric):
    """Distance of the answers to the true counterfactuals on the judge's features, both under the same law.

    ``fid_truth`` and ``kid_truth`` as in `Realism`. The sets come in pairs, and a resample draws whole pairs, so
    KID leaves out each image's own truth too: the oracle scores exactly 0. 0-d.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "fid_truth": Column(
            "Fréchet distance to true counterfactuals",
            "lower",
            "features²",
            0.0,
            privileged=True,
            heading="FID truth",
            printed=True,
            order=52,
        ),
        "kid_truth": Column(
            "kernel distance to true counterfactuals", "lower", privileged=True, heading="KID truth", printed=False
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges", "truth"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64; NaN where a feature is not finite.

        Raises:
            ValueError: fewer than two answers.
        """
        answers, true = evidence.judge("features", "answer"), evidence.judge("features", "truth")
        if _unusable(answers, true):
            return dict.fromkeys(self.columns, _NAN.clone())
        return {
            "fid_truth": frechet(answers, reference(true)),
            "kid_truth": paired_mmd(answers, true, _row(evidence)),
        }


class Neighbours(Metric):
    """Density and coverage with k = 5 on the judge's features, against as many real images as there are answers.

    ``density`` is about 1 for real images and has no upper bound, ``coverage_real`` about .97 (Naeem et al. 2020,
    arXiv 2002.09797). Where there are more real images than answers, evenly spaced ones are the reference. More than
    10,000 answers are divided into interleaved parts of at most 4,096, each compared with 4,096 real images; the score
    is the mean over the parts. 0-d.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "density": Column(
            "answers among real images, crowded regions count more (4,096 real ones for over 10,000 answers)",
            "higher",
            "",
            0.0,
            printed=False,
        ),
        "coverage_real": Column(
            "real images with an answer nearby (mean over parts of 4,096 for over 10,000 answers)",
            "higher",
            "share of real images",
            0.0,
            1.0,
            printed=False,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64; NaN where a feature is not finite or there are not more than k images.

        Raises:
            ValueError: fewer than two answers.
        """
        answers, real = evidence.judge("features", "answer"), evidence.judge_real("features")
        if len(answers) < 2:
            raise ValueError(f"density and coverage need at least 2 answers, found {len(answers)}")
        if _unusable(answers) or min(len(answers), len(real)) <= NEAREST:
            return dict.fromkeys(self.columns, _NAN.clone())
        # Resamples of many answers are divided into parts, too, even if they draw fewer.
        kind = "balls:parts" if len(answers) > MANY or "balls:parts" in evidence.memo else "balls"
        part = PART if kind == "balls:parts" else None
        balls = evidence.once(kind, lambda: self._balls(evidence, answers, spaced(real, part or len(answers))))
        return {"density": density(balls), "coverage_real": coverage(balls, part)}

    @staticmethod
    def _balls(evidence: Evidence, answers: Tensor, centres: Tensor) -> Balls:
        return pack(answers, centres, evidence.of_real(f"radii:{len(centres)}", lambda: radii(centres)))
