"""Morpho-MNIST of thickness and intensity, with true counterfactuals rendered from the source digits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfbench.contract import Dataset, Split
from cfbench.digest import key_of, source_digest
from cfbench.errors import UserError, did_you_mean
from cfbench.graph import CausalGraph
from cfbench.rng import derive
from cfbench.spec import Spec

from . import cache, morphofiles, morphology
from .mnist import MNIST
from .morphoscm import ConfoundedThickness, Scm, ThicknessIntensity, ThicknessSlant
from .studio import Studio
from .threads import one_blas_thread, one_torch_thread

__all__ = ["MorphoMNIST"]

TRAIN, TEST = 60_000, 10_000
VARIANTS = ("published", "slant", "confounded")
CHUNK = 1_000


class MorphoMNIST(Dataset):
    """28x28 grey MNIST digits of given thickness and intensity (DeepSCM, https://arxiv.org/abs/2006.06485).

    Row n is made of MNIST's digit n (training, then test file). The published files are read from ``MorphoMNIST``
    under the data root, packed or not. Where there are none, and for the variants, `prepare` renders the images from
    raw MNIST in ``MNIST/raw``, under parents of its own. True counterfactuals are rendered from the source digit
    exactly as the factual was; without raw MNIST none is known. do(digit) has no truth: class and hand come from one
    source digit.

    Args:
        variant: ``published``, ``slant`` (thickness causes slant, see `ThicknessSlant`) or ``confounded`` (see
            `ConfoundedThickness`).
        invert: thicker is darker; not with ``slant``.
        train, valid: rows of these splits, of the 60,000 training images; the order is fixed by ``seed``.
        test: rows of the test split, the first of 10,000.
        judge: rows that judges learn from, and a fifth as many to check them; their parents are independent.
        seed: of the division of the training images, of generated parents and of the judges' parents.

    Raises:
        UserError: there is no such variant, or a split is empty or too large.
    """

    graph: CausalGraph = ThicknessIntensity.graph
    network: ClassVar[bool] = True

    def __init__(
        self,
        variant: str = "published",
        invert: bool = False,
        train: int = 54_000,
        valid: int = 6_000,
        test: int = TEST,
        judge: int = 10_000,
        seed: int = 0,
    ) -> None:
        sizes = {"train": train, "valid": valid, "test": test, "judge": judge}
        if variant not in VARIANTS:
            raise UserError(f"morphomnist has no variant {variant!r}; {did_you_mean(variant, VARIANTS)}")
        if variant == "slant" and invert:
            raise UserError("morphomnist: the slant variant has no intensity to invert; leave out invert")
        if min(train, valid, test) < 1 or train + valid > TRAIN or test > TEST or judge < 5:
            raise UserError(
                f"morphomnist: {', '.join(f'{k}={v}' for k, v in sizes.items())} do not fit; train and valid share"
                f" {TRAIN} rows, test has 1 to {TEST}, judge at least 5"
            )
        self.variant, self.invert, self.seed, self.sizes = variant, invert, seed, sizes
        scms: dict[str, Scm] = {
            "published": ThicknessIntensity(invert),
            "slant": ThicknessSlant(),
            "confounded": ConfoundedThickness(invert),
        }
        self.scm = scms[variant]
        self.graph = self.scm.graph
        self._tables: dict[tuple[Path, str], dict[str, Tensor]] = {}
        self._studios: dict[Path, Studio] = {}

    def prepare(self, root: Path) -> None:
        """Check the published files or render others, and what judges learn from; brings raw MNIST if it can be had.

        Raises:
            UserError: a file is absent or spoilt and cannot be made.
        """
        root = Path(root)
        if self._published(root):
            self._factuals(root)
            try:
                MNIST().prepare(root)
            except UserError as error:
                warnings.warn(f"morphomnist: no true counterfactuals without raw MNIST: {error}", stacklevel=2)
        else:
            MNIST().prepare(root)
            if not cache.writable(root):
                raise UserError(f"morphomnist: no images can be rendered into {root}: it may not be written to")
            chunks = list(self._chunks())
            for number, (file, rows) in enumerate(chunks):
                self.progress("drawing digits", number * CHUNK, len(chunks) * CHUNK)
                self._chunk(root, file, rows)
        self.judge_split(root, "train")
        self.judge_split(root, "valid")

    def fingerprint(self, root: Path) -> str:
        """A key of the published checksums, or of what generates the images; and whether truths can be rendered."""
        root = Path(root)
        made = morphofiles.SHA256 if self._published(root) else self._folder
        return key_of(made, morphofiles.has_sources(root))

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """The named split; rows are numbered through the training and then the test file.

        Raises:
            UserError: a file is absent or spoilt.
        """
        rows, table = self._rows(name), self._factuals(Path(root))
        return Split(table["images"][rows][:, None], table["parents"][rows], rows)

    def judge_split(self, root: Path, name: Literal["train", "valid"]) -> Split:
        """Source digits of the same split under parents that are independent; the split itself without raw MNIST."""
        root = Path(root)
        if not morphofiles.has_sources(root):
            return self.split(root, name)
        part = f"judge-{name}"
        if (root, part) not in self._tables:
            file = f"{self._folder}/{part}-{self.sizes['judge']}.safetensors"
            self._tables[root, part] = cache.load(root, file, lambda: self._draw_judge(root, name))
        table = self._tables[root, part]
        return Split(table["images"][:, None], table["parents"], torch.arange(len(table["images"])))

    @one_torch_thread()
    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator | None = None) -> Tensor:
        """The response of pa [B, 3] to ``do``, exact: the noise of what thickness causes is the factual's own."""
        return self.scm.act(pa, do)

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        """Rows ``index`` [B] under cf_pa [B, 3], rendered from their source digits: [B, 1, 28, 28] in [0, 1].

        NaN where the digit is another than the factual's, or where there is no raw MNIST to render from. Renderings
        are kept under ``root``.
        """
        root, rows, wanted = Path(root), index.cpu(), cf_pa.cpu().float()
        table = self._factuals(root)
        factual = table["parents"][rows]
        image = torch.full((len(rows), 1, 28, 28), torch.nan)
        same = (wanted == factual).all(1)
        image[same, 0] = table["images"][rows[same]].float() / 255
        known = ~same & (wanted[:, 0] == factual[:, 0]) & wanted.isfinite().all(1)
        if known.any() and morphofiles.has_sources(root):
            report = partial(self.progress, "drawing true counterfactuals")
            image[known, 0] = self._studio(root).recall(rows[known], wanted[known], report).float() / 255
        return image.to(cf_pa.device)

    def measure(self, images: Tensor) -> Mapping[str, Tensor]:
        """Thickness in pixels, and intensity in grey levels or slant in degrees, of images [B, 1, 28, 28]: each [B].

        As in Morpho-MNIST: twice the mean distance over the medial axis at four times the size, the median of the
        pixels that reach half the image's range, the shear of the grey levels. NaN for blank images.
        """
        grey = 255 * images[:, 0].detach().cpu().double().nan_to_num(0).clamp(0, 1).numpy()
        whole = np.rint(grey)
        grey = np.where(np.abs(grey - whole) < 1e-3, whole, grey)  # float32 may put k / 255 a little below
        second = self.graph.names[2]
        with one_blas_thread():
            found = torch.tensor([_measure(one, second) for one in grey], dtype=torch.float32).reshape(-1, 2)
        return dict(zip(("thickness", second), found.T.to(images.device), strict=True))

    @property
    def _folder(self) -> str:
        options = self.variant, self.invert, self.seed, {k: v for k, v in self.sizes.items() if k != "judge"}
        return f"morphomnist-{key_of(source_digest(MorphoMNIST), options)}"

    def _published(self, root: Path) -> bool:
        """Whether the data are the published files."""
        return self.variant == "published" and not self.invert and (root / morphofiles.FOLDER).is_dir()

    def _rows(self, name: str) -> Tensor:
        """The numbers of a split's rows among MNIST's 70,000."""
        if name == "test":
            return torch.arange(TRAIN, TRAIN + self.sizes["test"])
        order, valid = torch.randperm(TRAIN, generator=self._generator()), self.sizes["valid"]
        return (order[:valid] if name == "valid" else order[valid:][: self.sizes["train"]]).sort().values

    def _generator(self, *parts: str) -> torch.Generator:
        seed = derive("morphomnist", *parts, self.seed) if parts else self.seed
        return torch.Generator().manual_seed(seed)

    def _factuals(self, root: Path) -> dict[str, Tensor]:
        """Images uint8 [70,000, 28, 28] and parents [70,000, 3]; of rows in no split, what there is."""
        if (root, "factual") not in self._tables:
            read = morphofiles.published if self._published(root) else self._rendered
            self._tables[root, "factual"] = read(root)
        return self._tables[root, "factual"]

    def _rendered(self, root: Path) -> dict[str, Tensor]:
        """The images that `prepare` rendered."""
        chunks = list(self._chunks())
        if not all((root / file).is_file() for file, _ in chunks):
            raise UserError(f"morphomnist: its images are not under {root}; {self._remedy(root)}")
        table = {
            "images": torch.zeros(TRAIN + TEST, 28, 28, dtype=torch.uint8),
            "parents": torch.zeros(TRAIN + TEST, 3),
        }
        for file, rows in chunks:
            for name, values in self._chunk(root, file, rows).items():
                table[name][rows] = values
        return table

    def _remedy(self, root: Path) -> str:
        default = MorphoMNIST()
        options: dict[str, Any] = {k: v for k, v in self.sizes.items() if v != default.sizes[k]}
        options |= {k: v for k in ("variant", "invert", "seed") if (v := getattr(self, k)) != getattr(default, k)}
        run = f"run: cfbench prepare '{Spec('morphomnist', '', options).label}' --data-root {root}"
        if self.variant != "published" or self.invert:
            return run
        return f"put the published files into {root / morphofiles.FOLDER} ({morphofiles.SOURCE}), or {run}"

    def _chunks(self) -> Iterator[tuple[str, Tensor]]:
        """Files of rendered images, and the rows that each holds."""
        rows = torch.cat([self._rows(name) for name in ("train", "valid", "test")]).sort().values
        for number, part in enumerate(rows.split(CHUNK)):
            yield f"{self._folder}/rows-{number:02}.safetensors", part

    def _chunk(self, root: Path, file: str, rows: Tensor) -> dict[str, Tensor]:
        def draw() -> dict[str, Tensor]:
            train, test = self._studio(root).labels.split([TRAIN, TEST])
            rng = self._generator("parents", self.variant)
            with one_torch_thread():
                parents = torch.cat([self.scm.draw(train, rng, True), self.scm.draw(test, rng, False)])[rows]
            return {"images": self._studio(root).draw(rows, parents), "parents": parents}

        return cache.load(root, file, draw)

    def _draw_judge(self, root: Path, name: str) -> dict[str, Tensor]:
        rng, rows = self._generator("judge", name), self._rows(name)
        count = self.sizes["judge"] // (1 if name == "train" else 5)
        rows = rows[torch.randperm(len(rows), generator=rng)[:count]]
        parents = self.scm.draw_independent(self._studio(root).labels[rows], rng)
        report = partial(self.progress, "drawing digits for judges")
        return {"images": self._studio(root).draw(rows, parents, report), "parents": parents}

    def _studio(self, root: Path) -> Studio:
        if root not in self._studios:
            self._studios[root] = Studio(root, self.variant == "slant")
        return self._studios[root]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}, "_studios": {}}


def _measure(grey: NDArray[np.float64], second: str) -> tuple[float, float]:
    """Thickness and intensity or slant of one image [28, 28] in grey levels."""
    if not grey.max() > grey.min():
        return float("nan"), float("nan")
    whole = np.rint(grey).astype(np.uint8)
    value = morphology.grey_level(grey) if second == "intensity" else morphology.slant(whole)
    return morphology.thickness(morphology.outline(whole, scale=4)), value
