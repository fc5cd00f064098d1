"""Rendering and measuring digits against the published procedure on scikit-image, bit for bit the same."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from cfbench_datasets import mnist
from cfbench_datasets.morphomnist import morphology, published
from cfbench_datasets.strokes import pen
from threadpoolctl import threadpool_limits

pytestmark = pytest.mark.serial
COUNT = 5
plain = pytest.importorskip("plain_morphology", reason="scikit-image is not installed")


@pytest.fixture(scope="module")
def digits(data_root):
    if not (data_root / mnist.FOLDER).is_dir():
        pytest.skip(f"no MNIST: {data_root / mnist.FOLDER} is missing")
    return published.read_sources(data_root)["images"].numpy()[60_000 : 60_000 + COUNT]


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


def seconds(work, *args):
    """Processor time, so that a loaded machine does not matter: the better of two."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        work(*args)
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.parametrize("threads", [1, 2])
def test_rendering_is_several_times_as_fast(digits, threads):
    with threadpool_limits(limits=threads, user_api="blas"):
        redraw(morphology, digits)
        assert seconds(redraw, plain, digits) > 4 * seconds(redraw, morphology, digits)


def test_a_second_thread_does_not_slow_the_pen_down():
    parents, style = torch.tensor([[3, 2.0, 200, 5]]).repeat(320, 1), torch.zeros(320, pen.STYLE)
    pen.render(parents, style)
    before, taken = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            taken.append(seconds(pen.render, parents, style))
    finally:
        torch.set_num_threads(before)
    assert taken[1] < 2 * taken[0]
