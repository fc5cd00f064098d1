"""Everything that a metric may look at for a set of counterfactuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .contract import Split
from .graph import CausalGraph

__all__ = ["Evidence", "JudgePanel"]


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


@dataclass(frozen=True)
class Evidence:
    """The answers of one cell to one kind of question, row by row.

    x, answer and truth are float32 [N, C, H, W] in [0, 1], pa and cf_pa float32 [N, D]. The harness hands over
    rows whose answer is finite (and whose truth is, where the metric needs it); `real` holds images that trained
    no method, the factuals excluded. ``cycles[k]`` is the image after k null interventions with fresh abduction,
    ``reverse`` the image after the intervention and its reversal.
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

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Evidence:
        """The evidence of some rows (an index or mask [N]; rows may repeat), with what is already computed."""

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[rows]
            if isinstance(value, tuple):
                return tuple(pick(v) for v in value)
            return {k: pick(v) for k, v in value.items()}

        rowwise = ("x", "pa", "cf_pa", "answer", "truth", "reverse", "cycles")
        changed = {
            f.name: pick(v) for f in fields(self) if f.name in rowwise and (v := getattr(self, f.name)) is not None
        }
        return replace(self, **changed, memo={k: pick(v) for k, v in self.memo.items()})

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """A row-wise result (tensors [N, ...], tuples or dicts of them) computed once and kept through `take`."""
        if name not in self.memo:
            with torch.no_grad():
                self.memo[name] = compute()
        return self.memo[name]

    def of_real(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result on ``real`` images, computed once for all sets of answers of a cell."""
        if name not in self.shared:
            with torch.no_grad():
                self.shared[name] = compute()
        return self.shared[name]

    def judge(self, how: str, images: str) -> Any:
        """``judges.how`` (read, features, encode) of ``images`` (x, answer, truth, reverse), computed once."""
        return self.once(f"{how}:{images}", lambda: getattr(self._panel, how)(getattr(self, images)))

    def judge_real(self, how: str) -> Any:
        """``judges.how`` of the real images, computed once."""
        return self.of_real(how, lambda: getattr(self._panel, how)(self.real.x))

    @property
    def _panel(self) -> JudgePanel:
        if self.judges is None:
            raise ValueError("this metric needs judges: name them in `needs`")
        return self.judges
