"""Set scores beside the library that they are tested against."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.fid import _compute_fid

from cfbench.metrics.frechet import frechet, moments, reference


@pytest.fixture(scope="module")
def features():
    rng = torch.Generator().manual_seed(0)
    return [torch.rand(n, 64, generator=rng, dtype=torch.float64) for n in (128, 2000)]


@pytest.mark.benchmark(group="FID of 128 answers against 2,000 real images")
@pytest.mark.parametrize("who", ["ours", "torchmetrics"])
def test_fid(benchmark, features, who):
    made, real = features
    root, (mean, covariance) = reference(real), moments(real)

    def library():
        own = moments(made)
        return _compute_fid(own.mean, own.spread, mean, covariance)

    value = benchmark(library if who == "torchmetrics" else lambda: frechet(made, root))
    assert float(value) == pytest.approx(float(frechet(made, root)), rel=1e-6)
