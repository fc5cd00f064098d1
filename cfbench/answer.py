"""Answers to a plan: abduct each factual once, predict under every intervention, and go further rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .caller import Answers, Caller, Mechanism, Part
from .contract import Control, Dataset, Method, Noise, Questions
from .plan import Plan
from .rng import Streams

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
        batch: images in one call; the predictions of a batch of factuals under all interventions go together.
        rounds: how many factuals, the first of the plan, go through ten null interventions and reversal.

    Raises:
        InvalidAnswer: an answer has the wrong type or shape.
    """
    caller = Caller(mech, plan.index, tuple(x.shape[1:]), seed, device, batch)
    caller.warm_up(x[:2], plan.pa[:2])
    batches = list(_batches(len(plan), batch))
    rounded = list(_batches(min(rounds, len(plan)), batch))
    total, done = len(batches) + len(rounded), 0
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for rows in batches:
        u = caller.abduct("factual", rows, x[rows], plan.pa[rows])
        together = list(_asked(plan, rows))
        for part, image in zip(together, caller.predict(u, together), strict=True):
            parts.setdefault(part.step, []).append((rows if part.question is None else part.question, image))
        progress(done := done + 1, total)
    answers = caller.answers
    answers.images = {name: _gather(pieces) for name, pieces in parts.items()}
    with caller.untimed():
        for rows in rounded:
            parts.setdefault("cycle", []).append((rows, _cycle(caller, plan, answers.images["null"], rows)))
            for v, asked in plan.asked.items():
                mine = torch.isin(asked.factual, rows).nonzero()[:, 0]
                parts.setdefault(f"reverse/{v}", []).append((mine, _reverse(caller, plan, v, answers.images, mine)))
            progress(done := done + 1, total)
    answers.images |= {name: _gather(parts[name]) for name in parts if name not in answers.images}
    return answers


def _asked(plan: Plan, rows: Tensor) -> Iterator[Part]:
    """What a batch of consecutive factuals is asked: nothing, and every intervention."""
    yield Part("null", rows, torch.arange(len(rows)), plan.pa[rows])
    for v, asked in plan.asked.items():
        mine = ((asked.factual >= rows[0]) & (asked.factual <= rows[-1])).nonzero()[:, 0]
        yield Part(f"do/{v}", asked.factual[mine], asked.factual[mine] - rows[0], asked.cf_pa[mine], mine)


def _cycle(caller: Caller, plan: Plan, null: Tensor, rows: Tensor) -> Tensor:
    x = null[rows]
    for k in range(2, CYCLES + 1):
        u = caller.abduct(f"cycle {k}", rows, x, plan.pa[rows])
        (x,) = caller.predict(u, [Part(f"cycle {k}", rows, torch.arange(len(rows)), plan.pa[rows])])
    return x


def _reverse(caller: Caller, plan: Plan, v: str, images: dict[str, Tensor], mine: Tensor) -> Tensor:
    asked = plan.asked[v]
    factual = asked.factual[mine]
    u = caller.abduct(f"reverse/{v}", factual, images[f"do/{v}"][mine], asked.cf_pa[mine], mine)
    return caller.predict(u, [Part(f"reverse/{v}", factual, torch.arange(len(mine)), plan.pa[factual], mine)])[0]


def _batches(total: int, size: int) -> Iterator[Tensor]:
    for start in range(0, total, size):
        yield torch.arange(start, min(start + size, total))


def _gather(pieces: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Pieces (row numbers, images) in the order of the rows."""
    order = torch.cat([rows for rows, _ in pieces]).argsort()
    return torch.cat([images for _, images in pieces])[order]
