"""Pictures that a notebook displays, and drawing that leaves its settings alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Picture", "drawing"]


@dataclass(frozen=True)
class Picture:
    """A PNG that a notebook displays; ``path`` is there as long as this object is."""

    path: Path
    keep: Any = field(default=None, repr=False, compare=False)

    def save(self, path: str | Path) -> Path:
        """Copy the PNG to ``path``."""
        return Path(shutil.copyfile(self.path, path))

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


@contextmanager
def drawing() -> Iterator[None]:
    """A block that draws, after which matplotlib's backend and settings are the notebook's own again."""
    import matplotlib

    before = dict.__getitem__(matplotlib.rcParams, "backend")  # asking in the usual way would choose one
    try:
        with matplotlib.rc_context():
            yield
    finally:
        if isinstance(before, str):
            matplotlib.use(before)
        else:
            dict.__setitem__(matplotlib.rcParams, "backend", before)
