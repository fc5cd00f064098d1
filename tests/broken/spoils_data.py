"""Inverts the training images that others learn from too."""

from __future__ import annotations

from cfbench.contract import Method


class SpoilsData(Method):
    """Shifts the grey level with the parents."""

    def fit(self, run):
        run.train.images.bitwise_not_()

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        return (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
