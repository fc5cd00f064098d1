"""The commands ``plan export`` and ``score``: questions handed out, and answers taken in as a row of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import store
from .bench import Bench
from .cells import Cell
from .commands import find_run, verdict
from .digest import key_of
from .errors import UserError
from .external import read_answers, write_questions
from .grid import Run, declare, execute, finished, missing
from .plan import Plan
from .publish import publish
from .reading import read_about
from .reopening import reopen
from .request import Request
from .sources import NAME
from .spec import Spec, parse_specs
from .work import Task
from .workshop import Workshop

__all__ = ["export_command", "score_command"]


def export_command(file: Path, *, argv: list[str], datasets: str, **options: Any) -> int:
    """Declare a run without rows, make its plan, and write the questions."""
    run = Request(methods="", controls=False, datasets=datasets, **options).run()
    if len(run.datasets) != 1:
        raise UserError(f"--datasets {datasets!r}: a file holds the questions of one data set; export each alone")
    declare(run, argv)
    (dataset,) = run.datasets
    done = finished(run)
    failed = [o for o in execute(run, [Task("prepare", dataset)], done, 1) if o.status != "done"]
    if failed:
        raise UserError(f"the plan of {dataset.label} could not be made: {failed[0].reason}")
    folder, graph = run.shop.plan_folder(dataset), run.shop.dataset(dataset).graph
    plan, x = Plan.load(folder), store.read_tensors(folder / "factuals.safetensors")["x"]
    key, rounds = run.shop.plan_key(dataset), run.job.budget.rounds
    write_questions(file, plan, x, graph, dataset=dataset.label, key=key, rounds=rounds)
    print(f"{file}: {sum(map(len, plan.asked.values()))} questions about {len(plan)} factuals of {dataset.label}")
    print(f"score the answers with: cfbench score ANSWERS.npz --name NAME --run {run.job.folder.name}")
    return 0


def score_command(
    file: Path, *, argv: list[str], name: str, run_name: str, datasets: str | None, metrics: str | None,
    run_root: Path, data_root: Path, device: str, plugins: tuple[Path, ...], plots: bool,
) -> int:  # fmt: skip
    """Check answers, add their row to a run, score it and write the run's tables again."""
    folder = find_run(run_name, run_root)
    shop, about = Workshop(reopen(folder, data_root=data_root, device=device, plugins=plugins)), read_about(folder)
    dataset = _dataset(folder, about, datasets)
    _check_loaded(shop, about, dataset)
    cell = _cell(shop, about, dataset, _checked_name(shop, about, name), file, metrics)
    _take_in(shop, about, cell, file)
    run = Run(shop.job, (cell,), shop, (), (dataset,))
    declare(run, argv)
    done = finished(run)
    execute(run, missing(run, done, "all"), done, 1)
    publish(folder, dataset.label, folder / "leaderboard", pictures=plots)
    return verdict(folder, {cell.label})


def _dataset(folder: Path, about: Mapping[str, Any], asked: str | None) -> Spec:
    known = list(about["datasets"])
    if asked is None and len(known) != 1:
        raise UserError(f"{folder} asks about {', '.join(known)}; say which with --datasets")
    label = parse_specs(asked)[0].label if asked else known[0]
    if label not in known:
        raise UserError(f"{folder} does not ask about {label!r}, only about {', '.join(known)}")
    return parse_specs(label)[0]


def _check_loaded(shop: Workshop, about: Mapping[str, Any], dataset: Spec) -> None:
    files = about["plugins"]
    if files and dataset.name not in shop.registry.names("dataset"):
        raise UserError(
            f"{dataset.name} is not installed; the run was declared with --plugin {' --plugin '.join(files)}"
        )


def _checked_name(shop: Workshop, about: Mapping[str, Any], name: str) -> str:
    """A name that no plugin and no other row has."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name!r} is no plain name; write letters, digits and dashes")
    rows = {c["method"]["name"] for c in about["cells"] if not c.get("external")}
    if name in rows or name in shop.registry.names("method"):
        raise UserError(f"--name {name!r} is the name of a method; give the answers another one")
    return name


def _cell(shop: Workshop, about: Mapping[str, Any], dataset: Spec, name: str, file: Path, metrics: str | None) -> Cell:
    """The row of the answers, whose key is that of the images and of what was asked."""
    asked = [s.label for s in parse_specs(metrics)] if metrics else _metrics_of(about) or shop.loadable("metric")
    images = key_of("external", _digest(file), shop.plan_key(dataset))
    keys = {"train": "", "tune": "", "images": images, **shop.shared_keys(dataset)}
    row = Spec(name)
    return Cell(dataset, row, 0, row, keys, shop.score_keys(dataset, images, asked), external=True)


def _metrics_of(about: Mapping[str, Any]) -> list[str]:
    """The metrics that a run's other rows have."""
    return sorted({m for cell in about["cells"] for m in cell["scores"]})


def _digest(file: Path) -> str:
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the .npz with the answers")
    return store.sha256(file)


def _take_in(shop: Workshop, run: Mapping[str, Any], cell: Cell, file: Path) -> None:
    """Put the images into the cell's folder, as a method's answers would lie there."""
    bench, described = Bench(shop), run["datasets"][cell.dataset.label]
    key = shop.plan_key(cell.dataset)
    if described["plan_key"] != key:
        raise UserError(
            f"{shop.job.folder} asks the plan {described['plan_key']}, {cell.dataset.label} gives {key} now: the data "
            "or the code changed; export the questions again under another --name"
        )
    plan, shape = Plan.load(shop.plan_folder(cell.dataset)), shop.dataset(cell.dataset).graph.shape
    images, wrong = read_answers(file, plan, key, shape, shop.job.budget.rounds)
    folder = bench.folder(cell, "images")
    if not store.whole(folder):
        about = {"residual": "-", "wrong": wrong, "external": file.name}
        with bench.writing(folder, stage="images", key=cell.keys["images"], env=bench.env(), **about) as draft:
            store.write_tensors(draft / "answers.safetensors", images)
            store.write_json(draft / "costs.json", {})
