"""DeepSCM: its logit space, its bound, its residual policies, and that the parents matter after a short fit."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from cfbench_methods.deepscm import DeepSCM, logit, logit_inverse, logit_log_det
from torch.distributions import Independent, Normal, kl_divergence

from cfbench.contract import Fit, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.rng import Streams

DIGIT = Variable("digit", "categorical", size=3)
WIDTH = Variable("width", "continuous", low=1, high=5)
GRAPHS = {
    "both": CausalGraph((DIGIT, WIDTH), (1, 28, 28)),
    "classes": CausalGraph((DIGIT,), (1, 8, 8)),
    "values": CausalGraph((WIDTH,), (3, 7, 9)),
    "large": CausalGraph((DIGIT, WIDTH), (3, 64, 64)),
}
SMALL = {"latent": 4, "width": 8, "hidden": 32}


def data(graph, count=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    columns = [
        torch.randint(v.size, (count,), generator=g).float() if v.categorical else 2 + torch.randn(count, generator=g)
        for v in graph.variables
    ]
    images = torch.randint(0, 256, (count, *graph.shape), dtype=torch.uint8, generator=g)
    return Split(images, torch.stack(columns, dim=1), torch.arange(count))


TOY = CausalGraph((DIGIT, WIDTH), (1, 8, 8))


def paint(pa, ground):
    """A stripe at a place that the class decides, as bright as the width, on each hand's ground: uint8."""
    image = ground[:, None, None, None].expand(-1, 1, 8, 8).clone()
    for i, (digit, width) in enumerate(pa.tolist()):
        image[i, 0, :, 2 * int(digit) : 2 * int(digit) + 3] = 0.2 * width
    return (255 * image).round().byte()


def toy(count=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    pa = torch.stack([torch.randint(3, (count,), generator=g).float(), 2 + 2 * torch.rand(count, generator=g)], 1)
    ground = 0.3 * torch.rand(count, generator=g)
    return Split(paint(pa, ground), pa, torch.arange(count)), ground


def session(split, images, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    return Fit(split, split, images, torch.device("cpu"), g, **more)


def small(graph, **params):
    torch.manual_seed(0)
    return DeepSCM(graph, **{**SMALL, **params})


def streams(count, first=0):
    return Streams(range(first, first + count))


@torch.no_grad()
def answer(method, x, pa, new):
    rng = streams(len(x))
    return method.predict(method.abduct(x, pa, rng), new, rng)


@pytest.fixture(scope="module")
def fitted():
    """A model fitted on the toy, its log, and what it recorded."""
    rows, tables = [], {}
    method = small(TOY, beta=1.0, lr=2e-3, width=16, hidden=64, residual="none")
    with torch.no_grad():
        method.fit(session(toy()[0], 64 * 200 + 17, log=rows.append, record=tables.__setitem__))
    return method, rows, tables


def test_logit_space_is_invertible_and_has_the_papers_constants():
    v = torch.linspace(0, 255.9, 1000, dtype=torch.float64)
    assert torch.allclose(logit_inverse(logit(v)), v, atol=1e-9)
    y = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    assert torch.allclose(logit_inverse(y), 256 * (1 / (1 + torch.exp(-y)) - 0.05) / 0.95)
    assert math.isclose(logit(torch.tensor(0.0, dtype=torch.float64)).item(), math.log(0.05 / 0.95))


def test_white_images_stay_finite():
    assert logit(torch.tensor(255.0) + torch.tensor(1 - 2**-24)).isfinite()
    split = Split(torch.full((64, 1, 28, 28), 255, dtype=torch.uint8), torch.zeros(64, 2), torch.arange(64))
    method = small(GRAPHS["both"])
    g = torch.Generator().manual_seed(0)
    assert (255 + torch.rand(64 * 784 * 20, generator=g) == 256).any()
    method.fit(session(split, 64 * 20))
    assert all(p.isfinite().all() for p in method.parameters())


def test_the_log_determinant_is_that_of_autograd():
    v = torch.linspace(0.1, 255.5, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(logit(v).sum(), v)
    assert torch.allclose(logit_log_det(logit(v)), slope.log(), atol=1e-10)


def test_the_bound_is_that_of_torch_distributions():
    method = small(GRAPHS["both"], log_variance=-1.3).double()
    split = data(method.graph)
    g = torch.Generator().manual_seed(1)
    v = split.images.double() + torch.rand(split.images.shape, generator=g, dtype=torch.float64)
    noise = torch.randn(len(v), 4, generator=g, dtype=torch.float64)
    pa = split.parents.double()
    e = method.parents(pa)
    mean, log_variance = method.encoder(logit(v), e)
    posterior = Independent(Normal(mean, log_variance.exp().sqrt()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    image = Normal(method.decoder(mean + noise * log_variance.exp().sqrt(), e), math.exp(-0.65))
    terms = method.terms(v, pa, noise)
    assert torch.allclose(terms.kl, kl_divergence(posterior, prior))
    slope = 0.95 / 256 / (p := 0.05 + 0.95 * v / 256) / (1 - p)
    assert torch.allclose(terms.likelihood, (image.log_prob(logit(v)) + slope.log()).sum((1, 2, 3)))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("particles", [0, 3])
def test_a_full_residual_composes_exactly_even_without_learning(graph, particles):
    split = data(graph)
    full = answer(small(graph, residual="full", particles=particles), split.x, split.parents, split.parents)
    assert full.shape == split.x.shape
    assert (full - split.x).abs().max() < 1e-5
    none = answer(small(graph, residual="none", particles=particles), split.x, split.parents, split.parents)
    assert (none - split.x).abs().mean() > 0.05
    assert none.min() >= 0
    assert none.max() <= 1


def test_a_scaled_residual_lies_between():
    split = data(GRAPHS["both"])
    errors = [
        (answer(small(GRAPHS["both"], **policy), split.x, split.parents, split.parents) - split.x).abs().mean()
        for policy in (
            {"residual": "none"},
            {"residual": "scaled", "tau": 0.3},
            {"residual": "scaled", "tau": 0.8},
            {"residual": "full"},
        )
    ]
    assert all(a > b + 0.01 for a, b in pairwise(errors))


def test_the_policy_is_visible_and_changes_no_weight():
    models = [small(GRAPHS["both"], residual=r) for r in ("none", "scaled", "full")]
    assert [m.residual for m in models] == ["none", "scaled", "full"]
    assert {"residual", "tau", "particles"} == DeepSCM.answer_params
    for m in models[1:]:
        m.load_state_dict(models[0].state_dict())


@pytest.mark.parametrize("particles", [0, 2])
def test_batches_change_no_answer(particles):
    graph = GRAPHS["both"]
    method, split = small(graph, residual="scaled", particles=particles), data(graph)
    new = split.parents.flip(0)
    together = answer(method, split.x, split.parents, new)
    for i in range(3):
        with torch.no_grad():
            rng = streams(1, i)
            u = method.abduct(split.x[i : i + 1], split.parents[i : i + 1], rng)
            assert torch.allclose(method.predict(u, new[i : i + 1], rng), together[i : i + 1], atol=1e-5)


def test_particles_spread_and_the_posterior_mean_does_not_move():
    graph = GRAPHS["both"]
    split = data(graph)
    with torch.no_grad():
        for particles, same in ((0, True), (2, False)):
            method = small(graph, particles=particles)
            z, _ = method.abduct(split.x, split.parents, streams(12))
            other, _ = method.abduct(split.x, split.parents, streams(12, 50))
            assert z.shape == (12, max(particles, 1), 4)
            assert torch.equal(z, other) == same


def test_a_short_fit_learns_what_the_parents_do(fitted):
    method, _, _ = fitted
    split, ground = toy(seed=1)
    for column, value in ((0, (split.parents[:, 0] + 1) % 3), (1, 6 - split.parents[:, 1])):
        new = split.parents.clone()
        new[:, column] = value
        truth = paint(new, ground).float() / 255
        error = (answer(method, split.x, split.parents, new) - truth).abs().mean()
        assert error < 0.5 * (split.x - truth).abs().mean()


def test_a_fit_spends_its_budget_and_improves_its_bound(fitted):
    _, rows, tables = fitted
    assert rows[-1]["step"] == 199
    assert rows[-1]["elbo"] > rows[0]["elbo"] + 50
    assert abs(tables["valid"]["elbo"] - rows[-1]["elbo"]) < 50
    assert all(math.isclose(r["elbo"], r["likelihood"] - r["kl"]) for r in rows)


@pytest.mark.parametrize("graph", [GRAPHS["classes"], GRAPHS["values"]], ids=["classes", "values"])
def test_a_fit_is_reproducible_and_survives_its_state_dict(graph):
    split = data(graph, 40)
    models = []
    for _ in range(2):
        method = small(graph, batch=8)
        method.fit(session(split, 80))
        models.append(method)
    models.append(small(graph, batch=8, lr=1.0))
    models[2].load_state_dict(models[0].state_dict())
    new = split.parents.flip(0)
    first, second, third = (answer(m, split.x, split.parents, new) for m in models)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_the_paper_fixes_its_variance():
    method = DeepSCM(GRAPHS["classes"], **{**DeepSCM.presets["paper"], "batch": 4, "hidden": 8})
    method.fit(session(data(method.graph), 8))
    assert method.log_variance.item() == -5
    assert method.residual == "full"
    assert method.evaluations == {"abduct": 33, "predict": 32}


def test_wrong_policies_are_named():
    with pytest.raises(UserError, match="residual is 'half'; choose one of none, scaled, full"):
        DeepSCM(GRAPHS["classes"], residual="half")
