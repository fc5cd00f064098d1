"""Checks that answers depend on the question, its random streams and the weights only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...contract import Method
from ...rng import Streams
from ..check import check
from ..outcomes import Skipped, Violation, demand
from ..subjects.method import MethodSubject, copied, same, take_rows
from ..subjects.process_state import seeded
from ..subjects.subject import Subject
from ..subjects.toy import ToyQuestions
from .answers import answered, finite, in_range, inputs_unchanged, noise_unchanged, typed
from .definition import constructs
from .fits import fits

__all__ = ["DEPENDENCE", "SAMPLES", "no_test_data", "round_trip", "state_unchanged"]

ATOL = 2e-4
"""Tolerance for the order of additions in a batch."""


@check("streams", "the same streams give the same answers, whatever the global random state", typed, inputs_unchanged)
def repeatable(s: MethodSubject) -> None:
    if same(s.images, _seeded(s, 1)):
        return
    follows_global_state = same(_seeded(s, 2), _seeded(s, 2))
    demand(
        not follows_global_state,
        "answers follow the global random state; draw from the argument rng: rng.normal(*x.shape[1:])",
    )
    demand(
        False,
        "the same question is answered differently each time; draw all randomness from the argument rng, and keep "
        "nothing in self from one call to the next",
    )


def _seeded(s: MethodSubject, seed: int) -> Any:
    """The answers with the global generators seeded."""
    with seeded(seed, seed):
        return s.answer(s.questions())


@check(
    "memory", "an answer depends on its own question only, not on what was asked before", repeatable, noise_unchanged
)
def memoryless(s: MethodSubject) -> None:
    a = s.answers
    demand(
        same(a.changed, a.again, 1e-6),
        "predicting twice from one noise gives two answers, with other questions asked in between; keep what abduct "
        "learns in the noise that it gives back, not in self",
    )


@check("order", "the order of the questions in a batch changes no answer", repeatable, finite)
def unordered(s: MethodSubject) -> None:
    found = s.answers.reversed
    demand(
        same(found.flip(0), s.images, ATOL),
        f"asked in the opposite order, answers differ by {_gap(found.flip(0), s.images):.2g}; take nothing from an "
        "image's position in the batch",
    )


@check("batch-size", "an image asked alone has the answer that it has among eight", unordered)
def alone(s: MethodSubject) -> None:
    for i in (0, 3, 7):
        try:
            image = s.answer(s.questions()[[i]])
        except Violation as found:
            raise Violation(f"asked about one image alone, {found}") from found
        demand(
            same(image[0], s.images[i], ATOL),
            f"asked alone, image {i} is answered differently than among eight (by {_gap(image[0], s.images[i]):.2g}); "
            "an answer may not depend on the rest of the batch (BatchNorm in training mode, statistics over a batch)",
        )
    q, rows = s.questions(), [5, 2, 2]
    few = s.predict(take_rows(s.answers.u, rows), q.cf_pa[rows], q[rows].seeds)
    demand(
        same(few, s.images[rows], ATOL),
        "predicted from rows 5, 2 and 2 of the noise, images are others than from all eight; keep what belongs to an "
        "image in its own row of the noise",
    )


@check("weights-kept", "answering leaves the weights as they were", alone)
def frozen(s: MethodSubject) -> None:
    now = dict(s.restored.state_dict()) if isinstance(s.restored, Method) else {}
    changed = [k for k, v in now.items() if k in s.weights and not same(v, s.weights[k])]
    demand(
        not changed,
        f"answering changes {', '.join(changed[:3])}; leave layers in eval() mode, as the harness sets it",
    )


@check("reacts", "answers change with each counterfactual parent", repeatable, finite)
def reacts(s: MethodSubject) -> None:
    changed = [v.name for v in s.data.graph.variables if not same(s.answers.null, _answers_with_changed(s, v.name))]
    if not getattr(s.plugin, "reacts", True):
        demand(not changed, f"answers change with {', '.join(changed)}, though {s.name}.reacts is False; remove it")
        return
    unchanged = [n for n in s.data.graph.names if n not in changed]
    demand(
        not unchanged,
        f"answers stay the same when {' or '.join(unchanged)} changes; predict must use its pa, the counterfactual "
        "parents (where that is meant: reacts = False in the class)",
    )


def _answers_with_changed(s: MethodSubject, name: str) -> Any:
    """Answers when one parent alone has another value."""
    pa = s.answers.questions.pa.clone()
    column, v = s.data.graph.index(name), s.data.graph[name]
    pa[:, column] = (pa[:, column] + 1) % v.size if v.categorical else v.low + v.high - pa[:, column]
    return s.predict(s.answers.u, pa, s.answers.questions.seeds)


@check("round-trip", "weights saved as safetensors and loaded into a new object give the same answers", repeatable)
def round_trip(s: MethodSubject) -> None:
    a, b = s.answer(s.questions(), s.trained.method), s.answer(s.questions(), s.restore())
    demand(
        same(a, b, ATOL),
        f"answers differ by {_gap(a, b):.2g} once the weights are loaded into a new object; what fit learns must be a "
        "parameter or a buffer: self.register_buffer(name, tensor)",
    )


@check("sample", "fresh samples are images like answers", typed)
def sampled(s: MethodSubject) -> None:
    q = s.questions()
    image = _sample(s, q.cf_pa, q)
    demand(isinstance(image, Tensor) and image.dtype == torch.float32, "sample must give a float32 tensor [B, C, H, W]")
    demand(image.shape == q.x.shape, f"samples are {list(image.shape)} for 8 rows of pa; give one image a row")
    demand(image.isfinite().all(), "samples hold NaN or infinite pixels; mend the arithmetic")
    in_range(image, "samples")


@check("sample-streams", "a sample follows its own stream and parents alone", sampled)
def sampled_by_streams(s: MethodSubject) -> None:
    q = s.questions()
    first = _sample(s, q.cf_pa, q)
    with seeded(1, 1):
        again = _sample(s, q.cf_pa, q)
    demand(same(first, again), "the same streams give two samples; draw from the argument rng")
    single = _sample(s, q.cf_pa[[3]], q[[3]])
    demand(
        same(single[0], first[3], ATOL), "a sample depends on the rest of the batch; draw each row from its own stream"
    )
    other = _sample(s, q.cf_pa, s.questions(first=8))
    demand(not same(first, other), "other streams give the same samples; draw from the argument rng")
    demand(not same(first, _sample(s, q.pa, q)), "samples stay the same when their parents change; use pa")


def _sample(s: MethodSubject, pa: Tensor, q: ToyQuestions) -> Any:
    method: Any = s.restored
    with s.calling("sample"):
        return copied(method.sample(pa, Streams(q.seeds)))


@check("state", "answering leaves the shared state of the process as it was", answered)
def state_unchanged(subject: Subject) -> None:
    if sampled.name in subject.applicable:
        sampled.outcome(subject)
    subject.check_state("draw from the argument rng", ("abduct", "predict", "answer", "sample"))


@check("test-data", "neither fit nor answers look at test images or at the truth", constructs)
def no_test_data(subject: Subject) -> None:
    calls = [c for c in (fits, answered) if c.name in subject.applicable]
    failed = [c.name for c in calls if c.outcome(subject) is not None]  # which may have used test data, too
    demand(
        not subject.test_data_uses,
        f"{', '.join(dict.fromkeys(subject.test_data_uses))}: "
        "methods may not see test data; use run.train and run.valid",
    )
    if failed:
        raise Skipped(f"waits for {failed[0]!r}")


def _gap(a: Any, b: Any) -> float:
    """The largest difference of two images; 1 where one of them is not finite or the shapes differ."""
    if a.shape != b.shape:
        return 1.0
    return float((a.double() - b.double()).abs().nan_to_num(1.0).max())


DEPENDENCE = (repeatable, memoryless, unordered, reacts, alone, frozen)
SAMPLES = (sampled, sampled_by_streams)
