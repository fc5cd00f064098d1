"""Takes threads that were not given to it."""

from __future__ import annotations

import torch

from cfbench.contract import Method


class TakesThreads(Method):
    """Shifts the grey level with the parents."""

    def fit(self, run):
        torch.set_num_threads(torch.get_num_threads() + 1)

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        return (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
