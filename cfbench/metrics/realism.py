"""Realism: whether a set of counterfactuals is distributed like real images, or like the true counterfactuals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence
from .density import NEAREST, Balls, coverage, density, pack, radii, spaced
from .frechet import Moments, frechet, reference
from .kernel import Pairs, mean_kernel, within

__all__ = ["Neighbours", "Realism", "TrueRealism"]


def _mean_of_pairs(evidence: Evidence, name: str, *sides: Tensor) -> Tensor:
    """The mean of `Pairs` over the images, or pairs of images, of the evidence."""
    pairs, rows = evidence.of_set(f"pairs:{name}", lambda: Pairs.of(*sides))
    mean: Tensor = pairs.mean(rows)
    return mean


def _unusable(*features: Tensor) -> bool:
    return not all(f.isfinite().all() for f in features)


_NAN = torch.tensor(torch.nan, dtype=torch.float64)


class Realism(Metric):
    """Distance of the answers to real test images on the judge's features (no Inception net: images may be grey).

    ``fid_real`` is the Fréchet distance (Heusel et al. 2017), ``kid_real`` the unbiased squared MMD with kernel
    (aᵀb / F + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401), to be preferred for few images; it may be negative.
    Real images do not follow the law of the interventions, so even true counterfactuals score above 0. The real images
    are the same for all rows and left as they are by the jackknife, so intervals are conditional on them. 0-d.
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
        own = _mean_of_pairs(evidence, "answer", answers)
        among = evidence.of_real("kernel", lambda: within(real))
        cross = evidence.once("kernel:real", lambda: mean_kernel(answers, real))  # [N]
        return {"fid_real": frechet(answers, moments), "kid_real": own + among - 2 * cross.mean()}


class TrueRealism(Metric):
    """Distance of the answers to the true counterfactuals on the judge's features, both under the same law.

    ``fid_truth`` and ``kid_truth`` as in `Realism`. The sets come in pairs, which the jackknife leaves out together,
    and KID leaves out each image's own truth too: the oracle scores exactly 0. 0-d.
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
            "kid_truth": _mean_of_pairs(evidence, "truth", answers, true),
        }


class Neighbours(Metric):
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797) with k = 5 on the judge's features.

    The reference are all M real images, of more than 10,000 as many evenly spaced ones; it does not depend on the
    answers. N answers that follow the law of the real images have density 1 and coverage
    1 - Π_{i=1..k} (M - i) / (M + N - i) on average, about 1 - (1 + N / M)⁻ᵏ, whatever that law: .28 for 128 answers and
    1,872 real images. So coverage compares rows of one table, which are asked the same number of questions. One image
    repeated has any density from 0 to far above 1, so density describes and ranks nothing. 0-d.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "density": Column(
            "answers among real images, crowded regions count more; about 1 for real images",
            "none",
            "",
            0.0,
            printed=False,
        ),
        "coverage_real": Column(
            "real images with an answer nearby", "higher", "share of real images", 0.0, 1.0, printed=False
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"judges"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64; NaN where a feature is not finite or there are not more than k real images.

        Raises:
            ValueError: fewer than two answers.
        """
        answers, real = evidence.judge("features", "answer"), evidence.judge_real("features")
        if len(answers) < 2:
            raise ValueError(f"density and coverage need at least 2 answers, found {len(answers)}")
        if _unusable(answers) or len(real) <= NEAREST:
            return dict.fromkeys(self.columns, _NAN.clone())
        balls = evidence.once("balls", lambda: self._balls(evidence, answers, spaced(real)))
        return {"density": density(balls), "coverage_real": coverage(balls)}

    @staticmethod
    def _balls(evidence: Evidence, answers: Tensor, centres: Tensor) -> Balls:
        return pack(answers, centres, evidence.of_real("radii", lambda: radii(centres)))
