"""The differences between two stages that should hold the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import storage
from ..runs.stage_reader import raw_scores

__all__ = ["Difference", "differences"]


IGNORED = {"costs.json", "log.jsonl"}
"""Files whose numbers differ between executions: seconds, memory, and the log that holds them."""


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of one tensor or column, and the largest number in it.

    The difference is infinite where only one side has the tensor or a number. ``ours`` and ``theirs`` are the scores
    over all questions where the column holds scores, otherwise NaN.
    """

    name: str
    largest: float
    scale: float
    ours: float = math.nan
    theirs: float = math.nan

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most ``tolerance`` times the largest number."""
        return self.largest <= tolerance * self.scale

    def __str__(self) -> str:
        both = "" if math.isnan(self.ours) and math.isnan(self.theirs) else f" ({self.ours:.6g}, {self.theirs:.6g})"
        return f"{self.name} by up to {self.largest:.2g}{both}"


def differences(ours: Path, theirs: Path) -> list[Difference]:
    """The tensors, chosen parameters or columns of scores, except costs, that differ between two stages of one name."""
    digests = [_digests(folder) for folder in (ours, theirs)]
    if digests[0] == digests[1]:
        return []
    if ours.name.startswith("score-"):
        return list(_score_differences(ours, theirs))
    found = [d for name in sorted(set().union(*digests)) for d in _file_differences(name, ours, theirs, digests)]
    return [d for d in found if d.largest > 0]


def _digests(folder: Path) -> dict[str, str]:
    files: Mapping[str, str] = storage.read_json(folder / storage.MANIFEST)["files"]
    return {n: digest for n, digest in files.items() if n not in IGNORED}


def _file_differences(name: str, ours: Path, theirs: Path, digests: list[dict[str, str]]) -> Iterator[Difference]:
    tensors = name.endswith(".safetensors")
    if digests[0].get(name) == digests[1].get(name) or not (tensors or name == "chosen.json"):
        return
    read: Callable[[Path], Mapping[str, Any]] = storage.read_tensors if tensors else storage.read_json
    a, b = (read(f / name) if name in d else {} for f, d in zip((ours, theirs), digests, strict=True))
    for key in dict.fromkeys([*a, *b]):
        if tensors:
            yield _difference(key, a.get(key), b.get(key))
        elif a.get(key) != b.get(key):
            yield Difference(f"{key}={a.get(key)} or {b.get(key)}", math.inf, 0)


def _difference(name: str, ours: Tensor | None, theirs: Tensor | None) -> Difference:
    """The difference of two tensors; NaN equals NaN."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return Difference(name, math.inf, 0)
    a, b = ours.double(), theirs.double()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0, (a - b).abs()).nan_to_num(math.inf, math.inf)
    scale = torch.cat([a.flatten(), b.flatten()]).abs().nan_to_num(0, 0)
    return Difference(name, float(apart.max()) if apart.numel() else 0.0, float(scale.max()) if scale.numel() else 0.0)


def _score_differences(ours: Path, theirs: Path) -> Iterator[Difference]:
    """The largest difference of each column over interventions, variables and questions; none for equal columns."""
    here, there = _rows(ours), _rows(theirs)
    columns: dict[str, list[Difference]] = {}
    for at in dict.fromkeys([*here, *there]):
        do, column, variable = at
        where = f"{column}{f'/{variable}' if variable else ''} {f'do({do})' if do != 'null' else 'no intervention'}"
        columns.setdefault(column, []).append(_row_difference(where, here.get(at), there.get(at)))
    for found in columns.values():
        worst = max(found, key=lambda row: row.largest)
        if worst.largest > 0:
            yield worst


def _row_difference(name: str, ours: tuple[float, Tensor] | None, theirs: tuple[float, Tensor] | None) -> Difference:
    if ours is None or theirs is None:
        return Difference(name, math.inf, 0)
    (a, raw), (b, other) = ours, theirs
    point = _difference(name, torch.tensor([a]), torch.tensor([b]))
    spread = _difference(name, raw, other)
    return Difference(name, max(point.largest, spread.largest), max(point.scale, spread.scale), a, b)


def _rows(stage: Path) -> dict[tuple[str, str, str], tuple[float, Tensor]]:
    """The value and raw scores of every row that is no cost, by (intervention, column, variable)."""
    rows: list[dict[str, Any]] = storage.read_json(stage / "scores.json")["rows"]
    tensors = storage.read_tensors(stage / "scores.safetensors")
    return {
        (row["do"], row["column"], row["variable"]): (float(row["value"]), raw_scores(row, tensors))
        for row in rows
        if row["kind"] != "cell"
    }
