"""Checks of how a method is fitted and tuned."""

from __future__ import annotations

import json
import math

from ...runs.environment import RANDOM_STATES
from ..check import check
from ..outcomes import Violation, demand
from ..subjects.method import BUDGET, SMALL, MethodSubject, Trained, same
from ..subjects.toy import ROOT
from .definition import constructs

__all__ = ["FITS", "finite_weights", "fits", "seeds", "tunes"]


@check("fit", f"fit learns from {BUDGET} tiny images", constructs)
def fits(s: MethodSubject) -> None:
    _ = s.trained


@check("budget", "no more images pass through training than the budget allows, and all are counted", fits)
def budget(s: MethodSubject) -> None:
    trained = s.trained
    seen = trained.run.seen
    demand(
        seen <= BUDGET,
        f"fit has seen {seen} images, the budget is {BUDGET}; train on run.batches(steps, size), which counts them",
    )
    learned = {name for name, p in trained.method.named_parameters() if p.requires_grad}
    changed = [name for name in sorted(learned & trained.initial.keys()) if not _unchanged(trained, name)]
    demand(
        seen or not changed,
        f"fit trains {', '.join(changed[:1])} while run.seen stays 0; train on run.batches(steps, size), which counts",
    )


def _unchanged(trained: Trained, name: str) -> bool:
    return same(trained.initial[name], trained.state.get(name))


@check("fit-data", "fit leaves the training data as they were", fits)
def data_unchanged(s: MethodSubject) -> None:
    run = s.trained.run
    for name, split in (("train", run.train), ("valid", run.valid)):
        fresh = s.data.split(ROOT, name)  # type: ignore[arg-type]
        for part in ("images", "parents", "index"):
            demand(
                same(getattr(fresh, part), getattr(split, part)),
                f"fit changes run.{name}.{part} in place; work on a copy: run.{name}.{part}.clone()",
            )


@check("fit-log", "what fit logs and records can be written as JSON, and losses are finite", fits)
def logs(s: MethodSubject) -> None:
    trained = s.trained
    for row in trained.log:
        for key, value in row.items():
            demand(_is_json(value), f"run.log gets a {type(value).__name__} as {key!r}; log {key}=float(value)")
        loss = row.get("loss", 0.0)
        finite = not isinstance(loss, float) or math.isfinite(loss)
        demand(finite, f"the loss became {loss} during the fit; lower the learning rate or clip gradients")
    for name, table in trained.tables.items():
        demand(_is_json(table), f"run.record({name!r}, ...) gets what JSON cannot hold; give numbers, lists and dicts")


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


@check("weights", "the weights after the fit are finite", fits)
def finite_weights(s: MethodSubject) -> None:
    bad = [k for k, v in s.trained.state.items() if not v.double().isfinite().all()]
    demand(not bad, f"{', '.join(bad[:3])} not finite after the fit; the training diverged")


@check("loads", "the weights of the fit load into a new object", fits)
def loads(s: MethodSubject) -> None:
    try:
        s.restore()
    except Violation as found:
        raise Violation(
            f"{found}: make all parameters and buffers in the constructor, so that shapes follow"
        ) from found


@check("tune", "tune gives values for answer parameters only, and leaves weights alone", loads)
def tunes(s: MethodSubject) -> None:
    known: frozenset[str] = getattr(s.plugin, "answer_params", frozenset())
    unknown = sorted(set(s.chosen) - known)
    demand(not unknown, f"tune gives {', '.join(unknown)}, not among answer_params; add the name there")
    for key, value in s.chosen.items():
        demand(_is_json(value), f"tune gives {key} as a {type(value).__name__}; give a number or a string")
    s.make(**s.chosen)


@check("fit-state", "constructor, fit and tune leave the shared state of the process as it was", tunes)
def state_unchanged(s: MethodSubject) -> None:
    _ = s.restored
    calls = ("the constructor", "fit", "load_state_dict", "tune")
    # The harness seeds torch's generator for initial weights and dropout.
    s.check_state("draw from run.rng in fit", calls, but=RANDOM_STATES[0])


@check("fit-seed", "the same seed gives the same weights, another seed others", fits)
def seeds(s: MethodSubject) -> None:
    one, two = (s.fit(SMALL, seed=0, others=n) for n in (0, 1))
    changed = [k for k in one.state if not same(one.state[k], two.state.get(k))]
    demand(
        not changed,
        f"two fits with one seed differ in {', '.join(changed[:3])}; draw from run.rng and torch only, "
        "not from numpy, random, the clock or the order of a set",
    )
    if not one.run.seen or not any(p.requires_grad for p in one.method.parameters()):
        return  # nothing is drawn
    three = s.fit(SMALL, seed=1)
    demand(
        not same(one.generator, three.generator),
        "constructor or fit seeds torch's global generator, so that all seeds give the same draws; leave that to the "
        "harness",
    )
    demand(
        not same(one.state, three.state),
        "fits with two seeds give the same weights; do not seed generators yourself, the harness does",
    )


FITS = (fits, budget, data_unchanged, logs, finite_weights, loads, tunes, state_unchanged)
