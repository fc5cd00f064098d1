"""Flow matching: solvers, the flow and its inverse, couplings, guidance, and what the method keeps."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from cfbench_methods.diffusion.denoiser import Denoiser
from cfbench_methods.diffusion.ode import COST, SOLVERS, fixed_point, integrate, invert
from cfbench_methods.diffusion.schedule import alpha_bars
from cfbench_methods.flowmatching import CLASS_COST, FlowMatching, Velocity, couple
from cfbench_methods.nn.unet import UNet

from cfbench.contract import Fit, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

pytestmark = pytest.mark.portable

GRAPH = CausalGraph((Variable("kind", "categorical", size=2), Variable("grey", "continuous", low=0, high=1)), (1, 8, 8))
SMALL = {"width": 8, "mult": (1, 2), "steps": 4}


def data(count=256, seed=0, graph=GRAPH):
    """Upright or lying bars of a grey level on a dim background."""
    g = torch.Generator().manual_seed(seed)
    kind, grey = torch.randint(2, (count,), generator=g), 0.3 + 0.7 * torch.rand(count, generator=g)
    images = 0.15 * torch.rand(count, 1, 1, 1, generator=g).expand(count, *graph.shape).clone()
    for i in range(count):
        place = 2 + i % 4
        if kind[i]:
            images[i, 0, place] = grey[i]
        else:
            images[i, 0, :, place] = grey[i]
    return Split((255 * images).byte(), torch.stack([kind.float(), grey], 1), torch.arange(count))


def session(images=600, seed=0, **more):
    return Fit(data(), data(seed=1), images, torch.device("cpu"), torch.Generator().manual_seed(seed), **more)


def fitted(images=600, **params):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = FlowMatching(GRAPH, **{**SMALL, **params})
    method.fit(session(images))
    return method


def answering(method, **params):
    """The same weights with other answer parameters."""
    other = FlowMatching(GRAPH, **{**SMALL, **params})
    other.load_state_dict(method.state_dict())
    return other.eval()


@pytest.fixture(scope="module")
def method():
    return fitted()


@pytest.fixture(scope="module")
def learnt():
    return fitted(images=16_000, batch=64, steps=10)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_solvers_converge_at_their_order(name, order):
    calls = []

    def v(x, t):
        calls.append(t)
        return -2 * t * x

    x, exact = torch.ones(1, dtype=torch.float64), torch.exp(torch.tensor(-1.0, dtype=torch.float64))
    errors = []
    for steps in (10, 20):
        calls.clear()
        errors.append(float((integrate(v, x, [i / steps for i in range(steps + 1)], SOLVERS[name]) - exact).abs()))
        assert len(calls) == COST[name] * steps
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)


def test_heun_and_midpoint_differ_as_their_tableaus_do():
    x, v = torch.zeros(1), lambda x, t: torch.full((1,), t**2)
    assert float(SOLVERS["midpoint"](v, x, 0.0, 1.0)) == pytest.approx(0.25)
    assert float(SOLVERS["heun"](v, x, 0.0, 1.0)) == pytest.approx(0.5)
    assert float(SOLVERS["rk4"](v, x, 0.0, 1.0)) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", SOLVERS)
def test_fixed_point_rounds_invert_the_flow_itself(name):
    times = [0.0, 0.3, 0.7, 1.0]
    v = lambda x, t: torch.sin(x) + t  # noqa: E731
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    errors = [
        float((integrate(v, invert(v, x, times, SOLVERS[name], rounds)[0], times[::-1], SOLVERS[name]) - x).abs().max())
        for rounds in (0, 2, 60)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-12


@pytest.mark.parametrize("name", SOLVERS)
def test_what_a_flow_missed_leads_back_exactly(name):
    times = [0.0, 0.5, 1.0]
    v = lambda x, t: torch.sin(3 * x) + t  # noqa: E731
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    y, missed = invert(v, x, times, SOLVERS[name], carry=True)
    assert missed.shape == (4, 2, 2)
    torch.testing.assert_close(integrate(v, y, times[::-1], SOLVERS[name], missed), x, atol=1e-14, rtol=0)
    assert (integrate(v, y, times[::-1], SOLVERS[name]) - x).abs().max() > 1e-4
    assert invert(v, x, times, SOLVERS[name])[1] is None


def test_the_velocity_of_gaussian_pixels_is_exact_without_a_network():
    torch.manual_seed(0)
    net = Velocity(UNet(1, 8, (1,), condition=2), (1, 2, 2)).double()
    net.mean.fill_(0.3)
    net.var.fill_(0.25)
    x, eps = 0.3 + 0.5 * torch.randn(50_000, dtype=torch.float64), torch.randn(50_000, dtype=torch.float64)
    for t in (0.0, 0.4, 1.0):
        x_t, target = (1 - t) * x + t * eps, eps - x
        slope = torch.cov(torch.stack([x_t, target]))  # the regression of the velocity on x_t, from samples
        at = torch.full((2, 1, 2, 2), 0.8, dtype=torch.float64)
        got = net(at, torch.full((2,), t, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))
        expected = target.mean() + slope[0, 1] / slope[0, 0] * (0.8 - x_t.mean())
        torch.testing.assert_close(got, expected.expand_as(got), atol=0.02, rtol=0.02)
        left = (slope[1, 1] - slope[0, 1] ** 2 / slope[0, 0]).sqrt()
        with torch.no_grad():
            net.unet.outlet.bias.fill_(1.0)
            moved = net(at, torch.full((2,), t, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)) - got
            net.unet.outlet.bias.zero_()
        torch.testing.assert_close(moved, left.expand_as(moved), atol=0.02, rtol=0.02)


def test_the_flow_of_gaussian_pixels_ends_at_standard_noise():
    net = Velocity(UNet(1, 8, (1,), condition=2), (1, 2, 2))
    net.mean.fill_(0.3)
    net.var.fill_(0.25)
    x = torch.tensor([0.3, 0.8, -1.2]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    c = torch.zeros(3, 2)
    with torch.no_grad():
        v = lambda x, t: net(x, torch.full((3,), t), c)  # noqa: E731
        u = integrate(v, x, [i / 20 for i in range(21)], SOLVERS["rk4"])
    torch.testing.assert_close(u, (x - 0.3) / 0.5, atol=1e-3, rtol=1e-3)


def test_a_coupling_is_the_cheapest_among_equal_parents():
    g = torch.Generator().manual_seed(3)
    x, eps = torch.randn(2, 6, 1, 2, 2, generator=g)
    z = torch.tensor([[0, 0.1], [0, 0.4], [0, -1], [1, 0.3], [1, 2], [1, 0.2]])
    classes = torch.tensor([True, False])

    def price(order):
        chosen = list(order)
        image = (x - eps[chosen]).square().sum()
        return float(image + 2 * (z[:, 1] - z[chosen, 1]).square().sum() + CLASS_COST * (z[:, 0] != z[chosen, 0]).sum())

    best = min(permutations(range(6)), key=price)
    assert all((a < 3) == (b < 3) for a, b in enumerate(best))
    assert torch.equal(couple(x, eps, z, classes, 2.0), eps[list(best)])


def test_dear_kinship_leaves_noise_with_its_own_parents():
    g = torch.Generator().manual_seed(0)
    x, eps, z = torch.randn(9, 1, 2, 2, generator=g), torch.randn(9, 1, 2, 2, generator=g), torch.arange(9.0)[:, None]
    assert torch.equal(couple(x, eps, z, torch.tensor([False]), 1e5), eps)
    assert not torch.equal(couple(x, eps, z, torch.tensor([False]), 0.0), eps)


def test_a_coupling_straightens_training_pairs_without_changing_the_noise(method):
    run, seen = session(), {}
    for kind in ("independent", "ot"):
        other = answering(method, coupling=kind)
        other.velocity.losses = lambda x, eps, t, c, kind=kind: seen.setdefault(kind, (x, eps)) and x.sum()
        run.rng.manual_seed(5)
        split = data(48, seed=4)
        other._losses(split.x, split.parents, run.rng)
    (x, plain), (_, coupled) = seen["independent"], seen["ot"]
    assert torch.equal(plain.flatten(1).sum(1).sort().values, coupled.flatten(1).sum(1).sort().values)
    assert (x - coupled).square().sum() < (x - plain).square().sum()


def test_ot_training_runs():
    method = fitted(images=128, coupling="ot")
    assert all(p.isfinite().all() for p in method.parameters())


@torch.no_grad()
def test_answers_are_better_than_the_factual_where_the_truth_is_known(learnt):
    split = data(64, seed=7)
    pa = split.parents.clone()
    pa[:, 1] = 1.3 - pa[:, 1]
    bar = split.x > split.x.amin((1, 2, 3), keepdim=True) + 0.05
    truth = torch.where(bar, pa[:, 1, None, None, None], split.x)
    answer = learnt.predict(learnt.abduct(split.x, split.parents), pa)
    assert (answer - truth)[bar].abs().mean() < 0.5 * (split.x - truth)[bar].abs().mean()


def test_a_fixed_point_iteration_keeps_the_best_iterate_of_each_image():
    slope = torch.tensor([0.5, -0.5, -2.0, 3.0, torch.nan], dtype=torch.float64)[:, None]
    calls = []

    def step(y):
        calls.append(1)
        return slope * y + (1 - slope)  # the fixed point is 1

    y, image = fixed_point(step, torch.zeros(5, 2, dtype=torch.float64), 4)
    assert len(calls) == 5
    expected = torch.tensor([1 - 0.5**4, 1 - 0.5**4, 0, 0, 0], dtype=torch.float64)[:, None].expand(5, 2)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(image, slope * expected + (1 - slope), equal_nan=True)


@pytest.mark.parametrize("name", SOLVERS)
def test_where_a_step_is_no_contraction_rounds_do_no_harm(name):
    times = [0.0, 1.0]
    v = lambda x, t: torch.sin(8 * x) + t  # noqa: E731
    x = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]
    missed = [
        (integrate(v, invert(v, x, times, SOLVERS[name], rounds)[0], times[::-1], SOLVERS[name]) - x).abs()
        for rounds in (0, 1, 5)
    ]
    assert (missed[1] <= missed[0] + 1e-12).all()
    assert (missed[2] <= missed[1] + 1e-12).all()
    assert missed[2].mean() < missed[0].mean()


@torch.no_grad()
def test_fixed_points_make_composition_small(learnt):
    split = data(16, seed=7)
    for solver in ("euler", "midpoint"):
        errors = []
        for rounds in (0, 3):
            m = answering(learnt, steps=8, fixed_point=rounds, solver=solver)
            errors.append(float((m.predict(m.abduct(split.x, split.parents), split.parents) - split.x).abs().mean()))
        assert errors[1] < errors[0]


@torch.no_grad()
def test_a_full_residual_returns_the_factual_and_answers_otherwise(learnt):
    split = data(16, seed=7)
    plain, full = (answering(learnt, steps=3, residual=kind) for kind in ("none", "full"))
    u = full.abduct(split.x, split.parents)
    torch.testing.assert_close(full.predict(u, split.parents), split.x, atol=1e-5, rtol=0)
    assert (plain.predict(u | {"residual": None}, split.parents) - split.x).abs().max() > 1e-3
    assert "residual" not in plain.abduct(split.x, split.parents)
    assert (full.predict(u, split.parents.flip(0)) - split.x).abs().mean() > 0.02


@torch.no_grad()
def test_a_short_flow_keeps_more_of_the_factual(learnt):
    split = data(16, seed=7)
    pa = split.parents.clone()
    pa[:, 0] = 1 - pa[:, 0]
    moved = []
    for start in (0.2, 1.0):
        m = answering(learnt, steps=10, start=start)
        u = m.abduct(split.x, split.parents)
        moved.append(float((m.predict(u, pa) - m.predict(u, split.parents)).abs().mean()))
    assert moved[0] < moved[1]


@torch.no_grad()
def test_guidance_is_a_contrast_that_vanishes_where_no_class_changes(method):
    split = data(6, seed=2)
    new = split.parents.flip(0)
    base = torch.stack([split.parents[:, 0], new[:, 1]], dim=1)  # the factual class, the new value
    plain, strong = answering(method), answering(method, guidance=3.0)
    u = plain.abduct(split.x, split.parents)
    for asked in (split.parents, base):
        torch.testing.assert_close(strong.predict(u, asked), plain.predict(u, asked))
    assert not torch.allclose(strong.predict(u, new), plain.predict(u, new), atol=1e-3)
    x, t = u["x"], torch.full((6,), 1.0)
    old, wanted = (method.velocity(x, t, method.encoder.token(p)) for p in (base, new))
    one = answering(method, guidance=3.0, steps=1, solver="euler")
    expected = (x - (old + 3 * (wanted - old)) + 1) / 2
    torch.testing.assert_close(one.predict(u, new), expected.clamp(0, 1))


@torch.no_grad()
def test_samples_follow_their_streams(learnt):
    pa = data(64, seed=9).parents
    pa[:, 0] = torch.arange(64) % 2
    image = learnt.sample(pa, Streams(range(64)))
    assert image.shape == (64, 1, 8, 8)
    torch.testing.assert_close(learnt.sample(pa[3:5], Streams([3, 4])), image[3:5], atol=1e-4, rtol=0)
    assert not torch.allclose(learnt.sample(pa, Streams(range(1, 65))), image, atol=1e-2)
    lying = image.mean(3).var(2) > image.mean(2).var(2)
    assert (lying[:, 0] == pa[:, 0].bool()).float().mean() > 0.9


@torch.no_grad()
def test_evaluations_are_counted(method):
    for params in ({}, {"solver": "rk4"}, {"guidance": 2.0, "fixed_point": 2, "solver": "euler"}, {"residual": "full"}):
        m, calls = answering(method, **params), []
        m.velocity.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        u = m.abduct(data(2).x, data(2).parents)
        assert len(calls) == m.evaluations["abduct"]
        m.predict(u, data(2).parents)
        assert len(calls) == m.evaluations["abduct"] + m.evaluations["predict"]


def test_the_training_loss_is_logged_and_the_budget_kept():
    rows = []
    run = session(images=700, log=rows.append)
    FlowMatching(GRAPH, **SMALL, batch=64).fit(run)
    assert 700 - 64 < run.seen <= 700
    assert {"stage", "step", "loss"} <= set(rows[0])


@pytest.mark.parametrize(
    "params", [{"solver": "x"}, {"coupling": "x"}, {"steps": 0}, {"start": 0.0}, {"start": 1.5}, {"residual": "x"}]
)
def test_bad_settings_are_named(params):
    with pytest.raises(UserError, match="flowmatching"):
        FlowMatching(GRAPH, **{**SMALL, **params})


def test_a_condition_adds_nothing_to_unconditional_networks():
    torch.manual_seed(0)
    plain = UNet(1, 8, (1, 2))
    torch.manual_seed(0)
    conditional = UNet(1, 8, (1, 2), condition=3)
    names = {n for n in conditional.state_dict() if not n.startswith("condition.")}
    assert names == set(plain.state_dict())
    assert all(torch.equal(v, conditional.state_dict()[n]) for n, v in plain.state_dict().items())
    with torch.no_grad():
        for parameter in conditional.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    plain.load_state_dict({n: v for n, v in conditional.state_dict().items() if n in names})
    x, t, c = torch.randn(2, 1, 8, 8), torch.tensor([3, 500]), torch.randn(2, 3)
    assert torch.equal(plain(x, t), conditional(x, t))
    assert not torch.allclose(conditional(x, t, c), conditional(x, t, -c), atol=1e-4)
    denoiser = Denoiser(conditional, (1, 8, 8), alpha_bars("linear"), "eps")
    assert torch.equal(denoiser(x, t, c), conditional(x, t, c))
    with torch.no_grad():
        conditional.condition[2].weight.zero_()
        conditional.condition[2].bias.zero_()
    assert torch.equal(conditional(x, t, c), plain(x, t))


def test_the_null_token_says_nothing_of_the_parents():
    pa = data(4).parents
    encoder = ParentEncoder(GRAPH).fit(pa)
    token = encoder.token(pa, torch.tensor([True, False, True, False]))
    assert token.shape == (4, encoder.dim + 1)
    assert torch.equal(token[[1, 3]], torch.zeros(2, encoder.dim + 1))
    assert torch.equal(token[[0, 2]], encoder.token(pa)[[0, 2]])
    assert torch.equal(token[0, :-1], encoder(pa)[0])
    assert token[0, -1] == 1
