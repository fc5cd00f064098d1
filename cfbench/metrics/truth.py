"""Error against the true counterfactual, and its split into strength and side effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence
from .pixels import GREY, grey, l1, mean_square

__all__ = ["TEA", "Skill", "TrueError"]

FIXED = "one image for all questions makes half of a true change of class and more of one of a value; read both TEA"
VISIBLE = 0.5
"""Root mean square in grey levels of the smallest true change that exceeds the rounding of pixels."""


def _truth(evidence: Evidence) -> Tensor:
    assert evidence.truth is not None
    return evidence.truth


class TrueError(Metric):
    """Distance to the true counterfactual: ``abs_error`` [N] and ``squared_error`` [N], means over the pixels."""

    columns: ClassVar[Mapping[str, Column]] = {
        "abs_error": Column(
            "mean absolute error to the truth",
            "lower",
            GREY,
            0.0,
            255.0,
            privileged=True,
            printed=True,
            order=20,
            role="error",
        ),
        "squared_error": Column(
            "mean squared error to the truth", "lower", "grey levels²", 0.0, privileged=True, printed=False
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64."""
        answer, truth = evidence.answer, _truth(evidence)
        return {"abs_error": l1(answer, truth), "squared_error": mean_square(grey(answer) - grey(truth))}


class Skill(Metric):
    """The share of the change of nothing's error that an answer removes: ``skill`` = 1 - Σ error / Σ |x - truth|.

    The errors are mean absolute ones over the pixels, as in `TrueError`, summed over the questions. 1 is the truth, 0
    the factual itself, negative worse than leaving the factual as it is: the skill score of forecasts (Murphy 1988,
    Monthly Weather Review 116) with the factual as the reference.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "skill": Column(
            "share of the factual's own error to the truth that is removed",
            "higher",
            high=1.0,
            privileged=True,
            printed=True,
            order=-10,
            averaged=True,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64; NaN where the truth is the factual itself in all questions."""
        error = evidence.each("abs_error", lambda block: l1(block.answer, _truth(block)))
        change = evidence.each("abs_change", lambda block: l1(block.x, _truth(block)))
        return {"skill": 1 - error.mean() / change.mean() if change.sum() > 0 else change.new_tensor(torch.nan)}


class TEA(Metric):
    """Treatment effectiveness and amplification (ucalgary-miplab/TEA): the error split along the true change.

    With z̄ = truth - x, z̃ = answer - x and ‖z‖² the mean over pixels in grey levels: ``tea_effectiveness`` [N]
    e = ⟨z̄, z̃⟩ / ‖z̄‖² (1: the true change in full, 0: none of it), ``tea_amplification`` [N] a = ‖z̃ - e z̄‖, all
    other change; (1 - e)² ‖z̄‖² + a² is the squared error. NaN where ‖z̄‖ is less than half a grey level.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "tea_effectiveness": Column(
            "share of the true change that is made",
            "target",
            target=1.0,
            privileged=True,
            heading="TEA effectiveness",
            caveat=FIXED,
            printed=False,
        ),
        "tea_amplification": Column(
            "root mean square of all other change",
            "lower",
            GREY,
            0.0,
            255.0,
            privileged=True,
            heading="TEA amplification",
            caveat=FIXED,
            printed=False,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64."""
        x = grey(evidence.x)
        true, change = grey(_truth(evidence)) - x, grey(evidence.answer) - x
        norm = mean_square(true)
        e = (true * change).flatten(1).mean(1) / norm
        a = mean_square(change - e[:, None, None, None] * true).sqrt()
        unseen = norm.sqrt() < VISIBLE
        return {
            "tea_effectiveness": e.masked_fill(unseen, torch.nan),
            "tea_amplification": a.masked_fill(unseen, torch.nan),
        }
