"""The renderers of digits: one thread while they draw, and the same images whatever the processor can do."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from cfbench_datasets.morphomnist import morphology
from cfbench_datasets.morphomnist.dataset import MorphoMNIST
from cfbench_datasets.strokes import measure, pen
from portable import LIMITS, limits
from threadpoolctl import threadpool_info, threadpool_limits


def drawn() -> str:
    """A digest of images of both renderers, of parents and styles that numpy draws."""
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    parents = np.stack([rng.uniform(*span, 200) for span in ((0, 10), (0.8, 6.5), (64, 255), (-31, 43))], axis=1)
    parents[:, 0] = np.floor(parents[:, 0])
    style = torch.tensor(rng.normal(size=(200, pen.STYLE)))
    images = pen.render(torch.tensor(parents, dtype=torch.float32), style)
    digest.update(images.numpy().tobytes())
    for n, image in enumerate(images[:20, 0].numpy()):
        digest.update(morphology.render(image, 1.5 + 0.2 * n, 100.0).tobytes())
        digest.update(morphology.redraw(image, float("nan"), [2.5, 3.0 * n])[1].tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("limit", limits())
def test_images_are_the_same_whatever_the_processor_can_do(limit):
    env = os.environ | LIMITS[limit] | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_renderers; print(test_renderers.drawn())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == drawn()


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(limits=2, user_api="blas"):
        yield
    torch.set_num_threads(before)


def watched(monkeypatch, module, name, count) -> list[object]:
    """The numbers of threads at each call of a module's function."""
    function, seen = getattr(module, name), []

    def call(*args, **kwargs):
        seen.append(count())
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, call)
    return seen


@pytest.mark.parametrize("fails", [False, True])
def test_rendering_and_measuring_strokes_take_one_thread_and_restore_the_others(two_threads, monkeypatch, fails):
    drawing = watched(monkeypatch, pen, "_render", torch.get_num_threads)
    measuring = watched(monkeypatch, measure, "intensity", torch.get_num_threads)
    parents, style = torch.tensor([[3, 2.0, 200, 5]]), torch.zeros(1, pen.STYLE + fails)
    if fails:
        with pytest.raises(ValueError, match="unpack"):
            pen.render(parents[:, :3], style)
        with pytest.raises(RuntimeError):
            measure.measure(torch.zeros(2, 3))
    else:
        measure.measure(pen.render(parents, style).float() / 255)
    assert set(drawing) == set(measuring) == {1}
    assert torch.get_num_threads() == 2


def test_the_renderer_of_mnist_takes_one_thread_and_restores_the_others(two_threads, monkeypatch):
    seen = watched(monkeypatch, morphology, "outline", blas_threads)
    image = np.zeros((28, 28), dtype=np.uint8)
    image[6:22, 12:16] = 255
    morphology.redraw(image, float("nan"), [3.0])
    MorphoMNIST("slant").measure(torch.from_numpy(image)[None, None] / 255)
    with pytest.raises(ValueError, match="mismatch"):
        morphology.redraw(image[:9], float("nan"), [3.0])
    assert seen == [{1}] * 3
    assert blas_threads() == {2}
