"""Samplers: closed forms of their moves, exact return, orders of convergence, and the flow that all of them follow."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from cfbench_methods.diffusion.samplers import BDIA, BELM, DDIM, EDICT, SAMPLERS, Adams, Direct, make
from cfbench_methods.diffusion.schedule import Step, Trajectory, alpha_bars, trajectory
from cfbench_methods.nn.unet import UNet

from cfbench.errors import UserError

pytestmark = pytest.mark.portable

LINEAR = alpha_bars("linear")
MEAN, VAR = -0.4, 0.25
ALL = {"ddim": DDIM(), "fixed point": DDIM(2), "adams": Adams(), "direct": Direct()}
ALL |= {"edict": EDICT(), "bdia": BDIA(), "belm": BELM()}
EXACT = {name: s for name, s in ALL.items() if s.exact}
RANGE = 2.0


def smooth(steps, far=4.0):
    """A route whose ratios σ/ā grow smoothly to ``far``; t numbers its levels from the clean image."""
    a = [1 / (1 + (far * (0.3 * i / steps + 0.7 * (i / steps) ** 2)) ** 2) for i in range(steps + 1)]
    up = tuple(Step(a[i], a[i + 1], i, i + 1) for i in range(steps))
    return Trajectory(up, tuple(Step(m.a_next, m.a, m.t_next, m.t) for m in reversed(up)))


def gaussian(r):
    """The exact noise of pixels N(MEAN, VAR) on a route that numbers its own levels."""
    a = [r.inversion[0].a, *(m.a_next for m in r.inversion)]
    return lambda x, t: math.sqrt(1 - a[t]) * (x - math.sqrt(a[t]) * MEAN) / (a[t] * VAR + 1 - a[t])


def flow(x, a):
    """Where the exact flow carries pixels of N(MEAN, VAR) from the clean image to signal level a."""
    return math.sqrt(a) * MEAN + math.sqrt((a * VAR + 1 - a) / VAR) * (x - MEAN)


def pixels():
    return torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)


def modes(dtype=torch.float32):
    """The exact noise of a mixture of narrow Gaussians in 64 dimensions on the linear schedule, and a sample."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 64, generator=g, dtype=dtype)

    def eps(x, t):
        a = float(LINEAR[t])
        total = a * 0.09 + 1 - a
        away = x.flatten(1)[:, None] - math.sqrt(a) * centres
        weight = torch.softmax(-away.square().sum(2) / (2 * total), dim=1)
        return (math.sqrt(1 - a) * (weight[:, :, None] * away).sum(1) / total).reshape(x.shape)

    rows = torch.randint(8, (16,), generator=g)
    return eps, (centres[rows] + 0.3 * torch.randn(16, 64, generator=g, dtype=dtype)).reshape(16, 1, 8, 8)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    net = UNet(1, width=16, mult=(1, 2), patch=2).eval()
    torch.nn.init.normal_(net.outlet.weight, std=0.1)
    net = net.to(dtype)
    x = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return (lambda y, t: net(y, torch.full((len(y),), t))), x.to(dtype)


def back(sampler, eps, x, r):
    return sampler.generate(eps, sampler.invert(eps, x, r), r)


@pytest.mark.parametrize("steps", [1, 2, 10, 25, 50])
@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_exact_samplers_return_to_the_image(name, steps):
    """Exactly but for rounding, which a trajectory amplifies by up to a thousand: EDICT's on a few long moves most."""
    for dtype, least in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        for eps, x in (modes(dtype), network(dtype)):
            assert x.dtype == dtype
            missed = (back(EXACT[name], eps, x, trajectory(LINEAR, steps, 0.75)) - x).abs().max()
            assert missed < least * RANGE


@torch.no_grad()
def test_others_do_not_return_exactly_and_nor_does_the_noise_alone():
    eps, x = modes()
    r = trajectory(LINEAR, 10, 0.75)
    for sampler in (DDIM(), DDIM(1), Adams()):
        assert (back(sampler, eps, x, r) - x).abs().max() > 1e-3 * RANGE
    for sampler in EXACT.values():
        alone = sampler.from_noise(eps, sampler.invert(eps, x, r)["x"], r)
        assert (sampler.generate(eps, alone, r) - x).abs().max() > 1e-3 * RANGE


@torch.no_grad()
def test_return_needs_the_same_noise_both_ways():
    eps, x = modes()
    r = trajectory(LINEAR, 10, 0.75)
    for sampler in EXACT.values():
        u = sampler.invert(eps, x, r)
        assert (sampler.generate(lambda y, t: eps(y, t) + 0.1, u, r) - x).abs().mean() > 1e-2


@torch.no_grad()
def test_bdia_below_one_loses_its_way_on_long_routes():
    eps, x = modes()
    r = trajectory(LINEAR, 75, 0.75)
    wrong = [float((back(BDIA(gamma=gamma), eps, x, r) - x).abs().max()) for gamma in (1.0, 0.5)]
    assert wrong[0] < 1e-4 * RANGE
    assert not wrong[1] < 1


def errors(sampler, counts, down):
    """How far the end of the exact flow of a Gaussian is missed, by number of moves."""
    missed = []
    for steps in counts:
        r = smooth(steps)
        eps, x = gaussian(r), pixels()
        far = flow(x, r.inversion[-1].a_next)
        if down:
            missed.append(float((sampler.generate(eps, sampler.from_noise(eps, far, r), r) - x).abs().max()))
        else:
            missed.append(float((sampler.invert(eps, x, r)["x"] - far).abs().max()))
    return missed


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("fixed point", 1), ("adams", 2), ("direct", 1)])
def test_orders_of_convergence(name, order, down):
    coarse, fine = errors(ALL[name], (200, 400), down)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", ["bdia", "belm"])
def test_two_step_samplers_are_of_second_order_on_the_way_down(name):
    r = smooth(100)
    assert errors(ALL[name], (100,), True)[0] < errors(DDIM(), (100,), True)[0] / 10
    coarse, fine = errors(ALL[name], (200, 400), True)
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.2)
    assert r.aligned


@pytest.mark.parametrize("name", sorted(set(ALL) - {"edict"}))
@pytest.mark.parametrize("down", [False, True])
def test_every_sampler_comes_nearer_to_the_exact_flow_with_more_moves(name, down):
    counts = errors(ALL[name], (10, 40, 160, 640), down)
    assert all(b < a / 2 for a, b in pairwise(counts)) or name == "direct"
    assert counts[-1] < min(0.01, counts[0] / 10)


def test_the_coupled_images_of_edict_come_nearer_to_the_exact_flow_where_they_are_not_mixed():
    counts = errors(EDICT(mixing=1.0), (10, 40, 160, 640), True)
    assert all(b < a / 2 for a, b in pairwise(counts))
    mixed = [errors(EDICT(), (n,), True)[0] for n in (40, 640)]
    assert mixed[1] < mixed[0]


def test_the_first_move_up_of_two_step_samplers_reads_the_noise():
    r = smooth(2)
    x = pixels()
    noise = torch.ones_like(x)
    for sampler in (BDIA(), BELM()):
        u = sampler.invert(lambda y, t: noise, x, r)
        torch.testing.assert_close(
            u["y"], math.sqrt(r.inversion[0].a_next) * x + math.sqrt(1 - r.inversion[0].a_next) * noise
        )
        torch.testing.assert_close(
            u["x"], math.sqrt(r.inversion[1].a_next) * x + math.sqrt(1 - r.inversion[1].a_next) * noise
        )


@pytest.mark.parametrize("name", ALL)
def test_along_constant_noise_every_sampler_is_exact(name):
    r = smooth(12)
    x, noise = pixels(), torch.full((1, 1, 4, 4), 0.7, dtype=torch.float64)
    eps = lambda y, t: noise  # noqa: E731
    u = ALL[name].invert(eps, x, r)
    a = r.inversion[-1].a_next
    if name != "edict":
        torch.testing.assert_close(u["x"], math.sqrt(a) * x + math.sqrt(1 - a) * noise)
    torch.testing.assert_close(ALL[name].generate(eps, u, r), x)


def test_a_step_of_belm_is_the_published_formula():
    r = smooth(3)
    eps = gaussian(r)
    far, near = pixels(), pixels().flip(3)
    (s1, a1), (s2, a2), (s3, a3) = (
        (math.sqrt(1 - a) / math.sqrt(a), math.sqrt(a)) for a in (m.a_next for m in r.inversion)
    )
    h, above = s2 - s1, s3 - s2
    ratio = h / above
    expected = a1 * (ratio**2 * far / a3 + (1 - ratio**2) * near / a2 - h * (1 + ratio) * eps(near, 2))
    got = BELM().generate(eps, {"x": far, "y": near}, Trajectory((), r.generation[:2]))
    torch.testing.assert_close(got, expected)


def test_a_step_of_edict_is_the_published_formula():
    r = smooth(1)
    eps, p = gaussian(r), 0.93
    x, y = pixels(), pixels().flip(3)
    a = math.sqrt(1 / r.inversion[0].a_next)
    b = -a * math.sqrt(1 - r.inversion[0].a_next)
    one, two = (y, x)  # at even levels the images have changed places
    one = a * one + b * eps(two, 1)
    two = a * two + b * eps(one, 1)
    one = p * one + (1 - p) * two
    two = p * two + (1 - p) * one
    torch.testing.assert_close(EDICT().generate(eps, {"x": x, "y": y}, r), two)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("moves", [1, 2, 7])
def test_evaluations_are_counted_right(name, moves):
    r, calls, seen = smooth(moves), [], []
    eps = lambda y, t: calls.append(t) or torch.zeros_like(y)  # noqa: E731
    u = ALL[name].invert(eps, pixels(), r, lambda y, t: seen.append(t))
    up = len(calls)
    ALL[name].generate(eps, u, r)
    assert (up, len(calls) - up) == ALL[name].evaluations(moves)
    assert seen == list(range(1, moves + 1))


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_images_do_not_mix_and_inputs_are_left_alone(name):
    eps, x = modes(torch.float64)
    r, before = trajectory(LINEAR, 5, 0.75), x.clone()
    u = ALL[name].invert(eps, x, r)
    kept = {k: v.clone() for k, v in u.items()}
    whole = ALL[name].generate(eps, {**u, "more": x}, r)
    one = ALL[name].generate(eps, {k: v[3:4] for k, v in u.items()}, r)
    torch.testing.assert_close(one, whole[3:4])
    assert torch.equal(x, before)
    assert all(torch.equal(u[k], kept[k]) for k in u)


def test_samplers_are_asked_for_by_name():
    r = trajectory(LINEAR, 4)
    assert all(isinstance(make(name, r), cls) for name, cls in SAMPLERS.items())
    with pytest.raises(UserError, match="heun"):
        make("heun", r)
    with pytest.raises(UserError, match="same levels"):
        make("belm", trajectory(LINEAR, 4, 0.75, aligned=False))
    assert isinstance(make("ddim", trajectory(LINEAR, 4, 0.75, aligned=False)), DDIM)
