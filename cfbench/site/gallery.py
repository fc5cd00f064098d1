"""The gallery of a data set: questions with factual, truth and all answers as PNG sheets, and their scores."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import storage
from ..evaluation.plan import Asked, Plan
from ..graph import Variable
from ..report.board import Board
from ..report.columns import Key
from ..report.format import column_name
from ..runs.manifest import DatasetEntry
from ..runs.reader import StoredRun
from ..storage.tensors import StoredArray, open_arrays
from .model import Gallery

__all__ = ["make_gallery"]

QUESTIONS = 128
"""Questions of a variable that are shown."""
NUMBERS = 5_000_000
"""Numbers of all images together, which bounds the size of a page; of larger images fewer questions are shown."""


@dataclass(frozen=True)
class _Shown:
    """What is shown: of a plan's questions the first ``most`` of each variable."""

    entry: DatasetEntry
    plan: Plan
    most: int

    @property
    def asked(self) -> dict[str, int]:
        """The number of questions of each variable."""
        return {v: min(len(a), self.most) for v, a in self.plan.asked.items()}

    @property
    def total(self) -> int:
        return sum(self.asked.values())


def make_gallery(run: StoredRun, board: Board) -> Gallery | None:
    """The gallery of a data set; None where the plan asks nothing.

    Answers are those of the first seed of each row; rows that repeat another one are left out.
    """
    dataset = board.results.dataset
    entry = run.manifest.datasets[dataset]
    plan = Plan.load(run.folder / entry.plan)
    found = dict(_answers(run, dataset))
    answers = {m: found[m] for m in board.methods if m in found}
    rows, variables = len(answers) + 2, max(len(plan.asked), 1)
    shown = _Shown(entry, plan, max(min(QUESTIONS, NUMBERS // (math.prod(entry.shape) * rows * variables)), 1))
    if not shown.total:
        return None
    pictures = {name: _sheet(images) for name, images in _pictures(run, shown, answers)}
    names = {name: f"answers-{number}.png" for number, name in enumerate(pictures)}
    data = {
        "shape": list(entry.shape),
        "rows": [
            {"name": name, "kind": _kind(board, name), "sheet": names[name], **about}
            for name, (_, about) in pictures.items()
        ],
        "before": [_parents(entry.graph.variables, pa) for pa in plan.pa[: _factuals(shown)].tolist()],
        "variables": list(_variables(shown)),
        "metrics": list(_metrics(board, shown, {m: seed for m, (seed, _) in answers.items()})),
    }
    seeds = " of the first training seed" if len(board.results.seeds) > 1 else ""
    asked = ", ".join(f"{n} of {len(plan.asked[v]):,} about {v}" for v, n in shown.asked.items())
    note = f"Shown are the first questions of the plan ({asked}), with the answers{seeds}."
    return Gallery(data, {names[name]: png for name, (png, _) in pictures.items()}, note)


def _answers(run: StoredRun, dataset: str) -> Iterator[tuple[str, tuple[int, Path]]]:
    """Each row that answered, with its first seed and the folder of its answers."""
    seen = set()
    for cell, state in run.states_of(dataset):
        folder = run.folder / cell.stage("images")
        if state.in_gallery and state.method not in seen and storage.is_complete(folder):
            seen.add(state.method)
            yield state.method, (cell.seed, folder)


FACTUAL, TRUTH = "factual", "truth"


def _kind(board: Board, name: str) -> str:
    if name in (FACTUAL, TRUTH) and name not in board.methods:
        return name
    return "control" if board.is_control(name) else "method"


def _pictures(
    run: StoredRun, shown: _Shown, answers: Mapping[str, tuple[int, Path]]
) -> Iterator[tuple[str, tuple[Tensor, dict[str, Any]]]]:
    """The images [T, C, H, W] of each row, with what the page's script must know of them.

    Those of factuals stand in the order of the plan, all others in that of the questions. NaN is no image.
    """
    folder = run.folder / shown.entry.plan
    yield FACTUAL, (open_arrays(folder / "factuals.safetensors")["x"][: _factuals(shown)].float() / 255, {})
    truth = open_arrays(folder / "truth.safetensors")
    if any(f"do/{v}" in truth for v in shown.asked):
        yield TRUTH, (_asked(shown, truth), {})
    for name, (_, images) in answers.items():
        yield name, (_asked(shown, open_arrays(images / "answers.safetensors")), {})


def _factuals(shown: _Shown) -> int:
    """How many factuals the questions shown are about, counted from the first."""
    return max(int(a.factual[: shown.most].max()) + 1 for a in shown.plan.asked.values() if len(a))


def _asked(shown: _Shown, arrays: Mapping[str, StoredArray]) -> Tensor:
    parts = []
    for v, count in shown.asked.items():
        known = arrays.get(f"do/{v}")
        parts.append(torch.full((count, *shown.entry.shape), torch.nan) if known is None else known[:count].float())
    return torch.cat(parts)


def _sheet(row: tuple[Tensor, dict[str, Any]]) -> tuple[bytes, dict[str, Any]]:
    """All images of a row as one PNG of tiles, row by row; which tiles are missing, and how many stand in a line."""
    from PIL import Image

    images, about = row
    missing = (~images.isfinite()).flatten(1).any(1)
    tiles = (images.nan_to_num().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    count, height, width, channels = tiles.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    padded = np.zeros((across * down, height, width, channels), np.uint8)
    padded[:count] = tiles
    grid = padded.reshape(down, across, height, width, channels).swapaxes(1, 2)
    pixels = grid.reshape(down * height, across * width, channels)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG", optimize=True)
    return file.getvalue(), {**about, "across": across, "missing": missing.nonzero()[:, 0].tolist()}


def _variables(shown: _Shown) -> Iterator[dict[str, Any]]:
    """The questions about each variable: which factual, what was asked, and the parents after it."""
    graph, at = shown.entry.graph, 0
    for name, count in shown.asked.items():
        asked: Asked = shown.plan.asked[name]
        v = graph[name]
        yield {
            "name": name,
            "first": at,
            "factual": asked.factual[:count].tolist(),
            "asked": [f"do({name} = {_value(v, x)})" for x in asked.value[:count].tolist()],
            "after": [_parents(graph.variables, pa) for pa in asked.cf_pa[:count].tolist()],
            "supported": asked.supported[:count].tolist(),
        }
        at += count


def _parents(variables: Iterable[Variable], values: Iterable[float]) -> str:
    return ", ".join(f"{v.name} {_value(v, x)}" for v, x in zip(variables, values, strict=True))


def _value(v: Variable, x: float) -> str:
    """A value of a variable, with its unit."""
    return str(int(x)) if v.categorical else f"{x:.3g}" + (f" {v.unit}" if v.unit else "")


def _metrics(board: Board, shown: _Shown, seeds: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The printed metrics that give each answer a score and have a better side, with the scores of each row."""
    keys = [k for section in board.sections if section.do in shown.asked for k in section.keys]
    for key in sorted(keys, key=lambda k: (board.is_doubtful(k), board.about(k).role != "error")):
        about = board.about(key)
        if board.columns[key].kind == "image" and about.direction in ("lower", "higher"):
            yield {
                "name": column_name(board, key) + (f" [{about.unit}]" if about.unit else ""),
                "do": key.do,
                "higher": about.direction == "higher",
                "weak": board.is_doubtful(key),
                "scores": {m: _scores(board, key, m, s, shown.asked[key.do]) for m, s in seeds.items()},
            }


def _scores(board: Board, key: Key, method: str, seed: int, count: int) -> list[float | None]:
    """The score of each answer in three digits; None where there is none."""
    score = board.scores[key].get((method, seed))
    values = [math.nan] * count if score is None else score.values[:count].tolist()
    return [float(f"{x:.3g}") if math.isfinite(x) else None for x in values]
