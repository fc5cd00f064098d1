"""The machine and packages that numbers are computed with, and the process state that a plugin must leave unchanged."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ..errors import UserError

__all__ = [
    "RANDOM_STATES",
    "ProcessState",
    "available_cores",
    "describe_environment",
    "git_state",
    "isolated",
    "load_training_libraries",
    "peak_memory",
    "pick_device",
    "standard",
]


def _cwd() -> str:
    """The working directory; empty where it was removed."""
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
"""Backends that compute in float32, and can be set to do so with fewer digits."""


def _matmul() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # one backend's precision was set separately
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
    """The dtype that each kind of device casts to, whether casts are cached, and how many contexts are open."""
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
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
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
RANDOM_STATES = [name for name in STATE if name.endswith("random state")]
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
"""The state of a new process."""


class ProcessState:
    """The shared state at one moment, which can be compared with the present one, and restored."""

    def __init__(self) -> None:
        self.before = {name: read() for name, (read, _) in STATE.items()}

    def changes(self) -> dict[str, str]:
        """The state that differs now, and how: ``{"the default dtype": "torch.float32 became torch.float64"}``."""
        now = {name: read() for name, (read, _) in STATE.items()}
        return {
            name: "" if name in RANDOM_STATES else f"{was} became {now[name]}"
            for name, was in self.before.items()
            if not _equal(was, now[name])
        }

    def restore(self) -> None:
        """Restore all state."""
        for name, (read, write) in STATE.items():
            if not _equal(read(), self.before[name]):
                write(self.before[name])


@contextmanager
def standard() -> Iterator[None]:
    """Context manager under which numbers are computed as in a new process, independent of the caller's settings."""
    before = ProcessState()
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


PACKAGES = ("cfbench-scm", "torch", "torchvision", "numpy", "scikit-learn", "scipy", "ray")


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is one.

    Raises:
        UserError: the name is no device, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is no device; use auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r} is not supported; use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"--device {name}: no such CUDA device, {found} found; use --device cpu or auto")
    return device


def available_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def device_name(device: torch.device) -> str:
    """The model of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def describe_environment(device: torch.device, threads: int) -> dict[str, Any]:
    """Python, packages, device and threads, as stored with the results."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "device": device_name(device),
        "cores": available_cores(),
        "threads": threads,
    }


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_state() -> dict[str, Any]:
    """The revision of the working copy that this code is part of, and whether it has uncommitted changes."""

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        revision = git("rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(git("status", "--porcelain")) if revision else None}
    except OSError:
        return {"revision": None, "dirty": None}


@contextmanager
def isolated(seed: int, threads: int) -> Iterator[None]:
    """Context manager that seeds every global generator and fixes the thread count, otherwise as in a new process.

    All shared state is restored afterwards.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with standard(), torch.random.fork_rng(devices=devices), threadpool_limits(threads, "blas"):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        torch.set_num_threads(threads)
        yield


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Context manager that measures the most memory in MiB that was needed beyond what was held before.

    On a GPU it is that of tensors, otherwise that resident in the process; ``peak_mb`` is NaN where the system does not
    measure it for a part of a process (Linux does).
    """
    peak: dict[str, float] = {}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device) / 2**20
    else:
        held = _reset_resident_peak()
    yield peak
    most = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _resident("VmHWM")
    peak["peak_mb"] = max(most - held, 0.0) if math.isfinite(most - held) else math.nan


@cache
def load_training_libraries() -> None:
    """Load what PyTorch loads when an optimiser is first made: a second or two that no fit should be charged for."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])


SLACK_MB = 16.0
"""Resident memory that a process may take between two looks at it."""


def _reset_resident_peak() -> float:
    """Let the peak of the resident memory start anew; the memory [MiB] held now, NaN where that is not possible."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is free and still held would be used again unseen
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return math.nan
    held = _resident("VmRSS")
    return held if _resident("VmHWM") <= held + SLACK_MB else math.nan


def _resident(what: str) -> float:
    """A line of this process's status, in MiB; NaN where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(what))
    except (OSError, StopIteration):
        return math.nan
