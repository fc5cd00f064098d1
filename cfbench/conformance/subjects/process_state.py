"""Blocks with seeded generators, and blocks in which uses of test data are written down."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...contract import Dataset
from ...runs.environment import ProcessState

__all__ = ["Peeks", "seeded", "watched"]


@contextmanager
def seeded(seed: int, others: int) -> Iterator[None]:
    """A block with torch's global generator seeded, and numpy's and Python's with ``others``; all are put back."""
    before = ProcessState()
    torch.manual_seed(seed)
    np.random.seed(others)
    random.seed(others)
    try:
        yield
    finally:
        before.restore()


class Peeks(list[str]):
    """Calls that asked a data set for test images or for the truth, in words."""


@contextmanager
def watched(peeks: Peeks, what: str) -> Iterator[None]:
    """A block in which every use of any data set's test split or oracle is written down.

    Attributes of `Dataset` objects are looked up through the base class for the time of the block, so that classes
    that are imported meanwhile are watched too.
    """

    def lookup(self: Dataset, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return _reporting(peeks, what, type(self), name, found) if name in ("split", "oracle") else found

    outer = vars(Dataset).get("__getattribute__")
    type.__setattr__(Dataset, "__getattribute__", lookup)
    try:
        yield
    finally:
        if outer is None:
            type.__delattr__(Dataset, "__getattribute__")
        else:
            type.__setattr__(Dataset, "__getattribute__", outer)


def _reporting(peeks: Peeks, what: str, cls: type[Any], name: str, found: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, str)]
        if name == "oracle" or "test" in given:
            peeks.append(f"{what} calls {cls.__name__}.{name}({', '.join(map(repr, given)) or '...'})")
        return found(*args, **kwargs)

    return call
