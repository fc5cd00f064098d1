"""The interfaces of plugins: methods and controls, data sets, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from .graph import CausalGraph
from .rng import Streams

if TYPE_CHECKING:
    from .evidence import Evidence

__all__ = ["Column", "Control", "Dataset", "Derived", "Fit", "Method", "Metric", "Noise", "Questions", "Role", "Split"]


Noise = Any
"""Exogenous noise as a method abducts it: a tensor, or a tuple or dict of tensors."""


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W], parents float32 [N, D] in raw units, and each row's number in the data set [N]."""

    images: Tensor
    parents: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice) -> Split:
        return Split(self.images[rows], self.parents[rows], self.index[rows])

    @property
    def x(self) -> Tensor:
        """Images as float32 in [0, 1]."""
        return self.images.float() / 255


class Keeper(Protocol):
    """Storage of checkpoints, from which a killed fit is resumed."""

    def begin(self, run: Fit, stage: str, steps: int, size: int, keep: Mapping[str, Any]) -> tuple[int, Tensor]:
        """Restore a stage; returns the number of steps done and the remaining rows of the epoch."""
        ...

    def step(self, run: Fit, done: int, steps: int, queue: Tensor, keep: Mapping[str, Any]) -> None:
        """Save the state after a step if a checkpoint is due."""
        ...


@dataclass
class Fit:
    """What a method may use while it is fitted or tuned.

    ``images`` is the budget: how many training images may pass through training steps, all networks together;
    ``seen`` counts those that have. In `Method.tune` all have been.
    ``log`` appends a row to the cell's training log, and ends the fit where its ``loss`` is not finite; ``record``
    writes a named JSON table into the run folder (``likelihood`` with ``bits_per_dim``, an upper bound on -log2 of the
    probability of 8-bit images for each of their values, goes into the leaderboard; ``remarks``, a list of sentences,
    below it as footnotes of the row; ``labels`` names the columns of recorded tables that charts draw, in their order,
    with a label for each);
    ``progress(stage, done, total, loss)`` moves the live display.
    """

    train: Split
    valid: Split
    images: int
    device: torch.device
    rng: torch.Generator
    log: Callable[[Mapping[str, object]], None] = field(default=lambda row: None)
    record: Callable[[str, object], None] = field(default=lambda name, table: None)
    progress: Callable[..., None] = field(default=lambda stage, done, total, loss=None: None)
    seen: int = 0
    keeper: Keeper | None = None

    def batches(
        self, steps: int, size: int, stage: str = "fit", *, keep: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """``steps`` batches of training data, x [size, C, H, W] in [0, 1] and pa [size, D], drawn epoch by epoch.

        ``keep`` names all that the loop changes: modules, optimisers and what else has a state dict, or lists of
        tensors. With it a fit that was killed goes on where it was, and ends with the same weights: the batches that
        are left come, none where all had been drawn. A loop that needs its number of steps counts `seen`.

        Raises:
            RuntimeError: the batches would exceed the budget.
        """
        left = self.images - self.seen
        if steps * size > left:
            raise RuntimeError(f"{stage}: {steps} steps of {size} images exceed the {left} images left of the budget")
        first, queue = 0, torch.empty(0, dtype=torch.long)
        if self.keeper and keep:
            first, queue = self.keeper.begin(self, stage, steps, size, keep)
        for step in range(first, steps):
            while len(queue) < size:
                queue = torch.cat([queue, torch.randperm(len(self.train), generator=self.rng)])
            rows, queue = queue[:size], queue[size:]
            self.seen += size
            self.progress(stage, step, steps)
            yield (
                self.train.images[rows].to(self.device).float() / 255,
                self.train.parents[rows].to(self.device),
            )
            if self.keeper and keep:
                self.keeper.step(self, step + 1, steps, queue, keep)
        self.progress(stage, steps, steps)


class Method(nn.Module):
    """An image mechanism that abducts exogenous noise and predicts images from it.

    Hyper-parameters are constructor keywords. What `fit` learns must be in the state dict, whose shapes follow
    from the constructor alone. Run under ``torch.no_grad()``; batches may have any size. A method that can draw
    images from its model may also have ``sample(pa, rng)``: one fresh image [B, C, H, W] in [0, 1] for each row of
    pa [B, D], which the control ``resample`` asks for.
    """

    answer_params: ClassVar[frozenset[str]] = frozenset()
    """Keywords that change answers but not the fit (guidance scale, steps, sampler)."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of keywords, asked for as ``method:preset``."""
    residual: str = "none"
    """How the image's residual is carried into answers: none, scaled, faded, full or exact-inverse."""
    reacts: ClassVar[bool] = True
    """Whether answers change with the counterfactual parents; False for a row that is meant to ignore them."""
    in_gallery: ClassVar[bool] = True
    """Whether the contact sheet has a row of its answers; False where they repeat another row of it."""
    paper: ClassVar[str] = ""

    def __init__(self, graph: CausalGraph, **params: Any) -> None:
        super().__init__()
        self.graph = graph

    def fit(self, run: Fit) -> None:
        """Learn from ``run.train`` within the budget; ``run.valid`` is there to stop or choose by."""

    def tune(self, run: Fit) -> Mapping[str, Any]:
        """Values for answer parameters that were left open, chosen on ``run.valid`` after the fit."""
        return {}

    def abduct(self, x: Tensor, pa: Tensor, rng: Streams) -> Noise:
        """The exogenous noise of factual x [B, C, H, W] in [0, 1] with parents pa [B, D] in raw units."""
        raise NotImplementedError(f"{type(self).__name__} defines no abduct(self, x, pa, rng)")

    def predict(self, u: Noise, pa: Tensor, rng: Streams) -> Tensor:
        """The image [B, C, H, W] in [0, 1] that noise u gives under parents pa [B, D]."""
        raise NotImplementedError(f"{type(self).__name__} defines no predict(self, u, pa, rng)")

    @property
    def evaluations(self) -> Mapping[str, float]:
        """Network evaluations of one image in ``abduct`` and in ``predict``."""
        return {}


class Derived(Method):
    """A row that answers through another one, fitted and tuned as that one is; asked for as ``name[of=other]``.

    Args:
        of: the method that it answers through, with its weights.
    """

    def __init__(self, graph: CausalGraph, of: Method) -> None:
        super().__init__(graph)
        self.of = of

    @classmethod
    def applies(cls, method: type[Method]) -> bool:
        """Whether this row can be derived from a method."""
        return True


@dataclass(frozen=True)
class Questions:
    """A batch of questions for a control: factual x, pa, row numbers, counterfactual parents, and the data."""

    x: Tensor
    pa: Tensor
    index: Tensor
    cf_pa: Tensor
    split: str
    train: Split
    dataset: Dataset
    root: Path


class Control:
    """A row of the table that knows more than a method may (the truth, the training images)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    residual: str = "-"
    reacts: ClassVar[bool] = True
    """Whether answers change with the counterfactual parents; False for a row that is meant to ignore them."""
    in_gallery: ClassVar[bool] = True
    """Whether the contact sheet has a row of its answers; False where they repeat another row of it."""
    is_truth: ClassVar[bool] = False
    """Whether its answers are the truth: a column in which another row is surely better is flagged."""
    is_real: ClassVar[bool] = False
    """Whether its answers are real images of the wanted classes, so that what is read wrongly is the judge's error."""
    paper: ClassVar[str] = ""

    def __init__(self, graph: CausalGraph, **params: Any) -> None:
        self.graph = graph

    def applies(self, dataset: Dataset) -> bool:
        """Whether this control has anything to say about a data set."""
        return True

    def answer(self, questions: Questions) -> Tensor | None:
        """Images [B, C, H, W] in [0, 1], NaN where this control has no answer; None where it never has one."""
        raise NotImplementedError(f"{type(self).__name__} defines no answer(self, questions)")


class Dataset:
    """Images with parents under a known causal graph. Parameters are constructor keywords."""

    graph: CausalGraph
    plans: ClassVar[tuple[str, ...]] = ("marginal",)
    network: ClassVar[bool] = False
    """Whether `prepare` may download."""
    moves: ClassVar[int] = 0
    """Pixels by which an image may move along both axes and keep all its variables: judges learn from moved images."""
    reader_scale: ClassVar[float] = 1.0
    """How many times the usual number of images the judge that reads variables learns from: more for handwriting."""
    progress: Callable[..., None] = staticmethod(lambda stage, done, total: None)
    """Set by the harness while data are made: ``progress(stage, done, total)`` moves the live display."""

    def open(self, root: Path) -> None:
        """Called once before anything else: for data sets that read their graph from files under ``root``."""

    def prepare(self, root: Path) -> None:
        """Download or generate the data under ``root``: idempotent, atomic, checksummed. The only use of a network."""

    def fingerprint(self, root: Path) -> str:
        """What identifies the data in addition to the class's source: checksums of files, versions of generators."""
        return ""

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """The split of that name."""
        raise NotImplementedError(f"{type(self).__name__} defines no split(self, root, name)")

    def judge_split(self, root: Path, name: Literal["train", "valid"]) -> Split:
        """Data to train and check judges on: with the confounding removed where the SCM is known."""
        return self.split(root, name)

    def act(self, pa: Tensor, do: Mapping[str, Tensor], rng: torch.Generator) -> Tensor | None:
        """The true response of parents pa [B, D] to do(variable = values [B]); None where it is not known."""
        return self.graph.set(pa, do) if self.graph.roots else None

    def oracle(self, root: Path, split: str, index: Tensor, cf_pa: Tensor) -> Tensor | None:
        """The true counterfactual [B, C, H, W] in [0, 1] of rows ``index``; NaN rows or None where unknown."""
        return None

    def measure(self, images: Tensor) -> Mapping[str, Tensor] | None:
        """Variables [B] that can be measured from images [B, C, H, W] in [0, 1] without a learned judge."""
        return None

    def targets(self, plan: str, pa: Tensor) -> Mapping[str, list[list[float]]] | None:
        """For a named plan other than ``marginal``: per variable, the values that each row [B] is asked for."""
        return None


Role = Literal["", "effectiveness", "error", "answer-cost", "fit-cost"]
"""What a column is used for besides the tables."""


@dataclass(frozen=True)
class Column:
    """One output of a metric: what it measures, its direction, unit and range, and how it is shown.

    Attributes:
        text: what it measures.
        direction: lower, higher, target (the nearer to ``target`` the better) or none (a description).
        unit: "variable's unit" stands for that of the variable that the output is about.
        low, high: the least and the greatest possible value.
        target: the best value.
        privileged: whether it compares with the true counterfactual, so that the oracle wins by definition.
        subset: whether it is computed only on the rows whose images went through further rounds.
        heading: of its column in tables and charts; by default its name, without underscores and a unit at its end.
        printed: whether it stands in the printed tables; by default a metric's first column does.
        order: where it stands there, from left to right; columns of equal order stand as their metrics declare them.
        role: what else it is used for. ``effectiveness`` of each variable under each intervention makes a table of its
            own; ``error`` is the quality that is charted against cost; ``answer-cost`` and ``fit-cost`` are added up,
            unit by unit, to the costs of that chart.
        averaged: whether the mean over the interventions stands in a table before theirs; for scores of sets.
        caveat: what may score well without being good; the column is marked, and the notes have the sentence.
        footnote: a sentence for the notes below the tables, with the methods whose score is above 0; a column that has
            one is not charted.
    """

    text: str
    direction: Literal["lower", "higher", "target", "none"]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    target: float | None = None
    privileged: bool = False
    subset: bool = False
    heading: str = ""
    printed: bool | None = None
    order: float = 100.0
    role: Role = ""
    averaged: bool = False
    caveat: str = ""
    footnote: str = ""


class Metric:
    """A score of a set of counterfactuals.

    Called once for each intervened variable (``scope`` "do"), on the null intervention ("null") or on the cell's
    costs ("cell"). Outputs are named ``column`` or ``column/variable``: per image [N], or 0-d where only a set has
    a score. The harness leaves out rows without a finite answer (or truth, where it is needed), and calls a metric
    that scores sets again without each group of factuals (``evidence.take``): what is slow belongs into
    ``evidence.judge`` or ``evidence.once``, which are kept.
    """

    columns: ClassVar[Mapping[str, Column]] = {}
    needs: ClassVar[frozenset[str]] = frozenset()
    """Optional evidence that must be there: truth, reverse, cycles, judges, measure."""
    scope: ClassVar[Literal["do", "null", "cell"]] = "do"

    def __call__(self, evidence: Evidence) -> Mapping[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(self, evidence)")
