"""Answers to a plan: abduct each factual once, predict under every intervention, and go further rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .caller import Answers, Caller, Mechanism, Part
from .contract import Control, Dataset, Method, Noise, Questions
from .imagefile import ImageFile
from .plan import Plan
from .rng import Streams
from .rows import Images

__all__ = ["Answers", "Mechanism", "answer_plan", "mechanism"]

CYCLES = 10


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


def answer_plan(
    mech: Mechanism,
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
    """All images that a plan asks for, and the cost of the two steps apart.

    Args:
        mech: what answers.
        plan: the questions about N factuals.
        x: the factuals, float32 [N, C, H, W] in [0, 1].
        into: a safetensors file that the images go to as they come, so that none stays in memory; they are in the
            answers where it is left out.
        seed: of the cell; together with an image's number it seeds that image's streams.
        batch: images in one call; the predictions of a batch of factuals under all interventions go together.
        rounds: how many factuals, the first of the plan, go through ten null interventions and reversal.

    Raises:
        InvalidAnswer: an answer has the wrong type or shape.
    """
    caller = Caller(mech, plan.index, tuple(x.shape[1:]), seed, device, batch)
    caller.warm_up(x[:2], plan.pa[:2])
    shapes = _shapes(plan, tuple(x.shape[1:]), rounds)
    if into is None:
        sheets = Held({name: torch.full(shape, torch.nan) for name, shape in shapes.items()})
        _answer(caller, plan, x, sheets, batch, rounds, progress)
        caller.answers.images = sheets.images
    else:
        with ImageFile(into, shapes) as file:
            _answer(caller, plan, x, file, batch, rounds, progress)
    return caller.answers


class Sheets(Protocol):
    """Where images go, and come from when further rounds need them."""

    def put(self, name: str, rows: Tensor, images: Tensor) -> None: ...

    def get(self, name: str, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Held:
    """Images in memory, by name."""

    images: dict[str, Tensor]

    def put(self, name: str, rows: Tensor, images: Tensor) -> None:
        self.images[name][rows] = images

    def get(self, name: str, rows: Tensor) -> Tensor:
        return self.images[name][rows]


def _shapes(plan: Plan, shape: tuple[int, ...], rounds: int) -> dict[str, tuple[int, ...]]:
    """How many images of each name there will be."""
    rounds = min(rounds, len(plan))
    numbers = {"null": len(plan)} | {f"do/{v}": len(asked) for v, asked in plan.asked.items()}
    if rounds:
        numbers["cycle"] = rounds
        numbers |= {f"reverse/{v}": int((asked.factual < rounds).sum()) for v, asked in plan.asked.items()}
    return {name: (number, *shape) for name, number in numbers.items()}


def _answer(
    caller: Caller, plan: Plan, x: Images, sheets: Sheets, batch: int, rounds: int,
    progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    batches = list(_batches(len(plan), batch))
    rounded = list(_batches(min(rounds, len(plan)), batch))
    total = len(batches) + len(rounded)
    for done, rows in enumerate(batches, 1):
        u = caller.abduct("factual", rows, x[rows], plan.pa[rows])
        together = list(_asked(plan, rows))
        for part, image in zip(together, caller.predict(u, together), strict=True):
            sheets.put(part.step, rows if part.question is None else part.question, image)
        progress(done, total)
    with caller.untimed():
        for done, rows in enumerate(rounded, len(batches) + 1):
            sheets.put("cycle", rows, _cycle(caller, plan, sheets.get("null", rows), rows))
            for v, asked in plan.asked.items():
                mine = torch.isin(asked.factual, rows).nonzero()[:, 0]
                # The answers about the first factuals, in the order of their questions.
                place = (asked.factual < min(rounds, len(plan))).cumsum(0)[mine] - 1
                sheets.put(f"reverse/{v}", place, _reverse(caller, plan, v, sheets.get(f"do/{v}", mine), mine))
            progress(done, total)


def _asked(plan: Plan, rows: Tensor) -> Iterator[Part]:
    """What a batch of consecutive factuals is asked: nothing, and every intervention."""
    yield Part("null", rows, torch.arange(len(rows)), plan.pa[rows])
    for v, asked in plan.asked.items():
        mine = ((asked.factual >= rows[0]) & (asked.factual <= rows[-1])).nonzero()[:, 0]
        yield Part(f"do/{v}", asked.factual[mine], asked.factual[mine] - rows[0], asked.cf_pa[mine], mine)


def _cycle(caller: Caller, plan: Plan, x: Tensor, rows: Tensor) -> Tensor:
    for k in range(2, CYCLES + 1):
        u = caller.abduct(f"cycle {k}", rows, x, plan.pa[rows])
        (x,) = caller.predict(u, [Part(f"cycle {k}", rows, torch.arange(len(rows)), plan.pa[rows])])
    return x


def _reverse(caller: Caller, plan: Plan, v: str, x: Tensor, mine: Tensor) -> Tensor:
    asked = plan.asked[v]
    factual = asked.factual[mine]
    u = caller.abduct(f"reverse/{v}", factual, x, asked.cf_pa[mine], mine)
    return caller.predict(u, [Part(f"reverse/{v}", factual, torch.arange(len(mine)), plan.pa[factual], mine)])[0]


def _batches(total: int, size: int) -> Iterator[Tensor]:
    for start in range(0, total, size):
        yield torch.arange(start, min(start + size, total))
