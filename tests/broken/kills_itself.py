"""Ends the process as a lack of memory would."""

from __future__ import annotations

import os
import signal

from cfbench.contract import Method


class KillsItself(Method):
    """Shifts the grey level with the parents."""

    def fit(self, run):
        os.kill(os.getpid(), signal.SIGKILL)

    def abduct(self, x, pa, rng):
        return x - 0.1 * pa[:, 0, None, None, None] - 0.1 * pa[:, 1, None, None, None]

    def predict(self, u, pa, rng):
        return (u + 0.1 * pa[:, 0, None, None, None] + 0.1 * pa[:, 1, None, None, None]).clamp(0, 1)
