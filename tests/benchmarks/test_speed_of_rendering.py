"""Rendering and measuring digits beside the published procedure on scikit-image, bit for bit the same."""

from __future__ import annotations

import time

import numpy as np
import pytest
from cfbench_datasets import mnist, morphofiles, morphology

COUNT = 5
plain = pytest.importorskip("plain_morphology", reason="scikit-image is not installed")


@pytest.fixture(scope="module")
def digits(data_root):
    if not (data_root / mnist.FOLDER).is_dir():
        pytest.skip(f"no MNIST: {data_root / mnist.FOLDER} is missing")
    return morphofiles.sources(data_root)["images"].numpy()[60_000 : 60_000 + COUNT]


def redraw(how, digits):
    return np.stack([how.render(d, 1.5 + 0.7 * n, 100.0 + 30 * n) for n, d in enumerate(digits)])


def measure(how, digits):
    return [how.thickness(how.outline(d, 4)) for d in digits]


def plain_measure(digits):
    return [plain.thickness(plain.outline(d, 4), 4) for d in digits]


@pytest.mark.benchmark(group=f"{COUNT} digits of another thickness and intensity")
@pytest.mark.parametrize("how", [morphology, plain], ids=["ours", "scikit-image"])
def test_rendering(benchmark, digits, how):
    assert np.array_equal(benchmark(redraw, how, digits), redraw(morphology, digits))


@pytest.mark.benchmark(group=f"thickness of {COUNT} images")
@pytest.mark.parametrize("how", ["ours", "scikit-image"])
def test_measuring(benchmark, digits, how):
    found = benchmark(plain_measure, digits) if how == "scikit-image" else benchmark(measure, morphology, digits)
    assert found == pytest.approx(measure(morphology, digits))


def test_rendering_is_several_times_as_fast(digits):
    """Processor time, so that a loaded machine does not matter; the benchmark above gives the factor."""

    def seconds(how):
        start = time.process_time()
        redraw(how, digits)
        return time.process_time() - start

    redraw(morphology, digits)
    ratio = min(seconds(plain) for _ in range(2)) / min(seconds(morphology) for _ in range(2))
    assert ratio > 4
