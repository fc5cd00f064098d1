"""Checks of a data set: its graph, its splits and its measurements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...contract import Dataset, Split
from ...graph import CausalGraph, Variable
from ..check import check
from ..outcomes import Skipped, demand
from ..subjects.dataset import DatasetSubject
from ..subjects.method import copied, same
from ..subjects.process_state import seeded
from ..subjects.subject import Subject
from .definition import documented, settings, signatures

__all__ = [
    "DEFINED",
    "PART",
    "SPLITS",
    "disjoint",
    "in_range",
    "judged",
    "measured",
    "ranged",
    "repeatable",
    "state_unchanged",
]

FEW = 8
"""Number of images that are measured."""
PART = 1e-3
"""Tolerance for rounding, as a share of a variable's range."""


@check("constructor", "the constructor works with these settings", signatures)
def constructs(subject: Subject) -> None:
    with subject.calling("the constructor", truth=True):
        subject.plugin(**subject.params)


@check("data", "the data are there, or a UserError says in one line what to do", constructs)
def opened(s: DatasetSubject) -> None:
    _ = s.dataset


@check("graph", "the graph has variables with classes or a range", opened)
def graphed(s: DatasetSubject) -> None:
    graph = getattr(s.dataset, "graph", None)
    demand(isinstance(graph, CausalGraph), f"graph is a {type(graph).__name__}; set it in the class or in open(root)")
    demand(s.graph.variables, "the graph has no variable; name at least one cause of the image")
    for v in s.graph.variables:
        demand(not v.categorical or v.size > 1, f"{v.name} has {v.size} class; give size=, the number of classes")
        demand(v.categorical or v.low < v.high, f"{v.name} has the range {v.low} to {v.high}; give low=, high=")


@check("splits", "every split has images uint8 [N, C, H, W], parents float32 [N, D], index int64 [N]", graphed)
def formed(s: DatasetSubject) -> None:
    for name, split in s.splits.items():
        demand(
            isinstance(split, Split), f"split {name!r} is a {type(split).__name__}; give Split(images, parents, index)"
        )
        _form(s, name, split)


def _form(s: DatasetSubject, name: str, split: Split) -> None:
    n, columns = len(split.images), len(s.graph.variables)
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "images": (torch.uint8, (n, *s.graph.shape)),
        "parents": (torch.float32, (n, columns)),
        "index": (torch.int64, (n,)),
    }
    for part, (dtype, shape) in expected.items():
        found: Tensor = getattr(split, part)
        demand(found.dtype == dtype, f"split {name!r} has {part} of {found.dtype}; give {dtype}")
        demand(tuple(found.shape) == shape, f"split {name!r} has {part} {list(found.shape)}; give {list(shape)}")
    demand(n >= 2, f"split {name!r} has {n} rows; half of a split is asked about, so give it more")


@check("parents", "parents are finite, classes whole numbers, values within their range", formed)
def ranged(s: DatasetSubject) -> None:
    for name, split in s.splits.items():
        for column, v in enumerate(s.graph.variables):
            in_range(v, split.parents[:, column], f"split {name!r}")


def in_range(v: Variable, values: Tensor, where: str) -> None:
    """Raise unless the values of a variable are finite and in its range."""
    demand(values.isfinite().all(), f"{where} has {v.name} that is NaN or infinite; leave such rows out")
    low, high = (0.0, v.size - 1.0) if v.categorical else (v.low, v.high)
    found = float(values.min()), float(values.max())
    slack = 0.0 if v.categorical else PART * (high - low)
    demand(
        found[0] >= low - slack and found[1] <= high + slack,
        f"{where} has {v.name} from {found[0]:.6g} to {found[1]:.6g}, the graph says {low:.6g} to {high:.6g}; "
        "correct the graph or the parents",
    )
    integral = not v.categorical or bool((values == values.round()).all())
    demand(integral, f"{where} has classes of {v.name} that are no whole numbers; number them from 0")


@check("disjoint", "no row is in two splits", formed)
def disjoint(s: DatasetSubject) -> None:
    index = torch.cat([split.index for split in s.splits.values()])
    repeated = len(index) - len(index.unique())
    demand(not repeated, f"{repeated} row numbers occur twice over the splits; give every row one number and one split")
    known = set(_bytes(s.splits["train"]))
    tested = _bytes(s.splits["test"][:500])
    shared = sum(row in known for row in tested)
    demand(
        10 * shared <= len(tested),
        f"{shared} of {len(tested)} test images are training images too, with the same parents; split before copying",
    )


def _bytes(split: Split) -> list[bytes]:
    images, parents = split.images.flatten(1).numpy(), split.parents.numpy()
    return [a.tobytes() + b.tobytes() for a, b in zip(images, parents, strict=True)]


@check("again", "another object under the same root has the same data and fingerprint", formed)
def repeatable(s: DatasetSubject) -> None:
    with seeded(1, 1):
        other = s.make()
        found = s.read(other)
    for name, split in found.items():
        for part in ("images", "parents", "index"):
            demand(
                same(getattr(s.splits[name], part), getattr(split, part)),
                f"a second object gives other {part} in split {name!r}; draw them from a seeded generator, sort files",
            )
    with s.calling("fingerprint", truth=True):
        prints = [d.fingerprint(s.root) for d in (s.dataset, s.dataset, other)]
    demand(isinstance(prints[0], str), f"fingerprint is a {type(prints[0]).__name__}; give a string")
    demand(len(set(prints)) == 1, f"fingerprint changes from {prints[0]!r} to {prints[-1]!r}; use nothing that varies")


@check("measure", "what is measured are variables of the graph, image by image", formed)
def measured(s: DatasetSubject) -> None:
    x = s.first_rows(FEW).x
    before = x.clone()
    found: Any = s.measure(x)
    demand(same(x, before), "measure changes the images in place; work on a copy")
    if found is None:
        return
    unknown = sorted(set(found) - set(s.graph.names))
    demand(not unknown, f"measure gives {', '.join(unknown)}, not in the graph; known: {', '.join(s.graph.names)}")
    alone = copied(s.measure(x[-1:]))
    for name, value in found.items():
        demand(value.shape == x.shape[:1], f"measure gives {name} {list(value.shape)}; give one number an image")
        demand(value.isfinite().any(), f"measure gives no finite {name} for real images; mend the instrument")
        demand(
            same(alone[name], value[-1:], 1e-4), f"measure of {name} depends on the other images; measure each alone"
        )


@check("judge-split", "the splits for judges have the same form", ranged)
def judged(s: DatasetSubject) -> None:
    if s.dataset.network and type(s.dataset).judge_split is not Dataset.judge_split:
        raise Skipped("its judges' data may have to be created first; cfbench prepare does it")
    for name in ("train", "valid"):
        with s.calling("judge_split", truth=True):
            split = s.dataset.judge_split(s.root, name)  # type: ignore[arg-type]
        _form(s, f"judge {name}", split)
        for column, v in enumerate(s.graph.variables):
            in_range(v, split.parents[:, column], f"judge split {name!r}")


@check("state", "the data set leaves the shared state of the process as it was", formed)
def state_unchanged(subject: Subject) -> None:
    subject.check_state("use a torch.Generator of your own")


DEFINED = (signatures, documented, settings, constructs)
SPLITS = (opened, graphed, formed, ranged, disjoint)
