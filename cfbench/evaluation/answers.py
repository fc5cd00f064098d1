"""Answers to a plan: each factual is abducted once and predicted under every intervention, timed and checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..contract import Control, Dataset, Method, Noise, Questions
from ..errors import InvalidAnswer
from ..images import Images
from ..rng import Streams, derive
from ..storage.tensors import ImageFile
from .clock import cpu_time
from .plan import Plan

__all__ = [
    "Answers",
    "Caller",
    "ImageMechanism",
    "MethodMechanism",
    "Part",
    "answer_plan",
    "checked_images",
    "image_mechanism",
    "synchronize",
]


class ImageMechanism(Protocol):
    """Abduction and prediction of images, whose row numbers in the data set are ``index`` [B]."""

    def abduct(self, x: Tensor, pa: Tensor, index: Tensor, rng: Streams) -> Noise: ...

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor: ...


@dataclass
class Answers:
    """Images float32 by name (``null``, ``do/V``, ``cycle``, ``reverse/V``), costs, and counts of invalid images."""

    images: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"abduct": 0.0, "predict": 0.0})
    cpu_seconds: dict[str, float] = field(default_factory=lambda: {"abduct": 0.0, "predict": 0.0})
    calls: dict[str, int] = field(default_factory=lambda: {"abduct": 0, "predict": 0})
    wrong: dict[str, int] = field(default_factory=dict)

    def milliseconds(self, step: str) -> float:
        """Mean time of a step for an image."""
        return 1000 * self.seconds[step] / max(self.calls[step], 1)

    def cpu_milliseconds(self, step: str) -> float:
        """Mean time of the processor for an image; NaN where another device computes."""
        return 1000 * self.cpu_seconds[step] / max(self.calls[step], 1)


@dataclass(frozen=True)
class Part:
    """Predictions of one kind from the noise of a batch: factuals, their positions in the batch, and new parents."""

    step: str
    factual: Tensor
    position: Tensor
    pa: Tensor
    question: Tensor | None = None


class Caller:
    """Calls a mechanism with a random stream per image, measures the time, and checks the images."""

    def __init__(
        self, mech: ImageMechanism, index: Tensor, shape: tuple[int, ...], seed: int, device: torch.device, batch: int
    ) -> None:
        self.mech, self.index, self.shape, self.seed, self.device = mech, index, shape, seed, device
        self.batch = batch
        self.answers = Answers()
        self.timed = True

    def warm_up(self, x: Tensor, pa: Tensor) -> None:
        with self.untimed():
            rows = torch.arange(len(x))
            self.predict(self.abduct("warm-up", rows, x, pa), [Part("warm-up", rows, rows, pa)])
        self.answers.wrong.clear()

    def untimed(self) -> _Untimed:
        return _Untimed(self)

    def abduct(self, step: str, factual: Tensor, x: Tensor, pa: Tensor, question: Tensor | None = None) -> Noise:
        index = self.index[factual]
        rng = Streams(self._seeds("abduct", step, index, question), self.device)
        return self._time("abduct", len(x), self.mech.abduct, x.to(self.device), pa.to(self.device), index, rng)

    def predict(self, u: Noise, parts: list[Part]) -> list[Tensor]:
        """The images of each part, all parts together in calls of at most ``batch`` images."""
        position, pa = torch.cat([p.position for p in parts]), torch.cat([p.pa for p in parts])
        seeds = [s for p in parts for s in self._seeds("predict", p.step, self.index[p.factual], p.question)]
        images = []
        for rows in torch.arange(len(pa)).split(self.batch):
            rng = Streams([seeds[i] for i in rows.tolist()], self.device)
            batch = _pick(u, position[rows]), pa[rows].to(self.device)
            images.append(self._image(self._time("predict", len(rows), self.mech.predict, *batch, rng), len(rows)))
        pieces = torch.cat(images).split([len(p.position) for p in parts])
        wrong = self.answers.wrong
        return [checked_images(p.step, piece, wrong) for p, piece in zip(parts, pieces, strict=True)]

    def _seeds(self, what: str, step: str, index: Tensor, question: Tensor | None) -> list[int]:
        number = [0] * len(index) if question is None else question.tolist()
        return [derive(what, step, self.seed, i, q) for i, q in zip(index.tolist(), number, strict=True)]

    def _time(self, step: str, images: int, call: Callable[..., Any], *args: Any) -> Any:
        with torch.no_grad():
            synchronize(self.device)
            start, cpu_start = time.perf_counter(), cpu_time()
            result = call(*args)
            synchronize(self.device)
        if self.timed:
            self.answers.seconds[step] += time.perf_counter() - start
            self.answers.cpu_seconds[step] += cpu_time() - cpu_start if self.device.type == "cpu" else math.nan
            self.answers.calls[step] += images
        return result

    def _image(self, image: Any, rows: int) -> Tensor:
        """The result of ``predict`` as float32 on the CPU.

        Raises:
            InvalidAnswer: it has not the type or the shape of images.
        """
        if not isinstance(image, Tensor) or not image.is_floating_point():
            found = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise InvalidAnswer(f"predict must give a floating-point tensor, found {found}")
        if tuple(image.shape) != (rows, *self.shape):
            raise InvalidAnswer(f"predict must give {[rows, *self.shape]}, found {list(image.shape)}")
        return image.detach().float().cpu().clone()


def checked_images(step: str, image: Tensor, wrong: dict[str, int]) -> Tensor:
    """The images, with those that are not finite or out of range set to NaN and counted in ``wrong``."""
    flat = image.flatten(1)
    nan = ~flat.isfinite().all(1)
    outside = ~nan & ((flat < -1e-4) | (flat > 1 + 1e-4)).any(1)
    for name, mask in (("not finite", nan), ("out of [0, 1]", outside)):
        if int(mask.sum()):
            key = f"{step.split('/')[0]}: {name}"
            wrong[key] = wrong.get(key, 0) + int(mask.sum())
    image[nan | outside] = torch.nan
    return image.clamp(0, 1)


@dataclass(frozen=True)
class _Untimed:
    caller: Caller

    def __enter__(self) -> None:
        self.caller.timed = False

    def __exit__(self, *error: object) -> None:
        self.caller.timed = True


def _pick(u: Noise, rows: Tensor) -> Noise:
    if isinstance(u, Tensor):
        return u[rows.to(u.device)]
    if isinstance(u, dict):
        return {k: _pick(v, rows) for k, v in u.items()}
    return type(u)(_pick(v, rows) for v in u) if isinstance(u, (tuple, list)) else u


CYCLES = 10


@dataclass(frozen=True)
class MethodMechanism:
    """A method, which is not given the row numbers of the images."""

    method: Method

    def abduct(self, x: Tensor, pa: Tensor, index: Tensor, rng: Streams) -> Noise:
        return self.method.abduct(x, pa, rng)

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor:
        return self.method.predict(u, pa, rng)


@dataclass(frozen=True)
class ControlMechanism:
    """A control, whose noise is the factual itself with its parents and row number."""

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


def image_mechanism(plugin: Method | Control, dataset: Dataset, root: Path, split: str) -> ImageMechanism:
    """The image mechanism of a method or control."""
    return MethodMechanism(plugin) if isinstance(plugin, Method) else ControlMechanism(plugin, dataset, root, split)


def answer_plan(
    mech: ImageMechanism,
    plan: Plan,
    x: Images,
    *,
    into: Path | None = None,
    seed: int,
    device: torch.device,
    batch: int = 64,
    rounds: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """All answers to a plan, and the cost of abduction and of prediction.

    Args:
        mech: the image mechanism.
        plan: the questions about N factuals.
        x: the factuals, float32 [N, C, H, W] in [0, 1].
        into: a safetensors file to which images are written batch by batch; by default they stay in memory, in the
            answers.
        seed: seed of the cell; together with an image's row number it seeds the image's streams.
        batch: images in one call; the predictions of a batch of factuals under all interventions go together.
        rounds: number of factuals, the first of the plan, that go through ten null interventions and reversal.

    Raises:
        InvalidAnswer: an answer has the wrong type or shape.
    """
    caller = Caller(mech, plan.index, tuple(x.shape[1:]), seed, device, batch)
    caller.warm_up(x[:2], plan.pa[:2])
    shapes = _shapes(plan, tuple(x.shape[1:]), rounds)
    if into is None:
        sink = MemorySink({name: torch.full(shape, torch.nan) for name, shape in shapes.items()})
        _answer(caller, plan, x, sink, batch, rounds, progress)
        caller.answers.images = sink.images
    else:
        with ImageFile(into, shapes) as file:
            _answer(caller, plan, x, file, batch, rounds, progress)
    return caller.answers


class ImageSink(Protocol):
    """Storage of images, from which further rounds read them."""

    def put(self, name: str, rows: Tensor, images: Tensor) -> None: ...

    def get(self, name: str, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class MemorySink:
    """Images in memory, by name."""

    images: dict[str, Tensor]

    def put(self, name: str, rows: Tensor, images: Tensor) -> None:
        self.images[name][rows] = images

    def get(self, name: str, rows: Tensor) -> Tensor:
        return self.images[name][rows]


def _shapes(plan: Plan, shape: tuple[int, ...], rounds: int) -> dict[str, tuple[int, ...]]:
    """The shape of the array of each name."""
    rounds = min(rounds, len(plan))
    numbers = {"null": len(plan)} | {f"do/{v}": len(asked) for v, asked in plan.asked.items()}
    if rounds:
        numbers["cycle"] = rounds
        numbers |= {f"reverse/{v}": int((asked.factual < rounds).sum()) for v, asked in plan.asked.items()}
    return {name: (number, *shape) for name, number in numbers.items()}


def _answer(
    caller: Caller, plan: Plan, x: Images, sink: ImageSink, batch: int, rounds: int,
    progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    batches = list(_batches(len(plan), batch))
    rounded = list(_batches(min(rounds, len(plan)), batch))
    total = len(batches) + len(rounded)
    for done, rows in enumerate(batches, 1):
        u = caller.abduct("factual", rows, x[rows], plan.pa[rows])
        together = list(_asked(plan, rows))
        for part, image in zip(together, caller.predict(u, together), strict=True):
            sink.put(part.step, rows if part.question is None else part.question, image)
        progress(done, total)
    with caller.untimed():
        for done, rows in enumerate(rounded, len(batches) + 1):
            sink.put("cycle", rows, _cycle(caller, plan, sink.get("null", rows), rows))
            for v, asked in plan.asked.items():
                questions = torch.isin(asked.factual, rows).nonzero()[:, 0]
                # Only the questions about the first factuals have rows, in the order of the questions.
                position = (asked.factual < min(rounds, len(plan))).cumsum(0)[questions] - 1
                image = _reverse(caller, plan, v, sink.get(f"do/{v}", questions), questions)
                sink.put(f"reverse/{v}", position, image)
            progress(done, total)


def _asked(plan: Plan, rows: Tensor) -> Iterator[Part]:
    """The null intervention and all questions about a batch of consecutive factuals."""
    yield Part("null", rows, torch.arange(len(rows)), plan.pa[rows])
    for v, asked in plan.asked.items():
        questions = ((asked.factual >= rows[0]) & (asked.factual <= rows[-1])).nonzero()[:, 0]
        yield Part(
            f"do/{v}", asked.factual[questions], asked.factual[questions] - rows[0], asked.cf_pa[questions], questions
        )


def _cycle(caller: Caller, plan: Plan, x: Tensor, rows: Tensor) -> Tensor:
    for k in range(2, CYCLES + 1):
        u = caller.abduct(f"cycle {k}", rows, x, plan.pa[rows])
        (x,) = caller.predict(u, [Part(f"cycle {k}", rows, torch.arange(len(rows)), plan.pa[rows])])
    return x


def _reverse(caller: Caller, plan: Plan, v: str, x: Tensor, questions: Tensor) -> Tensor:
    asked = plan.asked[v]
    factual = asked.factual[questions]
    u = caller.abduct(f"reverse/{v}", factual, x, asked.cf_pa[questions], questions)
    part = Part(f"reverse/{v}", factual, torch.arange(len(questions)), plan.pa[factual], questions)
    return caller.predict(u, [part])[0]


def _batches(total: int, size: int) -> Iterator[Tensor]:
    for start in range(0, total, size):
        yield torch.arange(start, min(start + size, total))


def synchronize(device: torch.device) -> None:
    """Wait for all work on a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
