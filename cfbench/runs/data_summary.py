"""What a data set holds, in lines: its splits, the shape of its images, and how each variable is spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Literal, get_args

import torch
from torch import Tensor

from ..contract import Dataset
from ..graph import Variable

__all__ = ["summarise_data"]


WIDTH = 100
LISTED = 20
"""Classes whose shares are listed; of more, the rarest and the most frequent ones."""
Name = Literal["train", "valid", "test"]


def summarise_data(dataset: Dataset, root: Path) -> Iterator[str]:
    """The lines about a data set that has been opened and prepared under ``root``."""
    names: tuple[Name, ...] = get_args(Name)
    splits = {name: dataset.split(root, name) for name in names}
    counts = ", ".join(f"{name} {len(split):,}" for name, split in splits.items())
    shapes = " and ".join(sorted({"×".join(map(str, s.images.shape[1:])) for s in splits.values()}))
    width = max(12, *(len(v.name) for v in dataset.graph.variables))
    yield f"  {'images':<{width}} {shapes}: {counts}"
    for column, variable in enumerate(dataset.graph.variables):
        values = {name: split.parents[:, column] for name, split in splits.items()}
        lines = _classes(variable, values) if variable.categorical else _range(variable, values["train"])
        for number, line in enumerate(lines):
            head = f"  {'' if number else variable.name:<{width}} "
            yield from wrap(line, WIDTH, initial_indent=head, subsequent_indent=" " * (width + 5))


def _classes(variable: Variable, values: Mapping[Name, Tensor]) -> Iterator[str]:
    """The share of each class among the training images, and the rarest class of each split."""
    counts = {name: torch.bincount(v.round().long(), minlength=variable.size) for name, v in values.items()}
    train = counts["train"]
    order = train.argsort(stable=True).tolist()
    listed = sorted(order) if len(order) <= LISTED else [*order[: LISTED // 2], *order[-LISTED // 2 :]]
    shares = ", ".join(f"{k}: {100 * int(train[k]) / int(train.sum()):.3g} %" for k in listed)
    some = "" if len(listed) == len(order) else ", rarest and most frequent"
    yield f"{variable.size} classes{some}, of the training images: {shares}"
    rarest = {name: int(count.argmin()) for name, count in counts.items()}
    yield "fewest images: " + ", ".join(f"{int(counts[n][k]):,} of {k} in {n}" for n, k in rarest.items())


def _range(variable: Variable, values: Tensor) -> Iterator[str]:
    """Range, mean and standard deviation among the training images, and how many lie outside of the declared range."""
    x, unit = values.double(), f" {variable.unit}" if variable.unit else ""
    outside = int(((x < variable.low) | (x > variable.high)).sum())
    spread = f"mean {x.mean():.4g}, standard deviation {x.std(correction=0):.3g}"
    declared = f"declared {variable.low:.4g} to {variable.high:.4g}{unit}"
    beyond = f", {outside:,} outside" if outside else ""
    yield f"{x.min():.4g} to {x.max():.4g}{unit} in training images, {spread}; {declared}{beyond}"
