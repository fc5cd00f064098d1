"""Predicts without parents and streams."""

from __future__ import annotations

from cfbench.contract import Method


class WrongSignature(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u):
        return u
