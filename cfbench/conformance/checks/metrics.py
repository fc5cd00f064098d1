"""Checks of a metric: its columns, and what its scores depend on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from ...contract import Column, Role
from ...evidence import Evidence
from ..check import check
from ..outcomes import Violation, demand
from ..subjects.method import copied, same
from ..subjects.metric import GRAPH, OPTIONAL, MetricSubject
from ..subjects.process_state import seeded
from ..subjects.subject import Subject
from .definition import documented, settings, signatures

__all__ = ["CELL", "METRICS", "alone", "column_of", "each", "finite", "state_unchanged"]

ATOL = 1e-6


def each(found: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Intervention, name and value of each output."""
    return ((do, name, value) for do, scores in found.items() for name, value in scores.items())


def column_of(s: MetricSubject, name: str) -> Column:
    """The declared column that an output belongs to."""
    column: Column = s.plugin.columns[name.partition("/")[0]]
    return column


@check("columns", "every column says what it measures, in which range, and where better lies", signatures)
def described(s: MetricSubject) -> None:
    for name, about in s.plugin.columns.items():
        demand("/" not in name, f"the column {name!r} has a slash, which sets a variable apart; rename it")
        demand(about.text.strip(), f"the column {name!r} says nothing; write Column('what it measures', ...)")
        target = (about.direction == "target") == (about.target is not None)
        demand(
            target, f"the column {name!r} has direction {about.direction} and target {about.target}; give both or none"
        )
        ordered = about.low is None or about.high is None or about.low < about.high
        demand(ordered, f"the column {name!r} has low {about.low} and high {about.high}; low must be less")
        demand(
            about.privileged or "truth" not in s.plugin.needs,
            f"the column {name!r} compares with the truth, which the oracle wins; write Column(..., privileged=True)",
        )

        known = ", ".join(filter(None, get_args(Role)))
        demand(
            about.role in get_args(Role),
            f"the column {name!r} has the role {about.role!r}; give none, or one of {known}",
        )


@check("declarations", "needs and scope are words that the harness knows", signatures)
def declared(s: MetricSubject) -> None:
    plugin = s.plugin
    unknown = sorted(set(plugin.needs) - set(OPTIONAL))
    demand(not unknown, f"needs names {', '.join(unknown)}; known: {', '.join(sorted(OPTIONAL))}")
    demand(plugin.scope in ("do", "null", "cell"), f"scope is {plugin.scope!r}; write do, null or cell")


@check("constructor", "the constructor works with its defaults alone", signatures)
def constructs(s: MetricSubject) -> None:
    _ = s.metric


@check("scores", "good answers are scored, with no more evidence than ``needs`` names", constructs, described, declared)
def scored(s: MetricSubject) -> None:
    try:
        _ = s.scores
    except Violation as found:
        left_out = sorted(set(OPTIONAL) - s.needs)
        raise Violation(f"{found}; the evidence was without {', '.join(left_out)}, which needs must name") from found


@check("outputs", "outputs are declared columns, of variables of the graph", scored)
def outputs(s: MetricSubject) -> None:
    for _, name, _ in each(s.scores):
        column, _, variable = name.partition("/")
        known = ", ".join(s.plugin.columns)
        demand(column in s.plugin.columns, f"the output {name!r} is no declared column; declared: {known}")
        demand(not variable or variable in GRAPH.names, f"the output {name!r} is about no variable of the graph")


@check("shape", "scores are one number an image, or one number in all", outputs)
def shaped(s: MetricSubject) -> None:
    n = len(s.evidence(s.interventions[0]))
    for _, name, value in each(s.scores):
        demand(isinstance(value, Tensor), f"{name} is a {type(value).__name__}; give a tensor")
        valid = value.ndim == 0 or (tuple(value.shape) == (n,) and s.plugin.scope != "cell")
        demand(valid, f"{name} is {list(value.shape)} for {n} images; give [{n}], or 0-d where only a set has a score")
        demand(value.is_floating_point(), f"{name} is {value.dtype}; give floats: value.double()")


@check("finite", "scores of good answers are finite", shaped)
def finite(s: MetricSubject) -> None:
    for do, name, value in each(s.scores):
        share = float(value.double().isfinite().double().mean())
        demand(share > 0.5, f"{name} under do({do}) is finite for {share:.0%} of good answers; mend the arithmetic")


@check("bounds", "scores lie within the declared range", shaped)
def bounded(s: MetricSubject) -> None:
    all_scores = (s.scores, s.by_quality("true"), s.by_quality("noise"), s.by_quality("copies"))
    for _, name, value in (item for found in all_scores for item in each(found)):
        about, known = column_of(s, name), value[value.isfinite()]
        low, high = (float(known.min()), float(known.max())) if known.numel() else (math.inf, -math.inf)
        for limit, value, beyond in ((about.low, low, -1), (about.high, high, 1)):
            if limit is not None:
                inside = beyond * (value - limit) <= ATOL
                demand(inside, f"{name} is {value:.4g}, beyond its declared bound {limit:g}; mend it or the column")


@check("inputs", "the evidence is left as it was", shaped)
def inputs_unchanged(s: MetricSubject) -> None:
    for do in s.interventions:
        given = s.evidence(do)
        before = {name: copied(value) for name, value in _fields(given).items()}
        s.score(given)
        changed = [name for name, value in _fields(given).items() if not same(before[name], value)]
        demand(not changed, f"the metric changes evidence.{', '.join(changed)} in place; work on a copy: .clone()")


def _fields(given: Evidence) -> dict[str, Any]:
    fields = {n: getattr(given, n) for n in ("x", "pa", "cf_pa", "answer", "truth", "reverse", "cycles", "costs")}
    return {k: v for k, v in fields.items() if v is not None} | {"real": (given.real.images, given.real.parents)}


@check("state", "scoring leaves the shared state of the process as it was", shaped)
def state_unchanged(subject: Subject) -> None:
    subject.check_state("use a torch.Generator of your own")


@check("repeatable", "the same evidence gives the same scores, whatever the global random state", shaped)
def repeatable(s: MetricSubject) -> None:
    for do in s.interventions:
        with seeded(1, 1):
            again = s.score(s.evidence(do))
        for name, value in s.scores[do].items():
            demand(
                same(value, again.get(name)),
                f"{name} differs when the same answers are scored again; use a torch.Generator with a fixed seed",
            )


@check("order", "the order of the images changes no score", repeatable, inputs_unchanged)
def unordered(s: MetricSubject) -> None:
    for do in s.interventions:
        given = s.evidence(do)
        order = torch.randperm(len(given), generator=torch.Generator().manual_seed(3))
        shuffled = s.score(s.evidence(do).take(order))
        s.score(given)
        for how, found in (("", shuffled), (" from what evidence.once keeps", s.score(given.take(order)))):
            for name, value in s.scores[do].items():
                expected = value[order] if value.ndim else value
                demand(
                    same(expected, found.get(name), ATOL),
                    f"{name} changes with the order of the images{how}; a score belongs to an image or to the set, and "
                    "evidence.once keeps results row by row",
                )


@check("batching", "an image scored alone has the score that it has in the set", unordered)
def alone(s: MetricSubject) -> None:
    for do in s.interventions:
        rows = [0, 5, 17]
        parts = {
            i: s.score(s.evidence(do).take(torch.tensor([i, *([] if _per_image(s) else range(20, 28))]))) for i in rows
        }
        for name, value in s.scores[do].items():
            for i in rows if value.ndim else ():
                found = parts[i].get(name)
                one = found[0] if isinstance(found, Tensor) and found.ndim else found
                demand(
                    same(value[i], one, ATOL),
                    f"{name} of an image changes with the other images that are scored with it; compute it row by row, "
                    "or give one 0-d score for the set",
                )


def _per_image(s: MetricSubject) -> bool:
    """Whether all scores are per image, so that a single image can be scored."""
    return all(value.ndim for _, _, value in each(s.scores))


@check("jackknife", "scores of a set can be had without some of its images", unordered)
def jackknifed(s: MetricSubject) -> None:
    for do, scores in s.scores.items():
        given = s.evidence(do)
        s.score(given)
        rows = torch.arange(len(given))
        rows = rows[rows % 8 != 3]
        kept, alone = s.score(given.take(rows)), s.score(s.evidence(do).take(rows))
        for name, value in scores.items():
            if not value.ndim and s.plugin.scope != "cell":
                one = kept.get(name)
                known = isinstance(one, Tensor) and bool(one.isfinite().all())
                demand(
                    known, f"{name} is {one} without some of the images, which intervals are made of; allow any number"
                )
                demand(
                    same(alone.get(name), one, ATOL),
                    f"{name} of some of the images changes with what evidence.once keeps of all; keep results row by "
                    "row",
                )


CELL = (
    signatures,
    documented,
    settings,
    described,
    declared,
    constructs,
    scored,
    outputs,
    shaped,
    finite,
    inputs_unchanged,
    repeatable,
)
METRICS = (*CELL, bounded, unordered, alone, jackknifed)
