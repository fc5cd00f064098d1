"""MNIST in torchvision's folder layout, checked against known checksums and never unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from cfbench.contract import Dataset, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable

from .common.checksums import CorruptFile, read_checked

__all__ = ["MNIST", "SCHUT", "read_idx"]

FOLDER = Path("MNIST") / "raw"
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Checksums of the files after decompression."""
SCHUT: dict[int, tuple[int, ...]] = {
    0: (3, 6, 8),
    1: (4, 7, 9),
    2: (3, 7),
    3: (0, 2, 8),
    4: (1, 9),
    5: (6, 8),
    6: (0, 5, 8),
    7: (1, 2, 9),
    8: (0, 3, 6),
    9: (1, 4, 7),
}
"""Classes that each digit is turned into (after Schut et al. 2021, https://arxiv.org/abs/2103.08951)."""
TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


class MNIST(Dataset):
    """28x28 grey handwritten digits (LeCun, Cortes and Burges), whose only parent is ``digit``; no truth.

    54,000 rows to train and 6,000 to validate from the 60,000 training images, 10,000 to test. Rows are numbered
    through the training and then the test file. Files lie in ``MNIST/raw`` under the data root, compressed or not.

    Args:
        valid: rows of the validation split.
        seed: of the division of the training images.

    Raises:
        UserError: no row is left to train or to validate.
    """

    graph = CausalGraph((Variable("digit", "categorical", size=10),), (1, 28, 28))
    plans: ClassVar[tuple[str, ...]] = ("marginal", "schut")
    network: ClassVar[bool] = True
    moves: ClassVar[int] = 1
    reader_scale: ClassVar[float] = 4.0

    def __init__(self, valid: int = 6_000, seed: int = 0) -> None:
        if not 0 < valid < 60_000:
            raise UserError(f"mnist: valid={valid} of 60,000 training images; give 1 to 59,999")
        self.valid = valid
        self.seed = seed
        self._files: dict[tuple[Path, str], Split] = {}

    def prepare(self, root: Path) -> None:
        """Check the four files under ``root`` and download those that are absent.

        Raises:
            UserError: a file is corrupt, or absent and cannot be downloaded.
        """
        root = Path(root)
        if any(_read(root, name) is None for name in MD5):
            _download(root)

    def fingerprint(self, root: Path) -> str:
        """Return a checksum of the four checksums that every copy must have."""
        return hashlib.sha256("".join(MD5.values()).encode()).hexdigest()[:12]

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """Return the named split.

        Raises:
            UserError: a file is absent or corrupt.
        """
        if name == "test":
            return self._file(Path(root), "t10k")
        rows = self._file(Path(root), "train")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
        valid, train = order[: self.valid], order[self.valid :]
        return rows[(valid if name == "valid" else train).sort().values]

    def targets(self, plan: str, pa: Tensor) -> Mapping[str, list[list[float]]] | None:
        """Return for the plan ``schut`` the two or three classes that look most like each row's own."""
        if plan != "schut":
            return None
        return {"digit": [[float(c) for c in SCHUT[int(digit)]] for digit in pa[:, 0]]}

    def _file(self, root: Path, name: str) -> Split:
        if (root, name) not in self._files:
            images = _tensor(root, f"{name}-images-idx3-ubyte")[:, None]
            parents = _tensor(root, f"{name}-labels-idx1-ubyte").float()[:, None]
            first = 60_000 if name == "t10k" else 0
            self._files[root, name] = Split(images, parents, torch.arange(first, first + len(images)))
        return self._files[root, name]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": {}}


def read_idx(data: bytes) -> Tensor:
    """Return the uint8 tensor in an IDX file.

    Raises:
        ValueError: the header is not that of unsigned bytes, or does not fit the length.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[k : k + 4], "big") for k in range(4, start, 4)]
    if len(data) != start + math.prod(shape):
        raise ValueError(f"length {len(data)} does not fit the shape {shape}")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy())


def _tensor(root: Path, name: str) -> Tensor:
    data = _read(root, name)
    if data is None:
        raise UserError(f"mnist: no {name}.gz in {root / FOLDER}; run: cfbench prepare mnist --data-root {root}")
    return read_idx(data)


def _read(root: Path, name: str) -> bytes | None:
    """Return the decompressed bytes of a file under ``root``; None where it is absent.

    Raises:
        UserError: no copy of it has the right checksum.
    """
    try:
        return read_checked(root / FOLDER, name, MD5[name], "md5")
    except CorruptFile as error:
        raise UserError(f"mnist: {error}; delete it and run: cfbench prepare mnist --data-root {root}") from None


def _download(root: Path) -> None:
    """Download MNIST through torchvision, then copy the files that are absent to where they belong."""
    from torchvision.datasets import MNIST as Source

    target = root / FOLDER
    try:
        with tempfile.TemporaryDirectory() as folder, _socket_timeout():
            raw = Path(Source(folder, download=True).raw_folder)
            target.mkdir(parents=True, exist_ok=True)
            for name in MD5:
                if _read(root, name) is None:
                    _copy(raw / f"{name}.gz", target / f"{name}.gz")
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(
            f"mnist: no complete copy in {target} and no download ({reason[0]}); put the four *-ubyte.gz files there,"
            f" or run where there is a network: cfbench prepare mnist --data-root {root}"
        ) from None


def _copy(source: Path, target: Path) -> None:
    """Copy a file atomically: no reader sees a part of it."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as folder:
        part = shutil.copyfile(source, Path(folder) / target.name)
        os.replace(part, target)


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    """Context manager that limits how long new sockets wait for a server."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
