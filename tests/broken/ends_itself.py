"""Ends the process without a word."""

from __future__ import annotations

import os

from cfbench.contract import Method


class EndsItself(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        os._exit(5)
