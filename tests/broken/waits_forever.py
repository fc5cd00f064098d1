"""Waits for ever in abduction."""

from __future__ import annotations

import time

from cfbench.contract import Method


class WaitsForever(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        while True:
            time.sleep(1)

    def predict(self, u, pa, rng):
        return (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
