"""A method or control as a subject: one tiny fit, and answers to eight questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ...contract import Control, Dataset, Derived, Fit, Method, Noise
from ...evaluation.answers import image_mechanism
from ...rng import Streams
from ..outcomes import Skipped, Violation, demand
from .subject import Subject
from .toy import BARS, ROOT, BarsMethod, ToyQuestions, questions

__all__ = ["BUDGET", "SMALL", "Answers", "MethodSubject", "Trained", "copied", "same", "take_rows"]

BUDGET = 1024
"""Training images of the fit that most checks examine."""
SMALL = 256
"""Training images of fits that are only compared with each other."""


@dataclass
class Trained:
    """A fitted method with its arguments, its log and its recorded tables."""

    method: Method
    run: Fit
    initial: dict[str, Tensor]
    state: dict[str, Tensor]
    log: list[Mapping[str, object]] = field(default_factory=list)
    tables: dict[str, object] = field(default_factory=dict)
    generator: Tensor | None = None
    """The state of torch's global generator at the end."""


@dataclass(frozen=True)
class Answers:
    """Noise and answers of one abduction of eight images.

    ``u_before`` is a copy of the noise made before `predict`, ``changed`` are the counterfactuals, ``null`` the answers
    under the factual's own parents.
    """

    questions: ToyQuestions
    u: Noise
    u_before: Noise
    changed: Any
    null: Any
    again: Any
    """The same counterfactuals predicted again from the same noise, after all other questions."""
    reversed: Any
    """Answers to the same questions in reversed order."""
    requires_grad: bool
    modified: tuple[tuple[str, str], ...]
    """Calls that changed an argument in place, and the argument's name."""


class MethodSubject(Subject):
    """A method, derived row or control with a tiny fit on the toy data."""

    data: Dataset = BARS
    """The data set that it is checked on; a subject may be given one of another graph."""

    def questions(self, n: int = 8, first: int = 0) -> ToyQuestions:
        """Questions about n test images from row ``first`` on."""
        return questions(self.data, n, first)

    def make(self, preset: str = "", /, **params: Any) -> Any:
        """A new object with initial weights drawn from seed 0."""
        what = f"the constructor with the preset {preset!r}" if preset else "the constructor"
        with self.calling(what, seeds=(0, 0)):
            return self.plugin(self.data.graph, **{**self._keywords, **params})

    @cached_property
    def _keywords(self) -> dict[str, Any]:
        """The constructor's keywords, where ``of`` is a fitted method."""
        if not issubclass(self.plugin, Derived):
            return self.params
        of = self.params.get("of", BarsMethod)
        if not self.plugin.applies(of):
            raise Skipped(f"{self.name} cannot answer through {of.__name__}; give `subject(..., of=A_METHOD)`")
        return {**self.params, "of": MethodSubject(of, None, {}).restored}

    @cached_property
    def trained(self) -> Trained:
        """The method after a fit of `BUDGET` images."""
        return self.fit(BUDGET, seed=0)

    def fit(self, images: int, *, seed: int, others: int = 0) -> Trained:
        """A new method fitted with a seed; ``others`` seeds numpy and Python, which the harness does not."""
        split = {name: self.data.split(ROOT, name) for name in ("train", "valid")}
        run = Fit(split["train"], split["valid"], images, torch.device("cpu"), torch.Generator().manual_seed(seed))
        with self.calling("fit", grad=True, seeds=(seed, others)):
            method = self.plugin(self.data.graph, **self._keywords)
            method.train()
            found = Trained(method, run, copied(dict(method.state_dict())), {})
            run.log, run.record, run.progress = found.log.append, found.tables.__setitem__, self.progress
            method.fit(run)
            found.state, found.generator = copied(dict(method.state_dict())), torch.get_rng_state()
        method.eval()
        return found

    def restore(self, **chosen: Any) -> Method:
        """A new method with the weights of the fit after a round trip through safetensors."""
        method: Method = self.make(**chosen)
        with self.calling("load_state_dict"):
            method.load_state_dict(load(save({k: v.contiguous().clone() for k, v in self.trained.state.items()})))
        return method.eval()

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """The values that `tune` chose."""
        method = self.restore()
        train, valid = self.data.split(ROOT, "train"), self.data.split(ROOT, "valid")
        run = Fit(train, valid, BUDGET, torch.device("cpu"), torch.Generator().manual_seed(0), seen=BUDGET)
        run.progress = self.progress
        before = copied(dict(method.state_dict()))
        with self.calling("tune"):
            chosen = method.tune(run)
        demand(
            isinstance(chosen, Mapping),
            f"tune gives a {type(chosen).__name__}; give a dict of answer parameters, {{}} where none is open",
        )
        demand(
            same(before, dict(method.state_dict())),
            "tune changes the weights, which are kept as the fit left them; change them in fit",
        )
        return dict(chosen)

    @cached_property
    def restored(self) -> Method | Control:
        """What answers: a control, or a new method with the weights of the fit, as in the harness."""
        if issubclass(self.plugin, Control) or issubclass(self.plugin, Derived):
            plugin = self.make()
            return plugin.eval() if isinstance(plugin, Method) else plugin
        return self.restore(**self.chosen)

    def abduct(self, q: ToyQuestions, plugin: Any = None) -> Noise:
        """The noise of the questions' images."""
        mech = image_mechanism(plugin or self.restored, self.data, ROOT, "test")
        with self.calling("abduct", truth=self._control):
            return mech.abduct(q.x, q.pa, q.index, Streams(q.seeds))

    def predict(self, u: Noise, pa: Tensor, seeds: tuple[int, ...], plugin: Any = None) -> Any:
        """The images that noise gives under parents."""
        mech = image_mechanism(plugin or self.restored, self.data, ROOT, "test")
        with self.calling("answer" if self._control else "predict", truth=self._control):
            return mech.predict(u, pa, Streams(s + 1000 for s in seeds))

    def answer(self, q: ToyQuestions, plugin: Any = None) -> Any:
        """The counterfactual images."""
        return self.predict(self.abduct(q, plugin), q.cf_pa, q.seeds, plugin)

    @property
    def _control(self) -> bool:
        return issubclass(self.plugin, Control)

    @cached_property
    def answers(self) -> Answers:
        """Answers to eight questions from one abduction, with other questions in between."""
        q, fresh = self.questions(), self.questions()
        _ = self.weights
        u = self.abduct(q)
        before = copied(u)
        modified = [("abduct", n) for n in ("x", "pa") if not same(getattr(q, n), getattr(fresh, n))]
        answer = self.predict(u, q.cf_pa, q.seeds)
        changed, requires_grad = copied(answer), isinstance(answer, Tensor) and answer.requires_grad
        null = copied(self.predict(u, q.pa, q.seeds))
        backwards = self.answer(fresh[list(reversed(range(len(q))))])
        again = self.predict(u, fresh.cf_pa, q.seeds)
        modified += [("predict", "pa") for n in ("pa", "cf_pa") if not same(getattr(q, n), getattr(fresh, n))][:1]
        return Answers(fresh, u, before, changed, null, again, backwards, requires_grad, tuple(modified))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights before any question is answered; empty for controls."""
        return copied(dict(self.restored.state_dict())) if isinstance(self.restored, Method) else {}

    @cached_property
    def images(self) -> Tensor:
        """The counterfactuals [8, C, H, W].

        Raises:
            Violation: they are not a tensor.
        """
        found = self.answers.changed
        if not isinstance(found, Tensor):
            raise Violation(f"answers are a {type(found).__name__}; give a tensor [B, C, H, W]")
        return found


def copied(value: Any) -> Any:
    """A deep copy of tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(copied(v) for v in value)
    return type(value)(*(copied(v) for v in value)) if isinstance(value, tuple) else value


def take_rows(u: Noise, rows: list[int]) -> Noise:
    """Rows of a noise, as the harness selects them to predict under several interventions at once."""
    if isinstance(u, Tensor):
        return u[rows]
    if isinstance(u, dict):
        return {k: take_rows(v, rows) for k, v in u.items()}
    return type(u)(take_rows(v, rows) for v in u) if isinstance(u, (tuple, list)) else u


def same(a: Any, b: Any, atol: float = 0.0) -> bool:
    """Whether nested tensors are equal within a tolerance, with NaN at the same positions."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return torch.equal(a, b) or bool(torch.isclose(a.double(), b.double(), 0, atol, equal_nan=True).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k], atol) for k in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(same(x, y, atol) for x, y in zip(a, b, strict=True))
    return type(a) is type(b)
