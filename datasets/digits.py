"""The 8x8 digits that come with scikit-learn: small, installed already, and without a true counterfactual."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from cfbench.contract import Dataset, Split
from cfbench.graph import CausalGraph, Variable

from .common.cache import checksum

__all__ = ["Digits"]

VALID = TEST = 300


class Digits(Dataset):
    """8x8 grey digits of the UCI optical recognition test set, whose only parent is ``digit``.

    1197 rows to train, 300 to validate and 300 to test; grey levels are scaled from 0..16 to 0..255.
    Source: scikit-learn, https://archive.ics.uci.edu/dataset/80.

    Args:
        seed: of the division into splits.
    """

    graph = CausalGraph((Variable("digit", "categorical", size=10),), (1, 8, 8))

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._all: Split | None = None

    def fingerprint(self, root: Path) -> str:
        """Return a checksum of all images and labels."""
        rows = self._rows()
        return checksum({"images": rows.images, "parents": rows.parents})[:12]

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """Return the named split; rows are numbered as in scikit-learn."""
        rows = self._rows()
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
        test, valid, train = order.split([TEST, VALID, len(rows) - TEST - VALID])
        return rows[{"train": train, "valid": valid, "test": test}[name].sort().values]

    def _rows(self) -> Split:
        if self._all is None:
            from sklearn.datasets import load_digits

            raw: Any = load_digits()
            images = (torch.tensor(raw.images) * 255 / 16).round().to(torch.uint8)[:, None]
            parents = torch.tensor(raw.target, dtype=torch.float32)[:, None]
            self._all = Split(images, parents, torch.arange(len(images)))
        return self._all
