"""Diff-SCM as it was published: the settings of the paper and of its official code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS"]

_COMMON: Mapping[str, Any] = {
    "patch": 1, "attention": True, "output": "eps", "focus": 1.0, "lr": 1e-4, "predictor_lr": 1e-4, "cycle": False,
    "ema": 0.0, "predictor_width": 32, "predictor_mult": (1, 2, 4, 4), "predictor_patch": 1,
    "predictor_pool": "attention", "clean_share": 0.0, "contrast": 0.0, "sampler": "ddim", "fixed_point": 0,
    "residuals": False, "aligned": False,
}  # fmt: skip

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        **_COMMON, "schedule": "cosine", "width": 64, "mult": (1, 2, 4), "batch": 256, "predictor_share": 0.09,
        "scale": 0.7, "steps": 1000, "start": 1.0, "clip": "steps",
    },
    "repo": {
        **_COMMON, "width": 32, "mult": (1, 2, 2), "dropout": 0.1, "batch": 100, "predictor_share": 0.25,
        "respaced": 100, "scale": 1.0, "steps": 75, "start": 0.75, "clip": "normalise",
    },
}  # fmt: skip
"""``paper``: vios-s/Diff-SCM of March 2022, the state nearest the paper. ``repo``: its last state, with the quirks
that `DiffSCM` repairs: normalisation in every move, levels that do not match, a predictor trained on 100 levels by
their number. Both sample from the raw weights."""
