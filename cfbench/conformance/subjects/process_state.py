"""Context managers that seed the global generators of the process, or record uses of test data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ...contract import Dataset
from ...runs.environment import ProcessState

__all__ = ["recording_test_data", "seeded"]


@contextmanager
def seeded(seed: int, others: int) -> Iterator[None]:
    """Context manager that seeds torch's global generator, and numpy's and Python's with ``others``; restores all."""
    before = ProcessState()
    torch.manual_seed(seed)
    np.random.seed(others)
    random.seed(others)
    try:
        yield
    finally:
        before.restore()


@contextmanager
def recording_test_data(uses: list[str], what: str) -> Iterator[None]:
    """Context manager that appends to ``uses`` every call of any data set's oracle or for its test split.

    Attributes of all `Dataset` objects are looked up through the base class, so that classes imported later are
    covered too.
    """

    def lookup(self: Dataset, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return _recorded(uses, what, type(self), name, found) if name in ("split", "oracle") else found

    outer = vars(Dataset).get("__getattribute__")
    type.__setattr__(Dataset, "__getattribute__", lookup)
    try:
        yield
    finally:
        if outer is None:
            type.__delattr__(Dataset, "__getattribute__")
        else:
            type.__setattr__(Dataset, "__getattribute__", outer)


def _recorded(uses: list[str], what: str, cls: type[Any], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        texts = [a for a in (*args, *kwargs.values()) if isinstance(a, str)]
        if name == "oracle" or "test" in texts:
            uses.append(f"{what} calls {cls.__name__}.{name}({', '.join(map(repr, texts)) or '...'})")
        return method(*args, **kwargs)

    return call
