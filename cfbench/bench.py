"""What every stage works with: the job's plugins, the device, and the run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import store
from .cells import Cell
from .contract import Control, Method
from .digest import key_of
from .environment import describe, pick_device, quiet
from .events import note
from .lowered import bfloat16
from .progress import heard
from .rng import derive
from .spec import Spec
from .workshop import Workshop

__all__ = ["Bench"]


@dataclass(frozen=True)
class Bench:
    """A place to work on one run.

    ``progress(stage, done, total, loss)`` moves the live display; ``others()`` is how many other tasks were seen to
    compute on the device since this one began.
    """

    shop: Workshop
    progress: Callable[..., None] = field(default=lambda stage, done, total, loss=None: None)
    others: Callable[[], int] = field(default=lambda: 0)

    @property
    def device(self) -> torch.device:
        return pick_device(self.shop.job.device)

    def reporting(self, spec: Spec) -> AbstractContextManager[None]:
        """A block in which a data set says in the live display what it makes."""
        return heard(self.shop.dataset(spec), self.progress)

    def folder(self, cell: Cell, stage: str) -> Path:
        """Where a stage of a cell lies."""
        return self.shop.job.folder / cell.stage(stage)

    @contextmanager
    def writing(self, folder: Path, **about: Any) -> Iterator[Path]:
        """A stage's folder in the making, as `store.writing`, noted in the run's log by whoever made it first."""
        with store.writing(folder, **about) as draft:
            yield draft
            made = draft.stat().st_ino
        if folder.stat().st_ino == made:
            note(self.shop.job.folder, "wrote", stage=str(folder.relative_to(self.shop.job.folder)))

    def quiet(self, stage: str, seed: int = 0) -> AbstractContextManager[None]:
        """A block with the global random state and the threads of a stage, both put back afterwards."""
        return quiet(derive(stage, seed), self.shop.job.threads)

    def precise(self, plugin: Method | Control) -> AbstractContextManager[None]:
        """Context manager under which a plugin computes: a method in bfloat16 where the job says so."""
        lowered = self.shop.job.precision == "bf16" and isinstance(plugin, Method)
        return bfloat16(self.device) if lowered else nullcontext()

    def env(self) -> str:
        """The key under which the environment of this process is described in the run's folder."""
        about = describe(self.device, self.shop.job.threads)
        key = key_of(about)
        path = self.shop.job.folder / "env" / f"{key}.json"
        if not path.exists():
            store.write_json(path, about)
        return key
