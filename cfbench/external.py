"""Answers made elsewhere: the questions of a plan as arrays that any program can read, and the images that come back.

Both files are NumPy's ``.npz`` without pickled objects. Questions hold ``plan`` and ``about`` (texts), ``x`` uint8
[N, C, H, W], ``pa`` float32 [N, D], ``index`` int64 [N], and for each variable V ``do/V/factual`` int64 [Q] (rows of
``x``), ``do/V/value`` float32 [Q] and ``do/V/cf_pa`` float32 [Q, D]. Answers hold ``plan`` as it stood there, and
images as uint8 or as floats in [0, 1]: ``null`` [N, C, H, W] and ``do/V`` [Q, C, H, W]; if they are to be scored for
soundness too, ``cycle`` [R, C, H, W], the first R factuals after ten null interventions, each with a fresh abduction,
and ``reverse/V``, the answers to do(V) about those factuals after its reversal.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .caller import checked
from .errors import UserError
from .graph import CausalGraph
from .plan import Plan
from .store import replacing

__all__ = ["FORMAT", "read_answers", "write_questions"]

FORMAT = 1


def write_questions(
    path: Path, plan: Plan, x: Tensor, graph: CausalGraph, *, dataset: str, key: str, rounds: int
) -> None:
    """Write the questions of a plan, atomically.

    Args:
        path: the file to write.
        plan: the questions.
        x: the factuals, uint8 [N, C, H, W].
        graph: names and kinds of the parents' columns.
        dataset: as the run calls it.
        key: of the plan, which answers must carry.
        rounds: how many factuals, the first, go through further rounds.
    """
    variables = [vars(v) | {"parents": list(v.parents)} for v in graph.variables]
    about = {"format": FORMAT, "dataset": dataset, "split": plan.split, "rounds": rounds, "variables": variables}
    arrays: dict[str, Any] = {"plan": np.array(key), "about": np.array(json.dumps(about)), "x": x.numpy()}
    arrays |= {"pa": plan.pa.numpy(), "index": plan.index.numpy()}
    for v, asked in plan.asked.items():
        arrays |= {f"do/{v}/{part}": getattr(asked, part).numpy() for part in ("factual", "value", "cf_pa")}
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_answers(
    path: Path, plan: Plan, key: str, shape: tuple[int, int, int], rounds: int
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Images float32 by name as `answer_plan` gives them, and how many break the contract, by what.

    Raises:
        UserError: the file is no ``.npz`` of arrays, answers another plan, or an array is missing or misshapen.
    """
    expected = _expected(plan, rounds)
    arrays = _arrays(path, {"plan", *expected})
    if (found := str(arrays.pop("plan", "nothing"))) != key:
        raise UserError(
            f"{path} answers the plan {found}, this run asks {key}; answer the questions of `cfbench plan export` "
            "and copy their `plan` into the answers"
        )
    images, wrong = dict[str, Tensor](), dict[str, int]()
    for name, number in expected.items():
        if name in arrays:
            images[name] = checked(name, _image(path, name, arrays[name], (number, *shape)), wrong)
        elif name == "null" or name.startswith("do/"):
            raise UserError(f"{path} has no array {name!r} (images {[number, *shape]}); found {', '.join(arrays)}")
    return images, wrong


def _expected(plan: Plan, rounds: int) -> dict[str, int]:
    """The arrays that answers may hold, and how many images each has."""
    rounds = min(rounds, len(plan))
    numbers = {"null": len(plan)} | {f"do/{v}": len(asked) for v, asked in plan.asked.items()} | {"cycle": rounds}
    return numbers | {f"reverse/{v}": int((asked.factual < rounds).sum()) for v, asked in plan.asked.items()}


def _arrays(path: Path, known: set[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the .npz with the answers")
    try:
        with np.load(path, allow_pickle=False) as file:
            if unknown := sorted(set(file.files) - known):
                raise UserError(f"{path} holds the unknown arrays {', '.join(unknown)}; it may hold {', '.join(known)}")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no .npz of plain arrays ({error}); write it with numpy.savez") from error


def _image(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    if array.shape != shape or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise UserError(
            f"{path}: {name} must be images {list(shape)}, uint8 or floats in [0, 1]; "
            f"found {array.dtype} {list(array.shape)}"
        )
    x = torch.from_numpy(np.ascontiguousarray(array))
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()
