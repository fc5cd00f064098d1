"""What a metric is called with: the answers of a cell, their factuals, judges and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from .contract import Split
from .graph import CausalGraph
from .images import ImageRows, block_rows

__all__ = ["Evidence", "JudgePanel"]


IMAGES = ("x", "answer", "truth", "reverse", "cycles")


class JudgePanel(Protocol):
    """The judges of a data set: frozen networks in evaluation mode, any batch size, images [B, C, H, W] in [0, 1]."""

    def read(self, x: Tensor) -> Mapping[str, Tensor]:
        """For each variable: class probabilities [B, K], or the value in raw units [B]."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Features [B, F] for realism: the attribute judge's penultimate layer."""
        ...

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, Z] of the unconditional VAE's posterior."""
        ...

    def reconstruct(self, x: Tensor, variable: str, value: Tensor | None = None) -> Tensor:
        """x [B, C, H, W] through the auto-encoder of each row's class ``value`` [B], or of all classes."""
        ...


class _ImageField:
    """Descriptor of a field that holds images or `ImageRows`; the latter are loaded on access."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, evidence: Any, owner: type | None = None) -> Any:
        return self if evidence is None else _loaded(vars(evidence)[self.name])

    def __set__(self, evidence: Any, value: Any) -> None:
        vars(evidence)[self.name] = value


class _LoadedOnAccess(Mapping[int, Tensor]):
    """Mapping of `ImageRows` that loads a value on access."""

    def __init__(self, images: Mapping[int, Any]) -> None:
        self.images = images

    def __getitem__(self, key: int) -> Tensor:
        return cast(Tensor, _loaded(self.images[key]))

    def __iter__(self) -> Iterator[int]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)


def _loaded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _LoadedOnAccess(value) if any(isinstance(v, ImageRows) for v in value.values()) else value
    return value.load() if isinstance(value, ImageRows) else value


def _chosen(value: Any, rows: Tensor) -> Any:
    """Rows of lazy images, without reading them."""
    if isinstance(value, Mapping):
        return {k: _chosen(v, rows) for k, v in value.items()}
    return value if value is None else value.take(rows) if isinstance(value, ImageRows) else ImageRows(value, rows)


@dataclass(frozen=True)
class _Whole:
    """A result on a whole set, which stays as it is when rows are picked."""

    result: Any


def _pick(value: Any, rows: Tensor) -> Any:
    if isinstance(value, _Whole):
        return value
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, tuple):
        return tuple(_pick(v, rows) for v in value)
    return {k: _pick(v, rows) for k, v in value.items()}


def _joined(parts: Iterable[Any], total: int) -> Any:
    """Row-wise results of consecutive blocks, concatenated to ``total`` rows.

    The whole result is allocated at the first block: small allocations between large buffers would keep the allocator
    from reusing theirs.
    """
    whole, start = None, 0
    for part in parts:
        rows = _length(part)
        if whole is None and rows == total:
            return part
        whole = _blank(part, total) if whole is None else whole
        _put(whole, part, slice(start, start + rows))
        start += rows
    return whole


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(part)


def _length(value: Any) -> int:
    return next((len(leaf) for leaf in _leaves(value)), 0)


def _blank(value: Any, total: int) -> Any:
    if isinstance(value, Tensor):
        return value.new_empty(total, *value.shape[1:])
    if isinstance(value, tuple):
        return tuple(_blank(v, total) for v in value)
    return {k: _blank(v, total) for k, v in value.items()}


def _put(whole: Any, part: Any, rows: slice) -> None:
    for into, leaf in zip(_leaves(whole), _leaves(part), strict=True):
        into[rows] = leaf


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """The answers of one cell to one kind of question, row by row.

    x, answer and truth are float32 [N, C, H, W] in [0, 1], pa and cf_pa float32 [N, D]. The harness gives only
    rows whose answer is finite (and whose truth is, where the metric needs it); `real` holds images that trained
    no method, the factuals excluded. ``cycles[k]`` is the image after k null interventions with fresh abduction,
    ``reverse`` the image after the intervention and its reversal. ``do`` is the variable that is intervened on where
    ``scope`` is "do"; it means nothing under the null intervention ("null") and for costs ("cell").

    Images may be given as `ImageRows`, which are loaded when a metric accesses them. A metric whose scores are all per
    image is called on blocks of rows where there are many.
    """

    graph: CausalGraph
    do: str
    x: Tensor
    pa: Tensor
    cf_pa: Tensor
    answer: Tensor
    real: Split
    judges: JudgePanel | None = None
    measure: Callable[[Tensor], Mapping[str, Tensor] | None] | None = None
    truth: Tensor | None = None
    reverse: Tensor | None = None
    cycles: Mapping[int, Tensor] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    scope: Literal["do", "null", "cell"] = "do"
    block_of: tuple[Evidence, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.pa)

    def has(self, name: str) -> bool:
        """Whether an optional field (truth, reverse, cycles, judges, measure) is given."""
        value = vars(self)[name]
        return bool(value) if isinstance(value, Mapping) else value is not None

    def take(self, rows: Tensor) -> Evidence:
        """The evidence of some rows (an index or mask [N]), with memoised results.

        Images are neither read nor copied.
        """
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        images = {k: _chosen(vars(self)[k], rows) for k in IMAGES}
        memo = {k: _pick(v, rows) for k, v in self.memo.items()}
        values = {**vars(self), **images, "memo": memo, "block_of": None}
        return Evidence(**values | {"pa": self.pa[rows], "cf_pa": self.cf_pa[rows]})

    def blocks(self) -> Iterator[Evidence]:
        """Consecutive blocks of rows that bound the memory; the evidence itself if it is small."""
        size = block_rows(self.graph.shape)
        if len(self) <= size:
            yield self
            return
        for rows in torch.arange(len(self)).split(size):
            yield Evidence(**{**vars(self.take(rows)), "block_of": (self, rows)})

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """A row-wise result (tensors [N, ...], tuples or dicts of them) computed once and kept through `take`."""
        if name not in self.memo:
            with torch.no_grad():
                self.memo[name] = compute()
        return self.memo[name]

    def of_set(self, name: str, compute: Callable[[], Any]) -> tuple[Any, Tensor]:
        """A result on the set as it is at the first call, kept whole through `take`, and its rows [N] that are here.

        What a score loses with a few rows follows from it without a look at all the others.
        """
        kept, rows = self.once(name, lambda: (_Whole(compute()), torch.arange(len(self))))
        return kept.result, rows

    def each(self, name: str, compute: Callable[[Evidence], Any]) -> Any:
        """As `once`, for results that are independent for each row: ``compute`` is called on blocks of rows."""
        if self.block_of is None:
            return self.once(name, lambda: _joined(map(compute, self.blocks()), len(self)))
        whole, rows = self.block_of
        return self.once(name, lambda: _pick(whole.each(name, compute), rows))

    def of_real(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result on ``real`` images, computed once for all sets of answers of a cell."""
        if name not in self.shared:
            with torch.no_grad():
                self.shared[name] = compute()
        return self.shared[name]

    def judge(self, how: str, images: str) -> Any:
        """``judges.how`` (read, features, encode) of ``images`` (x, answer, truth, reverse), computed once."""
        return self.each(f"{how}:{images}", lambda block: getattr(block._panel, how)(getattr(block, images)))

    def judge_real(self, how: str) -> Any:
        """``judges.how`` of the real images, computed once."""
        size = block_rows(self.graph.shape)
        starts, total = range(0, max(len(self.real), 1), size), len(self.real)
        judge = getattr(self._panel, how)
        return self.of_real(how, lambda: _joined((judge(self.real[i : i + size].x) for i in starts), total))

    @property
    def _panel(self) -> JudgePanel:
        if self.judges is None:
            raise ValueError("this metric needs judges: name them in `needs`")
        return self.judges


for _name in IMAGES:
    setattr(Evidence, _name, _ImageField(_name))
