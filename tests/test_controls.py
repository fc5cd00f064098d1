"""The control rows: nothing changed, the truth, the nearest real image, nothing learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cfbench_methods.identity import Identity
from cfbench_methods.nearest import Nearest
from cfbench_methods.oracle import Oracle
from cfbench_methods.untrained import Untrained

from cfbench.contract import Dataset, Fit, Questions, Split
from cfbench.graph import CausalGraph, Variable
from cfbench.rng import Streams

pytestmark = pytest.mark.portable

DIGIT = Variable("digit", "categorical", size=3)
GRAPH = CausalGraph((DIGIT, Variable("width", "continuous"), Variable("grey", "continuous")), (1, 1, 2))
CLASSES = CausalGraph((DIGIT,), (1, 1, 2))
TRAIN = Split(
    torch.tensor([[10, 10], [50, 50], [90, 90], [52, 50], [200, 0]], dtype=torch.uint8).view(5, 1, 1, 2),
    torch.tensor([[0, 1.0, 5.0], [0, 1.1, 5.0], [0, 9.0, 5.0], [1, 1.0, 5.0], [1, 8.0, 5.0]]),
    torch.arange(5),
)


def ask(graph, x, cf_pa, train=TRAIN, dataset=None):
    x = torch.tensor(x).float().view(-1, 1, 1, 2) / 255
    cf_pa = torch.tensor(cf_pa)
    return Questions(x, cf_pa, torch.arange(len(x)), cf_pa, "test", train, dataset or Dataset(), Path())


def pixels(answer):
    return (255 * answer).round().view(-1, 2).tolist()


def test_identity_returns_the_factual_under_any_parents():
    x, pa, rng = torch.rand(4, 1, 1, 2), torch.zeros(4, 3), Streams(range(4))
    method = Identity(GRAPH)
    assert torch.equal(method.predict(method.abduct(x, pa, rng), pa + 1, rng), x)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (1, [10, 10]),  # the nearest in width
        (2, [50, 50]),  # of the two nearest in width, the nearest in pixels
        (3, [90, 90]),  # of all zeros, the nearest in pixels
        (9, [90, 90]),  # more candidates than zeros
    ],
)
def test_nearest_narrows_by_parents_and_chooses_by_pixels(candidates, expected):
    questions = ask(GRAPH, [[95, 80]], [[0, 0.9, 5.0]])
    assert pixels(Nearest(GRAPH, candidates=candidates).answer(questions)) == [expected]


def test_nearest_keeps_ties():
    train = Split(TRAIN.images, TRAIN.parents.clone(), TRAIN.index)
    train.parents[:3, 1] = torch.tensor([1.0, 1.0, 2.0])
    questions = ask(GRAPH, [[95, 80]], [[0, 1.0, 5.0]], train)
    assert pixels(Nearest(GRAPH, candidates=1).answer(questions)) == [[50, 50]]


def test_nearest_measures_parents_in_standard_deviations():
    train = Split(TRAIN.images, TRAIN.parents.clone(), TRAIN.index)
    train.parents[:, 1] = torch.tensor([0.0, 0.1, 0.2, 0.0, 0.0])
    train.parents[:, 2] = torch.tensor([0.0, 100.0, 300.0, 0.0, 0.0])
    # On raw units row 1 would win, 60 greys away against 140; in deviations it is 1.35 away, row 2 only 1.2.
    questions = ask(GRAPH, [[0, 0]], [[0, 0.2, 160.0]], train)
    assert pixels(Nearest(GRAPH, candidates=1).answer(questions)) == [[90, 90]]


def test_nearest_with_classes_alone_and_classes_never_seen():
    train = Split(TRAIN.images, TRAIN.parents[:, :1], TRAIN.index)
    questions = ask(CLASSES, [[0, 0], [210, 0], [0, 0], [0, 0]], [[1.0], [1.0], [2.0], [0.0]], train)
    answer = Nearest(CLASSES).answer(questions)
    assert pixels(answer[[0, 1, 3]]) == [[52, 50], [200, 0], [10, 10]]
    assert answer[2].isnan().all()


def test_nearest_equals_a_plain_search():
    g = torch.Generator().manual_seed(0)
    pa = torch.stack([torch.randint(3, (300,), generator=g).float(), *torch.rand(2, 300, generator=g)], 1)
    train = Split(torch.randint(0, 256, (300, 1, 1, 2), dtype=torch.uint8, generator=g), pa, torch.arange(300))
    x, want = torch.randint(0, 256, (40, 2), generator=g), pa[torch.randperm(300, generator=g)[:40]] + 0.0
    want[:, 1:] += 0.01
    answer = pixels(Nearest(GRAPH, candidates=7).answer(ask(GRAPH, x.tolist(), want.tolist(), train)))
    spread = pa[:, 1:].double().std(0, correction=0)
    for factual, parents, found in zip(x, want, answer, strict=True):
        away = (((pa[:, 1:].double() - parents[1:]) / spread) ** 2).sum(1)
        rows = away.where(pa[:, 0] == parents[0], torch.inf).argsort()[:7]
        best = min(rows.tolist(), key=lambda i: ((train.images[i].view(2).double() - factual) ** 2).sum().item())
        assert found == train.images[best].view(2).tolist()


class Knows(Dataset):
    graph = GRAPH

    def oracle(self, root, split, index, cf_pa):
        truth = index.float().view(-1, 1, 1, 1).expand(-1, 1, 1, 2) / 255
        return torch.where((cf_pa[:, 0] == 2)[:, None, None, None], torch.nan, truth)


def test_oracle_passes_on_the_truth_its_gaps_and_its_absence():
    x, cf_pa = [[0, 0]] * 3, [[0, 1.0, 1.0], [2, 1.0, 1.0], [1, 1.0, 1.0]]
    answer = Oracle(GRAPH).answer(ask(GRAPH, x, cf_pa, dataset=Knows()))
    assert pixels(answer[[0, 2]]) == [[0, 0], [2, 2]]
    assert answer[1].isnan().all()
    assert Oracle(GRAPH).answer(ask(GRAPH, x, cf_pa)) is None


SMALL = {"latent": 3, "width": 4, "hidden": 8}


def answered(seed, **params):
    torch.manual_seed(seed)
    graph = CausalGraph(GRAPH.variables, (1, 8, 8))
    method = Untrained(graph, **SMALL, **params)
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=g)
    split = Split(images, torch.tensor([[0, 1.0, 200.0], [1, 2.0, 100.0]] * 3), torch.arange(6))
    before = {k: v.clone() for k, v in method.state_dict().items() if "parents" not in k}
    run = Fit(split, split, 100, torch.device("cpu"), torch.Generator())
    method.fit(run)
    assert run.seen == 0
    assert all(torch.equal(method.state_dict()[k], v) for k, v in before.items())
    with torch.no_grad():
        u = method.abduct(split.x, split.parents, Streams(range(6)))
        same, other = (method.predict(u, pa, Streams(range(6))) for pa in (split.parents, split.parents.flip(0)))
    return method, split.x, same, other


def test_untrained_learns_nothing_and_composes_by_its_residual():
    method, x, same, other = answered(0)
    assert method.residual == "full"
    assert torch.allclose(method.model.parents.mean, torch.tensor([0, 1.5, 150.0]))
    assert (same - x).abs().max() < 1e-5
    assert not torch.equal(other, same)


def test_untrained_follows_its_seed():
    first, second, third = (answered(seed)[3] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_untrained_without_a_residual_does_not_compose():
    method, x, same, _ = answered(0, residual="none")
    assert method.residual == "none"
    assert (same - x).abs().mean() > 0.05
