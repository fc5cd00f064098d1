"""Checks of a data set: its splits, its graph, how its parents respond, and its truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import Dataset, Split
from ..graph import CausalGraph, Variable
from ..plan import PLANS, Plan, make_plan
from .check import Check, Skipped, check, demand
from .definition import documented, settings, signatures
from .fitted import copied, same
from .opened import DatasetSubject
from .subject import Subject
from .surroundings import RANDOM, seeded

__all__ = ["DATASETS"]

HALF_A_GREY = 0.5 / 255 + 1e-6
ROWS, TRUE_ROWS = 64, 8
PART = 1e-3
"""Of a variable's range: what a response may miss by rounding."""


def _subject(subject: Subject) -> DatasetSubject:
    assert isinstance(subject, DatasetSubject)
    return subject


@check("constructor", "the constructor works with these settings", signatures)
def constructs(subject: Subject) -> None:
    with subject.calling("the constructor", truth=True):
        subject.plugin(**subject.params)


@check("data", "the data are there, or a UserError says in one line what to do", constructs)
def opens(subject: Subject) -> None:
    _ = _subject(subject).dataset


@check("graph", "the graph has variables with classes or a range", opens)
def graphed(subject: Subject) -> None:
    s = _subject(subject)
    graph = getattr(s.dataset, "graph", None)
    demand(isinstance(graph, CausalGraph), f"graph is a {type(graph).__name__}; set it in the class or in open(root)")
    demand(s.graph.variables, "the graph has no variable; name at least one cause of the image")
    for v in s.graph.variables:
        demand(not v.categorical or v.size > 1, f"{v.name} has {v.size} class; give size=, the number of classes")
        demand(v.categorical or v.low < v.high, f"{v.name} has the range {v.low} to {v.high}; give low=, high=")


@check("splits", "every split has images uint8 [N, C, H, W], parents float32 [N, D], index int64 [N]", graphed)
def formed(subject: Subject) -> None:
    s = _subject(subject)
    for name, split in s.splits.items():
        demand(
            isinstance(split, Split), f"split {name!r} is a {type(split).__name__}; give Split(images, parents, index)"
        )
        _form(s, name, split)


def _form(s: DatasetSubject, name: str, split: Split) -> None:
    n, columns = len(split.images), len(s.graph.variables)
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "images": (torch.uint8, (n, *s.graph.shape)),
        "parents": (torch.float32, (n, columns)),
        "index": (torch.int64, (n,)),
    }
    for part, (dtype, shape) in wanted.items():
        found: Tensor = getattr(split, part)
        demand(found.dtype == dtype, f"split {name!r} has {part} of {found.dtype}; give {dtype}")
        demand(tuple(found.shape) == shape, f"split {name!r} has {part} {list(found.shape)}; give {list(shape)}")
    demand(n >= 2, f"split {name!r} has {n} rows; half of a split is asked about, so give it more")


@check("parents", "parents are finite, classes whole numbers, values within their range", formed)
def ranged(subject: Subject) -> None:
    s = _subject(subject)
    for name, split in s.splits.items():
        for column, v in enumerate(s.graph.variables):
            _range(v, split.parents[:, column], f"split {name!r}")


def _range(v: Variable, values: Tensor, where: str) -> None:
    demand(values.isfinite().all(), f"{where} has {v.name} that is NaN or infinite; leave such rows out")
    low, high = (0.0, v.size - 1.0) if v.categorical else (v.low, v.high)
    found = float(values.min()), float(values.max())
    slack = 0.0 if v.categorical else PART * (high - low)
    demand(
        found[0] >= low - slack and found[1] <= high + slack,
        f"{where} has {v.name} from {found[0]:.6g} to {found[1]:.6g}, the graph says {low:.6g} to {high:.6g}; "
        "correct the graph or the parents",
    )
    whole = not v.categorical or bool((values == values.round()).all())
    demand(whole, f"{where} has classes of {v.name} that are no whole numbers; number them from 0")


@check("disjoint", "no row is in two splits", formed)
def disjoint(subject: Subject) -> None:
    s = _subject(subject)
    index = torch.cat([split.index for split in s.splits.values()])
    twice = len(index) - len(index.unique())
    demand(not twice, f"{twice} row numbers occur twice over the splits; give every row one number and one split")
    known = set(_bytes(s.splits["train"]))
    asked = _bytes(s.splits["test"][:500])
    shared = sum(row in known for row in asked)
    demand(
        10 * shared <= len(asked),
        f"{shared} of {len(asked)} test images are training images too, with the same parents; split before copying",
    )


def _bytes(split: Split) -> list[bytes]:
    images, parents = split.images.flatten(1).numpy(), split.parents.numpy()
    return [a.tobytes() + b.tobytes() for a, b in zip(images, parents, strict=True)]


@check("again", "another object under the same root has the same data and fingerprint", formed)
def repeatable(subject: Subject) -> None:
    s = _subject(subject)
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


@check(
    "act", "do(variable) sets it, leaves other than its descendants alone, and is nothing where nothing changes", ranged
)
def acts(subject: Subject) -> None:
    s = _subject(subject)
    pa = s.some(ROWS).parents
    for k, v in enumerate(s.graph.variables):
        own, other = pa[:, k].clone(), _others(v, pa[:, k])
        for value, what in ((own, "its own value"), (other, "another value")):
            kept = pa.clone()
            new = s.act(pa, {v.name: value})
            demand(same(pa, kept), "act changes its argument pa in place; work on a copy: pa.clone()")
            if new is None:
                return
            _response(s, v, pa, new, value, what)
        again = s.act(pa, {v.name: other})
        demand(
            same(s.act(pa, {v.name: other}), again), f"do({v.name}) gives two responses; draw from the rng handed in"
        )


def _others(v: Variable, values: Tensor) -> Tensor:
    """Another value for each row, which occurs among the rows."""
    return (values + 1) % v.size if v.categorical else values.roll(1)


def _response(s: DatasetSubject, v: Variable, pa: Tensor, new: Tensor, value: Tensor, what: str) -> None:
    where = f"act under do({v.name} = {what})"
    demand(new.shape == pa.shape and new.is_floating_point(), f"{where} gives {new.dtype} {list(new.shape)}; like pa")
    demand(new.isfinite().all(), f"{where} gives NaN or infinite parents")
    touched = set() if what == "its own value" else {v.name, *s.graph.descendants(v.name)}
    for k, other in enumerate(s.graph.variables):
        slack = 0.0 if other.categorical else PART * (other.high - other.low)
        if other.name not in touched:
            gap = float((new[:, k] - pa[:, k]).abs().max())
            demand(
                gap <= slack,
                f"{where} changes {other.name} by {gap:.3g}, which it may not; respond with the factual's own noise",
            )
    missed = float((new[:, s.graph.index(v.name)] - value).abs().max())
    demand(missed <= 1e-5 * max(1.0, float(value.abs().max())), f"{where} misses that value by {missed:.3g}; set it")


@check("plans", "every plan gives the same questions again, about values that exist", acts)
def planned(subject: Subject) -> None:
    s = _subject(subject)
    for name in dict.fromkeys([*PLANS, *s.dataset.plans]):
        one, two = _plan(s, name), _plan(s, name)
        demand(one.asked, f"the plan {name!r} asks nothing; targets(plan, pa) gives values for each row")
        for v in one.asked:
            for part in ("factual", "value", "cf_pa"):
                equal = v in two.asked and same(getattr(one.asked[v], part), getattr(two.asked[v], part))
                demand(equal, f"the plan {name!r} asks other questions about {v} each time; make targets deterministic")
            if s.graph[v].categorical:
                _range(s.graph[v], one.asked[v].value, f"the plan {name!r}")


def _plan(s: DatasetSubject, name: str) -> Plan:
    with s.calling(f"the plan {name!r}", truth=True):
        return make_plan(s.dataset, s.root, name=name, split="test", factuals=16, act=s.respond)


@check("oracle", "the truth under the factual's own parents is the factual", ranged, disjoint)
def truthful(subject: Subject) -> None:
    s = _subject(subject)
    own = s.some(ROWS)
    truth = s.oracle(own.index, own.parents)
    if truth is None:
        marked = [v.name for v in s.graph.variables if v.truth != "none"]
        demand(
            not marked, f"{', '.join(marked)} marked with a truth, but oracle gives None; give images or mark 'none'"
        )
        return
    _true_form(truth, own)
    known = ~truth.flatten(1).isnan().all(1)
    demand(known.any(), "oracle gives NaN for every row under the factual's own parents; there it is the factual")
    gap = float((truth - own.x)[known].abs().max())
    demand(
        gap <= HALF_A_GREY,
        f"oracle under the factual's own parents misses the factual by {255 * gap:.3g} grey levels; draw with the "
        "factual's own noise, rounded as its image",
    )


def _true_form(truth: Tensor, own: Split) -> None:
    wanted = list(own.images.shape)
    right = truth.is_floating_point() and list(truth.shape) == wanted
    demand(right, f"oracle gives {truth.dtype} {list(truth.shape)}; give float32 {wanted}")
    known = truth[truth.isfinite()]
    inside = not len(known) or (float(known.min()) >= 0 and float(known.max()) <= 1)
    demand(inside, "oracle gives pixels outside of [0, 1]; divide by 255, clamp")


@check("truth", "oracle has a truth for what the graph marks exact or convention, and for nothing else", truthful, acts)
def marked(subject: Subject) -> None:
    s = _subject(subject)
    own = s.some(TRUE_ROWS)
    if type(s.dataset).oracle is Dataset.oracle:
        return
    known = {v.name: _known(s, own, v) for v in s.graph.variables}
    if s.dataset.network and not any(map(any, known.values())):
        raise Skipped("no truth can be had with the data at hand")
    for v in s.graph.variables:
        if v.truth == "none":
            demand(
                not any(known[v.name]), f"{v.name} is marked 'none', but oracle has images; mark exact or convention"
            )
        else:
            demand(
                any(known[v.name]), f"{v.name} is marked {v.truth!r}, but oracle gives NaN; give images or mark 'none'"
            )


def _known(s: DatasetSubject, own: Split, v: Variable) -> list[bool]:
    """Which rows have a truth under another value of a variable."""
    new = s.respond(own.parents, {v.name: _others(v, own.parents[:, s.graph.index(v.name)])}, torch.Generator())
    index, cf_pa = own.index.clone(), new.clone()
    truth = s.oracle(index, cf_pa)
    demand(same(index, own.index) and same(cf_pa, new), "oracle changes its arguments in place; work on copies")
    if truth is None:
        return []
    _true_form(truth, own)
    alone = s.oracle(own.index[-1:], new[-1:])
    equal = isinstance(alone, Tensor) and same(alone[0], truth[-1], HALF_A_GREY)
    demand(
        equal, f"oracle under do({v.name}) gives a row another image when it is asked alone; use each row's own noise"
    )
    return truth.flatten(1).isfinite().all(1).tolist()


@check("measure", "what is measured are variables of the graph, image by image", formed)
def measured(subject: Subject) -> None:
    s = _subject(subject)
    x = s.some(TRUE_ROWS).x
    kept = x.clone()
    found: Any = s.measure(x)
    demand(same(x, kept), "measure changes the images in place; work on a copy")
    if found is None:
        return
    strange = sorted(set(found) - set(s.graph.names))
    demand(not strange, f"measure gives {', '.join(strange)}, not in the graph; known: {', '.join(s.graph.names)}")
    alone = copied(s.measure(x[-1:]))
    for name, value in found.items():
        demand(value.shape == x.shape[:1], f"measure gives {name} {list(value.shape)}; give one number an image")
        demand(value.isfinite().any(), f"measure gives no finite {name} for real images; mend the instrument")
        demand(
            same(alone[name], value[-1:], 1e-4), f"measure of {name} depends on the other images; measure each alone"
        )


@check("judge-split", "the splits for judges have the same form", ranged)
def judged(subject: Subject) -> None:
    s = _subject(subject)
    if s.dataset.network and type(s.dataset).judge_split is not Dataset.judge_split:
        raise Skipped("its judges' data may have to be made first; cfbench prepare does it")
    for name in ("train", "valid"):
        with s.calling("judge_split", truth=True):
            split = s.dataset.judge_split(s.root, name)  # type: ignore[arg-type]
        _form(s, f"judge {name}", split)
        for column, v in enumerate(s.graph.variables):
            _range(v, split.parents[:, column], f"judge split {name!r}")


@check("state", "the data set leaves the shared state of the process as it was", formed)
def undisturbed(subject: Subject) -> None:
    for what, changes in subject.disturbed.items():
        for name, change in changes.items():
            remedy = "use a torch.Generator of your own" if name in RANDOM else "put it back, or leave it alone"
            demand(False, f"{what} changes {name}{f' ({change})' if change else ''}; {remedy}")


DATASETS: tuple[Check, ...] = (
    signatures, documented, settings, constructs, opens, graphed, formed, ranged, disjoint, acts, truthful, marked,
    measured, repeatable, planned, judged, undisturbed,
)  # fmt: skip
