"""Has no answer to one question of many."""

from __future__ import annotations

import torch

from cfbench.contract import Method


class NanOnce(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        image = (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
        level = pa[:, 1, None, None, None]
        return image.masked_fill((level > 0.7) & (level < 0.8), torch.nan)
