"""How sharp answers are, compared with the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from cfbench.contract import Column, Metric
from cfbench.evidence import Evidence

__all__ = ["Sharpness", "contrast"]


def contrast(x: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels of x [N, C, H, W], float64 [N]."""
    x = x.double()
    return x.diff(dim=-1).abs().flatten(1).mean(1) + x.diff(dim=-2).abs().flatten(1).mean(1)


class Sharpness(Metric):
    """The contrast between neighbouring pixels as a share of the true counterfactual's.

    1 is right, less is blurred, more is noisy; NaN where the truth has no contrast. Nothing else is asked of an answer:
    a sharp image of something else scores as well.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "sharpness": Column(
            "contrast of neighbours to that of the truth",
            "target",
            low=0.0,
            target=1.0,
            privileged=True,
            heading="sharpness to truth",
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64."""
        assert evidence.truth is not None
        truth = contrast(evidence.truth)
        return {"sharpness": torch.where(truth > 0, contrast(evidence.answer) / truth, torch.nan)}
