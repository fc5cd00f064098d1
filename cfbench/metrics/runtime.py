"""What a cell cost."""

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
        "fit_s": Column("time to fit", "lower", "s", 0.0),
        "tune_s": Column("time to choose answer parameters", "lower", "s", 0.0),
        "abduct_ms": Column("time to abduct an image", "lower", "ms", 0.0),
        "predict_ms": Column("time to predict an image", "lower", "ms", 0.0),
        "abduct_evals": Column("network evaluations to abduct an image", "lower", "evaluations", 0.0),
        "predict_evals": Column("network evaluations to predict an image", "lower", "evaluations", 0.0),
        "parameters": Column("trained parameters", "none", "parameters", 0.0),
        "peak_mb": Column("peak memory", "lower", "MB", 0.0),
        "bits_per_dim": Column("negative log-likelihood, or its bound", "lower", "bits per dimension"),
        "fit_others": Column("other tasks on the device during the fit", "none", "tasks", 0.0),
        "answer_others": Column("other tasks on the device while answers were timed", "none", "tasks", 0.0),
        "images_seen": Column("training images seen", "none", "images", 0.0),
    }
    scope: ClassVar[Literal["do", "null", "cell"]] = "cell"

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        """0-d, float64."""
        costs = evidence.costs
        return {name: torch.tensor(costs.get(name, math.nan), dtype=torch.float64) for name in self.columns}
