"""A toy data set with a known SCM, a method that knows it, and methods that break in every way; a plugin file."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time

import numpy as np
import torch

from cfbench.conformance.subjects import toy
from cfbench.conformance.subjects.toy import draw
from cfbench.contract import Method


class Bars(toy.Bars):
    """The toy data set of the conformance suite, as a plugin of this file."""


class Knows(Method):
    """Reads the hand off the image and draws anew: answers like the oracle."""

    answer_params = frozenset({"dim"})

    def __init__(self, graph, dim: float = 1.0, knob: int = 1):
        super().__init__(graph)
        self.dim = dim

    def abduct(self, x, pa, rng):
        upright = torch.where(pa[:, 0].bool()[:, None, None], x[:, 0].mT, x[:, 0])
        place = (upright.mean(1) > upright.amin((1, 2))[:, None] + 0.05).float().argmax(1)
        return torch.stack([place.float(), x.amin((1, 2, 3))], 1)

    def predict(self, u, pa, rng):
        return draw(pa, u) * self.dim


class Learns(Method):
    """The mean image of its training data, so that its fit and its seed matter."""

    def __init__(self, graph):
        super().__init__(graph)
        self.register_buffer("mean", torch.zeros(graph.shape))

    def fit(self, run):
        for x, _ in run.batches(4, 16):
            self.mean += x.mean(0) / 4
            run.log({"step": run.seen})

    def abduct(self, x, pa, rng):
        return x + 0.01 * rng.normal(*x.shape[1:])

    def predict(self, u, pa, rng):
        return ((u + self.mean) / 2).clamp(0, 1)


class Draws(Learns):
    """Can draw a fresh image: bars at a place of the stream's choosing."""

    answer_params = frozenset({"shade"})
    presets = {"dark": {"shade": 0.0}, "left": {"places": 1}}

    def __init__(self, graph, shade: float = 0.1, places: int = 5):
        super().__init__(graph)
        self.shade, self.places = shade, places

    def sample(self, pa, rng):
        place = (self.places * rng.uniform()).floor()
        return draw(pa, torch.stack([place, torch.full_like(place, self.shade)], 1))


class Tunes(Learns):
    """Leaves `dim` open and tunes it; may look at data then, but not train."""

    answer_params = frozenset({"dim"})

    def __init__(self, graph, dim: float | None = None):
        super().__init__(graph)
        self.dim = 1.0 if dim is None else dim

    def tune(self, run):
        assert run.seen == run.images > 0
        run.record("curve", [{"dim": 0.5, "valid": len(run.valid)}])
        run.record("remarks", ["half as bright is enough"])
        return {"dim": 0.5}

    def predict(self, u, pa, rng):
        return super().predict(u, pa, rng) * self.dim


class Darkens(Knows):
    """Answers like the oracle, but darker the more images it was fitted on."""

    answer_params = frozenset()

    def __init__(self, graph):
        super().__init__(graph)
        self.register_buffer("light", torch.ones(()))

    def fit(self, run):
        for _ in run.batches(run.images // 16, 16):
            pass
        self.light.fill_(1 - run.seen / 10_000)

    def predict(self, u, pa, rng):
        return super().predict(u, pa, rng) * self.light


class Raises(Learns):
    def fit(self, run):
        raise ArithmeticError("this method cannot be fitted")


class Holes(Learns):
    def predict(self, u, pa, rng):
        x = super().predict(u, pa, rng)
        return torch.where(pa[:, 0, None, None, None] == 0, torch.nan, x)


class Loud(Learns):
    def predict(self, u, pa, rng):
        return super().predict(u, pa, rng) + 3


class Wide(Learns):
    def predict(self, u, pa, rng):
        return torch.zeros(len(u), 1, 8, 9)


class Leaves(Learns):
    def abduct(self, x, pa, rng):
        sys.exit("goodbye")


class Diverges(Learns):
    def fit(self, run):
        self.mean += torch.nan


class Explodes(Learns):
    """Logs a loss that is not finite at step 75."""

    def fit(self, run):
        for step in range(0, 200, 25):
            run.log({"stage": "toy", "step": step, "loss": float("nan") if step == 75 else 1.0})


class Dies(Learns):
    def fit(self, run):
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(Learns):
    """Takes a second, so that there is a moment to kill it."""

    def fit(self, run):
        super().fit(run)
        for step in range(20):
            run.progress("slow", step, 20)
            time.sleep(0.05)


class Hangs(Learns):
    """Waits for something that never comes."""

    def fit(self, run):
        time.sleep(3600)


class Patient(Method):
    """Learns a bias step by step, and keeps what it needs to go on."""

    def __init__(self, graph):
        super().__init__(graph)
        self.bias = torch.nn.Parameter(torch.zeros(graph.shape))

    def fit(self, run):
        optimiser = torch.optim.Adam(self.parameters(), 0.01)
        steps = run.images // 32
        for x, _ in run.batches(steps, 32, keep={"method": self, "optimiser": optimiser}):
            noise = torch.randn(x.shape, generator=run.rng) + torch.randn(x.shape) + np.random.rand() + random.random()
            loss = (x + 0.1 * noise - self.bias).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            run.log({"loss": loss.item(), "seen": run.seen, "process": 0 if os.environ.get("PATIENCE") else 1})
            time.sleep(float(os.environ.get("PATIENCE", 0)))

    def abduct(self, x, pa, rng):
        return x

    def predict(self, u, pa, rng):
        return (u + self.bias).clamp(0, 1)


class Hungry(Knows):
    """Has memory for four images at a time."""

    def predict(self, u, pa, rng):
        if len(pa) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().predict(u, pa, rng)


class Greedy(Learns):
    def fit(self, run):
        raise torch.OutOfMemoryError("CUDA out of memory")


class Mortal(Learns):
    """Kills its process the first time that it is fitted, if told to."""

    def fit(self, run):
        flag = os.environ.get("DIES_ONCE")
        if flag and not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        super().fit(run)


class Writes(Learns):
    """Finds no room on the disk, if told so."""

    def fit(self, run):
        if os.environ.get("DISK_IS_FULL"):
            raise OSError(errno.ENOSPC, "No space left on device")
        super().fit(run)
