"""The control that knows the truth."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from cfbench.contract import Control, Dataset, Questions

__all__ = ["Oracle"]


class Oracle(Control):
    """Answers with the data set's true counterfactual, where it has one."""

    is_truth: ClassVar[bool] = True
    in_gallery: ClassVar[bool] = False

    def applies(self, dataset: Dataset) -> bool:
        """Whether the data set has true counterfactuals."""
        return type(dataset).oracle is not Dataset.oracle

    def answer(self, questions: Questions) -> Tensor | None:
        q = questions
        return q.dataset.oracle(q.root, q.split, q.index, q.cf_pa)
