"""Methods that answer without looking: one image for all questions. No metric should call any of them the best."""

from __future__ import annotations

import torch

from cfbench.contract import Method


class Constant(Method):
    """One image, whatever is asked: of the training images the first, their mean, or a uniform grey level.

    Args:
        image: ``first``, ``mean``, ``black``, ``grey`` or ``white``.
    """

    reacts = False

    def __init__(self, graph, image: str = "mean"):
        super().__init__(graph)
        self.image = image
        self.register_buffer("answer", torch.zeros(1, *graph.shape))

    def fit(self, run):
        x = run.train.x
        levels = {"black": 0.0, "grey": 0.5, "white": 1.0}
        known = {"first": x[:1], "mean": x.mean(0, keepdim=True)}
        self.answer = known[self.image] if self.image in known else torch.full_like(x[:1], levels[self.image])

    def abduct(self, x, pa, rng):
        return x

    def predict(self, u, pa, rng):
        return self.answer.expand_as(u)
