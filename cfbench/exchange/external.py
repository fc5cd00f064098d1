"""Answers computed by other programs: a plan's questions written as arrays, and the images that answer them read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import storage
from ..contract import Derived
from ..engine.construct import applies
from ..engine.launch import launch, report_unfinished
from ..engine.request import Request
from ..errors import UserError
from ..evaluation.answers import checked_images
from ..evaluation.plan import Plan
from ..graph import CausalGraph
from ..plugins.digest import key_of
from ..plugins.discovery import plugin_name_error
from ..plugins.spec import Spec, parse_specs
from ..report.publish import publish
from ..runs.chain import Status
from ..runs.context import Context, LoadedJob, Run
from ..runs.folders import find_run
from ..runs.job import Cell
from ..runs.manifest import Manifest, read_manifest, reopen_job
from ..runs.reader import StoredRun, read_run
from ..storage.schema import printable
from ..storage.temporary import atomic_write
from .npz import read_npz

__all__ = ["FORMAT", "export_command", "read_answers", "score_command", "write_questions"]


FORMAT = 1
MOSTLY = 0.5
"""Share of an array's images that may be wrong: of more, the array is of another range, and refused."""
MAX_TEXT = 1024
"""Bytes of the array with the plan's key."""


def write_questions(
    path: Path, plan: Plan, x: Tensor, graph: CausalGraph, *, dataset: str, key: str, rounds: int
) -> None:
    """Write the questions of a plan as an ``.npz``, atomically.

    Args:
        path: the file to write.
        plan: the questions.
        x: the factuals, uint8 [N, C, H, W].
        graph: names and kinds of the parents' columns.
        dataset: its label.
        key: of the plan, which answers must contain.
        rounds: how many factuals, the first ones, go through further rounds.
    """
    variables = [vars(v) | {"parents": list(v.parents)} for v in graph.variables]
    about = {"format": FORMAT, "dataset": dataset, "split": plan.split, "rounds": rounds, "variables": variables}
    arrays: dict[str, Any] = {"plan": np.array(key), "about": np.array(json.dumps(about)), "x": x.numpy()}
    arrays |= {"pa": plan.pa.numpy(), "index": plan.index.numpy()}
    for v, asked in plan.asked.items():
        arrays |= {f"do/{v}/{part}": getattr(asked, part).numpy() for part in ("factual", "value", "cf_pa")}
    with atomic_write(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_answers(
    path: Path, plan: Plan, key: str, shape: tuple[int, int, int], rounds: int
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Read answers: images float32 by name, as `answer_plan` returns them, and counts of violations by kind.

    Raises:
        UserError: the file is no ``.npz`` of arrays, answers another plan, or an array is missing, misshapen or, in
            most of its images, not finite or of another range than [0, 1].
    """
    expected = _expected(plan, rounds)

    def check(name: str, found: tuple[int, ...], dtype: np.dtype) -> None:
        if name == "plan":
            _check_text(path, name, found, dtype)
        elif name in expected:
            _check_images(path, name, found, dtype, (expected[name], *shape))
        else:
            unknown, known = printable(name, 80), ", ".join(("plan", *expected))
            raise UserError(f"{path} holds the unknown arrays {unknown}; it may hold {known}")

    arrays = read_npz(path, check)
    if (found := _text(arrays.pop("plan", np.array("nothing")))) != key:
        raise UserError(
            f"{path} answers the plan {found}, this run asks {key}; answer the questions of `cfbench plan export` "
            "and copy their `plan` into the answers"
        )
    images, wrong = dict[str, Tensor](), dict[str, int]()
    for name, size in expected.items():
        if name in arrays:
            images[name] = _checked(path, name, _images(arrays[name]), wrong)
        elif name == "null" or name.startswith("do/"):
            raise UserError(f"{path} has no array {name!r} (images {[size, *shape]}); found {', '.join(arrays)}")
    return images, wrong


def _expected(plan: Plan, rounds: int) -> dict[str, int]:
    """The number of images in each array that answers may hold."""
    rounds = min(rounds, len(plan))
    sizes = {"null": len(plan)} | {f"do/{v}": len(asked) for v, asked in plan.asked.items()} | {"cycle": rounds}
    return sizes | {f"reverse/{v}": int((asked.factual < rounds).sum()) for v, asked in plan.asked.items()}


def _check_text(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if shape not in ((), (1,)) or dtype.kind not in "US" or dtype.itemsize > MAX_TEXT:
        raise UserError(f"{path}: {name} must be a text, as it stood in the questions; found {dtype} {list(shape)}")


def _text(array: np.ndarray) -> str:
    """A text as one line, whatever its letters are."""
    if array.dtype.kind == "S":
        return printable(array.tobytes().rstrip(b"\0").decode("ascii", "replace"), 60)
    letters = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return printable(letters.decode("utf-32-le", "replace").rstrip("\0"), 60)


def _check_images(path: Path, name: str, found: tuple[int, ...], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if found != shape or not (dtype == np.uint8 or dtype.kind == "f"):
        raise UserError(
            f"{path}: {name} must be images {list(shape)}, uint8 or floats in [0, 1]; found {dtype} {list(found)}"
        )


def _images(array: np.ndarray) -> Tensor:
    """An array of images, uint8 or floats of any size and byte order, as float32 in [0, 1]."""
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array)).float() / 255
    with np.errstate(over="ignore"):  # infinite answers are counted
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _checked(path: Path, name: str, images: Tensor, wrong: dict[str, int]) -> Tensor:
    """The images [N, C, H, W], with those that are not finite or out of range counted and set to NaN.

    Raises:
        UserError: most of them are, so that it is the array that is wrong.
    """
    finite = images[images.isfinite()]
    low, high = (float(v) for v in finite.aminmax()) if len(finite) else (0.0, 0.0)
    checked = checked_images(name, images, wrong)
    bad = int(checked.flatten(1).isnan().any(1).sum())
    if bad > MOSTLY * len(checked):
        found = f"have values from {low:.4g} to {high:.4g}" if low < -1e-4 or high > 1 + 1e-4 else "are not finite"
        raise UserError(f"{path}: {bad} of {len(checked)} images of {name} {found}; {_remedy(low, high)}")
    return checked


def _remedy(low: float, high: float) -> str:
    if high > 1 and low >= 0 and high < 256:
        return "divide them by 255, or write uint8"
    return (
        "write (x + 1) / 2, which lies in [0, 1]" if -1 <= low < 0 and high <= 1 else "write uint8 or floats in [0, 1]"
    )


def export_command(file: Path, *, argv: list[str], datasets: str, **options: Any) -> int:
    """Declare a run without rows, compute its plan, and write the questions."""
    run = Request(methods="", controls=False, datasets=datasets, **options).run()
    if len(run.datasets) != 1:
        raise UserError(f"--datasets {datasets!r}: a file holds the questions of one data set; export each alone")
    (dataset,) = run.datasets
    outcomes = launch(run, argv, only="all", stages=("prepare",), jobs=1)
    if failed := [o for o in outcomes if o.status is not Status.DONE]:
        raise UserError(f"the plan of {dataset.label} could not be made: {failed[0].reason}")
    folder, graph = run.loaded.plan_folder(dataset), run.loaded.dataset(dataset).graph
    plan, x = Plan.load(folder), storage.read_tensors(folder / "factuals.safetensors")["x"]
    key, rounds = run.loaded.keys.plan(dataset), run.job.budget.rounds
    write_questions(file, plan, x, graph, dataset=dataset.label, key=key, rounds=rounds)
    print(f"{file}: {sum(map(len, plan.asked.values()))} questions about {len(plan)} factuals of {dataset.label}")
    print(f"score the answers with: cfbench score ANSWERS.npz --name NAME --run {run.job.folder.name}")
    return 0


def score_command(
    file: Path, *, argv: list[str], name: str, run_name: str, datasets: str | None, metrics: str | None, controls: bool,
    run_root: Path, data_root: Path, device: str, plugins: tuple[Path, ...], plots: bool,
) -> int:  # fmt: skip
    """Check answers, add their row and the controls to a run, score them and update the run's tables."""
    folder = find_run(run_name, run_root)
    loaded = LoadedJob(reopen_job(folder, data_root=data_root, device=device, plugins=plugins))
    manifest = read_manifest(folder)
    dataset = loaded.registry.parse("dataset", manifest.label_of(folder, datasets))[0]
    _check_installed(loaded, manifest, dataset)
    cell = _cell(loaded, manifest, dataset, _checked_name(loaded, manifest, name), file, metrics)
    _store_answers(loaded, manifest, cell, file)
    cells = (cell, *(_controls(loaded, manifest, cell) if controls else ()))
    added = tuple(c.method.label for c in cells[1:])
    launch(Run(loaded.job, cells, loaded, added, (dataset,)), argv, only="all", jobs=1)
    stored = read_run(folder)
    publish(stored, [dataset.label], folder / "leaderboard", pictures=plots)
    return _report(stored, cell, {c.label for c in cells})


def _controls(loaded: LoadedJob, manifest: Manifest, cell: Cell) -> Iterator[Cell]:
    """The cells of the controls that the run does not have yet of the answers' data set, scored as the answers are."""
    declared = {c.method.label for c in manifest.cells if c.dataset.label == cell.dataset.label}
    for spec in (Spec(name) for name in loaded.registry.controls if name not in declared):
        derived = issubclass(loaded.registry.load("method", spec.name), Derived)
        if not derived and applies(loaded, cell.dataset, spec):
            yield loaded.keys.cell(cell.dataset, spec, 0, list(cell.scores))


def _report(run: StoredRun, answers: Cell, labels: set[str]) -> int:
    """Print which cells are not ok, and what to do about answers of which some are wrong; 2 where there are any."""
    (state,) = (s for c, s in run.states if c.label == answers.label)
    if state.status is Status.INVALID:
        print(f"cfbench: {answers.label}: {state.reason}; correct them and score the file again", file=sys.stderr)
        report_unfinished(run, labels - {answers.label})
        return 2
    return report_unfinished(run, labels)


def _check_installed(loaded: LoadedJob, manifest: Manifest, dataset: Spec) -> None:
    """Raise unless the data set is known, naming the plugin files that the run was declared with."""
    files = manifest.plugins
    if files and dataset.name not in loaded.registry.names("dataset"):
        raise UserError(
            f"{dataset.name} is not installed; the run was declared with --plugin {' --plugin '.join(files)}"
        )


def _checked_name(loaded: LoadedJob, manifest: Manifest, name: str) -> str:
    """Return the name of a row that no plugin and no other row has."""
    if error := plugin_name_error(name):
        raise UserError(f"--name {name!r} {error}")
    rows = {c.method.name for c in manifest.cells if not c.external}
    if name in rows or name in loaded.registry.names("method"):
        raise UserError(f"--name {name!r} is the name of a method; give the answers another one")
    return name


def _cell(
    loaded: LoadedJob, manifest: Manifest, dataset: Spec, name: str, file: Path, metrics: str | None
) -> Cell:  # fmt: skip
    """The cell of the answers, whose images have a key of the file's digest and of the plan."""
    names = [s.label for s in parse_specs(metrics)] if metrics else _metrics_of(manifest) or loaded.loadable("metric")
    images = key_of("external", _answers_digest(file), loaded.keys.plan(dataset))
    keys = {"train": "", "tune": "", "images": images, **loaded.keys.shared(dataset)}
    row = Spec(name)
    return Cell(dataset, row, 0, row, keys, loaded.keys.scores(dataset, images, names), external=True)


def _metrics_of(manifest: Manifest) -> list[str]:
    """The metrics that a run's other rows have."""
    return sorted({m for cell in manifest.cells for m in cell.scores})


def _answers_digest(file: Path) -> str:
    try:
        return storage.sha256(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; give the .npz with the answers") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give the .npz with the answers") from None


def _store_answers(loaded: LoadedJob, manifest: Manifest, cell: Cell, file: Path) -> None:
    """Write the images into the cell's folder in the form of a method's answers."""
    context, entry = Context(loaded), manifest.datasets[cell.dataset.label]
    key = loaded.keys.plan(cell.dataset)
    if entry.plan_key != key:
        raise UserError(
            f"{loaded.job.folder} asks the plan {entry.plan_key}, {cell.dataset.label} gives {key} now: the data "
            "or the code changed; export the questions again under another --name"
        )
    plan, shape = Plan.load(loaded.plan_folder(cell.dataset)), loaded.dataset(cell.dataset).graph.shape
    images, wrong = read_answers(file, plan, key, shape, loaded.job.budget.rounds)
    folder = context.folder(cell, "images")
    if not storage.is_intact(folder):
        about = {"residual": "-", "wrong": wrong, "external": file.name}
        with context.write_stage(
            folder, stage="images", key=cell.keys["images"], env=context.record_environment(), **about
        ) as draft:
            storage.write_tensors(draft / "answers.safetensors", images)
            storage.write_json(draft / "costs.json", {})
