"""The published Morpho-MNIST files of DeepSCM, and the MNIST digits that they were made from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cfbench.errors import UserError

from .. import mnist
from ..common.checksums import CorruptFile, read_checked
from ..mnist import MNIST, read_idx

__all__ = ["FOLDER", "SHA256", "SOURCE", "has_sources", "read_published", "read_sources"]

FOLDER = Path("MorphoMNIST")
SHA256 = {
    "train-images-idx3-ubyte": "5c7f960f41415e3ed26c7f02c9b44492c71f23b9f7a083244dc661f87e954b95",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "train-morpho.csv": "40176771d8f050502ffcd995247d70392f332d03b0a3dc8f99ebd35ffefb673b",
    "t10k-images-idx3-ubyte": "8dd5bf8dc2c2315c93c85f1ccf17825855a906ea03b4345c09d6bcad49e4adf4",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "t10k-morpho.csv": "426911a6baba7f1009de28f2d76bf86c8a91815ecc9ac0f454ef52dab2f19f43",
}
"""Checksums of the published files after decompression."""
SOURCE = "assets/data/morphomnist of biomedia-mira/deepscm on GitHub"
COLUMNS = ["thickness", "intensity"]


def read_published(root: Path) -> dict[str, Tensor]:
    """Return images uint8 [70,000, 28, 28] and parents [70,000, 3] (digit, thickness, intensity), training files first.

    Raises:
        UserError: a file is absent or corrupt, or its table lacks a column.
    """
    parts = [_part(root / FOLDER, name) for name in ("train", "t10k")]
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def has_sources(root: Path) -> bool:
    """Return whether there is raw MNIST under ``root``."""
    folder = root / mnist.FOLDER
    return all((folder / name).exists() or (folder / f"{name}.gz").exists() for name in mnist.MD5)


def read_sources(root: Path) -> dict[str, Tensor]:
    """Return MNIST's images uint8 [70,000, 28, 28] and labels [70,000], training files first.

    Raises:
        UserError: a file is absent or corrupt.
    """
    data = MNIST()
    parts = [data.split(root, name) for name in ("train", "valid", "test")]
    order = torch.cat([p.index for p in parts]).argsort()
    images, labels = torch.cat([p.images[:, 0] for p in parts]), torch.cat([p.parents[:, 0] for p in parts])
    return {"images": images[order], "labels": labels[order]}


def _part(folder: Path, name: str) -> dict[str, Tensor]:
    images = read_idx(_read(folder, f"{name}-images-idx3-ubyte"))
    labels = read_idx(_read(folder, f"{name}-labels-idx1-ubyte"))
    table = pd.read_csv(io.BytesIO(_read(folder, f"{name}-morpho.csv")))
    values = torch.from_numpy(table[COLUMNS].to_numpy(dtype=np.float32))
    return {"images": images, "parents": torch.cat([labels.float()[:, None], values], dim=1)}


def _read(folder: Path, name: str) -> bytes:
    """Return the decompressed bytes of a published file.

    Raises:
        UserError: it is absent, or no copy of it has the right checksum.
    """
    try:
        data = read_checked(folder, name, SHA256[name])
        wrong = f"no {name} in {folder}"
    except CorruptFile as error:
        data, wrong = None, _reason(error)
    if data is None:
        raise UserError(
            f"morphomnist: {wrong}; put the published file there ({SOURCE}),"
            " or remove the folder and run: cfbench prepare morphomnist"
        )
    return data


def _reason(error: CorruptFile) -> str:
    """Return what is wrong with a file: a column that its table lacks, or the checksum."""
    if error.path.name.removesuffix(".gz").endswith(".csv") and error.data:
        found = error.data.split(b"\n", 1)[0].decode(errors="replace").strip().split(",")
        for column in COLUMNS:
            if column not in found:
                return f"{error.path} has no column {column!r} (found: {', '.join(found)[:80]})"
    return str(error)
