"""Soundness: properties of every counterfactual function, independent of the truth (Galles & Pearl)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence
from .pixels import GREY, l1

__all__ = ["Composition", "Reversibility"]


class Composition(Metric):
    """Change after 1 and 10 null interventions, each with a fresh abduction (Monteiro et al. 2023, arXiv 2303.01274).

    ``composition_k`` [N] is the mean absolute difference between x and x_k = f(x_{k-1}, pa, pa). A method that
    carries the full residual of x scores 0 even if it has learned nothing: read it with the declared residual.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "composition_1": Column("change after one null intervention", "lower", GREY, 0.0, 255.0, printed=True, order=0),
        "composition_10": Column(
            "change after ten null interventions", "lower", GREY, 0.0, 255.0, subset=True, printed=True, order=1
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"cycles"})
    scope: ClassVar[Literal["do", "null", "cell"]] = "null"

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64; NaN for rows that did not go through all cycles."""
        return {f"composition_{k}": l1(evidence.cycles[k], evidence.x) for k in (1, 10) if k in evidence.cycles}


class Reversibility(Metric):
    """Change after an intervention and its reversal: ``reversibility`` [N], mean |x - f(f(x, pa, pa*), pa*, pa)|."""

    columns: ClassVar[Mapping[str, Column]] = {
        "reversibility": Column(
            "change after the intervention and its reversal",
            "lower",
            GREY,
            0.0,
            255.0,
            subset=True,
            printed=True,
            order=30,
        ),
    }
    needs: ClassVar[frozenset[str]] = frozenset({"reverse"})

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """Per image [N], float64; NaN for rows that were not reversed."""
        assert evidence.reverse is not None
        return {"reversibility": l1(evidence.reverse, evidence.x)}
