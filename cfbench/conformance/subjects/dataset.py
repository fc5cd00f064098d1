"""A data set under examination: opened where its data lie, its splits read once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ...contract import Dataset, Split
from ...errors import UserError
from ...graph import CausalGraph
from ...runs.folders import DATA_ROOT
from ..outcomes import Skipped, Violation
from .subject import Subject

__all__ = ["NAMES", "DatasetSubject"]

NAMES = ("train", "valid", "test")


class DatasetSubject(Subject):
    """A data set, opened under its data root."""

    @cached_property
    def root(self) -> Path:
        """Where the data lie: as given, as the environment says, or a folder that goes with the subject."""
        given = self.data_root or os.environ.get(DATA_ROOT)
        return Path(given) if given else Path(self._folder.name)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="cfbench-", ignore_cleanup_errors=True)

    def make(self) -> Dataset:
        """A new object, opened as the harness does it."""
        with self.calling("the constructor", truth=True):
            dataset: Dataset = self.plugin(**self.params)
        with self.calling("open", truth=True):
            try:
                dataset.open(self.root)
            except UserError as error:
                raise _absent(error) from error
        return dataset

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, prepared where that needs no network.

        Raises:
            Skipped: its data are absent.
        """
        dataset = self.make()
        with self.calling("prepare", truth=True):
            try:
                if not dataset.network:
                    dataset.prepare(self.root)
            except UserError as error:
                raise _absent(error) from error
        with self.calling("split(root, 'train')", truth=True):
            try:
                dataset.split(self.root, "train")
            except UserError as error:
                raise _absent(error) from error
        return dataset

    @property
    def graph(self) -> CausalGraph:
        return self.dataset.graph

    @cached_property
    def splits(self) -> dict[str, Split]:
        """All three splits."""
        return self.read(self.dataset)

    def read(self, dataset: Dataset) -> dict[str, Split]:
        """The three splits of an object."""
        found = {}
        for name in NAMES:
            with self.calling(f"split(root, {name!r})", truth=True):
                found[name] = dataset.split(self.root, name)  # type: ignore[arg-type]
        return found

    def some(self, n: int) -> Split:
        """The first rows of the test split, in tensors of their own."""
        rows = torch.arange(min(n, len(self.splits["test"])))
        return self.splits["test"][rows]

    def act(self, pa: Tensor, do: Mapping[str, Tensor]) -> Tensor | None:
        """The response of parents."""
        with self.calling("act", truth=True):
            return self.dataset.act(pa, do, torch.Generator().manual_seed(0))

    def respond(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """The response of parents, or the parents with the variable set, where the data set knows none."""
        found = self.dataset.act(pa, do, rng)
        return self.graph.set(pa, do) if found is None else found

    def oracle(self, index: Tensor, cf_pa: Tensor) -> Tensor | None:
        """The true counterfactuals of rows of the test split."""
        with self.calling("oracle", truth=True):
            return self.dataset.oracle(self.root, "test", index, cf_pa)

    def measure(self, images: Tensor) -> Mapping[str, Tensor] | None:
        """What can be measured from images."""
        with self.calling("measure", truth=True):
            return self.dataset.measure(images)


def _absent(error: UserError) -> Exception:
    text = str(error).strip()
    if "\n" in text:
        return Violation(f"what is amiss with the data is told in several lines ({text}); a UserError has one")
    return Skipped(text)
