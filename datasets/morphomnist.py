"""Morpho-MNIST of thickness and intensity, with true counterfactuals rendered from the source digits."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfbench.contract import Dataset, Split
from cfbench.digest import key_of, source_digest
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.rng import derive

from . import cache, mnist, morphology
from .files import Spoilt, contents
from .gallery import Gallery, in_parallel
from .mnist import MNIST, read_idx
from .morphoscm import ThicknessIntensity

__all__ = ["MorphoMNIST"]

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
SOURCE = "biomedia-mira/deepscm on GitHub, assets/data/morphomnist"
TRAIN, TEST = 60_000, 10_000
Bytes = NDArray[np.uint8]


class MorphoMNIST(Dataset):
    """28x28 grey MNIST digits of given thickness and intensity (DeepSCM, https://arxiv.org/abs/2006.06485).

    Read as published from ``MorphoMNIST`` under the data root, packed or not. Row n is made of MNIST's digit n
    (training, then test file); where raw MNIST lies in ``MNIST/raw``, true counterfactuals are rendered from that
    digit exactly as the factual was, and without it no true counterfactual is known. do(digit) has no truth: class
    and hand come from one source digit.

    Args:
        valid: rows of the validation split, of the 60,000 training images.
        judge: rows that judges learn from, and a fifth as many to check them; their parents are independent.
        seed: of the division of the training images and of the judges' parents.

    Raises:
        UserError: a split is empty.
    """

    graph: CausalGraph = ThicknessIntensity.graph
    network: ClassVar[bool] = True

    def __init__(self, valid: int = 6_000, judge: int = 10_000, seed: int = 0) -> None:
        if not 0 < valid < TRAIN:
            raise UserError(f"morphomnist: valid={valid} of {TRAIN:,} training images; give 1 to {TRAIN - 1:,}")
        if judge < 5:
            raise UserError(f"morphomnist: judge={judge} rows; give at least 5")
        self.valid, self.judge, self.seed = valid, judge, seed
        self.scm = ThicknessIntensity()
        self._tables: dict[tuple[Path, str], dict[str, Tensor]] = {}
        self._galleries: dict[Path, Gallery | None] = {}

    def prepare(self, root: Path) -> None:
        """Check the published files, bring raw MNIST if it can be had, and render what judges learn from.

        Raises:
            UserError: a file is absent or spoilt.
        """
        root = Path(root)
        self._factuals(root)
        try:
            MNIST().prepare(root)
        except UserError as error:
            warnings.warn(f"morphomnist: no true counterfactuals without raw MNIST: {error}", stacklevel=2)
        self.judge_split(root, "train")

    def fingerprint(self, root: Path) -> str:
        """A key of the published checksums, and of whether there is raw MNIST to render truths from."""
        return key_of(SHA256, _has_sources(Path(root)))

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """The named split; rows are numbered through the training and then the test file.

        Raises:
            UserError: a file is absent or spoilt.
        """
        rows, table = self._numbers(name), self._factuals(Path(root))
        return Split(table["images"][rows][:, None], table["parents"][rows], rows)

    def judge_split(self, root: Path, name: Literal["train", "valid"]) -> Split:
        """Source digits of the same split under parents that are independent; the split itself without raw MNIST."""
        root = Path(root)
        if self._gallery(root) is None:
            return self.split(root, name)
        part = f"judge-{name}"
        if (root, part) not in self._tables:
            file = f"morphomnist-{key_of(source_digest(MorphoMNIST), self._options)}/{part}.safetensors"
            self._tables[root, part] = cache.load(root, file, lambda: self._draw_judge(root, name))
        table = self._tables[root, part]
        return Split(table["images"][:, None], table["parents"], torch.arange(len(table["images"])))

    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator | None = None) -> Tensor:
        """The response of pa [B, 3] to ``do``, exact: the noise of intensity is the factual's own."""
        return self.scm.act(pa, do)

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        """Rows ``index`` [B] under cf_pa [B, 3], rendered from their source digits: [B, 1, 28, 28] in [0, 1].

        NaN where the digit is another than the factual's, or where there is no raw MNIST to render from. Renderings
        are kept under ``root``.
        """
        root, rows, wanted = Path(root), index.cpu(), cf_pa.cpu().float()
        table, gallery = self._factuals(root), self._gallery(root)
        factual = table["parents"][rows]
        image = torch.full((len(rows), 1, 28, 28), torch.nan)
        same = (wanted == factual).all(1)
        image[same, 0] = table["images"][rows[same]].float() / 255
        known = ~same & (wanted[:, 0] == factual[:, 0]) & wanted.isfinite().all(1)
        if gallery is not None and known.any():
            shapes = gallery(rows[known], self.scm.shape(wanted[known]))
            image[known, 0] = _finish(shapes, wanted[known]).float() / 255
        return image.to(cf_pa.device)

    def measure(self, images: Tensor) -> Mapping[str, Tensor]:
        """Thickness in pixels and intensity in grey levels [B] of images [B, 1, 28, 28]; NaN for blank ones.

        As in Morpho-MNIST: twice the mean distance over the medial axis at four times the size, and the median of
        the pixels that reach half the image's range.
        """
        grey = 255 * images[:, 0].detach().cpu().double().nan_to_num(0).clamp(0, 1).numpy()
        whole = np.rint(grey)
        grey = np.where(np.abs(grey - whole) < 1e-3, whole, grey)  # float32 may put k / 255 a little below
        found = [_measure(one) for one in grey]
        columns = torch.tensor(found, dtype=torch.float32).reshape(-1, 2).T.to(images.device)
        return {"thickness": columns[0], "intensity": columns[1]}

    @property
    def _options(self) -> dict[str, int]:
        return {"valid": self.valid, "judge": self.judge, "seed": self.seed}

    def _numbers(self, name: str) -> Tensor:
        if name == "test":
            return torch.arange(TRAIN, TRAIN + TEST)
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(self.seed))
        return (order[: self.valid] if name == "valid" else order[self.valid :]).sort().values

    def _factuals(self, root: Path) -> dict[str, Tensor]:
        """Images uint8 [70,000, 28, 28] and parents of all rows."""
        if (root, "factual") not in self._tables:
            parts = [_published(root, name) for name in ("train", "t10k")]
            self._tables[root, "factual"] = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
        return self._tables[root, "factual"]

    def _gallery(self, root: Path) -> Gallery | None:
        """Source digits in other shapes; None without raw MNIST."""
        if root not in self._galleries:
            self._galleries[root] = _gallery(root) if _has_sources(root) else None
        return self._galleries[root]

    def _draw_judge(self, root: Path, name: str) -> dict[str, Tensor]:
        gallery = self._gallery(root)
        assert gallery is not None
        rng = torch.Generator().manual_seed(derive("morphomnist", "judge", name, self.seed))
        rows = self._numbers(name)
        count = self.judge if name == "train" else self.judge // 5
        rows = rows[torch.randperm(len(rows), generator=rng)[:count]]
        parents = self.scm.draw_independent(self._factuals(root)["parents"][rows, 0], rng)

        def one(row: int, t: float) -> Bytes:
            digit = gallery.digits[row]
            return morphology.set_thickness(digit, morphology.thickness(digit), t)

        shapes = np.stack(in_parallel(one, rows.tolist(), parents[:, 1].tolist()))
        return {"images": _finish(torch.from_numpy(shapes), parents), "parents": parents}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}, "_galleries": {}}


def _gallery(root: Path) -> Gallery:
    parts = [MNIST().split(root, name) for name in ("train", "valid", "test")]
    order = torch.cat([p.index for p in parts]).argsort()
    digits = torch.cat([p.images[:, 0] for p in parts])[order].numpy()

    def draw(digit: Bytes, measured: float, shape: Sequence[float]) -> Bytes:
        return morphology.set_thickness(digit, measured, shape[0])

    return Gallery(root, f"morphomnist-{source_digest(morphology.render)}", digits, morphology.thickness, draw)


def _finish(shapes: Tensor, parents: Tensor) -> Tensor:
    """Images uint8 [B, 28, 28] at the intensities in parents [B, 3]."""
    pairs = zip(shapes.numpy(), parents[:, 2].tolist(), strict=True)
    return torch.from_numpy(np.stack([morphology.brighten(image, level) for image, level in pairs]))


def _measure(grey: NDArray[np.float64]) -> tuple[float, float]:
    if not grey.max() > grey.min():
        return float("nan"), float("nan")
    return morphology.thickness(np.rint(grey).astype(np.uint8), scale=4), morphology.grey_level(grey)


def _has_sources(root: Path) -> bool:
    folder = root / mnist.FOLDER
    return all((folder / name).exists() or (folder / f"{name}.gz").exists() for name in mnist.MD5)


def _published(root: Path, name: str) -> dict[str, Tensor]:
    """Images uint8 [N, 28, 28] and parents float32 [N, 3] of a published file.

    Raises:
        UserError: a file is absent or spoilt, or its table lacks a column.
    """
    images = read_idx(_bytes(root, f"{name}-images-idx3-ubyte"))
    labels = read_idx(_bytes(root, f"{name}-labels-idx1-ubyte"))
    table = pd.read_csv(io.BytesIO(_bytes(root, f"{name}-morpho.csv")))
    values = torch.from_numpy(table[["thickness", "intensity"]].to_numpy(dtype=np.float32))
    return {"images": images, "parents": torch.cat([labels.float()[:, None], values], dim=1)}


def _bytes(root: Path, name: str) -> bytes:
    try:
        data = contents(root / FOLDER, name, SHA256[name])
    except Spoilt as spoilt:
        raise UserError(f"morphomnist: {_complaint(spoilt)}; put the published file there ({SOURCE})") from None
    if data is None:
        raise UserError(f"morphomnist: no {name} in {root / FOLDER}; put the published file there ({SOURCE})")
    return data


def _complaint(spoilt: Spoilt) -> str:
    if spoilt.path.name.removesuffix(".gz").endswith(".csv"):
        found = spoilt.data.split(b"\n", 1)[0].decode(errors="replace").strip().split(",")
        for column in ("thickness", "intensity"):
            if column not in found:
                return f"{spoilt.path} has no column {column!r} (found: {', '.join(found)[:80]})"
    return str(spoilt)
