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
from cfbench.errors import UserError, did_you_mean
from cfbench.graph import CausalGraph
from cfbench.plugins.digest import key_of, source_digest
from cfbench.plugins.spec import Spec
from cfbench.rng import derive

from ..common import cache
from ..common.threads import one_blas_thread, one_torch_thread
from ..mnist import MNIST
from . import morphology, published
from .renderer import Renderer, brighten_all
from .scm import ConfoundedThickness, Scm, ThicknessIntensity, ThicknessSlant

__all__ = ["MorphoMNIST"]

TRAIN, TEST = 60_000, 10_000
VARIANTS = ("published", "slant", "confounded")
CHUNK = 1_000


class MorphoMNIST(Dataset):
    """28x28 grey MNIST digits of given thickness and intensity (DeepSCM, https://arxiv.org/abs/2006.06485).

    Row n is made of MNIST's digit n (training, then test file). The published files are read from ``MorphoMNIST``
    under the data root, compressed or not. Where there are none, and for the variants, `prepare` renders the images
    from raw MNIST in ``MNIST/raw``, under parents drawn from the same SCM. True counterfactuals are rendered from the
    source digit exactly as the factual was; without raw MNIST none is known. do(digit) has no truth: class and
    handwriting come from one source digit.

    Read `scm`, `published`, `morphology`, then `renderer`.

    Args:
        variant: ``published``, ``slant`` (thickness causes slant, see `ThicknessSlant`) or ``confounded`` (see
            `ConfoundedThickness`).
        invert: thicker is darker; not with ``slant``.
        train, valid: rows of these splits, of the 60,000 training images; the order is fixed by ``seed``.
        test: rows of the test split, the first of 10,000.
        judge: digits rendered for judges to learn from, and a fifth as many to check them; their parents are
            independent. Where thickness depends on nothing, judges also learn from the training images at other
            intensities.
        seed: of the division of the training images, of generated parents and of the judges' parents.

    Raises:
        UserError: there is no such variant, or a split is empty or too large.
    """

    graph: CausalGraph = ThicknessIntensity.graph
    network: ClassVar[bool] = True
    moves: ClassVar[int] = 1
    reader_scale: ClassVar[float] = 4.0

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
        self._renderers: dict[Path, Renderer] = {}

    def prepare(self, root: Path) -> None:
        """Check the published files or render others, and what judges learn from; download raw MNIST if possible.

        Raises:
            UserError: a file is absent or corrupt and cannot be made.
        """
        root = Path(root)
        if self._is_published(root):
            self._factuals(root)
            try:
                MNIST().prepare(root)
            except UserError as error:
                warnings.warn(f"morphomnist: no true counterfactuals without raw MNIST: {error}", stacklevel=2)
        else:
            MNIST().prepare(root)
            chunks = list(self._chunks())
            missing = [file for file, _ in chunks if not (root / file).is_file()]
            if missing and not cache.writable(root, missing[0]):
                raise UserError(f"morphomnist: no images can be rendered into {root}: it may not be written to")
            for number, (file, rows) in enumerate(chunks):
                self.progress("drawing digits", number * CHUNK, len(chunks) * CHUNK)
                self._chunk(root, file, rows)
        self.judge_split(root, "train")
        self.judge_split(root, "valid")

    def fingerprint(self, root: Path) -> str:
        """Return a key of the published checksums, or of what generates the images; and of whether there are truths."""
        root = Path(root)
        source = published.SHA256 if self._is_published(root) else self._folder
        return key_of(source, published.has_sources(root))

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """Return the named split; rows are numbered through the training and then the test file.

        Raises:
            UserError: a file is absent or corrupt.
        """
        rows, table = self._rows(name), self._factuals(Path(root))
        return Split(table["images"][rows][:, None], table["parents"][rows], rows)

    def judge_split(self, root: Path, name: Literal["train", "valid"]) -> Split:
        """Return source digits of the split under parents that are independent; the split itself without raw MNIST.

        Those to train on are followed, where thickness depends on nothing, by the training images at intensities
        drawn anew: rendering is slow, and 10,000 digits are few to learn reading from.
        """
        root = Path(root)
        if not published.has_sources(root):
            return self.split(root, name)
        part = f"judge-{name}"
        if (root, part) not in self._tables:
            file = f"{self._folder}/{part}-{self.sizes['judge']}.safetensors"
            table = cache.load(root, file, lambda: self._render_judge(root, name))
            if name == "train" and self.variant == "published":
                more = self._brightened(root)
                table = {key: torch.cat([table[key], more[key]]) for key in table}
            self._tables[root, part] = table
        table = self._tables[root, part]
        return Split(table["images"][:, None], table["parents"], torch.arange(len(table["images"])))

    @one_torch_thread()
    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator | None = None) -> Tensor:
        """Return the response of pa [B, 3] to ``do``, exact: what thickness causes keeps the noise of the factual."""
        return self.scm.act(pa, do)

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor:
        """Return rows ``index`` [B] under cf_pa [B, 3], rendered from their source digits: [B, 1, 28, 28] in [0, 1].

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
        if known.any() and published.has_sources(root):
            report = partial(self.progress, "drawing true counterfactuals")
            truth = self._renderer(root).render_cached(rows[known], wanted[known], report)
            image[known, 0] = truth.float() / 255
        return image.to(cf_pa.device)

    def measure(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return thickness (pixels) and intensity (grey levels) or slant (degrees), each [B], of images [B, 1, 28, 28].

        As in Morpho-MNIST: twice the mean distance over the medial axis at four times the size, the median of the
        pixels that reach half the image's range, the shear of the grey levels. Images need not have whole grey
        levels; those that have are measured as the published procedure measures bytes. NaN for blank images.
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

    def _is_published(self, root: Path) -> bool:
        """Return whether the data are the published files."""
        return self.variant == "published" and not self.invert and (root / published.FOLDER).is_dir()

    def _rows(self, name: str) -> Tensor:
        """Return the numbers of a split's rows among MNIST's 70,000."""
        if name == "test":
            return torch.arange(TRAIN, TRAIN + self.sizes["test"])
        order, valid = torch.randperm(TRAIN, generator=self._generator()), self.sizes["valid"]
        return (order[:valid] if name == "valid" else order[valid:][: self.sizes["train"]]).sort().values

    def _generator(self, *parts: str) -> torch.Generator:
        seed = derive("morphomnist", *parts, self.seed) if parts else self.seed
        return torch.Generator().manual_seed(seed)

    def _factuals(self, root: Path) -> dict[str, Tensor]:
        """Return images uint8 [70,000, 28, 28] and parents [70,000, 3]; rows in no split may be zero."""
        if (root, "factual") not in self._tables:
            read = published.read_published if self._is_published(root) else self._rendered
            self._tables[root, "factual"] = read(root)
        return self._tables[root, "factual"]

    def _rendered(self, root: Path) -> dict[str, Tensor]:
        """Return the images that `prepare` rendered.

        Raises:
            UserError: it has not rendered them.
        """
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
        """Return what a user can do about missing images."""
        default = MorphoMNIST()
        options: dict[str, Any] = {k: v for k, v in self.sizes.items() if v != default.sizes[k]}
        options |= {k: v for k in ("variant", "invert", "seed") if (v := getattr(self, k)) != getattr(default, k)}
        run = f"run: cfbench prepare '{Spec('morphomnist', '', options).label}' --data-root {root}"
        if self.variant != "published" or self.invert:
            return run
        return f"put the published files into {root / published.FOLDER} ({published.SOURCE}), or {run}"

    def _chunks(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the files of rendered images and the rows in each."""
        rows = torch.cat([self._rows(name) for name in ("train", "valid", "test")]).sort().values
        for number, part in enumerate(rows.split(CHUNK)):
            yield f"{self._folder}/rows-{number:02}.safetensors", part

    def _chunk(self, root: Path, file: str, rows: Tensor) -> dict[str, Tensor]:
        def render() -> dict[str, Tensor]:
            train, test = self._renderer(root).labels.split([TRAIN, TEST])
            rng = self._generator("parents", self.variant)
            with one_torch_thread():
                parents = torch.cat([self.scm.draw(train, rng, True), self.scm.draw(test, rng, False)])[rows]
            return {"images": self._renderer(root).render(rows, parents), "parents": parents}

        return cache.load(root, file, render)

    def _render_judge(self, root: Path, name: str) -> dict[str, Tensor]:
        rng, rows = self._generator("judge", name), self._rows(name)
        count = self.sizes["judge"] // (1 if name == "train" else 5)
        rows = rows[torch.randperm(len(rows), generator=rng)[:count]]
        parents = self.scm.draw_independent(self._renderer(root).labels[rows], rng)
        report = partial(self.progress, "drawing digits for judges")
        return {"images": self._renderer(root).render(rows, parents, report), "parents": parents}

    def _brightened(self, root: Path) -> dict[str, Tensor]:
        """Return the training images at intensities that do not depend on their other parents."""
        train, rng = self.split(root, "train"), self._generator("judge", "brightened")
        parents = train.parents.clone()
        parents[:, 2] = self.scm.draw_independent(parents[:, 0], rng)[:, 2]
        return {"images": brighten_all(train.images[:, 0], parents[:, 2]), "parents": parents}

    def _renderer(self, root: Path) -> Renderer:
        if root not in self._renderers:
            self._renderers[root] = Renderer(root, self.variant == "slant")
        return self._renderers[root]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}, "_renderers": {}}


def _measure(grey: NDArray[np.float64], second: str) -> tuple[float, float]:
    """Return thickness, and intensity or slant, of one image [28, 28] in grey levels."""
    if not grey.max() > grey.min():
        return float("nan"), float("nan")
    value = morphology.grey_level(grey) if second == "intensity" else morphology.slant(grey)
    return morphology.thickness(morphology.outline(grey, scale=4)), value
