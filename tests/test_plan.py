"""Support of the training data: the same result for all rows at once as for each row alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from cfbench.conformance.subjects.toy import Bars
from cfbench.errors import UserError
from cfbench.evaluation.plan import Support, make_plan
from cfbench.graph import CausalGraph, Variable

pytestmark = pytest.mark.portable


def graph(classes: int, values: int) -> CausalGraph:
    kinds = [Variable(f"c{i}", "categorical", size=100) for i in range(classes)]
    kinds += [Variable(f"v{i}", "continuous", low=-9.0, high=9.0) for i in range(values)]
    return CausalGraph(tuple(kinds), (1, 2, 2))


class RowByRow:
    """The definition, one row after another, with whatever way to find neighbours scikit-learn takes by itself."""

    def __init__(self, classes: int, pa: torch.Tensor, neighbours: int = 5) -> None:
        self.classes, self.neighbours = classes, neighbours
        names = [tuple(row[:classes].tolist()) for row in pa]
        self.scale = pa[:, classes:].std(0).clamp_min(1e-12) if pa.shape[1] > classes else torch.empty(0)
        points = (pa[:, classes:] / self.scale).numpy()
        rows = {g: [i for i, name in enumerate(names) if name == g] for g in dict.fromkeys(names)}
        self.trees = {g: points[r] for g, r in rows.items() if len(r) > neighbours}
        if points.shape[1]:
            self.trees = {g: NearestNeighbors().fit(p) for g, p in self.trees.items()}
            own = [t.kneighbors(None, neighbours)[0][:, -1] for t in self.trees.values()]
            self.radius = float(np.quantile(np.concatenate(own), 0.99)) if own else 0.0

    def __call__(self, pa: torch.Tensor) -> list[bool]:
        return [self._inside(row) for row in pa]

    def _inside(self, row: torch.Tensor) -> bool:
        tree = self.trees.get(tuple(row[: self.classes].tolist()))
        if tree is None or len(row) == self.classes:
            return tree is not None
        point = (row[self.classes :] / self.scale).numpy()[None]
        return bool(tree.kneighbors(point, self.neighbours)[0][0, -1] <= self.radius)


def drawn(seed: int, n: int, classes: int, values: int, size: int, step: float) -> torch.Tensor:
    """Parents of random classes, the higher the rarer, with values that are rounded to a grid, so that many tie."""
    rng = torch.Generator().manual_seed(seed)
    kind = (torch.rand(n, classes, generator=rng) ** 3 * size).floor()
    value = torch.randn(n, values, generator=rng) * torch.logspace(0, 2, values)
    return torch.cat([kind, value if not step else (value / step).round() * step], 1)


@pytest.mark.parametrize("step", [0.0, 0.5])
@pytest.mark.parametrize(
    ("classes", "values", "size", "n"),
    [(1, 2, 3, 400), (0, 3, 1, 300), (2, 1, 4, 600), (2, 0, 5, 200), (1, 4, 40, 300), (1, 17, 2, 200), (1, 2, 1, 5)],
)
def test_rows_together_are_told_as_each_by_itself(classes, values, size, n, step):
    train, asked = (drawn(seed, m, classes, values, size, step) for seed, m in ((0, n), (1, 500)))
    asked = torch.cat([asked, train, asked[:50] * 1.5, asked[:0]])
    found = Support(graph(classes, values), train)(asked)
    expected = RowByRow(classes, train)(asked)
    assert found.dtype == torch.bool
    assert found.tolist() == expected
    if n > 5:
        assert sum(expected) > 0
        assert sum(expected) < len(expected) or size == 1


def test_the_order_of_rows_and_what_stands_beside_them_do_not_matter():
    train, asked = drawn(0, 400, 1, 2, 6, 0.0), drawn(1, 300, 1, 2, 6, 0.0)
    support, order = Support(graph(1, 2), train), torch.randperm(300, generator=torch.Generator().manual_seed(2))
    whole = support(asked)
    assert torch.equal(support(asked[order]), whole[order])
    assert torch.equal(torch.cat([support(part) for part in asked.split(7)]), whole)


def test_no_rows_and_classes_that_are_not_numbers_have_answers():
    support = Support(graph(1, 2), drawn(0, 400, 1, 2, 3, 0.0))
    assert support(torch.empty(0, 3)).tolist() == []
    assert support(torch.tensor([[torch.nan, 0.0, 0.0], [99.0, 0.0, 0.0], [0.0, 0.0, 0.0]])).tolist() == [
        False, False, True,
    ]  # fmt: skip
    assert support(torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64)).tolist() == [True]


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        Support(graph(1, 2), drawn(0, 400, 1, 2, 3, 0.0))(torch.tensor([[0.0, torch.nan, 0.0]]))


class Holes(Bars):
    """Bars of which some parents are not finite."""

    def __init__(self, where):
        self.where = where

    def split(self, root, name):
        split = super().split(root, name)
        if name == self.where:
            split.parents[:3, 1] = torch.nan
        return split

    def act(self, pa, do, rng):
        new = super().act(pa, do, rng)
        if self.where == "act" and "kind" in do:
            new[1, 1] = torch.inf
        return new[:, :1] if self.where == "shape" else new


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("train", "the train split has parents that are not finite: 3 of 512 of level; give numbers, or leave such"),
        ("test", "the test split has parents that are not finite: 3 of 128 of level"),
        ("act", r"the action gives under do\(kind\) parents that are not finite: 1 of 16 of level"),
        ("shape", r"the action gives under do\(kind\) parents \[16, 1\]; give \[16, 2\] \(kind, level\)"),
    ],
)
def test_parents_that_are_not_finite_are_told_by_column(where, says):
    with pytest.raises(UserError, match=says):
        make_plan(Holes(where), Path(), name="marginal", split="test", factuals=16)
