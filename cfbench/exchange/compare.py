"""How far the numbers of two stages are apart that should hold the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import storage

__all__ = ["Gap", "gaps"]


UNASKED = {"costs.json", "log.jsonl"}
"""What is measured anew each time: seconds, memory, and the log that tells them."""


@dataclass(frozen=True)
class Gap:
    """The largest difference of one tensor or column, and the largest number in it; infinite where one has none.

    ``ours`` and ``theirs`` are the score of all questions, where it is a score.
    """

    what: str
    largest: float
    scale: float
    ours: float = math.nan
    theirs: float = math.nan

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most that share of the largest number."""
        return self.largest <= tolerance * self.scale

    def __str__(self) -> str:
        both = "" if math.isnan(self.ours) and math.isnan(self.theirs) else f" ({self.ours:.6g}, {self.theirs:.6g})"
        return f"{self.what} by up to {self.largest:.2g}{both}"


def gaps(ours: Path, theirs: Path) -> list[Gap]:
    """What differs between two stages of one name: tensors, chosen parameters, or columns of scores but for costs."""
    digests = [_digests(folder) for folder in (ours, theirs)]
    if digests[0] == digests[1]:
        return []
    if ours.name.startswith("score-"):
        return list(_score_gaps(ours, theirs))
    found = [g for name in sorted(set().union(*digests)) for g in _file_gaps(name, ours, theirs, digests)]
    return [g for g in found if g.largest > 0]


def _digests(folder: Path) -> dict[str, str]:
    files: Mapping[str, str] = storage.read_json(folder / storage.MANIFEST)["files"]
    return {n: digest for n, digest in files.items() if n not in UNASKED}


def _file_gaps(name: str, ours: Path, theirs: Path, digests: list[dict[str, str]]) -> Iterator[Gap]:
    if digests[0].get(name) == digests[1].get(name):
        return
    if name.endswith(".safetensors"):
        here, there = (
            storage.read_tensors(f / name) if name in d else {} for f, d in zip((ours, theirs), digests, strict=True)
        )
        for tensor in dict.fromkeys([*here, *there]):
            yield _gap(tensor, here.get(tensor), there.get(tensor))
    elif name == "chosen.json":
        here, there = (
            storage.read_json(f / name) if name in d else {} for f, d in zip((ours, theirs), digests, strict=True)
        )
        for key in dict.fromkeys([*here, *there]):
            if here.get(key) != there.get(key):
                yield Gap(f"{key}={here.get(key)} or {there.get(key)}", math.inf, 0)


def _gap(what: str, ours: Tensor | None, theirs: Tensor | None) -> Gap:
    """Where both are NaN they are the same."""
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return Gap(what, math.inf, 0)
    a, b = ours.double(), theirs.double()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0, (a - b).abs()).nan_to_num(math.inf, math.inf)
    scale = torch.cat([a.flatten(), b.flatten()]).abs().nan_to_num(0, 0)
    return Gap(what, float(apart.max()) if apart.numel() else 0.0, float(scale.max()) if scale.numel() else 0.0)


def _score_gaps(ours: Path, theirs: Path) -> Iterator[Gap]:
    """The largest of each column, over interventions, variables and questions."""
    here, there = _rows(ours), _rows(theirs)
    columns: dict[str, list[Gap]] = {}
    for at in dict.fromkeys([*here, *there]):
        do, column, variable = at
        where = f"{column}{f'/{variable}' if variable else ''} {f'do({do})' if do != 'null' else 'no intervention'}"
        columns.setdefault(column, []).append(_row_gap(where, here.get(at), there.get(at)))
    for found in columns.values():
        worst = max(found, key=lambda gap: gap.largest)
        if worst.largest > 0:
            yield worst


def _row_gap(what: str, ours: tuple[float, Tensor] | None, theirs: tuple[float, Tensor] | None) -> Gap:
    if ours is None or theirs is None:
        return Gap(what, math.inf, 0)
    (a, raw), (b, other) = ours, theirs
    point = _gap(what, torch.tensor([a]), torch.tensor([b]))
    spread = _gap(what, raw, other)
    return Gap(what, max(point.largest, spread.largest), max(point.scale, spread.scale), a, b)


def _rows(stage: Path) -> dict[tuple[str, str, str], tuple[float, Tensor]]:
    """The value and raw scores of every row that is no cost."""
    rows: list[dict[str, Any]] = storage.read_json(stage / "scores.json")["rows"]
    tensors = storage.read_tensors(stage / "scores.safetensors")
    at = [(r["do"], r["column"], r["variable"]) for r in rows]
    return {
        a: (float(row["value"]), tensors["|".join(a)]) for a, row in zip(at, rows, strict=True) if row["kind"] != "cell"
    }
