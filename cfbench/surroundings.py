"""The state that all code in a process shares, and that a plugin must leave as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["RANDOM", "Surroundings"]


def _cwd() -> str:
    """The working directory; empty where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # one backend's precision was set apart
        return "mixed"


STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's global random state": (torch.get_rng_state, torch.set_rng_state),
    "numpy's global random state": (lambda: np.random.get_state(legacy=False), np.random.set_state),
    "Python's global random state": (random.getstate, random.setstate),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    "the thread count": (torch.get_num_threads, torch.set_num_threads),
    "the grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "the float32 matmul precision": (_precision, torch.set_float32_matmul_precision),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "cudnn's benchmark flag": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "cudnn's deterministic flag": (
        lambda: torch.backends.cudnn.deterministic,
        lambda value: setattr(torch.backends.cudnn, "deterministic", value),
    ),
    "the working directory": (_cwd, os.chdir),
}
RANDOM = [name for name in STATE if name.endswith("random state")]


class Surroundings:
    """The shared state at one moment, which can be compared with what it is now, and put back."""

    def __init__(self) -> None:
        self.before = {name: read() for name, (read, _) in STATE.items()}

    def changes(self) -> dict[str, str]:
        """What differs now, and how: ``{"the default dtype": "torch.float32 became torch.float64"}``."""
        now = {name: read() for name, (read, _) in STATE.items()}
        return {
            name: "" if name in RANDOM else f"{was} became {now[name]}"
            for name, was in self.before.items()
            if not _equal(was, now[name])
        }

    def restore(self) -> None:
        """Put back everything."""
        for name, (read, write) in STATE.items():
            if not _equal(read(), self.before[name]):
                write(self.before[name])


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(_equal(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)
