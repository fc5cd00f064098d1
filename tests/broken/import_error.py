"""Needs a package that is not there."""

from __future__ import annotations

import a_package_that_nobody_has  # noqa: F401

from cfbench.contract import Method


class NeedsMore(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        return (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
