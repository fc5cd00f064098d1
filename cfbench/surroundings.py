"""The state that all code in a process shares, and that a plugin must leave as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["RANDOM", "Surroundings", "standard"]


def _cwd() -> str:
    """The working directory; empty where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


BACKENDS: Mapping[str, Any] = {
    "all": torch.backends,
    "cuda.matmul": torch.backends.cuda.matmul,
    "cudnn.conv": torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    "cudnn.rnn": torch.backends.cudnn.rnn,  # type: ignore[attr-defined]
    "mkldnn.matmul": torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    "mkldnn.conv": torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    "mkldnn.rnn": torch.backends.mkldnn.rnn,  # type: ignore[attr-defined]
}
"""What computes in float32, and can be let do so with fewer digits."""


def _matmul() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # one backend's precision was set apart
        return "mixed"


def _precision() -> dict[str, str]:
    return {"matmul": _matmul(), **{name: backend.fp32_precision for name, backend in BACKENDS.items()}}


def _set_precision(wanted: Mapping[str, str]) -> None:
    if wanted["matmul"] not in ("mixed", _matmul()):
        torch.set_float32_matmul_precision(wanted["matmul"])
    for name, backend in BACKENDS.items():
        if backend.fp32_precision != wanted[name]:
            backend.fp32_precision = wanted[name]


def _autocast() -> dict[str, Any]:
    """What each kind of device casts to, whether casts are kept, and how many contexts are open."""
    torch.autocast_increment_nesting()
    found: dict[str, Any] = {"cache": torch.is_autocast_cache_enabled(), "depth": torch.autocast_decrement_nesting()}
    return found | {d: (torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")}


def _set_autocast(wanted: Mapping[str, Any]) -> None:
    for device in ("cpu", "cuda"):
        enabled, dtype = wanted[device]
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(wanted["cache"])
    missing = wanted["depth"] - _autocast()["depth"]
    for _ in range(abs(missing)):
        torch.autocast_increment_nesting() if missing > 0 else torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


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
    "the float32 precision": (_precision, _set_precision),
    "autocast": (_autocast, _set_autocast),
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
STANDARD: Mapping[str, Any] = {
    "the default dtype": torch.float32,
    "the grad mode": True,
    "torch's deterministic mode": 0,
    "the float32 precision": {"matmul": "highest", **dict.fromkeys(BACKENDS, "none")}
    | {"cudnn.conv": "tf32", "cudnn.rnn": "tf32"},
    "autocast": {"cpu": (False, torch.bfloat16), "cuda": (False, torch.float16), "cache": True, "depth": 0},
    "torch's anomaly mode": False,
    "cudnn's benchmark flag": False,
    "cudnn's deterministic flag": False,
}
"""What a new process starts with."""


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


@contextmanager
def standard() -> Iterator[None]:
    """Context manager under which numbers are computed as in a new process, whatever the caller has set."""
    before = Surroundings()
    with ExitStack() as stack:
        stack.callback(before.restore)
        stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for name, value in STANDARD.items():
            read, write = STATE[name]
            if not _equal(read(), value):
                write(value)
        yield


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(_equal(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)
