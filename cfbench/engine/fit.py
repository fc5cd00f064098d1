"""A cell from fit to images: its weights, the answer parameters that it tunes, and its answers."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from .. import storage
from ..contract import Control, Fit, Method, Split
from ..errors import UserError, one_line
from ..evaluation.answers import Answers, answer_plan, image_mechanism, synchronize
from ..evaluation.plan import Plan
from ..images import ImageRows
from ..rng import derive
from ..runs.context import Context
from ..runs.environment import load_training_libraries, peak_memory
from ..runs.findings import HEALTH, Finding, write_findings
from ..runs.job import Cell, PretrainedWeights
from ..storage.schema import mapping, scalar
from ..storage.weights import mismatch, read_weights
from .checkpoints import Checkpoints, checkpoints_of
from .failures import with_smaller_batches
from .health import findings_of_fit, findings_of_tuning

__all__ = ["images", "train", "tune"]


BATCH = {"cpu": 64, "cuda": 512}
"""Images in one call of a method, as many as fit a CPU's caches or keep a GPU busy."""


TAKEN = ("costs", "chosen", "stage", HEALTH)
"""Names of tables that the harness writes into the folders of those that a method records."""


class TrainingLog:
    """The rows that a method logs and the tables that it records while it is fitted or tuned."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, object]] = []
        self.tables: dict[str, object] = {}

    def log(self, row: Mapping[str, object]) -> None:
        """Append a row to the training log.

        Raises:
            FloatingPointError: its ``loss`` is not finite.
        """
        self.rows.append(row)
        loss = row.get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            where = ", ".join(f"{k} {row[k]}" for k in ("stage", "step") if k in row)
            raise FloatingPointError(f"training diverged: the loss is {loss} at {where or f'row {len(self.rows)}'}")

    def record(self, name: str, table: object) -> None:
        """Keep a table, which gets a file of its name.

        Raises:
            ValueError: the name is no plain one, or that of a file of the harness.
            TypeError: remarks are no list.
        """
        if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith(".") or name.lower() in TAKEN:
            raise ValueError(f"record: {name!r} is taken or no plain name; take letters, digits, _ and -")
        if name == "remarks" and not isinstance(table, list | tuple):
            raise TypeError(f"record: remarks are a list of sentences, found a {type(table).__name__}")
        self.tables[name] = table

    def write(self, folder: Path) -> None:
        """Write every table and the log into a folder."""
        for name, table in self.tables.items():
            storage.write_json(folder / f"{name}.json", table)
        if self.rows:
            (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))


def train(context: Context, cell: Cell) -> None:
    """Fit a method: its weights, training log and recorded tables."""
    folder, log = context.folder(cell, "train"), TrainingLog()
    if storage.is_intact(folder):
        return
    if cell.kept:
        raise UserError(f"the fit {folder.name} that was to be kept is gone; leave --keep-fit out to fit it anew")
    costs = {"parameters": 0.0, "images_seen": 0.0, "fit_s": 0.0, "fit_cpu_s": 0.0, "bits_per_dim": math.nan}
    weights = context.loaded.weights(cell.method)
    checkpoints = Checkpoints(checkpoints_of(folder), log.rows, resumed=lambda where: context.resumed(vars(where)))
    with context.isolated("train", cell.seed), _peak_of_fit(context.device) as peak:
        method = context.loaded.method(cell)
        if weights:
            costs |= _load_weights(method, weights) | dict.fromkeys(("images_seen", "fit_s", "fit_cpu_s"), math.nan)
        elif isinstance(method, Method):
            run = _fit(context, cell, log)
            run.keeper = checkpoints
            method.to(context.device).train()
            if next(method.parameters(), None) is not None:
                load_training_libraries()
            checkpoints.start()
            with context.precision(method):
                method.fit(run)
            synchronize(context.device)
            costs["fit_s"], costs["images_seen"] = checkpoints.seconds, float(run.seen)
            costs["fit_cpu_s"] = checkpoints.cpu_seconds if context.device.type == "cpu" else math.nan
            costs["bits_per_dim"] = _bits_per_dim(log)
            costs["parameters"] = _parameters(method)
            _check_finite(method)
        others = float(context.other_tasks())
    about = {"weights": {"file": weights.file.name, "sha256": weights.digest}} if weights else {}
    with context.write_stage(
        folder, stage="train", key=cell.keys["train"], env=context.record_environment(), **about
    ) as draft:
        if isinstance(method, Method):
            storage.write_tensors(draft / "weights.safetensors", method.state_dict())
        costs |= {"train_peak_mb": peak["peak_mb"], "fit_others": others}
        storage.write_json(draft / "costs.json", costs)
        log.write(draft)
        _write_health(draft, lambda: findings_of_fit(log.rows, log.tables))
    checkpoints.discard()


def _write_health(folder: Path, find: Callable[[], list[Finding]]) -> None:
    """Write what was found wrong; where that fails the fit stands, without a file that says it was checked."""
    try:
        write_findings(folder, find())
    except Exception as error:
        print(
            f"cfbench: {folder.name} could not be checked for what went wrong: {one_line(error, 200)}", file=sys.stderr
        )


def _peak_of_fit(device: torch.device) -> AbstractContextManager[dict[str, float]]:
    """Context manager that measures the memory of a fit on a GPU, which fits share by it; elsewhere it is NaN."""
    return peak_memory(device) if device.type == "cuda" else nullcontext({"peak_mb": math.nan})


def _load_weights(method: Method | Control, weights: PretrainedWeights) -> dict[str, float]:
    """Load weights from a file into a method; return its number of parameters as a cost.

    Raises:
        UserError: they do not fit the method.
        FloatingPointError: they are not finite.
    """
    if not isinstance(method, Method):
        raise UserError(f"{weights.row} is a control and takes no weights")
    given = read_weights(weights.file)
    try:
        method.load_state_dict(given)
    except RuntimeError as error:
        what = f"{weights.file.name} does not hold the weights of {weights.row}"
        raise UserError(f"{what}: {mismatch(method, given)}") from error
    _check_finite(method)
    return {"parameters": _parameters(method)}


def _parameters(method: Method) -> float:
    return float(sum(p.numel() for p in method.parameters()))


def tune(context: Context, cell: Cell) -> None:
    """Let a method choose its open answer parameters on the validation split."""
    folder, log = context.folder(cell, "tune"), TrainingLog()
    if storage.is_intact(folder):
        return
    chosen: dict[str, Any] = {}
    with context.isolated("tune", cell.seed):
        method = _trained(context, cell.base)
        start = time.perf_counter()
        if isinstance(method, Method):
            with torch.no_grad(), context.precision(method):
                chosen = mapping(method.tune(_fit(context, cell, log, spent=True)), scalar)
            synchronize(context.device)
        seconds = time.perf_counter() - start
    with context.write_stage(folder, stage="tune", key=cell.keys["tune"], env=context.record_environment()) as draft:
        storage.write_json(draft / "chosen.json", chosen)
        storage.write_json(draft / "costs.json", {"tune_s": seconds})
        log.write(draft)
        _write_health(draft, lambda: findings_of_tuning(chosen, log.tables))


def images(context: Context, cell: Cell) -> None:
    """Answer the questions of the plan, and measure what that costs."""
    folder = context.folder(cell, "images")
    if storage.is_intact(folder):
        return
    job, dataset = context.loaded.job, context.loaded.dataset(cell.dataset)
    plan = Plan.load(context.loaded.plan_folder(cell.dataset))
    x = ImageRows(dataset.split(job.data_root, job.split).images, plan.rows)
    with storage.temporary_folder(folder) as temporary:
        file = temporary / "answers.safetensors"
        with context.isolated("images", cell.seed), peak_memory(context.device) as peak:
            method = _trained(context, cell, **storage.read_json(context.folder(cell, "tune") / "chosen.json"))
            mech = image_mechanism(method, dataset, job.data_root, job.split)
            with context.precision(method):
                answers, batch = with_smaller_batches(
                    BATCH[context.device.type],
                    lambda size: answer_plan(
                        mech, plan, x, into=file, seed=cell.seed, device=context.device, batch=size,
                        rounds=job.budget.rounds, progress=lambda done, total: context.progress("images", done, total),
                    ),
                )  # fmt: skip
            others = float(context.other_tasks())
        costs = _costs(method, answers) | {"peak_mb": peak["peak_mb"], "answer_others": others}
        about: dict[str, Any] = {"residual": str(method.residual), "wrong": _wrong(method, answers.wrong)}
        about |= {
            "is_truth": isinstance(method, Control) and bool(method.is_truth),
            "is_real": isinstance(method, Control) and bool(method.is_real),
            "in_gallery": bool(method.in_gallery),
        }
        about |= {"batch": batch, "env": context.record_environment()}
        with context.write_stage(folder, stage="images", key=cell.keys["images"], **about) as draft:
            file.rename(draft / file.name)
            storage.write_json(draft / "costs.json", costs)


def _costs(method: Method | Control, answers: Answers) -> dict[str, float]:
    """Milliseconds by the clock and of the processor, and network evaluations per image of both steps."""
    calls = method.evaluations if isinstance(method, Method) else {"abduct": 0, "predict": 0}
    costs = {f"{step}_ms": answers.milliseconds(step) for step in ("abduct", "predict")}
    costs |= {f"{step}_cpu_ms": answers.cpu_milliseconds(step) for step in ("abduct", "predict")}
    return costs | {f"{step}_evals": float(calls.get(step, math.nan)) for step in ("abduct", "predict")}


def _wrong(method: Method | Control, wrong: Mapping[str, int]) -> dict[str, int]:
    """Counts of answers that violate the contract; a control may leave a question unanswered."""
    return {what: n for what, n in wrong.items() if isinstance(method, Method) or "not finite" not in what}


def _fit(context: Context, cell: Cell, log: TrainingLog, *, spent: bool = False) -> Fit:
    """The data, budget and callbacks of a fit; with a ``spent`` budget a method may read data, but not train."""
    job, dataset = context.loaded.job, context.loaded.dataset(cell.dataset)
    budget, rng = job.images(cell.fit), torch.Generator().manual_seed(derive("fit", cell.seed))
    train, valid = (_copy(dataset.split(job.data_root, part)) for part in ("train", "valid"))
    return Fit(
        train, valid, budget, context.device, rng,
        log.log, log.record, context.progress, budget if spent else 0,
    )  # fmt: skip


def _copy(split: Split) -> Split:
    """A copy that a method may change without harm to the data of others."""
    return Split(split.images.clone(), split.parents.clone(), split.index.clone())


def _trained(context: Context, cell: Cell, **chosen: Any) -> Method | Control:
    """The method that answers in a cell, with its fitted weights, in evaluation mode."""
    method = context.loaded.method(cell, **chosen)
    if isinstance(method, Method):
        method.load_state_dict(storage.read_tensors(context.folder(cell, "train") / "weights.safetensors"))
        method.to(context.device).eval()
    return context.loaded.answering_method(cell, method)


def _bits_per_dim(log: TrainingLog) -> float:
    """The likelihood on validation images that a method recorded, in bits per dimension; NaN without one."""
    found = log.tables.get("likelihood")
    return float(found["bits_per_dim"]) if isinstance(found, Mapping) and "bits_per_dim" in found else math.nan


def _check_finite(method: Method) -> None:
    bad = [name for name, value in method.state_dict().items() if not value.double().isfinite().all()]
    if bad:
        raise FloatingPointError(f"training diverged: {bad[0]} is not finite")
