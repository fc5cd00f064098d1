"""What a plugin must leave as it was: the state that all code in a process shares."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..contract import Dataset

__all__ = ["Peeks", "Surroundings", "seeded", "watched"]

STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's global random state": (torch.get_rng_state, torch.set_rng_state),
    "numpy's global random state": (lambda: np.random.get_state(legacy=False), np.random.set_state),
    "Python's global random state": (random.getstate, random.setstate),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, torch.set_default_device),
    "the thread count": (torch.get_num_threads, torch.set_num_threads),
    "the grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic mode": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "the float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "cudnn's benchmark flag": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "cudnn's deterministic flag": (
        lambda: torch.backends.cudnn.deterministic,
        lambda value: setattr(torch.backends.cudnn, "deterministic", value),
    ),
    "the working directory": (os.getcwd, os.chdir),
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


@contextmanager
def seeded(seed: int, others: int) -> Iterator[None]:
    """A block with torch's global generator seeded, and numpy's and Python's with ``others``; all are put back."""
    before = Surroundings()
    torch.manual_seed(seed)
    np.random.seed(others)
    random.seed(others)
    try:
        yield
    finally:
        before.restore()


class Peeks(list[str]):
    """Calls that asked a data set for test images or for the truth, in words."""


@contextmanager
def watched(peeks: Peeks, what: str) -> Iterator[None]:
    """A block in which every use of any data set's test split or oracle is written down.

    Attributes of `Dataset` objects are looked up through the base class for the time of the block, so that classes
    that are imported meanwhile are watched too.
    """

    def lookup(self: Dataset, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return _reporting(peeks, what, type(self), name, found) if name in ("split", "oracle") else found

    outer = vars(Dataset).get("__getattribute__")
    type.__setattr__(Dataset, "__getattribute__", lookup)
    try:
        yield
    finally:
        if outer is None:
            type.__delattr__(Dataset, "__getattribute__")
        else:
            type.__setattr__(Dataset, "__getattribute__", outer)


def _reporting(peeks: Peeks, what: str, cls: type[Any], name: str, found: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, str)]
        if name == "oracle" or "test" in given:
            peeks.append(f"{what} calls {cls.__name__}.{name}({', '.join(map(repr, given)) or '...'})")
        return found(*args, **kwargs)

    return call
