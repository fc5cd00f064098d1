"""The training loop of networks: rules by budget, gradients that are clipped, and the weights that validation keeps."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from cfbench_methods.nn import validation
from cfbench_methods.nn.training import average_decay, default_batch, peak, train
from fits import STRIPES, random_split, session
from torch import nn

pytestmark = pytest.mark.portable
DATA = random_split(STRIPES, 300)


class Point(nn.Module):
    """One number, which training draws to 1."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.zeros(()))
        self.drop = nn.Dropout(0.5)


def fit(target=None, images=20_000, batch=100, **more):
    """A point that is trained, the log, and what its generator gives next; validation is by the way to ``target``."""
    rows, net = [], Point()
    run = session(DATA, images, random_split(STRIPES, 400, seed=1), log=rows.append)

    def losses(x, pa, rng, target=1):
        return (net.drop(net.at - target + 0.01 * torch.randn(len(x), generator=rng))).square()

    torch.manual_seed(0)
    valid = None if target is None else partial(losses, target=target)
    train(run, net, losses, images, stage="toy", batch=batch, lr=0.02, valid=valid, **more)
    return net.at.item(), rows, torch.rand((), generator=run.rng).item()


def test_validation_keeps_the_weights_that_were_best_and_says_which():
    at, rows, _ = fit(0.5)
    checks = [r for r in rows if r["stage"] == "toy validation" and "kept" not in r]
    assert [r["images"] for r in checks] == [5000, 10_000, 12_500, 15_000, 16_300, 17_500, 18_800, 20_000]
    best = min(checks, key=lambda r: r["loss"])
    assert best["images"] < 20_000
    assert rows[-1] == {**best, "kept": True}
    g = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.cat([torch.randn(100, generator=g) for _ in range(2)])
    expected = (at - 0.5 + noise.double()).square()
    assert rows[-1]["loss"] == pytest.approx(expected.mean().item(), rel=1e-3)
    assert rows[-1]["se"] == pytest.approx(expected.std().item() / math.sqrt(200), rel=1e-2)
    assert fit()[0] > 0.9, "without validation the last weights are kept"


def test_where_the_last_weights_are_the_best_validation_changes_nothing():
    plain, judged = fit(), fit(1.0)
    assert judged[0] == plain[0]
    assert judged[2] == plain[2]
    assert [r for r in judged[1] if r["stage"] == "toy"] == plain[1]
    assert judged[1][-1]["images"] == 20_000


@pytest.mark.parametrize(("images", "held"), [(9_999, 0), (10_000, 100), (25_000, 250), (200_000, 400)])
def test_validation_costs_under_three_percent_of_a_fit(images, held):
    seen = []
    run, net = session(DATA, images, random_split(STRIPES, 400, seed=1)), Point()

    def losses(x, pa, rng):
        seen.append(len(x))
        return (net.at - x.mean((1, 2, 3))).square()

    train(run, net, lambda x, pa, rng: (net.at - 1).square(), images, stage="", batch=500, lr=0.1, valid=losses)
    assert sum(seen) == 8 * held
    assert sum(seen) / 3 < 0.03 * images  # a pass forward is a third of a step


def test_no_validation_images_are_no_validation():
    empty = DATA[:0]
    rows = []
    run, net = session(DATA, 20_000, empty, log=rows.append), Point()
    run.valid = empty
    losses = lambda x, pa, rng: (net.at - 1).square()  # noqa: E731
    train(run, net, losses, 20_000, stage="", batch=500, lr=0.1, valid=lambda x, pa, rng: x.sum((1, 2, 3)))
    assert {r["stage"] for r in rows} == {""}


def test_a_state_of_best_weights_is_continued():
    run, net = session(DATA, 20_000), Point()
    best = validation.BestWeights(run, net, lambda x, pa, rng: (net.at - x.mean((1, 2, 3))).square(), 20_000, 8, "")
    average = validation.WeightAverage(net, 0.0)
    fresh = validation.BestWeights(run, net, best.losses, 20_000, 8, "")
    fresh.load_state_dict(best.state_dict())
    fresh.apply()
    assert net.at.item() == 0
    for value, done in ((0.5, 2), (9.0, 4)):
        nn.init.constant_(net.at, value)
        average.update()
        best.step(done, average)
        assert net.at.item() == value
    fresh.load_state_dict(best.state_dict())
    fresh.apply()
    assert net.at.item() == 0.5


def test_one_gradient_of_a_million_leaves_a_fit_as_good_as_before():
    """Adam without clipping would take it for the size of gradients, and hardly move for thousands of steps."""

    def error(spike, **more):
        run, net, calls = session(DATA, 20_000), nn.Linear(3, 1), []
        inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        wanted = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])

        def losses(x, pa, rng):
            calls.append(0)
            value = (net(inputs) - wanted).square().mean()
            return value * (1e6 if len(calls) == spike else 1)

        train(run, net, losses, 20_000, stage="", batch=100, lr=0.05, **more)
        return (net(inputs) - wanted).square().mean().item()

    assert error(60) < 1e-3
    assert error(60, cycle=False, ema=0.0) > 0.1


def test_rules_follow_the_budget():
    assert [default_batch(n) for n in (1000, 32_000, 130_000, 520_000, 6_000_000)] == [32, 32, 32, 128, 256]
    assert [default_batch(n, 64, 8000) for n in (1000, 130_000, 520_000, 2_000_000, 6_000_000)] == [
        64,
        64,
        64,
        256,
        256,
    ]
    assert average_decay(4000) == 0.995
    assert average_decay(60_000) == pytest.approx(0.99967, abs=1e-5)
    assert average_decay(1) == 0
    assert peak(3e-3, 200) == peak(3e-3, 4000) == 3e-3
    assert peak(3e-3, 16_000) == 1.5e-3
