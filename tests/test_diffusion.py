"""Schedules, DDIM moves and both directions of travel, against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cfbench_methods.diffusion.samplers import DDIM
from cfbench_methods.diffusion.schedule import (
    Trajectory,
    alpha_bars,
    clip,
    ddim,
    dynamic_threshold,
    noised,
    thresholded,
    trajectory,
)

from cfbench.errors import UserError

pytestmark = pytest.mark.portable

LINEAR = alpha_bars("linear")


def gaussian(mean: float, var: float):
    """The exact noise of images whose pixels are N(mean, var), as a function of signal level."""

    def eps(x, a):
        return math.sqrt(1 - a) * (x - math.sqrt(a) * mean) / (a * var + 1 - a)

    return eps


class Mixture:
    """The exact noise of a mixture of narrow Gaussians in 64 dimensions."""

    def __init__(self, levels, modes=8, width=0.3):
        g = torch.Generator().manual_seed(0)
        self.centres = torch.randn(modes, 64, generator=g, dtype=torch.float64)
        self.alpha_bar, self.var = levels, width**2

    def sample(self, count):
        g = torch.Generator().manual_seed(1)
        rows = torch.randint(len(self.centres), (count,), generator=g)
        noise = torch.randn(count, 64, generator=g, dtype=torch.float64)
        return (self.centres[rows] + self.var**0.5 * noise).reshape(count, 1, 8, 8)

    def __call__(self, x, t):
        a = float(self.alpha_bar[t])
        flat = x.flatten(1)
        away = flat[:, None] - math.sqrt(a) * self.centres
        total = a * self.var + 1 - a
        weight = torch.softmax(-away.square().sum(2) / (2 * total), dim=1)
        return (math.sqrt(1 - a) * (weight[:, :, None] * away).sum(1) / total).reshape(x.shape)


def missed(eps, x, r, fixed_point=0):
    """The mean absolute error of a round trip."""
    sampler = DDIM(fixed_point)
    return float((sampler.generate(eps, sampler.invert(eps, x, r), r) - x).abs().mean())


def test_linear_levels_are_the_product_of_one_minus_beta():
    beta = [1e-4 + (0.02 - 1e-4) * k / 999 for k in range(1000)]
    expected = list(itertools.accumulate((1 - b for b in beta), lambda p, q: p * q))
    torch.testing.assert_close(LINEAR, torch.tensor(expected, dtype=torch.float64))
    assert LINEAR[0] == pytest.approx(0.9999)


def test_cosine_levels_end_where_the_literature_says():
    levels = alpha_bars("cosine")
    assert levels[999] == pytest.approx(2.43e-9, rel=2e-3)
    assert levels[998] == pytest.approx(2.43e-6, rel=2e-2)
    assert 1 / math.sqrt(levels[999]) == pytest.approx(20291, rel=1e-3)


def test_unknown_schedule():
    with pytest.raises(UserError, match="sigmoid"):
        alpha_bars("sigmoid")


def test_aligned_trajectories_pass_the_same_levels_both_ways():
    r = trajectory(LINEAR, 20, 0.75)
    assert [(m.a, m.a_next) for m in r.inversion] == [(m.a_next, m.a) for m in reversed(r.generation)]
    assert r.inversion[0].a == 1
    assert r.inversion[-1].a_next == float(LINEAR[749])
    assert [m.t for m in r.generation] == [m.t_next for m in reversed(r.inversion)]


def test_all_levels_are_visited_when_asked_for():
    assert [m.t for m in trajectory(LINEAR, 1000).generation] == list(range(999, -1, -1))


@pytest.mark.parametrize("steps", [4, 10, 100, 600])
def test_trajectories_with_a_larger_rho_are_denser_near_the_image(steps):
    t = [m.t_next for m in trajectory(LINEAR, steps, 0.6, rho=1.5).inversion]
    assert t == sorted(set(t))
    assert t[-1] == 599
    assert t[0] == max(0, math.floor(600 * steps**-1.5) - 1)
    gaps = [b - a for a, b in itertools.pairwise(t)]
    assert steps == 600 or sum(gaps[: len(gaps) // 2]) < 0.75 * sum(gaps[len(gaps) // 2 :])
    assert trajectory(LINEAR, steps, 0.6, rho=1.5).aligned


def test_a_misaligned_trajectory_ends_one_level_beyond_where_it_starts_back():
    r = trajectory(LINEAR, 75, 0.75, aligned=False)
    assert [m.t for m in r.inversion] == list(range(0, 750, 10)) == [m.t for m in reversed(r.generation)]
    assert r.inversion[0].a == float(LINEAR[0])
    assert r.inversion[-1].a_next == float(LINEAR[750])
    assert r.generation[0].a == float(LINEAR[740])
    assert r.generation[-1].a_next == 1
    assert math.sqrt(r.inversion[-1].a_next / r.generation[0].a) == pytest.approx(0.927, abs=2e-3)


def test_a_misaligned_trajectory_to_the_end_forgets_the_image():
    assert trajectory(LINEAR, 100, 1.0, aligned=False).inversion[-1].a_next == 0


@pytest.mark.parametrize(("steps", "start"), [(0, 1.0), (1001, 1.0), (800, 0.75), (10, 1.5)])
def test_impossible_trajectories(steps, start):
    with pytest.raises(UserError, match="steps"):
        trajectory(LINEAR, steps, start)


def test_a_move_along_the_true_noise_is_exact():
    g = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 3, 1, 4, 4, generator=g, dtype=torch.float64)
    at = lambda a: noised(x, eps, torch.full((3,), a, dtype=torch.float64))  # noqa: E731
    torch.testing.assert_close(ddim(at(0.8), eps, 0.8, 0.3), at(0.3))
    torch.testing.assert_close(ddim(at(0.3), eps, 0.3, 1.0), x)


def test_many_moves_follow_the_exact_flow_of_a_gaussian():
    mean, var = -0.4, 0.25
    exact = gaussian(mean, var)
    r = trajectory(LINEAR, 750, 0.75)
    x = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    u = DDIM().invert(lambda y, t: exact(y, float(LINEAR[t])), x, r)["x"]
    a = float(LINEAR[749])
    expected = math.sqrt(a) * mean + math.sqrt((a * var + 1 - a) / var) * (x - mean)
    torch.testing.assert_close(u, expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("var", [0.05, 0.5])
def test_only_aligned_levels_come_back_to_the_image(var):
    exact = gaussian(0.2, var)
    denoiser = lambda y, t: exact(y, float(LINEAR[t]))  # noqa: E731
    x = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    for aligned, low, high in ((True, 0, 1e-8), (False, 3e-4, 1)):
        r = trajectory(LINEAR, 75, 0.75, aligned)
        assert low <= missed(denoiser, x, r, 40) < high
    assert missed(denoiser, x, trajectory(LINEAR, 75, 0.75)) < 0.07


def test_fixed_point_iterations_shrink_the_error_of_inversion():
    exact = Mixture(LINEAR)
    x, r = exact.sample(16), trajectory(LINEAR, 75, 0.75)
    errors = [missed(exact, x, r, k) for k in (0, 1, 2, 10)]
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 3
    assert errors[3] < 1e-7


@pytest.mark.parametrize("process", [clip, dynamic_threshold])
def test_processing_inside_abduction_breaks_the_round_trip(process):
    exact = Mixture(LINEAR)
    x, r = exact.sample(8), trajectory(LINEAR, 75, 0.75)
    both = lambda y, t: thresholded(y, exact(y, t), float(LINEAR[t]), process)  # noqa: E731
    assert missed(both, x, r) > 3 * missed(exact, x, r)


def test_processed_noise_leads_to_the_processed_image():
    a = float(LINEAR[499])
    x, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(thresholded(x, eps, a, lambda x0: x0), eps)
    x0 = ddim(x, thresholded(x, eps, a, clip), a, 1.0)
    torch.testing.assert_close(x0, ddim(x, eps, a, 1.0).clamp(-1, 1))


def test_dynamic_normalisation_divides_by_the_quantile_where_it_exceeds_one():
    x = torch.linspace(-2, 2, 401, dtype=torch.float64).reshape(1, 1, 1, 401)
    q = float(torch.quantile(x.abs().flatten(), 0.99))
    torch.testing.assert_close(dynamic_threshold(x), x.clamp(-q, q) / q)
    torch.testing.assert_close(dynamic_threshold(x / 4), x / 4)


def test_guidance_shifts_the_noise_against_the_gradient():
    a, b = float(LINEAR[499]), float(LINEAR[249])
    r = trajectory(LINEAR, 2, 0.5)
    one = Trajectory((), r.generation[:1])
    assert (one.generation[0].a, one.generation[0].a_next) == (a, b)
    x, g = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.full((1, 1, 2, 2), 50.0, dtype=torch.float64)
    still = lambda y, t: torch.zeros_like(y)  # noqa: E731
    out = DDIM().generate(still, {"x": x}, one, lambda y, t: -math.sqrt(1 - a) * g)
    shift = math.sqrt(1 - a) * (math.sqrt(b * (1 - a) / a) - math.sqrt(1 - b))
    torch.testing.assert_close(out, shift * g)
