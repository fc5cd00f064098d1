"""What every registered method, control and data set must do, asked of each of them alike."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from toys import Bars

from cfbench.answer import mechanism
from cfbench.contract import Control, Derived, Fit, Method
from cfbench.errors import UserError
from cfbench.plan import make_plan
from cfbench.registry import Registry
from cfbench.rng import Streams

REGISTRY = Registry()
BARS, ROOT, BUDGET = Bars(), Path(), 1024
METHODS = [n for n in REGISTRY.names("method") if not issubclass(REGISTRY.load("method", n), Derived)]
LEARNED = [n for n in METHODS if issubclass(REGISTRY.load("method", n), Method)]
CONSTANT = {"identity"}
"""Methods that do not react to the counterfactual parents, and say so."""


@cache
def fitted(name: str):
    """A plugin fitted and tuned on a tiny budget, how its fit behaved, and what tuning chose."""
    cls = REGISTRY.load("method", name)
    plugin, chosen = cls(BARS.graph), {}
    run = Fit(BARS.split(ROOT, "train"), BARS.split(ROOT, "valid"), BUDGET, torch.device("cpu"), generator(0))
    if isinstance(plugin, Method):
        plugin.train()
        plugin.fit(run)
        plugin.eval()
        with torch.no_grad():
            chosen = plugin.tune(run)
        state = plugin.state_dict()
        plugin = cls(BARS.graph, **chosen)
        plugin.load_state_dict(state)
        plugin.eval()
    return plugin, run, dict(chosen)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def questions(n: int = 8):
    split = BARS.split(ROOT, "test")
    x, pa, index = split.x[:n], split.parents[:n], split.index[:n]
    return x, pa, index, BARS.act(pa, {"kind": 1 - pa[:, 0]}, generator(0))


def answer(plugin, x, pa, index, cf_pa, seeds):
    mech = mechanism(plugin, BARS, ROOT, "test")
    with torch.no_grad():
        u = mech.abduct(x, pa, index, Streams(seeds))
        return mech.predict(u, cf_pa, Streams(s + 1000 for s in seeds))


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_images(name):
    plugin, _, _ = fitted(name)
    x, pa, index, cf_pa = questions()
    image = answer(plugin, x, pa, index, cf_pa, range(8))
    assert image.shape == x.shape
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize("name", METHODS)
def test_the_same_streams_give_the_same_answers(name):
    plugin, _, _ = fitted(name)
    first, again = (answer(plugin, *questions(), range(8)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_one_equals_a_batch_of_eight(name):
    plugin, _, _ = fitted(name)
    many = answer(plugin, *questions(), range(8))
    ones = torch.cat([answer(plugin, *(t[i : i + 1] for t in questions()), [i]) for i in range(8)])
    torch.testing.assert_close(ones, many, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_and_global_state_are_left_as_they_were(name):
    plugin, _, _ = fitted(name)
    asked = questions()
    copies = [t.clone() for t in asked]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    answer(plugin, *asked, range(8))
    assert all(torch.equal(a, b) for a, b in zip(asked, copies, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", METHODS)
def test_answers_react_to_the_counterfactual_parents(name):
    plugin, _, _ = fitted(name)
    x, pa, index, cf_pa = questions()
    changed, null = (answer(plugin, x, pa, index, p, range(8)) for p in (cf_pa, pa))
    assert torch.equal(changed, null) == (name in CONSTANT)


@pytest.mark.parametrize("name", METHODS)
def test_parents_far_outside_the_training_data_have_an_answer(name):
    plugin, _, _ = fitted(name)
    x, pa, index, cf_pa = questions()
    cf_pa[:, 1] = torch.tensor([-40.0, 40.0]).repeat(4)
    image = answer(plugin, x, pa, index, cf_pa, range(8))
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize("name", LEARNED)
def test_a_fit_respects_its_budget_and_learns_from_nothing_else(name):
    _, run, _ = fitted(name)
    assert run.seen <= BUDGET


@pytest.mark.parametrize("name", LEARNED)
def test_weights_survive_the_disk(name):
    plugin, _, chosen = fitted(name)
    if not plugin.state_dict():
        pytest.skip("this method has no weights")
    other = type(plugin)(BARS.graph, **chosen)
    other.load_state_dict(load(save({k: v.contiguous().clone() for k, v in plugin.state_dict().items()})))
    other.eval()
    assert torch.equal(answer(other, *questions(), range(8)), answer(plugin, *questions(), range(8)))


@pytest.mark.parametrize("name", LEARNED)
def test_the_same_seed_gives_the_same_weights(name):
    cls = REGISTRY.load("method", name)
    states = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            plugin = cls(BARS.graph)
            run = Fit(BARS.split(ROOT, "train"), BARS.split(ROOT, "valid"), 256, torch.device("cpu"), generator(seed))
            plugin.fit(run)
        states.append(plugin.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    if any(p.requires_grad for p in plugin.parameters()):
        assert not all(torch.equal(a, b) for a, b in zip(states[0].values(), states[2].values(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_every_plugin_says_what_it_is(name):
    cls = REGISTRY.load("method", name)
    assert cls.__doc__
    assert issubclass(cls, (Method, Control))
    for preset in getattr(cls, "presets", {}):
        cls(BARS.graph, **cls.presets[preset])


@pytest.mark.parametrize("name", [n for n in LEARNED if callable(getattr(REGISTRY.load("method", n), "sample", None))])
def test_fresh_samples_are_images_of_their_own_streams_and_parents(name):
    plugin, _, _ = fitted(name)
    x, pa, _, cf_pa = questions()

    def drawn(parents, seeds):
        with torch.no_grad():
            return plugin.sample(parents, Streams(seeds))

    first = drawn(cf_pa, range(8))
    assert first.shape == x.shape
    assert first.dtype == torch.float32
    assert first.isfinite().all()
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, drawn(cf_pa, range(8)))
    torch.testing.assert_close(drawn(cf_pa[3:4], [3]), first[3:4], rtol=0, atol=2e-4)
    assert not torch.equal(first, drawn(cf_pa, range(8, 16)))
    assert not torch.equal(first, drawn(pa, range(8)))


@pytest.fixture(params=REGISTRY.names("dataset"))
def dataset(request, tmp_path):
    """A registered data set where its data are, and the root that they lie under."""
    data = REGISTRY.load("dataset", request.param)()
    root = request.getfixturevalue("data_root") if data.network else tmp_path
    try:
        data.split(root, "train")
    except UserError as error:
        pytest.skip(str(error))
    return data, root


def test_splits_are_disjoint_and_well_formed(dataset):
    data, root = dataset
    splits = [data.split(root, name) for name in ("train", "valid", "test")]
    rows = torch.cat([s.index for s in splits])
    assert len(rows.unique()) == len(rows)
    for s in splits:
        assert s.images.dtype == torch.uint8
        assert s.images.shape == (len(s), *data.graph.shape)
        assert s.parents.shape == (len(s), len(data.graph.variables))
        for i, v in enumerate(data.graph.variables):
            low, high = (0, v.size - 1) if v.categorical else (v.low, v.high)
            assert s.parents[:, i].min() >= low - 1e-3
            assert s.parents[:, i].max() <= high + 1e-3


def test_plans_of_a_data_set_are_reproducible(dataset):
    data, root = dataset
    for name in ("marginal", *data.plans):
        one, two = (make_plan(data, root, name=name, split="test", factuals=16) for _ in range(2))
        assert one.asked.keys() == two.asked.keys()
        assert all(torch.equal(one.asked[v].cf_pa, two.asked[v].cf_pa) for v in one.asked)


def test_the_truth_under_the_factual_parents_is_the_factual(dataset):
    data, root = dataset
    split = data.split(root, "test")
    truth = data.oracle(root, "test", split.index[:64], split.parents[:64])
    if truth is None:
        assert all(v.truth == "none" for v in data.graph.variables)
    else:
        assert torch.equal(truth, split.x[:64])
