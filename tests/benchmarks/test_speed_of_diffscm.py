"""Diff-SCM as it is here beside its official settings and networks, on the same factuals; needs pytest-benchmark.

    pytest tests/benchmarks/test_speed_of_diffscm.py --benchmark-enable

times both and lists, as extra_info, evaluations, cost in the FLOP of the official networks, and what the answers
are worth after a short fit. Trained networks are compared in one run of the product, where both rows share one fit:

    cfbench run --datasets strokes --preset quick --methods 'diffscm,diffscm[steps=75,start=0.75,fixed_point=0,
        sampler=ddim,clip=normalise,aligned=false,contrast=0,residuals=false,scale=1]'
"""

from __future__ import annotations

import pytest
import torch
from cfbench_datasets.strokes.dataset import Strokes
from cfbench_methods.diffscm import PRESETS, DiffSCM

from cfbench.contract import Fit

pytest.importorskip("pytest_benchmark")

FACTUALS = 32
DATA = Strokes(train=1000, valid=100, test=FACTUALS)
OURS = {"scale": 4.5, "contrast": 0.5}
OFFICIAL = {
    name: PRESETS["repo"][name]
    for name in ("steps", "start", "fixed_point", "sampler", "clip", "aligned", "contrast", "residuals", "scale")
}
MFLOP = {"U-Net": 373.6, "read": 112.7, "gradient": 225.1}
"""One evaluation of the official U-Net, of its classifier, and of that with the gradient at its input."""


def gflop(method):
    """The cost of one counterfactual if the networks were the official ones."""
    moves = len(method.path.generation)
    cost = sum(method.sampler.evaluations(moves)) * MFLOP["U-Net"] + moves * MFLOP["gradient"]
    return (cost + moves * method.residuals * MFLOP["read"]) / 1000


@pytest.fixture(scope="module")
def factuals(tmp_path_factory):
    root = tmp_path_factory.mktemp("strokes")
    split = DATA.split(root, "test")
    pa = DATA.act(split.parents, {"thickness": split.parents[:, 1].flip(0)})
    return split.x, split.parents, pa, DATA.oracle(root, "test", split.index, pa)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """What the networks of this repository have learned after a short fit."""
    root = tmp_path_factory.mktemp("strokes")
    method = DiffSCM(DATA.graph, **OURS)
    run = Fit(DATA.split(root, "train"), DATA.split(root, "valid"), 2560, torch.device("cpu"), torch.Generator())
    method.fit(run)
    return method.state_dict()


def counterfactual(method, x, pa, new):
    u = method.abduct(x, pa)
    return method.predict(u, new)


def measured(benchmark, method, factuals):
    """Seconds for a counterfactual of each factual; of one of them in plain runs of pytest, which time nothing."""
    x, pa, new, _ = factuals
    count = FACTUALS if benchmark.enabled else 1
    with torch.no_grad():
        benchmark.pedantic(counterfactual, (method, x[:count], pa[:count], new[:count]), rounds=1, warmup_rounds=0)
    benchmark.extra_info.update(factuals=count, gflop=gflop(method), **method.evaluations)


@pytest.mark.benchmark(group="one counterfactual of each of 32 factuals, one thread")
def test_ours(benchmark, factuals):
    measured(benchmark, DiffSCM(DATA.graph, **OURS).eval(), factuals)


@pytest.mark.benchmark(group="one counterfactual of each of 32 factuals, one thread")
def test_official_settings_on_our_networks(benchmark, factuals):
    measured(benchmark, DiffSCM(DATA.graph, **OFFICIAL).eval(), factuals)


@pytest.mark.benchmark(group="one counterfactual of each of 32 factuals, one thread")
def test_official_settings_on_official_networks(benchmark, factuals):
    measured(benchmark, DiffSCM(DATA.graph, **PRESETS["repo"]).eval(), factuals)


def test_ours_costs_a_fifth_of_the_official_settings_and_answers_better(weights, factuals):
    x, pa, new, truth = (part[:16] for part in factuals)
    found = {}
    for name, settings in {"ours": OURS, "official": OFFICIAL}.items():
        method = DiffSCM(DATA.graph, **settings).eval()
        method.load_state_dict(weights)
        with torch.no_grad():
            u = method.abduct(x, pa)
            null, answer = method.predict(u, pa), method.predict(u, new)
        found[name] = ((null - x).abs().mean((1, 2, 3)), (answer - truth).abs().mean((1, 2, 3)), gflop(method))
    (composition, error, cost), (official_composition, official_error, official_cost) = found.values()
    assert official_cost == pytest.approx(72.9, abs=0.1)
    assert cost < official_cost / 5
    for ours, official in ((composition, official_composition), (error, official_error)):
        gain = official - ours
        assert gain.mean() > 2 * gain.std() / len(x) ** 0.5
