"""Answers to a plan: abduct each factual once, predict under every intervention, and go further rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .contract import Control, Dataset, Method, Noise, Questions
from .environment import synchronize
from .errors import InvalidAnswer
from .plan import Plan
from .rng import Streams, derive

__all__ = ["Answers", "Mechanism", "answer_plan", "mechanism"]

CYCLES = 10


class Mechanism(Protocol):
    """Abduct and predict on a device, for images known by their numbers in the data set."""

    def abduct(self, x: Tensor, pa: Tensor, index: Tensor, rng: Streams) -> Noise: ...

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor: ...


@dataclass(frozen=True)
class OfMethod:
    """A method, which does not get to know which images it is asked about."""

    method: Method

    def abduct(self, x: Tensor, pa: Tensor, index: Tensor, rng: Streams) -> Noise:
        return self.method.abduct(x, pa, rng)

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor:
        return self.method.predict(u, pa, rng)


@dataclass(frozen=True)
class OfControl:
    """A control, whose noise is simply what it was asked about."""

    control: Control
    dataset: Dataset
    root: Path
    split: str

    def abduct(self, x: Tensor, pa: Tensor, index: Tensor, rng: Streams) -> Noise:
        return x, pa, index

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor:
        x, own, index = u
        train = self.dataset.split(self.root, "train")
        questions = Questions(x, own, index, pa, self.split, train, self.dataset, self.root)
        answer = self.control.answer(questions)
        return torch.full_like(x, torch.nan) if answer is None else answer


def mechanism(plugin: Method | Control, dataset: Dataset, root: Path, split: str) -> Mechanism:
    """The plugin as something that abducts and predicts."""
    return OfMethod(plugin) if isinstance(plugin, Method) else OfControl(plugin, dataset, root, split)


@dataclass
class Answers:
    """Images float32 by name (``null``, ``do/V``, ``cycle``, ``reverse/V``), cost of each step, and what was wrong."""

    images: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"abduct": 0.0, "predict": 0.0})
    calls: dict[str, int] = field(default_factory=lambda: {"abduct": 0, "predict": 0})
    wrong: dict[str, int] = field(default_factory=dict)

    def milliseconds(self, step: str) -> float:
        """Mean time of a step for an image."""
        return 1000 * self.seconds[step] / max(self.calls[step], 1)


def answer_plan(
    mech: Mechanism,
    plan: Plan,
    x: Tensor,
    *,
    seed: int,
    device: torch.device,
    batch: int = 64,
    rounds: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """All images that a plan asks for, and the cost of the two steps apart.

    Args:
        mech: what answers.
        plan: the questions about N factuals.
        x: the factuals, float32 [N, C, H, W] in [0, 1].
        seed: of the cell; together with an image's number it seeds that image's streams.
        rounds: how many factuals, the first of the plan, go through ten null interventions and reversal.

    Raises:
        InvalidAnswer: an answer has the wrong type or shape.
    """
    caller = _Caller(mech, plan.index, tuple(x.shape[1:]), seed, device)
    caller.warm_up(x[:2], plan.pa[:2])
    batches = list(_batches(len(plan), batch))
    rounded = list(_batches(min(rounds, len(plan)), batch))
    total, done = len(batches) + len(rounded), 0
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for rows in batches:
        u = caller.abduct("factual", rows, x[rows], plan.pa[rows])
        parts.setdefault("null", []).append((rows, caller.predict("null", rows, u, plan.pa[rows])))
        for v, asked in plan.asked.items():
            mine, local = _questions_of(asked.factual, rows)
            image = caller.predict(f"do/{v}", asked.factual[mine], _pick(u, local), asked.cf_pa[mine], mine)
            parts.setdefault(f"do/{v}", []).append((mine, image))
        progress(done := done + 1, total)
    answers = caller.answers
    answers.images = {name: _gather(pieces) for name, pieces in parts.items()}
    with caller.untimed():
        for rows in rounded:
            parts.setdefault("cycle", []).append((rows, _cycle(caller, plan, answers.images["null"], rows)))
            for v, asked in plan.asked.items():
                mine, _ = _questions_of(asked.factual, rows)
                parts.setdefault(f"reverse/{v}", []).append((mine, _reverse(caller, plan, v, answers.images, mine)))
            progress(done := done + 1, total)
    answers.images |= {name: _gather(parts[name]) for name in parts if name not in answers.images}
    return answers


def _cycle(caller: _Caller, plan: Plan, null: Tensor, rows: Tensor) -> Tensor:
    x = null[rows]
    for k in range(2, CYCLES + 1):
        u = caller.abduct(f"cycle {k}", rows, x, plan.pa[rows])
        x = caller.predict(f"cycle {k}", rows, u, plan.pa[rows])
    return x


def _reverse(caller: _Caller, plan: Plan, v: str, images: dict[str, Tensor], mine: Tensor) -> Tensor:
    asked = plan.asked[v]
    factual = asked.factual[mine]
    u = caller.abduct(f"reverse/{v}", factual, images[f"do/{v}"][mine], asked.cf_pa[mine], mine)
    return caller.predict(f"reverse/{v}", factual, u, plan.pa[factual], mine)


class _Caller:
    """Calls a mechanism with streams for each image, times it, and checks what it answers."""

    def __init__(self, mech: Mechanism, index: Tensor, shape: tuple[int, ...], seed: int, device: torch.device) -> None:
        self.mech, self.index, self.shape, self.seed, self.device = mech, index, shape, seed, device
        self.answers = Answers()
        self.timed = True

    def warm_up(self, x: Tensor, pa: Tensor) -> None:
        with self.untimed():
            rows = torch.arange(len(x))
            self.predict("warm-up", rows, self.abduct("warm-up", rows, x, pa), pa)
        self.answers.wrong.clear()

    def untimed(self) -> _Untimed:
        return _Untimed(self)

    def abduct(self, step: str, factual: Tensor, x: Tensor, pa: Tensor, question: Tensor | None = None) -> Noise:
        index = self.index[factual]
        rng = self._streams("abduct", step, index, question)
        return self._time("abduct", len(x), self.mech.abduct, x.to(self.device), pa.to(self.device), index, rng)

    def predict(self, step: str, factual: Tensor, u: Noise, pa: Tensor, question: Tensor | None = None) -> Tensor:
        rng = self._streams("predict", step, self.index[factual], question)
        image = self._time("predict", len(pa), self.mech.predict, u, pa.to(self.device), rng)
        return self._checked(step, image, len(pa))

    def _streams(self, what: str, step: str, index: Tensor, question: Tensor | None) -> Streams:
        number = [0] * len(index) if question is None else question.tolist()
        seeds = [derive(what, step, self.seed, i, q) for i, q in zip(index.tolist(), number, strict=True)]
        return Streams(seeds, self.device)

    def _time(self, step: str, images: int, call: Callable[..., Any], *args: Any) -> Any:
        with torch.no_grad():
            synchronize(self.device)
            start = time.perf_counter()
            result = call(*args)
            synchronize(self.device)
        if self.timed:
            self.answers.seconds[step] += time.perf_counter() - start
            self.answers.calls[step] += images
        return result

    def _checked(self, step: str, image: Any, rows: int) -> Tensor:
        """The images on the CPU, those with NaN or values out of range replaced by NaN and counted."""
        if not isinstance(image, Tensor) or not image.is_floating_point():
            found = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise InvalidAnswer(f"predict must give a floating-point tensor, found {found}")
        if tuple(image.shape) != (rows, *self.shape):
            raise InvalidAnswer(f"predict must give {[rows, *self.shape]}, found {list(image.shape)}")
        image = image.detach().float().cpu().clone()
        flat = image.flatten(1)
        nan = ~flat.isfinite().all(1)
        outside = ~nan & ((flat < -1e-4) | (flat > 1 + 1e-4)).any(1)
        for name, mask in (("not finite", nan), ("out of [0, 1]", outside)):
            if int(mask.sum()):
                key = f"{step.split('/')[0]}: {name}"
                self.answers.wrong[key] = self.answers.wrong.get(key, 0) + int(mask.sum())
        image[nan | outside] = torch.nan
        return image.clamp(0, 1)


@dataclass(frozen=True)
class _Untimed:
    caller: _Caller

    def __enter__(self) -> None:
        self.caller.timed = False

    def __exit__(self, *error: object) -> None:
        self.caller.timed = True


def _batches(total: int, size: int) -> Iterator[Tensor]:
    for start in range(0, total, size):
        yield torch.arange(start, min(start + size, total))


def _questions_of(factual: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Questions about a batch of consecutive factuals, and each one's place in the batch."""
    mine = ((factual >= rows[0]) & (factual <= rows[-1])).nonzero()[:, 0]
    return mine, factual[mine] - rows[0]


def _pick(u: Noise, rows: Tensor) -> Noise:
    if isinstance(u, Tensor):
        return u[rows.to(u.device)]
    if isinstance(u, dict):
        return {k: _pick(v, rows) for k, v in u.items()}
    return type(u)(_pick(v, rows) for v in u) if isinstance(u, (tuple, list)) else u


def _gather(pieces: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Pieces (row numbers, images) in the order of the rows."""
    order = torch.cat([rows for rows, _ in pieces]).argsort()
    return torch.cat([images for _, images in pieces])[order]
