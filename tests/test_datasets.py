"""Digits and MNIST: what is in them, and what happens when a file is absent or corrupt."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from cfbench_datasets.common import checksums
from cfbench_datasets.digits import Digits
from cfbench_datasets.mnist import FOLDER, MD5, MNIST, SCHUT, read_idx
from sklearn.datasets import load_digits

from cfbench.errors import UserError


@pytest.fixture(scope="module")
def mnist_root(data_root) -> Path:
    if not (data_root / FOLDER).is_dir():
        pytest.skip(f"no MNIST: {data_root / FOLDER} is missing")
    return data_root


@pytest.fixture(scope="module")
def mnist(mnist_root) -> MNIST:
    data = MNIST()
    data.prepare(mnist_root)
    return data


@pytest.fixture
def copy(mnist_root, tmp_path) -> Path:
    shutil.copytree(mnist_root / FOLDER, tmp_path / FOLDER)
    (tmp_path / FOLDER).chmod(0o755)
    return tmp_path


class NoNetwork:
    """Stands for torchvision's MNIST where nothing can be downloaded."""

    def __init__(self, root, download) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried somewhere, got:\nno route to host")


def mirror(source: Path) -> Callable[..., object]:
    """Stands for torchvision's MNIST with a network: puts the files where torchvision does."""

    class Mirror:
        def __init__(self, root, download) -> None:
            self.raw_folder = str(Path(root) / FOLDER)
            shutil.copytree(source / FOLDER, self.raw_folder)

    return Mirror


def test_digits_are_those_of_scikit_learn():
    data, raw = Digits(), load_digits()
    parts = [data.split(Path(), name) for name in ("train", "valid", "test")]
    assert [len(p) for p in parts] == [1197, 300, 300]
    index = torch.cat([p.index for p in parts])
    assert torch.equal(index.sort().values, torch.arange(1797))
    for part in parts:
        assert part.images.shape[1:] == data.graph.shape
        assert part.images.dtype == torch.uint8
        assert np.array_equal(part.parents[:, 0].numpy(), raw.target[part.index.numpy()])
        grey = raw.images[part.index.numpy()] * 255 / 16
        assert np.abs(part.images[:, 0].numpy() - grey).max() <= 0.5
        assert len(part.parents.unique()) == 10
    assert parts[0].images.max() == 255


def test_digits_split_by_seed_and_keep_their_fingerprint():
    first = Digits().split(Path(), "test").index
    assert torch.equal(Digits().split(Path(), "test").index, first)
    assert not torch.equal(Digits(seed=1).split(Path(), "test").index, first)
    assert Digits().fingerprint(Path("a")) == Digits().fingerprint(Path("b"))


def test_digits_have_no_truth_and_a_plain_action():
    data = Digits()
    rows = data.split(Path(), "test")[:5]
    assert data.oracle(Path(), "test", rows.index, rows.parents) is None
    assert data.measure(rows.x) is None
    new = data.act(rows.parents, {"digit": torch.full((5,), 3.0)}, torch.Generator())
    assert new is not None
    assert torch.equal(new, torch.full((5, 1), 3.0))


def test_mnist_is_mnist(mnist, mnist_root):
    train, valid, test = (mnist.split(mnist_root, name) for name in ("train", "valid", "test"))
    assert [len(train), len(valid), len(test)] == [54_000, 6_000, 10_000]
    index = torch.cat([train.index, valid.index])
    order = index.argsort()
    assert torch.equal(index[order], torch.arange(60_000))
    assert torch.equal(test.index, torch.arange(60_000, 70_000))
    images = torch.cat([train.images, valid.images])[order]
    labels = torch.cat([train.parents, valid.parents])[order, 0]
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert images.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.double().std().item() / 255 == pytest.approx(0.3081, abs=5e-5)
    assert test.parents[:5, 0].tolist() == [7, 2, 1, 0, 4]


def test_mnist_splits_by_seed(mnist, mnist_root):
    again, other = MNIST(), MNIST(seed=1)
    first = mnist.split(mnist_root, "valid").index
    assert torch.equal(again.split(mnist_root, "valid").index, first)
    assert not torch.equal(other.split(mnist_root, "valid").index, first)
    assert len(MNIST(valid=100).split(mnist_root, "valid")) == 100


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_published_files_are_read_up_to_a_length_and_never_from_pipes_or_devices(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(checksums, "LARGEST", 1000)
    path = tmp_path / f"a{suffix}"
    good = b"a" * 1000
    path.write_bytes(gzip.compress(good) if suffix else good)
    assert checksums.read_checked(tmp_path, "a", hashlib.sha256(good).hexdigest()) == good
    path.write_bytes(gzip.compress(bytes(10**8)) if suffix else bytes(2000))
    with pytest.raises(checksums.CorruptFile, match=r"it has [0-9,]+ bytes, more than the 1,000 that are read"):
        checksums.read_checked(tmp_path, "a", "")
    path.write_bytes(gzip.compress(bytes(2000)))
    with pytest.raises(checksums.CorruptFile, match="wrong checksum") as error:
        checksums.read_checked(tmp_path, "a", "")
    assert len(error.value.data) <= 1001
    path.unlink()
    for make in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        make()
        with pytest.raises(checksums.CorruptFile, match="it is a pipe or a device, no plain file"):
            checksums.read_checked(tmp_path, "a", "")
        path.unlink()
    assert checksums.read_checked(tmp_path, "a", "") is None


def test_mnist_pickles_without_its_images(mnist, mnist_root):
    mnist.split(mnist_root, "test")
    assert len(pickle.dumps(mnist)) < 2000


def test_mnist_reads_compressed_and_plain_files(mnist, mnist_root, copy):
    for name in MD5:
        packed = copy / FOLDER / f"{name}.gz"
        (copy / FOLDER / name).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    data = MNIST()
    data.prepare(copy)
    assert torch.equal(data.split(copy, "test").images, mnist.split(mnist_root, "test").images)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "unpacked"])
def test_mnist_names_the_corrupt_file(copy, damage, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", NoNetwork)
    path = copy / FOLDER / "t10k-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    bad = {"flip": good[:2000] + bytes([good[2000] ^ 255]) + good[2001:], "cut": good[:-99], "empty": b""}
    if damage == "unpacked":
        path.unlink()
        path = path.with_suffix("")
        path.write_bytes(gzip.decompress(good)[:-1] + b"\x09")
    else:
        path.write_bytes(bad[damage])
    for call in (lambda: MNIST().prepare(copy), lambda: MNIST().split(copy, "test")):
        with pytest.raises(UserError, match="cfbench prepare mnist") as error:
            call()
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_mnist_absent_says_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", NoNetwork)
    for call in (lambda: MNIST().prepare(tmp_path), lambda: MNIST().split(tmp_path, "train")):
        with pytest.raises(UserError, match="cfbench prepare mnist --data-root") as error:
            call()
        assert str(tmp_path / FOLDER) in str(error.value)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_mnist_is_downloaded_where_absent(mnist_root, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", mirror(mnist_root))
    MNIST().prepare(tmp_path)
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == sorted(f"{name}.gz" for name in MD5)
    monkeypatch.setattr(torchvision.datasets, "MNIST", NoNetwork)
    MNIST().prepare(tmp_path)


def test_mnist_needs_no_writing_where_complete(copy, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "MNIST", NoNetwork)
    before = sorted(copy.rglob("*"))
    (copy / FOLDER).chmod(0o555)
    try:
        MNIST().prepare(copy)
    finally:
        (copy / FOLDER).chmod(0o755)
    assert sorted(copy.rglob("*")) == before


def test_mnist_refuses_an_empty_split():
    with pytest.raises(UserError, match="valid=60000"):
        MNIST(valid=60_000)


def test_schut_asks_for_similar_digits():
    wanted = MNIST().targets("schut", torch.tensor([[0.0], [4.0], [9.0]]))
    assert wanted == {"digit": [[3, 6, 8], [1, 9], [1, 4, 7]]}
    assert MNIST().targets("marginal", torch.zeros(1, 1)) is None
    assert set(SCHUT) == set(range(10))
    assert all(digit not in others for digit, others in SCHUT.items())


def test_read_idx():
    data = b"\0\0\x08\x02" + (2).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes(range(6))
    assert torch.equal(read_idx(data), torch.arange(6, dtype=torch.uint8).view(2, 3))
    for wrong in (b"", b"\0\0\x0d\x01" + data[4:], data[:-1], data + b"\0", data[:6]):
        with pytest.raises(ValueError, match=r"IDX|length"):
            read_idx(wrong)
