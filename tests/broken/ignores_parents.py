"""Answers with what it abducted, whatever the new parents are."""

from __future__ import annotations

from cfbench.contract import Method


class IgnoresParents(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        return x * 0.9

    def predict(self, u, pa, rng):
        return u
