"""The costs of a cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..contract import Column, Metric
from ..evidence import Evidence

__all__ = ["Runtime"]


class Runtime(Metric):
    """Time, evaluations, memory, size and likelihood of a cell as the harness recorded them.

    0-d, NaN where there is no record.
    """

    columns: ClassVar[Mapping[str, Column]] = {
        "fit_cpu_s": Column("processor's time to fit", "lower", "s", 0.0, printed=True, order=0, role="fit-cost"),
        "fit_s": Column("time to fit by the clock", "lower", "s", 0.0, printed=True, order=1, role="fit-cost"),
        "tune_s": Column("time to choose answer parameters", "lower", "s", 0.0, printed=False),
        "abduct_cpu_ms": Column(
            "processor's time to abduct an image", "lower", "ms", 0.0, printed=True, order=2, role="answer-cost"
        ),
        "abduct_ms": Column(
            "time to abduct an image by the clock", "lower", "ms", 0.0, printed=True, order=3, role="answer-cost"
        ),
        "predict_cpu_ms": Column(
            "processor's time to predict an image", "lower", "ms", 0.0, printed=True, order=4, role="answer-cost"
        ),
        "predict_ms": Column(
            "time to predict an image by the clock", "lower", "ms", 0.0, printed=True, order=5, role="answer-cost"
        ),
        "abduct_evals": Column("network evaluations to abduct an image", "lower", "evaluations", 0.0, printed=False),
        "predict_evals": Column(
            "network evaluations to predict an image", "lower", "evaluations", 0.0, printed=True, order=6
        ),
        "parameters": Column("trained parameters", "none", "parameters", 0.0, printed=True, order=8),
        "peak_mb": Column("peak memory", "lower", "MB", 0.0, printed=True, order=9),
        "bits_per_dim": Column(
            "bits of the 8-bit image, or their upper bound", "lower", "bits per dimension", printed=True, order=7
        ),
        "fit_others": Column(
            "other tasks on the device during the fit",
            "none",
            "tasks",
            0.0,
            printed=False,
            footnote="Times of fit were taken while other tasks ran on the same device",
        ),
        "answer_others": Column(
            "other tasks on the device while answers were timed",
            "none",
            "tasks",
            0.0,
            printed=False,
            footnote="Times of answers were taken while other tasks ran on the same device",
        ),
        "images_seen": Column("training images seen", "none", "images", 0.0, printed=False),
    }
    scope: ClassVar[Literal["do", "null", "cell"]] = "cell"

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64."""
        costs = evidence.costs
        return {name: torch.tensor(costs.get(name, math.nan), dtype=torch.float64) for name in self.columns}
