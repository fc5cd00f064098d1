"""Methods that compute in bfloat16, as in a run with that precision."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..contract import Method, Noise
from ..rng import Streams

__all__ = ["bfloat16", "compute_in_bfloat16"]


def bfloat16(device: torch.device) -> AbstractContextManager[None]:
    """Context manager under which matrix products and convolutions are computed in bfloat16.

    Weights are cast at every use: a cached cast would hide the updates of an optimiser.
    """
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def compute_in_bfloat16(method: Method) -> None:
    """Let a method compute matrix products and convolutions in bfloat16.

    Its class is replaced by a subclass of the same name, so that copies of the method do so, too.
    """
    own = type(method)
    kept = {name: vars(own)[name] for name in ("__module__", "__qualname__", "__doc__", "name") if name in vars(own)}
    method.__class__ = type(
        own.__name__, (_LowPrecisionSampler if hasattr(own, "sample") else _LowPrecision, own), kept
    )


class _LowPrecision(Method):
    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Noise:
        with _autocast(self):
            return super().abduct(x, pa, rng)

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor:
        with _autocast(self):
            return super().predict(u, pa, rng)


class _LowPrecisionSampler(_LowPrecision):
    def sample(self, pa: Tensor, rng: Streams) -> Tensor:
        draw: Any = super()
        with _autocast(self):
            return draw.sample(pa, rng)


def _autocast(method: Method) -> AbstractContextManager[None]:
    held = next(itertools.chain(method.parameters(), method.buffers()), torch.empty(0))
    return bfloat16(held.device)
