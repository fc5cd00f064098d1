"""Ends the process when it is imported."""

from __future__ import annotations

import sys

from cfbench.contract import Method

sys.exit(4)


class ExitsAtImport(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        return (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
