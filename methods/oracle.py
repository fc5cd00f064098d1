"""The control that knows the truth."""

from __future__ import annotations

from torch import Tensor

from cfbench.contract import Control, Questions

__all__ = ["Oracle"]


class Oracle(Control):
    """Answers with the data set's true counterfactual, where it has one."""

    def answer(self, questions: Questions) -> Tensor | None:
        q = questions
        return q.dataset.oracle(q.root, q.split, q.index, q.cf_pa)
