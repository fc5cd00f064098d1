"""Checks of a data set's SCM: responses of parents, plans and true counterfactuals."""

from __future__ import annotations

import torch
from torch import Tensor

from ...contract import Dataset, Split
from ...evaluation.plan import PLANS, Plan, make_plan
from ...graph import Variable
from ..check import check
from ..outcomes import Skipped, demand
from ..subjects.dataset import DatasetSubject
from ..subjects.method import same
from ..subjects.process_state import seeded
from .datasets import PART, disjoint, in_range, ranged

__all__ = ["RESPONSES", "planned"]

HALF_LEVEL = 0.5 / 255 + 1e-6
ROWS, TRUE_ROWS = 64, 8


@check(
    "act", "do(variable) sets it, leaves other than its descendants alone, and is nothing where nothing changes", ranged
)
def acts(s: DatasetSubject) -> None:
    pa = s.first_rows(ROWS).parents
    for k, v in enumerate(s.graph.variables):
        own, other = pa[:, k].clone(), _others(v, pa[:, k])
        for value, what in ((own, "its own value"), (other, "another value")):
            before = pa.clone()
            new = s.act(pa, {v.name: value})
            demand(same(pa, before), "act changes its argument pa in place; work on a copy: pa.clone()")
            if new is None:
                return
            _response(s, v, pa, new, value, what)
        first = s.act(pa, {v.name: other})
        with seeded(1, 1):
            again = s.act(pa, {v.name: other})
        demand(same(first, again), f"do({v.name}) gives two responses; draw from the argument rng")


def _others(v: Variable, values: Tensor) -> Tensor:
    """Another value for each row: the next class, or the value of the row before."""
    return (values + 1) % v.size if v.categorical else values.roll(1)


def _response(s: DatasetSubject, v: Variable, pa: Tensor, new: Tensor, value: Tensor, what: str) -> None:
    where = f"act under do({v.name} = {what})"
    demand(new.shape == pa.shape and new.is_floating_point(), f"{where} gives {new.dtype} {list(new.shape)}; like pa")
    demand(new.isfinite().all(), f"{where} gives NaN or infinite parents")
    affected = set() if what == "its own value" else {v.name, *s.graph.descendants(v.name)}
    for k, other in enumerate(s.graph.variables):
        slack = 0.0 if other.categorical else PART * (other.high - other.low)
        if other.name not in affected:
            gap = float((new[:, k] - pa[:, k]).abs().max())
            demand(
                gap <= slack,
                f"{where} changes {other.name} by {gap:.3g}, which it may not; respond with the factual's own noise",
            )
    error = float((new[:, s.graph.index(v.name)] - value).abs().max())
    demand(error <= 1e-5 * max(1.0, float(value.abs().max())), f"{where} misses that value by {error:.3g}; set it")


@check("plans", "every plan gives the same questions again, about values that exist", acts)
def planned(s: DatasetSubject) -> None:
    for name in dict.fromkeys([*PLANS, *s.dataset.plans]):
        first = _plan(s, name)
        with seeded(1, 1):
            second = _plan(s, name)
        demand(first.asked, f"the plan {name!r} asks nothing; targets(plan, pa) gives values for each row")
        for v in first.asked:
            for part in ("factual", "value", "cf_pa"):
                equal = v in second.asked and same(getattr(first.asked[v], part), getattr(second.asked[v], part))
                demand(equal, f"the plan {name!r} asks other questions about {v} each time; make targets deterministic")
            if s.graph[v].categorical:
                in_range(s.graph[v], first.asked[v].value, f"the plan {name!r}")


def _plan(s: DatasetSubject, name: str) -> Plan:
    with s.calling(f"the plan {name!r}", truth=True):
        return make_plan(s.dataset, s.root, name=name, split="test", factuals=16, act=s.respond)


@check("oracle", "the truth under the factual's own parents is the factual", ranged, disjoint)
def truthful(s: DatasetSubject) -> None:
    own = s.first_rows(ROWS)
    truth = s.oracle(own.index, own.parents)
    if truth is None:
        marked = [v.name for v in s.graph.variables if v.truth != "none"]
        demand(
            not marked, f"{', '.join(marked)} marked with a truth, but oracle gives None; give images or mark 'none'"
        )
        return
    _check_truth_form(truth, own)
    known = ~truth.flatten(1).isnan().all(1)
    demand(known.any(), "oracle gives NaN for every row under the factual's own parents; there it is the factual")
    gap = float((truth - own.x)[known].abs().max())
    demand(
        gap <= HALF_LEVEL,
        f"oracle under the factual's own parents misses the factual by {255 * gap:.3g} grey levels; draw with the "
        "factual's own noise, rounded as its image",
    )


def _check_truth_form(truth: Tensor, own: Split) -> None:
    expected = list(own.images.shape)
    valid = truth.is_floating_point() and list(truth.shape) == expected
    demand(valid, f"oracle gives {truth.dtype} {list(truth.shape)}; give float32 {expected}")
    known = truth[truth.isfinite()]
    inside = not len(known) or (float(known.min()) >= 0 and float(known.max()) <= 1)
    demand(inside, "oracle gives pixels outside of [0, 1]; divide by 255, clamp")


@check("truth", "oracle has a truth for what the graph marks exact or convention, and for nothing else", truthful, acts)
def marked(s: DatasetSubject) -> None:
    own = s.first_rows(TRUE_ROWS)
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
    _check_truth_form(truth, own)
    alone = s.oracle(own.index[-1:], new[-1:])
    equal = isinstance(alone, Tensor) and same(alone[0], truth[-1], HALF_LEVEL)
    demand(
        equal, f"oracle under do({v.name}) gives a row another image when it is asked alone; use each row's own noise"
    )
    return truth.flatten(1).isfinite().all(1).tolist()


RESPONSES = (acts, truthful, marked)
