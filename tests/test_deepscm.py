"""DeepSCM: its logit space, likelihoods, bounds and residual policies, and that parents matter after a short fit."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from cfbench_methods.deepscm import DeepSCM, fade
from cfbench_methods.nn import training
from cfbench_methods.nn.likelihood import Diagonal, FullRank, LowRank, Scalar
from cfbench_methods.nn.vae import logit, logit_inverse, logit_log_det
from fits import DIGIT, STRIPES, WIDTH, draw_stripes, random_split, session, streams, stripes
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

from cfbench.contract import Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph

pytestmark = pytest.mark.portable

GRAPHS = {
    "both": CausalGraph((DIGIT, WIDTH), (1, 28, 28)),
    "classes": CausalGraph((DIGIT,), (1, 8, 8)),
    "values": CausalGraph((WIDTH,), (3, 7, 9)),
    "large": CausalGraph((DIGIT, WIDTH), (3, 64, 64)),
}
SMALL = {"latent": 4, "width": 8, "hidden": 32}
LIKELIHOODS = ("fixed", "scalar", "diagonal", "lowrank", "full")
POLICIES = ("none", "scaled", "faded", "full")


def small(graph, **params):
    torch.manual_seed(0)
    return DeepSCM(graph, **{**SMALL, **params})


@torch.no_grad()
def answer(method, x, pa, new):
    rng = streams(len(x))
    return method.predict(method.abduct(x, pa, rng), new, rng)


@pytest.fixture(scope="module")
def fitted():
    """A model fitted on the toy, its log, and what it recorded."""
    rows, tables = [], {}
    method = small(STRIPES, beta=1.0, lr=2e-3, batch=64, width=16, hidden=64, residual="none")
    with torch.no_grad():
        method.fit(session(stripes()[0], 64 * 200 + 17, log=rows.append, record=tables.__setitem__))
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


def example(shape=(2, 3, 4), count=5, extra=0):
    g = torch.Generator().manual_seed(3)
    r = torch.randn((count, *shape), generator=g, dtype=torch.float64)
    maps = torch.randn((count, extra * shape[0], *shape[1:]), generator=g, dtype=torch.float64)
    return r, maps


def softplus(a):
    return (1 + a.exp()).log()


def test_a_scalar_and_a_diagonal_density_are_those_of_torch_distributions():
    r, maps = example(extra=1)
    expected = Normal(0, math.exp(-0.65)).log_prob(r).sum((1, 2, 3))
    assert torch.allclose(Scalar(-1.3, learned=True).double().log_prob(r, maps[:, :0]), expected)
    scale = (-8 + softplus(maps + 8)).exp().sqrt()
    assert torch.allclose(Diagonal().log_prob(r, maps), Normal(0, scale).log_prob(r).sum((1, 2, 3)))


def low_rank():
    """A likelihood of rank 3, residuals, maps, and the same distribution from torch."""
    r, maps = example(extra=4)
    log_d, v = (-8 + softplus(maps[:, :2] + 8)).flatten(1), maps[:, 2:].unflatten(1, (3, 2)).flatten(2).mT
    factor = v * log_d.exp().sqrt()[:, :, None]
    return LowRank(3), r, maps, LowRankMultivariateNormal(torch.zeros_like(log_d), factor, log_d.exp())


def test_a_low_rank_density_is_that_of_torch_distributions():
    model, r, maps, reference = low_rank()
    assert torch.allclose(model.log_prob(r, maps), reference.log_prob(r.flatten(1)))
    assert torch.allclose(model.variance(maps).flatten(1), reference.variance)


def full_rank():
    model = FullRank(24).double()
    g = torch.Generator().manual_seed(4)
    torch.nn.init.normal_(model.below, 0, 0.3, generator=g)
    torch.nn.init.normal_(model.log_scale, 0, 0.3, generator=g)
    return model, *example()


def test_a_full_density_is_that_of_torch_distributions():
    model, r, maps = full_rank()
    root = model.below.tril(-1) + torch.diag(model.log_scale.exp())
    reference = MultivariateNormal(torch.zeros(24, dtype=torch.float64), root @ root.mT)
    assert torch.allclose(model.log_prob(r, maps), reference.log_prob(r.flatten(1)))
    assert torch.allclose(model.variance(maps), reference.variance.mean())


def test_whitening_uses_a_root_of_the_covariance():
    model, r, maps, reference = low_rank()
    units = torch.eye(24, dtype=torch.float64).view(24, 2, 3, 4)
    roots = torch.stack([model.colour(units, m.expand(24, -1, -1, -1)).flatten(1).mT for m in maps])
    assert torch.allclose(roots @ roots.mT, reference.covariance_matrix)
    assert torch.allclose(model.colour(model.whiten(r, maps), maps), r)
    model, r, maps = full_rank()
    root = model.colour(units, maps).flatten(1).mT
    assert torch.allclose(root, model.root)
    assert torch.allclose(model.colour(model.whiten(r, maps), maps), r)
    # |eps|^2 and the log-determinant of the root make up the density
    eps = model.whiten(r, maps).flatten(1)
    density = Normal(0, 1).log_prob(eps).sum(1) - torch.linalg.slogdet(root).logabsdet
    assert torch.allclose(model.log_prob(r, maps), density)


def test_strong_factors_leave_composition_exact():
    r, maps = example((1, 12, 12), extra=4)
    maps[:, 1:] *= 300
    model, single = LowRank(3), (r.float(), maps.float())
    eps = model.whiten(*single)
    assert torch.allclose(model.colour(eps, single[1]), single[0], atol=1e-4)
    assert (model.whiten(r, maps) - eps).abs().max() < 1e-4


def bounds(draws):
    method = small(GRAPHS["both"], log_variance=-1.3).double()
    split = random_split(method.graph, 12)
    g = torch.Generator().manual_seed(1)
    v = split.images.double() + torch.rand(split.images.shape, generator=g, dtype=torch.float64)
    return method, v, split.parents.double(), torch.randn(len(v), draws, 4, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_bounds_are_those_of_torch_distributions(draws):
    method, v, pa, noise = bounds(draws)
    e = method.parents(pa)
    mean, log_variance = method.encoder(logit(v), e)
    posterior = Independent(Normal(mean, log_variance.exp().sqrt()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    slope = 0.95 / 256 / (p := 0.05 + 0.95 * v / 256) / (1 - p)
    parts, weights = [], []
    for k in range(draws):
        z = mean + noise[:, k] * log_variance.exp().sqrt()
        image = Normal(method.decoder(z, e), math.exp(-0.65))
        parts.append((image.log_prob(logit(v)) + slope.log()).sum((1, 2, 3)))
        weights.append(parts[-1] + prior.log_prob(z) - posterior.log_prob(z))
    terms = method.terms(v, pa, noise)
    assert torch.allclose(terms.kl, kl_divergence(posterior, prior))
    assert torch.allclose(terms.likelihood, torch.stack(parts).mean(0))
    assert torch.allclose(terms.importance, torch.logsumexp(torch.stack(weights), 0) - math.log(draws))


def test_more_draws_tighten_the_bound():
    method, v, pa, noise = bounds(64)
    with torch.no_grad():
        one = method.terms(v, pa, noise.reshape(-1, 64, 1, 4)[:, 0]).importance.mean()
        many = method.terms(v, pa, noise)
    assert many.importance.mean() > one
    assert (many.importance > many.likelihood - many.kl).double().mean() > 0.9


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_learns_and_composes_exactly(name):
    rows, tables = [], {}
    method = small(STRIPES, likelihood=name, rank=2, beta=1.0, lr=2e-3, residual="full")
    method.fit(session(stripes()[0], 64 * 60, log=rows.append, record=tables.__setitem__))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert method.likelihood.variance(torch.zeros(1, method.likelihood.extra, 8, 8)).isfinite().all()
    split, _ = stripes(40, seed=2)
    assert (answer(method, split.x, split.parents, split.parents) - split.x).abs().max() < 2e-5
    table = tables["likelihood"]
    assert math.isclose(table["bits_per_dim"], -table["log_likelihood"] / 64 / math.log(2))
    assert table["log_likelihood"] >= table["elbo"]
    assert table["bound"] is True


def test_bits_of_noise_that_fills_the_bytes_are_near_eight():
    tables = {}
    method = small(GRAPHS["classes"], beta=1.0, lr=3e-3)
    method.fit(session(random_split(method.graph, 500), 64 * 300, record=tables.__setitem__))
    assert 8 < tables["likelihood"]["bits_per_dim"] < 8.3  # a Gaussian in logit space is not quite flat in grey levels


def test_a_likelihood_that_does_not_suit_is_refused():
    with pytest.raises(UserError, match="likelihood is 'student'"):
        small(STRIPES, likelihood="student")
    with pytest.raises(UserError, match="rank is 0"):
        small(STRIPES, likelihood="lowrank", rank=0)
    with pytest.raises(UserError, match="12288 values, too many for a full covariance"):
        small(GRAPHS["large"], likelihood="full")


def test_fading_follows_the_change_of_the_mean():
    g = torch.Generator().manual_seed(0)
    old, variance = torch.randn(2, 1, 12, 12, generator=g), torch.tensor(0.3)
    assert torch.equal(fade(old, old, variance), torch.ones_like(old))
    assert torch.allclose(fade(old, old + 3, variance), torch.ones_like(old), atol=1e-4)  # brighter, of the same shape
    exact = torch.tensor(0.0)
    assert torch.allclose(fade(old, 0.4 * old + 1, exact), torch.full_like(old, 0.4), atol=1e-4)
    assert torch.equal(fade(old, -old, exact), torch.zeros_like(old))
    assert fade(old, torch.zeros_like(old), variance).mean() < 0.35
    assert torch.equal(fade(old, 9 * old, exact), torch.full_like(old, 2))


def test_fading_is_a_least_squares_fit_in_each_neighbourhood():
    g = torch.Generator().manual_seed(1)
    old = torch.randn(1, 1, 9, 9, generator=g, dtype=torch.float64)
    new = 0.7 * old + 0.3 * torch.randn(1, 1, 9, 9, generator=g, dtype=torch.float64)
    for i, j in ((4, 4), (0, 8)):
        a, b = (m[0, 0, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].flatten() for m in (old, new))
        slope = torch.linalg.lstsq(torch.stack([a, torch.ones_like(a)], 1), b[:, None]).solution[0, 0]
        assert torch.isclose(fade(old, new, torch.zeros((), dtype=torch.float64))[0, 0, i, j], slope.clamp(0, 2))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("particles", [0, 3])
@pytest.mark.parametrize("policy", ["full", "faded"])
def test_a_full_or_faded_residual_composes_exactly_even_without_learning(graph, particles, policy):
    split = random_split(graph, 12)
    full = answer(small(graph, residual=policy, particles=particles), split.x, split.parents, split.parents)
    assert full.shape == split.x.shape
    assert (full - split.x).abs().max() < 1e-5
    none = answer(small(graph, residual="none", particles=particles), split.x, split.parents, split.parents)
    assert (none - split.x).abs().mean() > 0.05
    assert none.min() >= 0
    assert none.max() <= 1


def test_a_scaled_residual_lies_between():
    split = random_split(GRAPHS["both"], 12)
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
    models = [small(GRAPHS["both"], residual=r) for r in POLICIES]
    assert tuple(m.residual for m in models) == POLICIES
    assert {"residual", "tau", "particles"} == DeepSCM.answer_params
    for m in models[1:]:
        m.load_state_dict(models[0].state_dict())


@pytest.mark.parametrize("particles", [0, 2])
@pytest.mark.parametrize("policy", ["scaled", "faded"])
def test_batches_change_no_answer(particles, policy):
    graph = GRAPHS["both"]
    method, split = small(graph, residual=policy, particles=particles), random_split(graph, 12)
    new = split.parents.flip(0)
    together = answer(method, split.x, split.parents, new)
    for i in range(3):
        with torch.no_grad():
            rng = streams(1, i)
            u = method.abduct(split.x[i : i + 1], split.parents[i : i + 1], rng)
            assert torch.allclose(method.predict(u, new[i : i + 1], rng), together[i : i + 1], atol=1e-5)


def test_particles_spread_and_the_posterior_mean_does_not_move():
    graph = GRAPHS["both"]
    split = random_split(graph, 12)
    with torch.no_grad():
        for particles, same in ((0, True), (2, False)):
            method = small(graph, particles=particles)
            z, *_ = method.abduct(split.x, split.parents, streams(12))
            other, *_ = method.abduct(split.x, split.parents, streams(12, 50))
            assert z.shape == (12, max(particles, 1), 4)
            assert torch.equal(z, other) == same


def test_a_short_fit_learns_what_the_parents_do(fitted):
    method, _, _ = fitted
    split, ground = stripes(seed=1)
    for column, value in ((0, (split.parents[:, 0] + 1) % 3), (1, 6 - split.parents[:, 1])):
        new = split.parents.clone()
        new[:, column] = value
        truth = draw_stripes(new, ground).float() / 255
        error = (answer(method, split.x, split.parents, new) - truth).abs().mean()
        assert error < 0.5 * (split.x - truth).abs().mean()


def test_a_fit_spends_its_budget_and_improves_its_bound(fitted):
    _, rows, tables = fitted
    fitted = [r for r in rows if r["stage"] == "fit"]
    assert fitted[-1]["step"] == 199
    assert fitted[-1]["images"] == 200 * 64
    assert 64 * (fitted[-1]["loss"] - fitted[0]["loss"]) < -50
    assert abs(tables["likelihood"]["elbo"] + 64 * fitted[-1]["loss"]) < 50
    assert all(math.isclose(64 * r["loss"], r["kl"] - r["likelihood"], rel_tol=1e-4) for r in fitted)


def test_samples_have_the_parents_that_were_asked_for(fitted):
    method, _, _ = fitted
    split, ground = stripes(60, seed=1)
    with torch.no_grad():
        image = method.sample(split.parents, streams(60))
        again = method.sample(split.parents, streams(60, 100))
    truth = draw_stripes(split.parents, ground).float() / 255
    assert (image - truth).abs().mean() < (image - truth.roll(1, 0)).abs().mean() * 0.6
    assert not torch.equal(image, again)
    assert image.min() >= 0
    assert image.max() <= 1


def test_parents_out_of_range_do_not_break_answers(fitted):
    method, _, _ = fitted
    split, _ = stripes(8)
    for policy in POLICIES:
        method = small(STRIPES, residual=policy)
        for value in (-1e3, 1e3):
            new = split.parents.clone()
            new[:, 1] = value
            assert answer(method, split.x, split.parents, new).isfinite().all()


def test_the_paper_fixes_its_variance():
    method = DeepSCM(GRAPHS["classes"], **{**DeepSCM.presets["paper"], "batch": 4, "hidden": 8})
    method.fit(session(random_split(method.graph, 12), 8))
    assert method.likelihood.log_variance.item() == -5
    assert method.residual == "full"
    assert method.evaluations == {"abduct": 33, "predict": 32}


def test_wrong_policies_are_named():
    with pytest.raises(UserError, match="residual is 'half'; choose one of none, scaled, faded, full"):
        DeepSCM(GRAPHS["classes"], residual="half")


def test_a_fit_recovers_from_a_gradient_of_a_million_times_the_norm(monkeypatch):
    def fitted(spike):
        tables, calls = {}, []
        method = small(STRIPES, beta=1.0, width=16, hidden=64)
        losses = method._losses

        def spiked(terms):
            calls.append(0)
            return losses(terms) * (1e6 if len(calls) == spike else 1)

        monkeypatch.setattr(method, "_losses", spiked)
        with torch.no_grad():
            method.fit(session(stripes()[0], 64 * 200, record=tables.__setitem__))
        return tables["likelihood"]["elbo"]

    calm = fitted(None)
    assert fitted(20) > calm - 10
    monkeypatch.setattr(training, "CLIP", math.inf)
    assert fitted(20) < calm - 30, "without clipping Adam would hardly move for the rest of the fit"
