"""Samplers beside each other: the way up, and the way down with a push; seconds follow the evaluations."""

from __future__ import annotations

import pytest
import torch
from cfbench_methods.diffusion.samplers import SAMPLERS, make
from cfbench_methods.diffusion.schedule import alpha_bars, trajectory
from cfbench_methods.nn.unet import UNet

STEPS = 10
ROUTE = trajectory(alpha_bars("linear"), STEPS, 0.6, rho=1.5)


@pytest.fixture(scope="module")
def eps():
    torch.manual_seed(0)
    net = UNet(1, width=32, mult=(1, 2, 2), patch=2).eval()
    return lambda x, t: net(x, torch.full((len(x),), float(t)))


@pytest.fixture(scope="module")
def x():
    return torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.benchmark(group="abduction of 16 images, 10 moves")
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_inversion(benchmark, eps, x, name):
    sampler = make(name, ROUTE)
    benchmark.extra_info["evaluations"] = sampler.evaluations(STEPS)[0]
    with torch.no_grad():
        u = benchmark(sampler.invert, eps, x, ROUTE)
    assert u["x"].isfinite().all()


@pytest.mark.benchmark(group="prediction of 16 images, 10 moves")
@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_generation(benchmark, eps, x, name):
    sampler = make(name, ROUTE)
    benchmark.extra_info["evaluations"] = sampler.evaluations(STEPS)[1]
    with torch.no_grad():
        u = sampler.from_noise(eps, x, ROUTE)
        image = benchmark(sampler.generate, eps, u, ROUTE, lambda y, t: 0.01 * y)
    assert image.isfinite().all()
