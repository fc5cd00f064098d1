"""What the commands do, apart from reading their options."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .budget import Budget
from .cells import Job, Workshop
from .contract import Control, Method
from .environment import cores, pick_device
from .errors import UserError, did_you_mean
from .plan import check_plan
from .publish import publish
from .reading import read_about, states
from .run import Run, check_writable, declare, execute, finished, missing, tasks_of
from .spec import Spec, parse_settings, parse_specs

__all__ = ["CONTROLS", "leaderboard_command", "prepare_command", "run_command", "status_command"]

CONTROLS = ("identity", "nearest", "oracle", "untrained")
"""Methods that run beside whatever is asked for."""
RESAMPLE = "resample"
"""The control that is derived from each method that can draw."""


def run_command(*, argv: list[str], only: Any, jobs: int, plots: bool, dry_run: bool, **options: Any) -> int:
    """Run what is missing, write the tables, and print them; 2 where a cell has not come to a good end."""
    run = _declared(**options)
    if not dry_run:
        check_writable(run.job.folder)
        declare(run, argv)
    done = finished(run)
    todo = missing(run, done, only)
    _announce(run, todo)
    if dry_run:
        return 0
    if todo:
        execute(run, todo, done, min(jobs or _default_jobs(run), len(todo)))
    for dataset in run.datasets:
        publish(run.job.folder, dataset.label, run.job.folder / "leaderboard", pictures=plots)
    return _verdict(run.job.folder, {c.label for c in run.cells})


def _declared(
    *, methods: str, datasets: str, seeds: str | None, preset: str, plan: str, action: Any, split: Any,
    settings: tuple[str, ...], metrics: str | None, controls: bool, device: str, threads: int, precision: Any,
    name: str | None, data_root: Path, run_root: Path, plugins: tuple[Path, ...],
) -> Run:  # fmt: skip
    """The run that the options describe, every name and value checked before anything is written."""
    budget = Budget.named(preset)
    rows = parse_settings(settings, parse_specs(methods))
    sets = parse_specs(datasets)
    numbers = _seeds(seeds) if seeds else budget.seeds
    plugins = tuple(p.resolve() for p in plugins)
    others = ((plan, "marginal"), (split, "test"), (precision, "fp32"), (f"{action}-action", "None-action"))
    default = "-".join([preset, *(value for value, usual in others if value != usual)])
    folder = run_root.resolve() / _plain(name or default)
    device = str(pick_device(device))
    job = Job(folder, data_root.resolve(), budget, split, plan, action, device, threads, precision, plugins)
    shop = Workshop(job)
    beside = [s for s in map(Spec, CONTROLS) if controls and s.label not in {r.label for r in rows}]
    for spec in sets:
        dataset = shop.dataset(spec)
        check_plan(dataset, spec.label, plan)
        shop.action(spec)
        if dataset.network:  # a run never downloads: what is absent or spoilt is told before anything is written
            dataset.split(job.data_root, "train"), dataset.split(job.data_root, split)
    for spec in [*rows, *beside]:
        shop.method_class(spec)
    beside += [s for s in _resampled(shop, rows if controls else []) if s.label not in {r.label for r in rows}]
    chosen = _metrics(shop, metrics)
    seeded = [(r, s) for r in rows for s in numbers] + [(c, s) for c in beside for s in numbers[: _seeds_of(c, shop)]]
    cells = tuple(shop.cell(d, m, s, chosen) for d in sets for m, s in seeded if _applies(shop, d, m, beside))
    return Run(job, cells, shop, tuple(c.label for c in beside))


def _resampled(shop: Workshop, rows: list[Spec]) -> list[Spec]:
    """A fresh sample of each row's model, where it can draw one; one of all rows that differ in answers only."""
    found: dict[str, Spec] = {}
    for spec in rows:
        if RESAMPLE in shop.registry.names("method") and shop.derived_from(spec) is None:
            cls = shop.method_class(spec)
            if issubclass(cls, Method) and shop.registry.load("method", RESAMPLE).applies(cls):
                key = Spec(
                    spec.name,
                    shop.fit_preset(spec),
                    {k: v for k, v in spec.params.items() if k not in cls.answer_params},
                )
                found.setdefault(key.label, Spec(RESAMPLE, params={"of": spec.label}))
    return list(found.values())


def _applies(shop: Workshop, dataset: Spec, method: Spec, beside: list[Spec]) -> bool:
    if method not in beside or not issubclass(shop.method_class(method), Control):
        return True
    cls, params = shop.registry.resolve("method", method)
    data = shop.dataset(dataset)
    return cls(data.graph, **params).applies(data)


def _seeds_of(spec: Spec, shop: Workshop) -> int | None:
    """Controls that are no methods do not depend on the seed: one is enough."""
    return 1 if issubclass(shop.registry.load("method", spec.name), Control) else None


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(s) for s in text.split(",")))
    except ValueError:
        raise UserError(f"--seeds {text!r} is no list of whole numbers; write 0,1,2") from None
    if min(seeds) < 0:
        raise UserError(f"--seeds {text!r} holds a negative number; write 0,1,2")
    return seeds


def _plain(name: str) -> str:
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name {name!r} is no plain name; write letters, digits and dashes")
    return name


def _metrics(shop: Workshop, asked: str | None) -> list[str]:
    names = [s.label for s in parse_specs(asked)] if asked else shop.registry.names("metric")
    for name in names:
        shop.registry.load("metric", name)
    return names


def _default_jobs(run: Run) -> int:
    if run.job.device != "cpu":
        return 1
    return max(1, cores() // run.job.threads)


def _announce(run: Run, todo: list[Any]) -> None:
    """Print what will be done and what is there."""
    budget, total = run.job.budget, len(tasks_of(run))
    print(f"run {run.job.folder}")
    print(
        f"  preset {budget.name}: {budget.images:,} training images a method, up to {budget.factuals} factuals "
        f"of the {run.job.split} split, plan {run.job.plan}, device {run.job.device}"
    )
    unfinished = {t.cell.label for t in todo if t.cell}
    for cell in run.cells:
        print(f"  {'to do' if {cell.label, cell.fitted.label} & unfinished else 'done '}  {cell.label}")
    print(f"  {len(todo)} of {total} tasks to do", flush=True)


def _verdict(folder: Path, mine: Iterable[str]) -> int:
    """Say which cells did not come to a good end."""
    bad = [
        (cell, state)
        for cell, state in states(folder, read_about(folder))
        if cell.label in mine and state.status != "ok"
    ]
    for cell, state in bad:
        print(f"cfbench: {cell.label}: {state.status}: {state.reason or 'not run'}", file=sys.stderr)
    if bad:
        print(f"cfbench: {len(bad)} cells unfinished; `--only failed` tries failed ones again", file=sys.stderr)
    return 2 if bad else 0


def prepare_command(datasets: tuple[str, ...], data_root: Path, plugins: tuple[Path, ...]) -> int:
    """Prepare data sets one after another."""
    from .registry import Registry

    registry = Registry(plugins)
    loaded = [(s, registry.resolve("dataset", s)) for text in datasets for s in parse_specs(text)]
    for spec, (cls, params) in loaded:
        dataset = cls(**params)
        dataset.open(data_root.resolve())
        dataset.prepare(data_root.resolve())
        print(f"{spec.label} is ready under {data_root}")
    return 0


def leaderboard_command(name: str, run_root: Path, out: Path | None, plots: bool) -> int:
    """Write the tables and pictures of a run, and print the tables."""
    folder = find_run(name, run_root)
    for dataset in read_about(folder)["datasets"]:
        publish(folder, dataset, out or folder / "leaderboard", pictures=plots)
    return 0


def status_command(name: str, run_root: Path) -> int:
    """Print where every cell stands."""
    folder = find_run(name, run_root)
    for cell, state in states(folder, read_about(folder)):
        print(f"{state.status:<8} {cell.label}" + (f": {state.reason}" if state.reason else ""))
    return 0


def find_run(name: str, run_root: Path) -> Path:
    """The folder of a run, given by name or path.

    Raises:
        UserError: there is none.
    """
    for folder in (run_root / name, Path(name)):
        if (folder / "run.json").is_file():
            return folder
    known = [p.parent.name for p in run_root.glob("*/run.json")]
    raise UserError(f"no run {name!r} in {run_root}; {did_you_mean(name, known)}")
