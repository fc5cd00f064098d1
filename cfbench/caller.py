"""Calls of a mechanism: with streams for each image, timed, and checked in what they answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .contract import Noise
from .environment import synchronize
from .errors import InvalidAnswer
from .rng import Streams, derive

__all__ = ["Answers", "Caller", "Mechanism", "Part", "checked"]


class Mechanism(Protocol):
    """Abduct and predict on a device, for images known by their numbers in the data set."""

    def abduct(self, x: Tensor, pa: Tensor, index: Tensor, rng: Streams) -> Noise: ...

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor: ...


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


@dataclass(frozen=True)
class Part:
    """Predictions of one kind from the noise of a batch: which factual, its place in the batch, the new parents."""

    step: str
    factual: Tensor
    place: Tensor
    pa: Tensor
    question: Tensor | None = None


class Caller:
    """Calls a mechanism with streams for each image, times it, and checks what it answers."""

    def __init__(
        self, mech: Mechanism, index: Tensor, shape: tuple[int, ...], seed: int, device: torch.device, batch: int
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
        place, pa = torch.cat([p.place for p in parts]), torch.cat([p.pa for p in parts])
        seeds = [s for p in parts for s in self._seeds("predict", p.step, self.index[p.factual], p.question)]
        images = []
        for rows in torch.arange(len(pa)).split(self.batch):
            rng = Streams([seeds[i] for i in rows.tolist()], self.device)
            asked = _pick(u, place[rows]), pa[rows].to(self.device)
            images.append(self._image(self._time("predict", len(rows), self.mech.predict, *asked, rng), len(rows)))
        pieces = torch.cat(images).split([len(p.place) for p in parts])
        wrong = self.answers.wrong
        return [checked(p.step, piece, wrong) for p, piece in zip(parts, pieces, strict=True)]

    def _seeds(self, what: str, step: str, index: Tensor, question: Tensor | None) -> list[int]:
        number = [0] * len(index) if question is None else question.tolist()
        return [derive(what, step, self.seed, i, q) for i, q in zip(index.tolist(), number, strict=True)]

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

    def _image(self, image: Any, rows: int) -> Tensor:
        """What ``predict`` gave, float32 on the CPU, where it has the type and the shape of images."""
        if not isinstance(image, Tensor) or not image.is_floating_point():
            found = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise InvalidAnswer(f"predict must give a floating-point tensor, found {found}")
        if tuple(image.shape) != (rows, *self.shape):
            raise InvalidAnswer(f"predict must give {[rows, *self.shape]}, found {list(image.shape)}")
        return image.detach().float().cpu().clone()


def checked(step: str, image: Tensor, wrong: dict[str, int]) -> Tensor:
    """The images, those with NaN or values out of range replaced by NaN and counted in ``wrong``."""
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
