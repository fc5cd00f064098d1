"""The control that looks the answer up among real images."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from cfbench.contract import Control, Questions, Split
from cfbench.graph import CausalGraph

__all__ = ["Nearest"]

ROWS = 256
"""Questions compared with the training images at a time."""


class Nearest(Control):
    """Answers with the real training image that is closest to the factual among those with the wanted parents.

    A training image has the wanted parents if all categorical ones agree and its continuous ones, standardised, lie
    no farther from the wanted ones than those of its ``candidates``-th nearest rival (ties included). Rows whose
    classes never occur in training are NaN.

    Args:
        candidates: how many training images count as having the wanted continuous parents.
    """

    is_real: ClassVar[bool] = True

    def __init__(self, graph: CausalGraph, candidates: int = 20, **params: Any) -> None:
        super().__init__(graph, **params)
        self.candidates = candidates
        categorical = torch.tensor([v.categorical for v in graph.variables], dtype=torch.bool)
        self.classes = categorical.nonzero()[:, 0]
        self.numbers = (~categorical).nonzero()[:, 0]

    def answer(self, questions: Questions) -> Tensor:
        q = questions
        x, cf_pa = q.x.cpu(), q.cf_pa.cpu()  # where the training images are
        answer = torch.full_like(x, torch.nan)
        groups, group = cf_pa[:, self.classes].unique(dim=0, return_inverse=True)
        for number, classes in enumerate(groups):
            pool = q.train[(q.train.parents[:, self.classes] == classes).all(1)]
            for rows in (group == number).nonzero()[:, 0].split(ROWS):
                if len(pool):
                    answer[rows] = pool[self._closest(pool, q.train, x[rows], cf_pa[rows])].x
        return answer.to(q.x.device)

    def _closest(self, pool: Split, train: Split, x: Tensor, cf_pa: Tensor) -> Tensor:
        """The row of ``pool`` for each factual x [B, C, H, W] and its wanted parents [B, D]."""
        numbers = train.parents[:, self.numbers]
        scale = (numbers - numbers.mean(0)).square().mean(0).sqrt().clamp(min=1e-12)
        have, want = pool.parents[:, self.numbers] / scale, cf_pa[:, self.numbers].to(pool.parents) / scale
        away = _distance(want, have)  # [B, P]
        limit = away.kthvalue(min(self.candidates, len(pool)), dim=1, keepdim=True).values
        return _distance(x.flatten(1), pool.x.flatten(1)).masked_fill(away > limit, torch.inf).argmin(1)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [A, B], equal to the last bit for equal pairs."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
