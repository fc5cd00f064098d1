"""What the harness itself costs, beside what it cannot avoid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import Bars, Knows

from cfbench.evaluation.answers import answer_plan, image_mechanism
from cfbench.evaluation.plan import make_plan
from cfbench.rng import Streams

ROOT = Path()


@pytest.fixture(scope="module")
def plan():
    return make_plan(Bars(), ROOT, name="marginal", split="test", factuals=64)


@pytest.mark.benchmark(group="answers to 64 factuals")
@pytest.mark.parametrize("who", ["harness", "bare method"])
def test_answering(benchmark, plan, who):
    data, method = Bars(), Knows(Bars.graph)
    x = data.split(ROOT, "test").x[plan.rows]

    def harness():
        mech = image_mechanism(method, data, ROOT, "test")
        return answer_plan(mech, plan, x, seed=0, device=torch.device("cpu"), rounds=0)

    def bare():
        u = method.abduct(x, plan.pa, None)
        return [method.predict(u, pa, None) for pa in (plan.pa, *(a.cf_pa for a in plan.asked.values()))]

    assert benchmark(harness if who == "harness" else bare)


@pytest.mark.benchmark(group="noise for 256 images of 28x28")
@pytest.mark.parametrize("how", ["a stream an image", "one generator"])
def test_streams(benchmark, how):
    if how == "one generator":
        generator = torch.Generator().manual_seed(0)
        noise = benchmark(lambda: torch.randn(256, 1, 28, 28, generator=generator))
    else:
        noise = benchmark(lambda: Streams(range(256)).normal(1, 28, 28))
    assert noise.shape == (256, 1, 28, 28)
