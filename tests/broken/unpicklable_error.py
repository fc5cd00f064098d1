"""Raises what no other process can read."""

from __future__ import annotations

import threading

from cfbench.contract import Method


class Strange(Exception):
    """Takes two arguments and holds one that cannot be pickled."""

    def __init__(self, lock, *, why):
        super().__init__(why)
        self.lock = lock


class UnpicklableError(Method):
    """Shifts the grey level with the parents."""

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        raise Strange(threading.Lock(), why="the lock is stuck")
