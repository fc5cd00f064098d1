"""Morpho-MNIST against the published files, the renderer against scikit-image, the truths against the equations."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from cfbench_datasets import mnist
from cfbench_datasets.common import cache
from cfbench_datasets.morphomnist import (
    morphology,
    morphometry,
    published,
    render_cache,
    resampling,
    worker_pool,
)
from cfbench_datasets.morphomnist.dataset import MorphoMNIST
from cfbench_datasets.morphomnist.scm import ConfoundedThickness, ThicknessIntensity, ThicknessSlant
from scipy import ndimage, stats
from scipy.special import expit, logit

from cfbench.errors import UserError

pytestmark = pytest.mark.portable

SMALL = {"train": 20, "valid": 10, "test": 10, "judge": 10}


@pytest.fixture(scope="module")
def plain():
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    import plain_morphology

    return plain_morphology


@pytest.fixture(scope="module")
def published_root(data_root) -> Path:
    if not (data_root / published.FOLDER).is_dir():
        pytest.skip(f"no Morpho-MNIST: {data_root / published.FOLDER} is missing")
    return data_root


@pytest.fixture(scope="module")
def raw(data_root) -> Path:
    if not (data_root / mnist.FOLDER).is_dir():
        pytest.skip(f"no MNIST: {data_root / mnist.FOLDER} is missing")
    return data_root


@pytest.fixture(scope="module")
def root(published_root, raw, tmp_path_factory) -> Path:
    """A root that may be written to, with links to both data sets."""
    return linked(tmp_path_factory.mktemp("both"), published_root, "MNIST", "MorphoMNIST")


@pytest.fixture(scope="module")
def raw_root(raw, tmp_path_factory) -> Path:
    return linked(tmp_path_factory.mktemp("raw"), raw, "MNIST")


@pytest.fixture
def copy(published_root, tmp_path) -> Path:
    shutil.copytree(published_root / published.FOLDER, tmp_path / published.FOLDER)
    (tmp_path / published.FOLDER).chmod(0o755)
    return tmp_path


@pytest.fixture(scope="module")
def digits(raw):
    return published.read_sources(raw)["images"].numpy()


@pytest.fixture(scope="module")
def table(published_root):
    return published.read_published(published_root)


@pytest.fixture(scope="module")
def blobs():
    """Masks of many shapes, some of which touch the frame."""
    rng = np.random.default_rng(0)
    noise = [ndimage.gaussian_filter(rng.normal(size=(60, 45)), s) for s in (0, 1, 2, 3, 4, 6) for _ in range(4)]
    return [n > np.quantile(n, q) for n, q in zip(noise, np.linspace(0.3, 0.95, len(noise)), strict=True)]


def linked(folder: Path, source: Path, *names: str) -> Path:
    for name in names:
        os.symlink(source / name, folder / name)
    return folder


def wrong(table, digits, rows: range) -> list[int]:
    """The rows that are not rendered as they were published."""
    images, parents = table["images"].numpy(), table["parents"][:, 1:].tolist()
    return [n for n in rows if not np.array_equal(morphology.render(digits[n], *parents[n]), images[n])]


def test_a_thousand_training_images_are_rendered_as_published(table, digits):
    assert wrong(table, digits, range(0, 60_000, 60)) == []


def test_a_thousand_test_images_are_rendered_as_published(table, digits):
    assert wrong(table, digits, range(60_000, 70_000, 10)) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_images_are_rendered_as_published(table, digits):
    assert wrong(table, digits, range(70_000)) == []


def test_the_plain_procedure_renders_as_published_too(table, digits, plain):
    for n in (60_025, 61_140, 0, 7, 60_001):  # the first two take the element of radius 19, thinner and thicker
        image = plain.render(digits[n], *table["parents"][n, 1:].tolist())
        assert np.array_equal(image, table["images"][n].numpy()), n


def test_the_structuring_element_is_that_of_the_plain_procedure(plain):
    for radius in (*range(14), 19, 23, 31):
        element, reach = plain.footprint(radius), morphology.footprint(radius)
        assert np.array_equal(element[: radius + 1].sum(0) - 1, reach[:, 0]), radius
        assert np.array_equal(element[radius:].sum(0) - 1, reach[:, 1]), radius


def test_dilation_and_erosion_take_the_whole_element(blobs, plain):
    for radius in (0, 3, 19):
        delta, element = (radius + 0.5) / 8, plain.footprint(radius)
        for mask in blobs[8:]:
            thick = ndimage.grey_dilation(mask.astype(np.uint8), footprint=element[::-1, ::-1], mode="reflect") > 0
            thin = ndimage.grey_erosion(mask.astype(np.uint8), footprint=element, mode="reflect") > 0
            assert np.array_equal(morphology.thicken(mask, delta), thick)
            assert np.array_equal(morphology.thicken(mask, -delta), thin)


def test_the_distance_is_euclidean(blobs):
    for mask in blobs:
        ours = np.sqrt(morphometry.square_distance(mask).astype(float))
        assert np.array_equal(ours, ndimage.distance_transform_edt(mask))
    tall = np.ones((3, 600), dtype=bool)
    tall[0, 0] = False
    assert np.array_equal(np.sqrt(morphometry.square_distance(tall)), ndimage.distance_transform_edt(tall))


def test_the_medial_axis_is_that_of_scikit_image(blobs, plain):
    for mask in [*blobs, np.ones((5, 9), dtype=bool) ^ np.eye(5, 9, dtype=bool)]:
        skeleton, distance = plain.morphology.medial_axis(mask, return_distance=True, rng=plain.Ties())
        places, found = morphometry.medial_axis(mask)
        assert np.array_equal(places, np.flatnonzero(skeleton))
        assert np.array_equal(found, distance[skeleton])


def test_outlines_are_those_of_the_plain_procedure_in_either_order(plain, digits, monkeypatch):
    rng = np.random.default_rng(0)
    edge = np.zeros((28, 28), dtype=np.uint8)
    edge[:9, 20:] = 200
    grey = rng.integers(3, 200, (28, 28)).astype(np.uint8)
    plateau = np.zeros((28, 28), dtype=np.uint8)
    plateau[8:20, 6:18] = 200
    cases = [edge, grey, plateau, np.maximum(digits[5], 9), digits[8] // 3, *digits[10:13]]
    for tolerance in (1e-9, 0.6):  # the second takes every image in the published order of summation
        monkeypatch.setattr(morphology, "_TOLERANCE", tolerance)
        for image in cases:
            for scale in (4, 16):
                assert np.array_equal(morphology.outline(image, scale), plain.outline(image, scale))
            mask = morphology.outline(image)
            assert np.array_equal(morphology.shrink(mask), plain.shrink(mask))


def test_a_large_white_area_is_cut_to_254(plain):
    white = np.ones((448, 448))
    assert resampling.full(16) == np.floor(255 * plain.smooth(white))[224, 224] == 254
    assert resampling.full_shrunk(16) == plain.shrink(white)[14, 14]


def test_slants_are_those_of_a_warp(plain, digits):
    for n, degrees in enumerate((-30.0, 0.0, 12.0, 47.5, 75.0)):
        mask = morphology.outline(digits[n])
        np.testing.assert_allclose(morphology.set_slant(mask, degrees), plain.set_slant(mask, degrees), atol=1e-9)
        if abs(degrees) < 40:  # the further ones leave the frame
            leaning = morphology.redraw(digits[n], np.nan, [2.5, degrees])[1]
            assert morphology.slant(leaning) == pytest.approx(degrees, abs=1.5)


def test_what_is_empty_stays_empty(digits):
    nothing, mask = np.zeros((28, 28), dtype=np.uint8), np.zeros((448, 448), dtype=bool)
    assert np.array_equal(morphology.shrink(mask), nothing)
    assert np.array_equal(morphology.brighten(nothing, 100.0), nothing)
    assert not morphology.thicken(mask, 2).any()
    assert np.isnan(morphology.thickness(mask))
    assert np.isnan(morphology.thickness(~mask))
    assert np.isnan(morphology.redraw(nothing, np.nan, [3.0])[0])
    for wanted in (-5.0, 0.0, 60.0):
        image = morphology.render(digits[0], wanted, 200.0)
        assert image.any() == (wanted >= 0)
    assert not morphology.redraw(digits[0], np.nan, [-5.0, 30.0])[1].any()


def test_splits_hold_the_published_rows(root):
    data = MorphoMNIST()
    train, valid, test = (data.split(root, name) for name in ("train", "valid", "test"))
    assert [len(s) for s in (train, valid, test)] == [54_000, 6_000, 10_000]
    assert torch.equal(torch.cat([train.index, valid.index]).sort().values, torch.arange(60_000))
    assert torch.equal(test.index, torch.arange(60_000, 70_000))
    assert test.parents[0].tolist() == [7, pytest.approx(2.2673757), pytest.approx(145.269)]
    first = int((torch.cat([train.index, valid.index]) == 0).nonzero())
    parents = torch.cat([train.parents, valid.parents])
    assert parents[first].tolist() == [5, pytest.approx(2.3989508), pytest.approx(162.27393)]
    assert parents[:, 1:].mean(0).tolist() == pytest.approx([2.503, 158.0], abs=0.06)
    eps = 2 * (logit((parents[:, 2].double().numpy() - 64) / 191) - 2 * (parents[:, 1].double().numpy() - 2.5))
    assert [eps.mean(), eps.std()] == pytest.approx([-0.0025, 1.0015], abs=2e-3)
    labels = mnist.MNIST().split(root, "test").parents
    assert torch.equal(test.parents[:, :1], labels)
    again = MorphoMNIST(seed=1, valid=100).split(root, "valid")
    assert len(again) == 100
    assert not torch.equal(again.index, valid.index[:100])


def test_files_may_be_unpacked(copy, root):
    for name in published.SHA256:
        packed = copy / published.FOLDER / f"{name}.gz"
        if packed.exists():
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
    mine, other = (MorphoMNIST().split(r, "test") for r in (copy, root))
    assert torch.equal(mine.images, other.images)
    assert torch.equal(mine.parents, other.parents)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("t10k-images-idx3-ubyte.gz", lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:], "corrupt .wrong checksum"),
        ("train-labels-idx1-ubyte.gz", lambda b: b[:-9], "corrupt .wrong checksum"),
        ("t10k-morpho.csv", lambda b: b.replace(b"2.2673757", b"2.2673758"), "corrupt .wrong checksum"),
        ("t10k-morpho.csv", lambda b: b.replace(b",intensity", b",brightness"), "no column 'intensity' .found: index"),
        ("t10k-morpho.csv", lambda b: b"", "corrupt .wrong checksum"),
        ("train-images-idx3-ubyte.gz", None, "no train-images-idx3-ubyte"),
    ],
)
def test_a_corrupt_or_absent_file_is_named(copy, name, change, message):
    path = copy / published.FOLDER / name
    data = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(data))
    with pytest.raises(UserError, match=message) as error:
        MorphoMNIST().prepare(copy)
    assert str(copy / published.FOLDER) in str(error.value)
    assert "put the published file there" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_raw_mnist_only_the_factual_is_known(copy, monkeypatch):
    def no_network(self, root):
        raise UserError("mnist: no complete copy")

    monkeypatch.setattr(mnist.MNIST, "prepare", no_network)
    data = MorphoMNIST()
    with pytest.warns(UserWarning, match="no true counterfactuals without raw MNIST"):
        data.prepare(copy)
    test = data.split(copy, "test")[:4]
    cf_pa = test.parents.clone()
    cf_pa[2:, 1] += 1
    truth = data.oracle(copy, "test", test.index, cf_pa)
    assert torch.equal(truth[:2], test.x[:2])
    assert truth[2:].isnan().all()
    assert torch.equal(data.judge_split(copy, "valid").images, data.split(copy, "valid").images)


def test_fingerprints_tell_data_apart(root, raw_root, copy):
    prints = [MorphoMNIST().fingerprint(r) for r in (root, raw_root, copy)]
    prints += [MorphoMNIST(**kw).fingerprint(root) for kw in ({"variant": "slant"}, {"invert": True})]
    assert len(set(prints)) == 5
    assert MorphoMNIST().fingerprint(root) == prints[0]


def test_the_action_keeps_the_noise():
    data, rng = MorphoMNIST(), np.random.default_rng(0)
    t = 0.5 + rng.gamma(10, 0.2, 500)
    eps = rng.normal(size=500)
    i = 64 + 191 * expit(2 * (t - 2.5) + 0.5 * eps)
    pa = torch.tensor(np.stack([rng.integers(10, size=500), t, i], 1), dtype=torch.float32)
    wanted = rng.permutation(t)
    new = data.act(pa, {"thickness": torch.tensor(wanted)})
    believed = 64 + 191 * expit(2 * (wanted - 2.5) + 0.5 * eps)
    certain = (i < 254) & (i > 65)  # float32 tells little about the noise where the sigmoid is flat
    np.testing.assert_allclose(new[certain, 2], believed[certain], atol=5e-3)
    assert torch.equal(new[:, 0], pa[:, 0])
    np.testing.assert_array_equal(new[:, 1], wanted.astype(np.float32))
    assert torch.equal(data.act(pa, {"thickness": pa[:, 1]}), pa)
    both = data.act(pa, {"thickness": torch.full((500,), 3.0), "intensity": torch.full((500,), 99.0)})
    assert both[:, 1:].unique(dim=0).tolist() == [[3.0, 99.0]]
    assert torch.equal(data.act(pa, {"intensity": torch.full((500,), 99.0)})[:, :2], pa[:, :2])
    assert torch.equal(data.act(pa, {"digit": torch.zeros(500)})[:, 1:], pa[:, 1:])
    far = data.act(
        torch.tensor([[0, 2.0, 255.0], [0, 2.0, 64.0], [0, 2.0, 300.0]]), {"thickness": torch.full((3,), 9.0)}
    )
    assert far[:, 2].tolist() == [255.0, 64.0, 255.0]


def test_actions_of_the_variants():
    pa = torch.tensor([[1.0, 3.0, 11.5]])
    slant = MorphoMNIST("slant").act(pa, {"thickness": torch.tensor([2.0])})
    assert slant.tolist() == [[1, 2, pytest.approx(-8.5)]]
    inverted = MorphoMNIST(invert=True).act(torch.tensor([[1.0, 3.0, 100.0]]), {"thickness": torch.tensor([2.0])})
    assert inverted[0, 2].item() == pytest.approx(64 + 191 * expit(logit(36 / 191) + 2), abs=1e-4)


def test_truths_are_the_source_digit_redrawn(root, digits):
    data = MorphoMNIST()
    test = data.split(root, "test")[:6]
    cf_pa = data.act(test.parents, {"thickness": torch.tensor([1.2, 2.0, 3.0, 4.0, 5.0, 6.0])})
    cf_pa[4:] = data.act(test.parents[4:], {"intensity": torch.tensor([70.0, 250.0])})
    cf_pa[5, 0] = 3
    truth = data.oracle(root, "test", test.index, cf_pa)
    for n in range(5):
        wanted = morphology.render(digits[60_000 + n], *cf_pa[n, 1:].tolist())
        assert np.array_equal(truth[n, 0].numpy(), wanted.astype(np.float32) / 255)
    assert truth[5].isnan().all()
    assert data.oracle(root, "test", test.index[:0], cf_pa[:0]).shape == (0, 1, 28, 28)


def test_truths_are_kept_and_rendered_again_where_corrupt(tmp_path, monkeypatch):
    rows, shapes = torch.tensor([3, 5, 3]), torch.tensor([[2.0], [3.0], [2.0]])
    drawn = []

    def draw(digit, measured, shape):
        drawn.append(measured)
        return 1.5, np.full((28, 28), int(shape[0]), dtype=np.uint8)

    def fresh():
        return render_cache.RenderCache(tmp_path, "kept", np.zeros((9, 28, 28), dtype=np.uint8))

    monkeypatch.setattr(morphology, "redraw", draw)
    one = fresh()
    assert one(rows, shapes)[:, 0, 0].tolist() == [2, 3, 2]
    assert one(rows[:1], shapes[1:2])[:, 0, 0].tolist() == [3]
    assert len(drawn) == 3
    assert drawn[2] == 1.5  # a digit is measured once
    assert fresh()(rows, shapes)[:, 0, 0].tolist() == [2, 3, 2]
    assert len(drawn) == 3
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(b"corrupt")
    assert fresh()(rows, shapes)[:, 0, 0].tolist() == [2, 3, 2]
    assert len(drawn) == 5


def test_a_pool_of_workers_redraws_what_one_process_does(digits, monkeypatch):
    monkeypatch.setattr(worker_pool, "MIN_IMAGES", 3)
    shapes = np.linspace(1, 5, 7)[:, None]
    asked = digits[:7], np.array([2.5, *[np.nan] * 6]), shapes
    alone, together = worker_pool.redraw(*asked, workers=1), worker_pool.redraw(*asked, workers=2)
    monkeypatch.setattr(worker_pool.sys, "executable", "/nowhere/python")
    without_processes = worker_pool.redraw(*asked, workers=2)
    for other in (together, without_processes):
        assert all(np.array_equal(a, b) for a, b in zip(alone, other, strict=True))
    assert alone[0][0] == 2.5


def test_measures_agree_with_the_recorded_parents(root):
    data = MorphoMNIST()
    test = data.split(root, "test")[:500]
    found = data.measure(test.x)
    thickness, intensity = (found[n] - test.parents[:, k] for k, n in ((1, "thickness"), (2, "intensity")))
    assert thickness.abs().mean() < 0.16
    assert 0.05 < thickness.mean() < 0.15
    assert intensity.abs().mean() < 0.8
    assert torch.equal(found["thickness"][7:9], data.measure(test.x[7:9])["thickness"])


def test_measures_are_those_of_morpho_mnist(plain, digits):
    images = digits[:20]
    found = MorphoMNIST().measure(torch.from_numpy(images)[:, None].float() / 255)
    for n, image in enumerate(images):
        assert found["thickness"][n].item() == pytest.approx(plain.thickness(plain.outline(image, 4), 4), rel=1e-6)
        assert found["intensity"][n].item() == np.median(image[image >= image.max() / 2])


def test_images_are_measured_without_rounding(plain, digits):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(digits[:20] * 0.31 + 2 * rng.random((20, 28, 28)))[:, None] / 255
    found = MorphoMNIST().measure(images)["thickness"]
    wanted = [plain.thickness(plain.outline(255 * image.numpy(), 4), 4) for image in images[:, 0]]
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)
    rounded = MorphoMNIST().measure((255 * images).round() / 255)["thickness"]
    assert (found != rounded).any()


def test_measures_survive_any_image():
    rng = torch.Generator().manual_seed(0)
    odd = [torch.zeros(1, 28, 28), torch.ones(1, 28, 28), torch.full((1, 28, 28), torch.nan), torch.eye(28)[None]]
    odd += [
        torch.rand(1, 28, 28, generator=rng),
        5 * torch.randn(1, 28, 28, generator=rng),
        torch.full((1, 28, 28), 0.5),
    ]
    one = torch.zeros(1, 28, 28)
    one[0, 0, 0] = 1e-3
    for data in (MorphoMNIST(), MorphoMNIST("slant")):
        found = data.measure(torch.stack([*odd, one]))
        for values in found.values():
            assert values[[0, 1, 2, 6]].isnan().all()
            assert values[[3, 4, 5]].isfinite().all()
        assert data.measure(torch.empty(0, 1, 28, 28))["thickness"].shape == (0,)


def test_judges_learn_from_independent_parents(root):
    data = MorphoMNIST(judge=100)
    judge, check = data.judge_split(root, "train"), data.judge_split(root, "valid")
    assert [len(judge), len(check)] == [100 + 54_000, 20]
    brightened = judge[100:]
    train = data.split(root, "train")
    assert torch.equal(brightened.parents[:, :2], train.parents[:, :2])
    assert np.abs(np.corrcoef(brightened.parents.numpy().T)[2, :2]).max() < 0.02
    found = data.measure(brightened.x[:200])
    assert (found["intensity"] - brightened.parents[:200, 2]).abs().mean() < 1
    assert (found["thickness"] - brightened.parents[:200, 1]).abs().mean() < 0.2
    judge = judge[:100]
    correlation = np.corrcoef(judge.parents.numpy().T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.35  # 3.5 standard errors
    found = data.measure(judge.x)
    assert (found["intensity"] - judge.parents[:, 2]).abs().mean() < 1.5
    assert (found["thickness"] - judge.parents[:, 1]).abs().mean() < 0.5
    again = MorphoMNIST(judge=100).judge_split(root, "train")
    assert torch.equal(judge.images, again.images[:100])
    assert torch.equal(brightened.images, again.images[100:])


def test_generated_images_follow_the_published_equations(raw_root, digits):
    data = MorphoMNIST(**SMALL)
    with pytest.raises(UserError, match="cfbench prepare 'morphomnist") as error:
        data.split(raw_root, "train")
    assert "put the published files into" in str(error.value)
    data.prepare(raw_root)
    train, test = data.split(raw_root, "train"), data.split(raw_root, "test")
    assert [len(train), len(data.split(raw_root, "valid")), len(test)] == [20, 10, 10]
    for n in range(3):
        image = morphology.render(digits[int(train.index[n])], *train.parents[n, 1:].tolist())
        assert np.array_equal(train.images[n, 0].numpy(), image)
    assert torch.equal(data.oracle(raw_root, "test", test.index, test.parents), test.x)
    assert torch.equal(MorphoMNIST(**SMALL).split(raw_root, "test").images, test.images)


def test_the_equations_are_drawn_from_as_stated():
    digit = torch.arange(20_000) % 10
    pa = ThicknessIntensity().draw(digit, torch.Generator().manual_seed(0), True).double().numpy()
    assert stats.kstest(pa[:, 1] - 0.5, stats.gamma(10, scale=0.2).cdf).pvalue > 0.01
    eps = 2 * (logit((pa[:, 2] - 64) / 191) - 2 * (pa[:, 1] - 2.5))
    assert stats.kstest(eps[pa[:, 2] < 254.9], "norm").statistic < 0.02
    inverted = ThicknessIntensity(True).draw(digit, torch.Generator().manual_seed(0), True).double().numpy()
    assert (logit((inverted[:, 2] - 64) / 191) + 2 * (inverted[:, 1] - 2)).std() == pytest.approx(0.5, abs=0.01)
    slant = ThicknessSlant().draw(digit, torch.Generator().manual_seed(0), True).double().numpy()
    assert stats.kstest(slant[:, 2] - 20 * (slant[:, 1] - 2.5), "norm").pvalue > 0.01


def test_thickness_is_confounded_in_training_only():
    digit = (torch.arange(20_000) % 10).float()
    scm = ConfoundedThickness()
    train, test = (scm.draw(digit, torch.Generator().manual_seed(0), training).numpy() for training in (True, False))
    assert np.corrcoef(train.T)[0, 1] > 0.85
    assert abs(np.corrcoef(test.T)[0, 1]) < 0.03
    assert stats.kstest((test[:, 1] - 1.5) / 4.5, "uniform").pvalue > 0.01
    assert np.corrcoef(train[:, 1:].T)[0, 1] > 0.8
    assert MorphoMNIST("confounded").graph.names == ("digit", "thickness", "intensity")


def test_the_slant_variant_is_rendered_from_thickness_and_slant(raw_root):
    data = MorphoMNIST("slant", **SMALL)
    data.prepare(raw_root)
    test = data.split(raw_root, "test")
    assert data.graph.names == ("digit", "thickness", "slant")
    cf_pa = data.act(test.parents, {"slant": torch.full((10,), 20.0)})
    truth = data.oracle(raw_root, "test", test.index, cf_pa)
    assert (data.measure(truth)["slant"] - 20).abs().mean() < 1
    assert torch.equal(data.oracle(raw_root, "test", test.index, test.parents), test.x)


def test_nothing_is_generated_where_nothing_may_be_written(raw_root, monkeypatch):
    monkeypatch.setattr(cache, "writable", lambda *args: False)
    with pytest.raises(UserError, match="may not be written to"):
        MorphoMNIST(invert=True, **SMALL).prepare(raw_root)


@pytest.mark.parametrize(
    "options",
    [{"variant": "width"}, {"variant": "slant", "invert": True}, {"train": 60_000}, {"test": 0}, {"judge": 1}],
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(UserError, match="morphomnist") as error:
        MorphoMNIST(**options)
    assert "\n" not in str(error.value)


def test_it_pickles_without_its_images(root):
    data = MorphoMNIST()
    data.split(root, "test")
    data.oracle(root, "test", torch.tensor([60_000]), torch.tensor([[7.0, 3.0, 200.0]]))
    assert len(pickle.dumps(data)) < 5000
    assert pickle.loads(pickle.dumps(data)).split(root, "test").images.shape == (10_000, 1, 28, 28)


def test_a_prepared_root_needs_no_preparing(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MorphoMNIST(judge=100).prepare(root)
    before = sorted(p.name for p in root.rglob("*"))
    MorphoMNIST(judge=100).prepare(root)
    assert sorted(p.name for p in root.rglob("*")) == before
