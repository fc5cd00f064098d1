"""Checkpoints of a fit, from which one that was killed continues and ends with the same weights."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..contract import Fit
from ..errors import UserError
from ..evaluation.clock import cpu_time
from ..plugins.digest import key_of
from ..storage.schema import SchemaError, mapping, number, printable, whole_number
from ..storage.stage import read_json, sha256, write_json
from ..storage.temporary import atomic_write, remove_tree
from ..storage.tensors import load_state, restore_state, save_state

__all__ = ["Checkpoints", "Resumption", "checkpoints_of", "resumption"]


@dataclass(frozen=True)
class Resumption:
    """Where a fit continues: after ``step`` of ``steps`` of a stage, for which ``seconds`` were spent before."""

    stage: str
    step: int
    steps: int
    seconds: float

    def __str__(self) -> str:
        return f"from step {self.step:,} of {self.steps:,}" + (f" ({self.stage})" if self.stage else "")


def checkpoints_of(folder: Path) -> Path:
    """The folder of the checkpoints of a fit that will be stored in ``folder``."""
    return folder.with_name(f".{folder.name}-checkpoints")


def resumption(folder: Path) -> Resumption | None:
    """Where the fit that will be stored in ``folder`` continues; None where it has no checkpoint that can be read."""
    try:
        found = sorted(checkpoints_of(folder).glob("*.json"), key=lambda p: int(p.stem))
        about = mapping(read_json(found[-1])) if found else {}
        whole, seconds = whole_number(0, 2**53), number(about["seconds"])
        return Resumption(printable(about["stage"], 60), whole(about["step"]), whole(about["steps"]), seconds)
    except (UserError, SchemaError, LookupError, ValueError, OSError):
        return None


class Checkpoints:
    """Saves the state of each stage of a fit in a folder, at intervals and at the stage's end.

    Stages are identified by their order: a fit that continues repeats the code between them, skips those that were
    finished, restoring the state at their end, and resumes the one that was in progress.

    Args:
        folder: of the checkpoints; removed by `discard` when the weights are stored.
        rows: the training log, restored with a checkpoint.
        resumed: called with where the fit continues, once for each of its stages that was begun.
        interval: seconds between two checkpoints; by default CFBENCH_CHECKPOINT_S, or 20.
    """

    def __init__(
        self, folder: Path, rows: list[Mapping[str, object]], *, interval: float | None = None,
        resumed: Callable[[Resumption], None] = lambda resumption: None,
    ) -> None:  # fmt: skip
        self.folder, self.rows, self.resumed = folder, rows, resumed
        self.interval = float(os.environ.get("CFBENCH_CHECKPOINT_S", 20)) if interval is None else interval
        self.number, self.signature, self.stage, self.before, self.cpu_before = 0, "", "", 0.0, 0.0
        self.start()

    def start(self) -> None:
        """Start to measure time."""
        self.begun = self.saved = time.perf_counter()
        self.cpu_begun = cpu_time()

    @property
    def seconds(self) -> float:
        """The seconds that the fit took, in this process and in those that were killed."""
        return self.before + time.perf_counter() - self.begun

    @property
    def cpu_seconds(self) -> float:
        """The seconds of the processor that the fit took, likewise."""
        return self.cpu_before + cpu_time() - self.cpu_begun

    def begin(self, run: Fit, stage: str, steps: int, size: int, keep: Mapping[str, Any]) -> tuple[int, Tensor]:
        """Restore a checkpoint of this stage; return the steps that were done, and the indices still to be drawn."""
        self.number, self.stage = self.number + 1, stage
        self.signature = key_of(self.number, stage, steps, size, sorted(keep))
        found = self._read(self.folder / f"{self.number}.json")
        if found is None:
            return 0, torch.empty(0, dtype=torch.long)
        about, state = found
        for name, value in state["keep"].items():
            restore_state(keep[name], value)
        run.rng.set_state(state["rng"])
        torch.set_rng_state(state["global_rng"])
        np.random.set_state(state["numpy_rng"])
        random.setstate(_tuples(state["python_rng"]))
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], run.device)
        run.seen, self.before, self.begun = about["seen"], about["seconds"], time.perf_counter()
        self.cpu_before, self.cpu_begun = about["cpu_seconds"], cpu_time()
        self.rows[:] = about["rows"]
        self.resumed(Resumption(stage, about["step"], steps, about["seconds"]))
        return about["step"], state["queue"]

    def step(self, run: Fit, done: int, steps: int, queue: Tensor, keep: Mapping[str, Any]) -> None:
        """Save the state after ``done`` steps, if the interval is over or this is the last step.

        A checkpoint that cannot be written is no error: the disk is full, or another process executes the same fit, as
        when a driver was killed and its worker continues.
        """
        if done < steps and time.perf_counter() - self.saved < self.interval:
            return
        states = {name: value.state_dict() if hasattr(value, "state_dict") else value for name, value in keep.items()}
        state: dict[str, Any] = {"keep": states, "queue": queue}
        state |= {"rng": run.rng.get_state(), "global_rng": torch.get_rng_state()}
        state |= {"numpy_rng": _lists(np.random.get_state(legacy=False)), "python_rng": random.getstate()}
        if run.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(run.device)
        with suppress(OSError, SafetensorError):
            about = {"what": self.signature, "stage": self.stage, "step": done, "steps": steps}
            self._write(state, {**about, "seen": run.seen, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds})
        self.saved = time.perf_counter()

    def _write(self, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        file = self.folder / f"{self.number}-{about['step']}.safetensors"
        with atomic_write(file) as draft:
            save_state(state, draft)
            digest = sha256(draft)
        write_json(
            self.folder / f"{self.number}.json", {**about, "rows": self.rows, "file": file.name, "sha256": digest}
        )
        for old in self.folder.glob(f"{self.number}-*.safetensors"):
            if old != file:
                old.unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The checkpoint of the present stage; None where there is none, or it is damaged or of another fit."""
        if not path.is_file():
            return None
        try:
            about = read_json(path)
            file = self.folder / Path(about["file"]).name
            if about["what"] != self.signature or sha256(file) != about["sha256"]:
                return None
            return about, load_state(file)
        except Exception:  # whatever is wrong with a checkpoint, the fit can start without it
            return None

    def discard(self) -> None:
        """Remove all checkpoints."""
        remove_tree(self.folder, ignore_errors=True)


def _lists(state: Any) -> Any:
    """A state with arrays replaced by lists."""
    if isinstance(state, Mapping):
        return {name: _lists(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


def _tuples(state: Any) -> Any:
    """A state with lists replaced by tuples."""
    return tuple(map(_tuples, state)) if isinstance(state, list) else state
