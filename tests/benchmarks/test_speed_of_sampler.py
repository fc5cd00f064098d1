"""The moves of diffusion: what fixed-point iterations cost, and guidance beside plain generation."""

from __future__ import annotations

import math

import pytest
import torch
from cfbench_methods.diffusion import generate, invert, route, signal_levels
from cfbench_methods.networks import UNet

STEPS = 10
ROUTE = route(signal_levels("linear"), STEPS, 0.75)


@pytest.fixture(scope="module")
def eps():
    torch.manual_seed(0)
    net = UNet(1, width=32, mult=(1, 2, 2), patch=2).eval()
    return lambda x, t: net(x, torch.full((len(x),), float(t)))


@pytest.fixture(scope="module")
def x():
    return torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.benchmark(group="abduction of 16 images, 10 steps")
@pytest.mark.parametrize("fixed_point", [0, 1, 2])
def test_inversion(benchmark, eps, x, fixed_point):
    with torch.no_grad():
        u = benchmark(invert, eps, x, ROUTE.up, fixed_point)
    assert u.isfinite().all()


@pytest.mark.benchmark(group="prediction of 16 images, 10 steps")
@pytest.mark.parametrize("guided", [False, True])
def test_generation(benchmark, eps, x, guided):
    def guide(x, t):
        return -x / math.sqrt(t + 1)

    with torch.no_grad():
        image = benchmark(generate, eps, x, ROUTE.down, guide if guided else None)
    assert image.isfinite().all()
