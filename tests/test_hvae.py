"""HVAE: its likelihood and bound against references, its residuals and priors, and that parents matter after a fit."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from cfbench_methods.hvae import HVAE
from cfbench_methods.nn.discretised import Gaussian, log_prob
from cfbench_methods.nn.finetuning import finetune, shuffled
from cfbench_methods.nn.predictor import ParentPredictor
from fits import DIGIT, STRIPES, WIDTH, draw_stripes, random_split, session, streams, stripes
from scipy.stats import logistic, norm
from torch.distributions import Normal, kl_divergence

from cfbench.contract import Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph

pytestmark = pytest.mark.portable

GRAPHS = {
    "grey": CausalGraph((DIGIT, WIDTH), (1, 28, 28)),
    "small": CausalGraph((DIGIT,), (1, 8, 8)),
    "odd": CausalGraph((WIDTH,), (3, 7, 9)),
    "tiny": CausalGraph((DIGIT, WIDTH), (1, 1, 2)),
}
SMALL = {"widths": (8, 12, 16), "latents": (2, 3, 4), "blocks": (1, 1, 1), "layers": (1, 1, 2)}


def small(graph, **params):
    """A model with random weights everywhere, those that start at 0 included."""
    torch.manual_seed(0)
    method = HVAE(graph, **{**SMALL, **params})
    with torch.no_grad():
        for p in method.net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return method


@torch.no_grad()
def answer(method, x, pa, new, first=0):
    rng = streams(len(x), first)
    return method.predict(method.abduct(x, pa, rng), new, rng)


LEVELS = torch.arange(256, dtype=torch.float64) / 255


@pytest.mark.parametrize("kind", ["gaussian", "logistic"])
@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.412, 1.0, 1.7])
@pytest.mark.parametrize("log_scale", [-9.0, -5.0, -2.0, 0.0])
def test_the_masses_of_the_grey_levels_are_those_of_scipy_and_sum_to_one(kind, mean, log_scale):
    location, scale = torch.tensor(mean).double(), torch.tensor(log_scale).double()
    found = log_prob(LEVELS, location, scale, kind)
    law = {"gaussian": norm, "logistic": logistic}[kind](mean, math.exp(log_scale))
    edges = torch.cat([torch.tensor([-math.inf]), (LEVELS[1:] + LEVELS[:-1]) / 2, torch.tensor([math.inf])])
    below, above = torch.tensor(law.cdf(edges)), torch.tensor(law.sf(edges))
    mass = torch.where(edges[:-1] > mean, above[:-1] - above[1:], below[1:] - below[:-1])
    torch.testing.assert_close(found.exp(), mass, rtol=1e-6, atol=1e-9)
    assert math.isclose(found.exp().sum().item(), 1, rel_tol=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "logistic"])
def test_the_likelihood_and_its_slope_are_finite_far_from_the_image(kind):
    x = torch.tensor([0.0, 1 / 255, 0.5, 1.0])[:, None, None]
    mean = torch.tensor([-4.0, 0.0, 0.5, 1.0, 5.0])[:, None].requires_grad_()
    scale = torch.tensor([-9.0, -4.0, 0.0]).requires_grad_()
    value = log_prob(x, mean, scale, kind)
    assert value.isfinite().all()
    assert (value <= 0).all()
    value.sum().backward()
    assert mean.grad.isfinite().all()
    assert scale.grad.isfinite().all()


def test_divergences_are_those_of_torch_distributions():
    q, p = (Gaussian.of(3 * torch.randn(5, 4, 2, 3, dtype=torch.float64)) for _ in range(2))
    expected = kl_divergence(Normal(q.mean, q.log_std.exp()), Normal(p.mean, p.log_std.exp())).sum((1, 2, 3))
    torch.testing.assert_close(q.kl(p), expected)
    assert Gaussian.of(1e4 * torch.randn(5, 4, 2, 3)).log_std.abs().max() <= 4


def test_the_bound_falls_short_of_the_evidence_by_the_divergence_from_the_true_posterior():
    one = {"widths": (8, 8), "latents": (1, 1), "blocks": (1, 1), "layers": (0, 1)}
    method = small(GRAPHS["tiny"], **one).double()
    split = random_split(method.graph, 1)
    x, pa = split.images.double() / 255, split.parents.double()
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    found = {}

    def keep(number, layer, prior, h):
        found["prior"], found["q"] = prior, method.net.posterior(x.expand(4001, -1, -1, -1), e)(number, layer, h)
        return z[:, None, None, None]

    with torch.no_grad():
        e = method.parents(pa).expand(4001, -1)
        pixels = method.net.descend(e, keep)
        likelihood = log_prob(x, *pixels, "gaussian").sum((1, 2, 3))
        p, q = (Normal(g.mean[0].item(), g.log_std[0].exp().item()) for g in (found["prior"], found["q"]))
        joint = p.log_prob(z) + likelihood
        step = z[1] - z[0]
        evidence = joint.logsumexp(0) + step.log()
        density = q.log_prob(z).exp()
        gap = (density * (q.log_prob(z) - (joint - evidence))).sum() * step
        eps = ((z - q.mean) / q.stddev)[:, None, None, None]
        terms = method.terms(x.expand(4001, -1, -1, -1), pa.expand(4001, -1), [eps])
        bound = -(density * terms.nll).sum() * step - terms.kl[0].sum()
    assert gap > 1e-4
    assert math.isclose(bound.item(), (evidence - gap).item(), rel_tol=1e-6)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("particles", [0, 3])
def test_a_full_residual_composes_exactly_even_without_learning(graph, particles):
    split = random_split(graph, 12)
    full = answer(small(graph, residual="full", particles=particles), split.x, split.parents, split.parents)
    assert full.shape == split.x.shape
    assert (full - split.x).abs().max() < 1e-5
    none = answer(small(graph, residual="none", particles=particles), split.x, split.parents, split.parents)
    assert (none - split.x).abs().mean() > 0.05
    assert none.min() >= 0
    assert none.max() <= 1


def test_a_scaled_residual_lies_between():
    split = random_split(GRAPHS["grey"], 12)
    policies = [("none", 0), ("scaled", 0.3), ("scaled", 0.8), ("full", 0)]
    models = [small(GRAPHS["grey"], residual=r, tau=t) for r, t in policies]
    errors = [(answer(m, split.x, split.parents, split.parents) - split.x).abs().mean() for m in models]
    assert all(a > b + 0.01 for a, b in pairwise(errors))
    assert [m.residual for m in models] == ["none", "scaled", "scaled", "full"]


@pytest.mark.parametrize("amplify", [None, 1.2])
def test_the_residual_follows_the_scale_of_the_counterfactual(amplify):
    method = small(GRAPHS["small"], residual="full", amplify=amplify)
    split = random_split(method.graph, 12)
    new = (split.parents + 1) % 3
    with torch.no_grad():
        u = method.abduct(split.x, split.parents, streams(12))
        both = []
        for pa in (split.parents, new):
            pixels = method.net.descend(method.parents(pa), lambda n, *_: u[f"z{n}"][:, 0])
            both.append((pixels.mean.clamp(0, 1), pixels.log_std.exp()))
        (mean, scale), (new_mean, new_scale) = both
        ratio = (new_scale / scale).clamp(max=math.inf if amplify is None else amplify)
        assert (ratio == 1.2).any() == (amplify == 1.2)
        expected = (new_mean + ratio * (split.x - mean)).clamp(0, 1)
    torch.testing.assert_close(answer(method, split.x, split.parents, new), expected)


def priors(method, pa):
    found = []

    def choose(number, layer, prior, h):
        found.append(prior)
        return torch.ones_like(prior.mean)

    with torch.no_grad():
        pixels = method.net.descend(method.parents(pa), choose)
    return found, pixels.mean


@pytest.mark.parametrize("prior", ["exogenous", "mediator"])
def test_only_the_mediator_lets_the_prior_see_the_parents(prior):
    method = small(GRAPHS["grey"], prior=prior)
    split = random_split(method.graph, 12)
    (one, x), (two, y) = priors(method, split.parents), priors(method, split.parents.flip(0))
    assert len(one) == 4
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.mean, b.mean) == (prior == "exogenous")
        assert torch.equal(a.log_std, b.log_std) == (prior == "exogenous")
    assert not torch.equal(x, y)


def test_the_mediator_mixes_posterior_and_counterfactual_prior():
    prior = Gaussian(torch.tensor([2.0]), torch.tensor([3.0]).log())
    posterior = Gaussian(torch.tensor([-1.0]), torch.tensor([0.5]).log())
    mixed = posterior.mixed(prior, 0.75)
    assert math.isclose(
        mixed.at(torch.tensor([2.0])).item(), -0.75 + 0.5 + 2 * math.hypot(0.75 * 0.5, 0.25 * 3), rel_tol=1e-6
    )


def test_a_mediator_that_is_all_posterior_composes_and_one_that_is_all_prior_forgets():
    split = random_split(GRAPHS["grey"], 12)
    new = split.parents.flip(0)
    models = {a: small(GRAPHS["grey"], prior="mediator", alpha=a, residual="none") for a in (0.0, 0.5, 1.0)}
    answers = {a: answer(m, split.x, split.parents, new) for a, m in models.items()}
    other = answer(models[0.0], split.x.flip(0), split.parents, new)
    torch.testing.assert_close(answers[0.0], other)
    assert (answers[0.5] - answers[1.0]).abs().max() > 1e-4
    full = small(GRAPHS["grey"], prior="mediator", alpha=1.0, residual="full")
    assert (answer(full, split.x, split.parents, split.parents) - split.x).abs().max() < 1e-5


@pytest.mark.parametrize("params", [{}, {"particles": 2}, {"prior": "mediator", "particles": 2}])
def test_batches_change_no_answer_and_streams_decide_samples(params):
    method, split = small(GRAPHS["grey"], residual="scaled", **params), random_split(GRAPHS["grey"], 12)
    new = split.parents.flip(0)
    together = answer(method, split.x, split.parents, new)
    for i in range(3):
        alone = answer(method, split.x[i : i + 1], split.parents[i : i + 1], new[i : i + 1], first=i)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-5)
    other = answer(method, split.x, split.parents, new, first=50)
    assert torch.equal(other, together) == ("particles" not in params)


@pytest.fixture(scope="module")
def fitted():
    """A model fitted on the toy, its log, and what it recorded."""
    rows, tables = [], {}
    torch.manual_seed(0)
    method = HVAE(
        STRIPES, **{**SMALL, "widths": (16, 24, 32), "lr": 4e-3, "batch": 64, "beta": 1.0, "residual": "none"}
    )
    method.fit(session(stripes()[0], 64 * 200 + 17, log=rows.append, record=tables.__setitem__))
    return method, rows, tables


def test_a_short_fit_learns_what_the_parents_do(fitted):
    method, _, _ = fitted
    split, ground = stripes(seed=1)
    for column, value in ((0, (split.parents[:, 0] + 1) % 3), (1, 6 - split.parents[:, 1])):
        new = split.parents.clone()
        new[:, column] = value
        truth = draw_stripes(new, ground).float() / 255
        error = (answer(method, split.x, split.parents, new) - truth).abs().mean()
        assert error < 0.4 * (split.x - truth).abs().mean()


def test_a_fit_logs_its_loss_and_records_a_bound_in_bits(fitted):
    method, rows, tables = fitted
    rows = [r for r in rows if r["stage"] == "fit"]
    assert rows[-1]["step"] == 199
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["kl"] > 0
    nats = tables["valid"]["nll"] + sum(tables["valid"]["kl"])
    assert math.isclose(tables["likelihood"]["bits_per_dim"], nats / 64 / math.log(2), rel_tol=1e-4)
    assert 0 < tables["likelihood"]["bits_per_dim"] < 8
    assert len(tables["valid"]["kl"]) == len(method.net.noise_shapes) == 4


def test_fresh_images_follow_the_parents(fitted):
    method, _, _ = fitted
    pa = torch.tensor([[0.0, 3.0], [2.0, 3.0]]).repeat_interleave(8, dim=0)
    with torch.no_grad():
        image, again = (method.sample(pa, streams(16)) for _ in range(2))
        ones = method.sample(pa[:1], streams(1))
    assert torch.equal(image, again)
    torch.testing.assert_close(ones, image[:1], rtol=0, atol=1e-5)
    assert (image[:8, :, :, 0].mean() - image[8:, :, :, 0].mean()) > 0.1
    assert image[:8].std(0).mean() > 1e-3


def test_other_parents_are_of_the_batch_and_change_in_one_column_or_all():
    pa = torch.arange(24.0).reshape(8, 3)
    g = torch.Generator().manual_seed(0)
    moved = []
    for _ in range(40):
        other = shuffled(pa, g)
        assert torch.equal(other.sort(dim=0).values, pa)
        moved.append(tuple((other != pa).any(0).tolist()))
    assert set(moved) == {(True, False, False), (False, True, False), (False, False, True), (True, True, True)}


@pytest.mark.parametrize("slack", [1e6, 0.0])
def test_fine_tuning_makes_counterfactuals_readable_as_far_as_the_bound_allows(fitted, slack):
    method = deepcopy(fitted[0]) if slack == 0 else small(STRIPES)
    split, _ = stripes()
    x, pa, other = split.x, split.parents, shuffled(split.parents, torch.Generator().manual_seed(5))
    method.parents.fit(pa)
    torch.manual_seed(0)
    predictor = ParentPredictor(STRIPES, 8, (1, 1), 2)
    run = session(split, 32 * 80)

    def parts(x, pa, new):
        terms, image = method._imagined(x, pa, new, method._noise(len(x), run.rng))
        return (terms.nll + terms.kl.sum(1)).mean(), image

    @torch.no_grad()
    def state():
        bound, image = parts(x, pa, other)
        found = predictor.log_probs(predictor(2 * image - 1, 0), method.parents.standardise(other))
        return bound.item(), found.sum(1).mean().item()

    options = {"batch": 32, "lr": 2e-3}
    bound = state()[0] + slack
    for images in ({"predictor": 32 * 40, "finetune": 0}, {"predictor": 0, "finetune": 32 * 40}):
        before = state()
        finetune(run, method.net, parts, bound, predictor, method.parents, images, options)
    after = state()
    assert after[1] > before[1] + (1 if slack else -0.1)
    assert after[0] < bound + 10


def test_a_fit_with_fine_tuning_spends_its_budget_and_keeps_its_predictor():
    torch.manual_seed(0)
    rows = []
    method = HVAE(STRIPES, **{**SMALL, "finetuned": 0.25, "predictor_share": 0.25, "batch": 16})
    run = session(stripes()[0], 16 * 40, log=rows.append)
    method.fit(run)
    assert run.seen == 16 * 40
    assert {r["stage"] for r in rows} == {"fit", "predictor", "finetune"}
    assert all(math.isfinite(r["loss"]) for r in rows)
    other = HVAE(STRIPES, **{**SMALL, "finetuned": 0.25})
    other.load_state_dict(method.state_dict())


@pytest.mark.parametrize("level", [0, 255])
def test_constant_images_stay_finite(level):
    split = Split(torch.full((64, 1, 8, 8), level, dtype=torch.uint8), torch.zeros(64, 1), torch.arange(64))
    rows = []
    method = HVAE(GRAPHS["small"], **{**SMALL, "batch": 16, "lr": 1e-2})
    method.fit(session(split, 16 * 30, log=rows.append))
    assert all(math.isfinite(r["loss"]) for r in rows)
    assert all(p.isfinite().all() for p in method.parameters())


def test_the_paper_has_twenty_layers_and_runs():
    torch.manual_seed(0)
    method = HVAE(GRAPHS["grey"], **{**HVAE.presets["paper"], "batch": 2})
    assert len(method.net.noise_shapes) == 20
    assert method.net.noise_shapes[0] == (16, 1, 1)
    assert method.net.noise_shapes[-1] == (16, 28, 28)
    split = random_split(method.graph, 4)
    method.fit(session(split, 4))
    image = answer(method, split.x, split.parents, split.parents.flip(0))
    assert image.isfinite().all()


def test_wrong_switches_are_named():
    with pytest.raises(UserError, match="hvae: residual is 'half'; choose one of none, scaled, full"):
        HVAE(GRAPHS["small"], residual="half")
    with pytest.raises(UserError, match="hvae: prior is 'endogenous'; choose one of exogenous, mediator"):
        HVAE(GRAPHS["small"], prior="endogenous")
