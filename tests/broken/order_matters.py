"""Scores an image by its place among the others."""

from __future__ import annotations

import torch

from cfbench.contract import Column, Metric


class OrderMatters(Metric):
    """Mean distance to the truth, in grey levels."""

    columns = {"distance": Column("distance to the truth", "lower", "grey levels", privileged=True)}
    needs = frozenset({"truth"})

    def __call__(self, evidence):
        distance = 255 * (evidence.answer - evidence.truth).abs().flatten(1).mean(1)
        return {"distance": distance * torch.linspace(1, 2, len(distance))}
