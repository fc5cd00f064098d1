"""The causal graph over the parents of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

__all__ = ["CausalGraph", "Variable"]


@dataclass(frozen=True)
class Variable:
    """A named cause of the image.

    ``size`` counts the classes of a categorical variable, ``low`` and ``high`` bound a continuous one (in
    ``unit``). ``truth`` says what the data set's answer to do(name) is worth: ``exact`` (identified by the known
    SCM), ``convention`` (one choice among several that the data allow) or ``none``.
    """

    name: str
    kind: Literal["categorical", "continuous"]
    size: int = 1
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    parents: tuple[str, ...] = ()
    truth: Literal["exact", "convention", "none"] = "none"

    @property
    def categorical(self) -> bool:
        return self.kind == "categorical"


@dataclass(frozen=True)
class CausalGraph:
    """Variables in the order of the columns of ``pa`` [B, D], and the image's shape (C, H, W).

    Raises:
        ValueError: a name occurs twice, a parent is unknown, or the edges form a cycle.
    """

    variables: tuple[Variable, ...]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"a variable occurs twice among {', '.join(names)}")
        for v in self.variables:
            for parent in v.parents:
                if parent not in names:
                    raise ValueError(f"{v.name} has the unknown parent {parent!r}; known: {', '.join(names)}")
        if len(self.order) < len(names):
            raise ValueError(f"the edges among {', '.join(names)} form a cycle")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.variables)

    @property
    def roots(self) -> bool:
        """Whether no variable has a parent, so that an intervention changes nothing but its own variable."""
        return not any(v.parents for v in self.variables)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Names in a causal order, parents first."""
        done: list[str] = []
        while ready := [v.name for v in self.variables if v.name not in done and set(v.parents) <= set(done)]:
            done += ready
        return tuple(done)

    def index(self, name: str) -> int:
        """The column of ``name`` in ``pa``."""
        return self.names.index(name)

    def __getitem__(self, name: str) -> Variable:
        return self.variables[self.index(name)]

    def descendants(self, name: str) -> tuple[str, ...]:
        """Variables that an intervention on ``name`` may change, ``name`` itself excluded."""
        found: set[str] = set()
        for other in self.order:
            if set(self[other].parents) & (found | {name}):
                found.add(other)
        return tuple(n for n in self.names if n in found)

    def set(self, pa: Tensor, do: Mapping[str, Tensor]) -> Tensor:
        """``pa`` with the columns in ``do`` replaced: the action on parents that respond to nothing."""
        pa = pa.clone()
        for name, value in do.items():
            pa[:, self.index(name)] = torch.as_tensor(value, dtype=pa.dtype, device=pa.device)
        return pa
