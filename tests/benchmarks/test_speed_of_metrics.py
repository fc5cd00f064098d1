"""Set scores beside the library that they are tested against."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid

from cfbench.evaluation.resamples import draw_resamples
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


@pytest.mark.benchmark(group="1,000 resamples of 500 factuals")
@pytest.mark.parametrize("how", ["counts at once", "rows one by one"])
def test_resampling(benchmark, how):
    scores = np.random.default_rng(0).normal(size=500)

    def counts():
        return draw_resamples("key", 500, 1, 1000).counts @ scores / 500

    def rows():
        every = draw_resamples("key", 500, 1, 1000).counts.astype(int)
        return np.array([scores[np.repeat(np.arange(500), counts)].mean() for counts in every])

    np.testing.assert_allclose(benchmark(counts if how == "counts at once" else rows), rows())
