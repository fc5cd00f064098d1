"""Makes all new tensors of the process double."""

from __future__ import annotations

import torch

from cfbench.contract import Method


class ChangesDtype(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        torch.set_default_dtype(torch.float64)
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        return (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
