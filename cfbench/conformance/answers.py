"""Checks of what a method or control answers, and of what answering leaves behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import Control, Method
from .check import Check, Violation, check, demand
from .definition import constructs
from .fits import finite_weights, fits, tunes
from .fitted import MethodSubject, copied, same
from .subject import Subject
from .surroundings import RANDOM, seeded
from .toy import BARS, Asked, asked

__all__ = ["ANSWERS", "SAMPLES", "no_test_data", "round_trip", "undisturbed"]

ATOL = 2e-4
"""What the order of additions in a batch may change."""
FAR = 50.0
"""How many ranges beyond its range a parent is set, to see what comes out."""


def _subject(subject: Subject) -> MethodSubject:
    assert isinstance(subject, MethodSubject)
    return subject


def _may_lack(subject: Subject) -> bool:
    """Whether NaN stands for a question without an answer."""
    return issubclass(subject.plugin, Control)


@check(
    "answers", "eight questions are answered: abduct and predict run under no_grad", constructs, finite_weights, tunes
)
def answered(subject: Subject) -> None:
    _ = _subject(subject).answers


@check("type", "answers are float32 tensors", answered)
def typed(subject: Subject) -> None:
    found = _subject(subject).answers.changed
    demand(isinstance(found, Tensor), f"answers are a {type(found).__name__}; give a tensor [B, C, H, W]")
    hint = ": x.float() / 255" if found.dtype == torch.uint8 else ""
    demand(found.dtype == torch.float32, f"answers are {found.dtype}; give float32 in [0, 1]{hint}")


@check("shape", "answers have the shape of the factual images", typed)
def shaped(subject: Subject) -> None:
    s = _subject(subject)
    wanted, found = list(s.answers.asked.x.shape), list(s.images.shape)
    demand(found == wanted, f"answers are {found}, the factual images {wanted}; give one image a question")


@check("device", "answers lie where the factual images do, without a gradient", shaped)
def placed(subject: Subject) -> None:
    s = _subject(subject)
    wanted, found = s.answers.asked.x.device, s.images.device
    demand(
        found == wanted, f"answers lie on {found}, the factual images on {wanted}; make tensors with device=x.device"
    )
    demand(not s.answers.live, "answers carry a gradient graph, which keeps memory; give image.detach()")


@check("finite", "every answer is finite", shaped)
def finite(subject: Subject) -> None:
    s = _subject(subject)
    more = asked(24, first=8)
    image = torch.cat([s.images, s.answers.null, s.answer(more)])
    bad = ~image.flatten(1).isfinite().all(1)
    if _may_lack(subject):
        bad &= ~image.flatten(1).isnan().all(1)
    rows = bad.nonzero().flatten().tolist()
    demand(
        not rows,
        f"{len(rows)} of {len(image)} answers hold NaN or infinite pixels (number {rows[:3]}); "
        "mend the arithmetic: guard divisions, logarithms and roots",
    )


@check("range", "answers lie in [0, 1]", shaped)
def ranged(subject: Subject) -> None:
    _in_range(_subject(subject).images, "answers")


def _in_range(image: Tensor, what: str) -> None:
    known = image[image.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    remedy = "divide by 255" if high > 100 else "map [-1, 1] to [0, 1]" if low < -0.5 and high <= 1 else "clamp(0, 1)"
    demand(low >= 0 and high <= 1, f"{what} lie in [{low:.4g}, {high:.4g}]; images are in [0, 1]: {remedy}")


@check("inputs", "abduct and predict leave images and parents as they were", answered)
def inputs_kept(subject: Subject) -> None:
    s = _subject(subject)
    for what, name in s.answers.touched:
        demand(False, f"{what} changes its argument {name} in place; work on a copy: {name}.clone()")


@check("noise", "predict leaves the noise as it was: it is abducted once and predicted from many times", answered)
def noise_kept(subject: Subject) -> None:
    s = _subject(subject)
    demand(
        same(s.answers.u, s.answers.kept),
        "predict changes the noise u in place, so that the next prediction starts from another one; work on a copy",
    )


@check("state", "answering leaves the shared state of the process as it was", answered)
def undisturbed(subject: Subject) -> None:
    s = _subject(subject)
    for what in ("abduct", "predict", "answer", "sample"):
        for name, change in s.disturbed.get(what, {}).items():
            remedy = "draw from the rng that is handed in" if name in RANDOM else "put it back, or leave it alone"
            demand(False, f"{what} changes {name}{f' ({change})' if change else ''}; {remedy}")


@check("test-data", "neither fit nor answers look at test images or at the truth", constructs)
def no_test_data(subject: Subject) -> None:
    fits.outcome(subject)
    answered.outcome(subject)  # even what fails may have looked
    demand(
        not subject.peeks,
        f"{', '.join(dict.fromkeys(subject.peeks))}: methods may not see test data; use run.train and run.valid",
    )


@check("streams", "the same streams give the same answers, whatever the global random state", typed, inputs_kept)
def repeatable(subject: Subject) -> None:
    s = _subject(subject)
    if same(s.images, _seeded(s, 1)):
        return
    globally = same(_seeded(s, 2), _seeded(s, 2))
    demand(
        not globally,
        "answers follow the global random state; draw from the rng that is handed in: rng.normal(*x.shape[1:])",
    )
    demand(
        False,
        "the same question is answered differently each time; draw all randomness from the rng handed in, and keep "
        "nothing in self from one call to the next",
    )


def _seeded(s: MethodSubject, seed: int) -> Any:
    """The answers with the global generators seeded."""
    with seeded(seed, seed):
        return s.answer(asked(8))


@check("memory", "an answer depends on its own question only, not on what was asked before", repeatable, noise_kept)
def forgetful(subject: Subject) -> None:
    a = _subject(subject).answers
    demand(
        same(a.changed, a.again, 1e-6),
        "predicting twice from one noise gives two answers, with other questions asked in between; keep what abduct "
        "learns in the noise that it gives back, not in self",
    )


@check("order", "the order of the questions in a batch changes no answer", repeatable, finite)
def unordered(subject: Subject) -> None:
    s = _subject(subject)
    found = s.answers.reversed
    demand(
        same(found.flip(0), s.images, ATOL),
        f"asked in the opposite order, answers differ by {_gap(found.flip(0), s.images):.2g}; take nothing from an "
        "image's place in the batch",
    )


@check("batch-size", "an image asked alone has the answer that it has among eight", unordered)
def alone(subject: Subject) -> None:
    s = _subject(subject)
    for i in (0, 3, 7):
        try:
            image = s.answer(asked(8)[[i]])
        except Violation as found:
            raise Violation(f"asked about one image alone, {found}") from found
        demand(
            same(image[0], s.images[i], ATOL),
            f"asked alone, image {i} is answered differently than among eight (by {_gap(image[0], s.images[i]):.2g}); "
            "an answer may not depend on the rest of the batch (BatchNorm in training mode, statistics over a batch)",
        )


@check("weights-kept", "answering leaves the weights as they were", alone)
def frozen(subject: Subject) -> None:
    s = _subject(subject)
    now = dict(s.restored.state_dict()) if isinstance(s.restored, Method) else {}
    moved = [k for k, v in now.items() if k in s.weights and not same(v, s.weights[k])]
    demand(
        not moved,
        f"answering changes {', '.join(moved[:3])}; leave layers in eval() mode, as they are handed over",
    )


@check("reacts", "answers change with each counterfactual parent", repeatable, finite)
def reacts(subject: Subject) -> None:
    s = _subject(subject)
    changed = [v.name for v in BARS.graph.variables if not same(s.answers.null, _moved(s, v.name))]
    if not getattr(s.plugin, "reacts", True):
        demand(not changed, f"answers change with {', '.join(changed)}, though {s.name}.reacts is False; remove it")
        return
    still = [n for n in BARS.graph.names if n not in changed]
    demand(
        not still,
        f"answers stay the same when {' or '.join(still)} changes; predict must use its pa, the counterfactual "
        "parents (where that is meant: reacts = False in the class)",
    )


def _moved(s: MethodSubject, name: str) -> Any:
    """The answers when one parent alone is another."""
    pa = s.answers.asked.pa.clone()
    column, v = BARS.graph.index(name), BARS.graph[name]
    pa[:, column] = 1 - pa[:, column] if v.categorical else v.low + v.high - pa[:, column]
    return s.predict(s.answers.u, pa, s.answers.asked.seeds)


@check("null", "the null intervention has an answer", ranged)
def null(subject: Subject) -> None:
    s = _subject(subject)
    found = s.answers.null
    demand(
        isinstance(found, Tensor) and found.shape == s.images.shape,
        f"under the factual's own parents the answers are {_form(found)}; treat them like any other",
    )
    _in_range(found, "answers under the factual's own parents")


@check("far-parents", "parents far outside the training data have an answer", ranged, finite)
def far(subject: Subject) -> None:
    s = _subject(subject)
    pa = s.answers.asked.cf_pa.clone()
    for column, v in enumerate(BARS.graph.variables):
        if not v.categorical:
            away = FAR * (v.high - v.low) * torch.tensor([-1.0, 1.0]).repeat(len(pa) // 2)
            pa[:, column] = (v.low + v.high) / 2 + away
    found = s.predict(s.answers.u, pa, s.answers.asked.seeds)
    where = f"under parents {FAR:.0f} ranges away"
    demand(isinstance(found, Tensor) and found.shape == s.images.shape, f"{where} the answers are {_form(found)}")
    known = found.isfinite() | (found.isnan() if _may_lack(subject) else torch.zeros_like(found, dtype=torch.bool))
    demand(known.all(), f"{where} answers hold NaN or infinite pixels; clamp the parents to what was trained on")
    _in_range(found, f"{where} answers")


def _form(found: Any) -> str:
    return str(list(found.shape)) if isinstance(found, Tensor) else f"a {type(found).__name__}"


def _gap(a: Any, b: Any) -> float:
    """The largest difference of two images; 1 where only one of them is finite or they have other shapes."""
    if a.shape != b.shape:
        return 1.0
    return float((a.double() - b.double()).abs().nan_to_num(1.0).max())


@check("round-trip", "weights saved as safetensors and loaded into a new object give the same answers", repeatable)
def round_trip(subject: Subject) -> None:
    s = _subject(subject)
    a, b = s.answer(asked(8), s.trained.method), s.answer(asked(8), s.restore())
    demand(
        same(a, b, ATOL),
        f"answers differ by {_gap(a, b):.2g} once the weights are loaded into a new object; what fit learns must be a "
        "parameter or a buffer: self.register_buffer(name, tensor)",
    )


@check("sample", "fresh samples are images like answers", typed)
def sampled(subject: Subject) -> None:
    s = _subject(subject)
    q = asked(8)
    image = _sample(s, q.cf_pa, q)
    demand(isinstance(image, Tensor) and image.dtype == torch.float32, "sample must give a float32 tensor [B, C, H, W]")
    demand(image.shape == q.x.shape, f"samples are {list(image.shape)} for 8 rows of pa; give one image a row")
    demand(image.isfinite().all(), "samples hold NaN or infinite pixels; mend the arithmetic")
    _in_range(image, "samples")


@check("sample-streams", "a sample follows its own stream and parents alone", sampled)
def sampled_by_streams(subject: Subject) -> None:
    s = _subject(subject)
    q = asked(8)
    first = _sample(s, q.cf_pa, q)
    demand(same(first, _sample(s, q.cf_pa, q)), "the same streams give two samples; draw from the rng handed in")
    lone = _sample(s, q.cf_pa[[3]], q[[3]])
    demand(
        same(lone[0], first[3], ATOL), "a sample depends on the rest of the batch; draw each row from its own stream"
    )
    other = _sample(s, q.cf_pa, asked(8, first=8))
    demand(not same(first, other), "other streams give the same samples; draw from the rng handed in")
    demand(not same(first, _sample(s, q.pa, q)), "samples stay the same when their parents change; use pa")


def _sample(s: MethodSubject, pa: Tensor, q: Asked) -> Any:
    from ..rng import Streams

    method: Any = s.restored
    with s.calling("sample"):
        return copied(method.sample(pa, Streams(q.seeds)))


ANSWERS: tuple[Check, ...] = (
    answered, typed, shaped, placed, ranged, finite, inputs_kept, noise_kept, null, repeatable, forgetful,
    unordered, reacts, far, alone, frozen,
)  # fmt: skip
SAMPLES: tuple[Check, ...] = (sampled, sampled_by_streams)
