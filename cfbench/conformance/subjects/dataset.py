"""A data set as a subject: opened under its data root, with each split read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ...contract import Dataset, Split
from ...errors import UserError
from ...graph import CausalGraph
from ...runs.console import forward_progress
from ...runs.folders import DATA_ROOT
from ...storage.scratch import new_scratch_folder
from ..outcomes import Skipped, Violation
from .subject import Subject

__all__ = ["NAMES", "DatasetSubject"]

NAMES = ("train", "valid", "test")


class DatasetSubject(Subject):
    """A data set that is opened under its data root."""

    @cached_property
    def root(self) -> Path:
        """The data root: as given, from the environment, or a temporary folder that is deleted with the subject."""
        given = self.data_root or os.environ.get(DATA_ROOT)
        return Path(given) if given else Path(self._folder.name)

    @cached_property
    def _folder(self) -> TemporaryDirectory[str]:
        return new_scratch_folder()

    def make(self) -> Dataset:
        """A new object, opened as in the harness."""
        with self.calling("the constructor", truth=True):
            dataset: Dataset = self.plugin(**self.params)
        with self.calling("open", truth=True):
            try:
                dataset.open(self.root)
            except UserError as error:
                raise _missing_data(error) from error
        return dataset

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, prepared if that needs no network.

        Raises:
            Skipped: its data are absent.
        """
        dataset = self.make()
        with self.calling("prepare", truth=True), forward_progress(dataset, self.progress):
            try:
                if not dataset.network:
                    dataset.prepare(self.root)
            except UserError as error:
                raise _missing_data(error) from error
        with self.calling("split(root, 'train')", truth=True):
            try:
                dataset.split(self.root, "train")
            except UserError as error:
                raise _missing_data(error) from error
        return dataset

    @property
    def graph(self) -> CausalGraph:
        return self.dataset.graph

    @cached_property
    def splits(self) -> dict[str, Split]:
        """All three splits."""
        return self.read(self.dataset)

    def read(self, dataset: Dataset) -> dict[str, Split]:
        """The three splits of a data set object."""
        found = {}
        for name in NAMES:
            with self.calling(f"split(root, {name!r})", truth=True):
                found[name] = dataset.split(self.root, name)  # type: ignore[arg-type]
        return found

    def first_rows(self, n: int) -> Split:
        """A copy of the first n rows of the test split."""
        rows = torch.arange(min(n, len(self.splits["test"])))
        return self.splits["test"][rows]

    def act(self, pa: Tensor, do: Mapping[str, Tensor]) -> Tensor | None:
        """The response of parents to an intervention; None where the data set does not know it."""
        with self.calling("act", truth=True):
            return self.dataset.act(pa, do, torch.Generator().manual_seed(0))

    def respond(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """The response of parents, or the parents with the variable set where the data set does not know it."""
        found = self.dataset.act(pa, do, rng)
        return self.graph.set(pa, do) if found is None else found

    def oracle(self, index: Tensor, cf_pa: Tensor) -> Tensor | None:
        """True counterfactuals of rows of the test split; None where the data set has none."""
        with self.calling("oracle", truth=True):
            return self.dataset.oracle(self.root, "test", index, cf_pa)

    def measure(self, images: Tensor) -> Mapping[str, Tensor] | None:
        """Variables measured from images; None where the data set cannot measure."""
        with self.calling("measure", truth=True):
            return self.dataset.measure(images)


def _missing_data(error: UserError) -> Exception:
    text = str(error).strip()
    if "\n" in text:
        return Violation(f"the message about the data has several lines ({text}); a UserError has one")
    return Skipped(text)
