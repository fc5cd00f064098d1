"""Checks of the form of answers: type, shape, range, and that arguments are not modified."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...contract import Control, Noise
from ..check import check
from ..outcomes import demand
from ..subjects.method import MethodSubject, same
from ..subjects.subject import Subject
from .definition import constructs
from .fits import finite_weights, tunes

__all__ = ["ANSWERS", "answered", "finite", "in_range", "inputs_unchanged", "noise_unchanged", "typed"]

FAR = 50.0
"""How many times its range a parent is set away from the middle of the range."""


def _may_be_nan(subject: Subject) -> bool:
    """Whether NaN may mark a question without an answer."""
    return issubclass(subject.plugin, Control)


@check(
    "answers", "eight questions are answered: abduct and predict run under no_grad", constructs, finite_weights, tunes
)
def answered(s: MethodSubject) -> None:
    _ = s.answers


@check("type", "answers are float32 tensors", answered)
def typed(s: MethodSubject) -> None:
    found = s.answers.changed
    demand(isinstance(found, Tensor), f"answers are a {type(found).__name__}; give a tensor [B, C, H, W]")
    hint = ": x.float() / 255" if found.dtype == torch.uint8 else ""
    demand(found.dtype == torch.float32, f"answers are {found.dtype}; give float32 in [0, 1]{hint}")


@check("shape", "answers have the shape of the factual images", typed)
def shaped(s: MethodSubject) -> None:
    expected, found = list(s.answers.questions.x.shape), list(s.images.shape)
    demand(found == expected, f"answers are {found}, the factual images {expected}; give one image a question")


@check("device", "answers lie where the factual images do, without a gradient", shaped)
def placed(s: MethodSubject) -> None:
    expected, found = s.answers.questions.x.device, s.images.device
    demand(
        found == expected,
        f"answers are on {found}, the factual images on {expected}; make tensors with device=x.device",
    )
    demand(not s.answers.requires_grad, "answers carry a gradient graph, which keeps memory; give image.detach()")


@check("finite", "every answer is finite", shaped)
def finite(s: MethodSubject) -> None:
    more = s.questions(24, first=8)
    image = torch.cat([s.images, s.answers.null, s.answer(more)])
    bad = ~image.flatten(1).isfinite().all(1)
    if _may_be_nan(s):
        bad &= ~image.flatten(1).isnan().all(1)
    rows = bad.nonzero().flatten().tolist()
    demand(
        not rows,
        f"{len(rows)} of {len(image)} answers hold NaN or infinite pixels (number {rows[:3]}); "
        "mend the arithmetic: guard divisions, logarithms and roots",
    )


@check("range", "answers lie in [0, 1]", shaped)
def ranged(s: MethodSubject) -> None:
    in_range(s.images, "answers")


def in_range(image: Tensor, what: str) -> None:
    """Raise unless all finite pixels lie in [0, 1]."""
    known = image[image.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    remedy = "divide by 255" if high > 100 else "map [-1, 1] to [0, 1]" if low < -0.5 and high <= 1 else "clamp(0, 1)"
    demand(low >= 0 and high <= 1, f"{what} lie in [{low:.4g}, {high:.4g}]; images are in [0, 1]: {remedy}")


@check("inputs", "abduct and predict leave images and parents as they were", answered)
def inputs_unchanged(s: MethodSubject) -> None:
    for what, name in s.answers.modified:
        demand(False, f"{what} changes its argument {name} in place; work on a copy: {name}.clone()")


@check("noise", "the noise has a row for each image, and predict leaves it as it was", answered)
def noise_unchanged(s: MethodSubject) -> None:
    _check_rows(s.answers.u, len(s.answers.questions))
    demand(
        same(s.answers.u, s.answers.u_before),
        "predict changes the noise u in place, so that the next prediction starts from another one; work on a copy",
    )


def _check_rows(u: Noise, n: int) -> None:
    """Raise unless rows can be selected from a noise of n images."""
    remedy = "give a tensor, or a tuple or dict of tensors, with a row for each image"
    if isinstance(u, Tensor):
        valid = u.ndim and len(u) == n
        demand(valid, f"the noise of {n} images is {list(u.shape)}, from which rows cannot be taken; {remedy}")
    elif isinstance(u, (dict, tuple, list)):
        for part in u.values() if isinstance(u, dict) else u:
            _check_rows(part, n)
    else:
        scalar = u is None or isinstance(u, (bool, int, float, str))
        demand(scalar, f"the noise holds a {type(u).__name__}, from which rows cannot be taken; {remedy}")


@check("null", "the null intervention has an answer", ranged)
def null(s: MethodSubject) -> None:
    found = s.answers.null
    demand(
        isinstance(found, Tensor) and found.shape == s.images.shape,
        f"under the factual's own parents the answers are {_form(found)}; treat them like any other",
    )
    in_range(found, "answers under the factual's own parents")


@check("far-parents", "parents far outside the training data have an answer", ranged, finite)
def far(s: MethodSubject) -> None:
    pa = s.answers.questions.cf_pa.clone()
    for column, v in enumerate(s.data.graph.variables):
        if not v.categorical:
            away = FAR * (v.high - v.low) * torch.tensor([-1.0, 1.0]).repeat(len(pa) // 2)
            pa[:, column] = (v.low + v.high) / 2 + away
    found = s.predict(s.answers.u, pa, s.answers.questions.seeds)
    where = f"under parents {FAR:.0f} ranges away"
    demand(isinstance(found, Tensor) and found.shape == s.images.shape, f"{where} the answers are {_form(found)}")
    known = found.isfinite() | (found.isnan() if _may_be_nan(s) else torch.zeros_like(found, dtype=torch.bool))
    demand(known.all(), f"{where} answers hold NaN or infinite pixels; clamp the parents to what was trained on")
    in_range(found, f"{where} answers")


def _form(found: Any) -> str:
    return str(list(found.shape)) if isinstance(found, Tensor) else f"a {type(found).__name__}"


ANSWERS = (answered, typed, shaped, placed, ranged, finite, inputs_unchanged, noise_unchanged, null, far)
