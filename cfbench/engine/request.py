"""The options of a run, and the run that they declare, every name and value checked before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..contract import Control, Derived, Method
from ..errors import PluginError, UserError, did_you_mean, one_line
from ..evaluation.plan import check_plan
from ..plugins.budgets import parse_budgets
from ..plugins.registry import Registry
from ..plugins.signatures import is_fitted
from ..plugins.spec import LARGEST, Spec, at_budgets, parse_settings, parse_specs
from ..runs.budget import DATASETS, METHODS, Budget
from ..runs.bundle import Bundle, assign_bundles, budget_of
from ..runs.console import print_dataset_progress
from ..runs.context import LoadedJob, Run
from ..runs.environment import pick_device, standard
from ..runs.folders import check_run_name
from ..runs.job import Cell, Job, parse_weights
from ..runs.kept import kept_fit
from .construct import applies, check_datasets, check_metrics, check_rows
from .prepare import check_bundle

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """The options of ``cfbench run``; ``classes`` are plugins that exist in this process only, by name."""

    methods: str = METHODS
    datasets: str = DATASETS
    seeds: str | None = None
    preset: str = "quick"
    budgets: str | None = None
    plan: str = "marginal"
    action: Literal["exact", "learned"] | None = None
    split: Literal["test", "valid"] = "test"
    settings: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    keep_fit: tuple[str, ...] = ()
    metrics: str | None = None
    controls: bool = True
    device: str = "auto"
    threads: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    timeout: float | None = None
    bundles: tuple[Path, ...] = ()
    name: str | None = None
    data_root: Path = Path("data")
    run_root: Path = Path("runs")
    plugins: tuple[Path, ...] = ()
    classes: Mapping[str, Any] = field(default_factory=dict)

    @standard()
    def run(self) -> Run:
        """The run with all its cells.

        Raises:
            UserError: a name is unknown or a value is wrong; a plugin that cannot be loaded only fails its own row.
        """
        check_datasets(self.loaded, self.dataset_specs)
        controls = [s for s in self._controls if not issubclass(self._class(s), Derived)]
        for spec in [*self.rows, *controls]:
            self._check_row(spec)
        check_rows(self.loaded, self.dataset_specs, [*self.rows, *controls])
        for spec in self.dataset_specs:
            self._check_data(spec)
        controls += self._derived()
        metrics, seeds = self._metrics(), self.training_seeds
        check_metrics(self.loaded, metrics)
        asked = [(row, seed) for row in self.rows for seed in seeds]
        asked += [(c, seed) for c in controls for seed in (seeds if issubclass(self._class(c), Method) else seeds[:1])]
        cells = tuple(
            self._cell(d, m, seed, metrics)
            for d in self.dataset_specs
            for m, seed in asked
            if self._applies(d, m, controls)
        )
        return Run(self.job, cells, self.loaded, tuple(c.label for c in controls), tuple(self.dataset_specs))

    def _cell(self, dataset: Spec, method: Spec, seed: int, metrics: list[str]) -> Cell:
        """A cell, with the fit of other code that the user wants to keep."""
        keys, names = self.loaded.keys, {row.name for row in self.rows}
        for name in self.keep_fit:
            if name not in names:
                raise UserError(f"--keep-fit {name!r} is no method of this run; {did_you_mean(name, names)}")
        cell = keys.cell(dataset, method, seed, metrics)
        if cell.base.method.name not in self.keep_fit or not cell.inputs:
            return cell
        return keys.cell(dataset, method, seed, metrics, kept_fit(self.job.folder, cell))

    @cached_property
    def job(self) -> Job:
        """The settings that every cell shares."""
        return Job(
            self.run_root.resolve() / check_run_name(self.name or self._default_name()), self.data_root.resolve(),
            budget_of(Budget.named(self.preset), self.assigned_bundles), self.split, self.plan, self.action,
            str(pick_device(self.device)), self.threads, self.precision, tuple(p.resolve() for p in self.plugins),
            parse_weights(self.weights, self.rows), self.timeout, self.assigned_bundles,
        )  # fmt: skip

    @cached_property
    def assigned_bundles(self) -> tuple[Bundle, ...]:
        """The bundles, each assigned to its data set."""
        return assign_bundles(self.bundles, self.dataset_specs)

    @cached_property
    def loaded(self) -> LoadedJob:
        return LoadedJob(self.job, self.classes)

    @cached_property
    def registry(self) -> Registry:
        """The plugins, which say what texts of settings mean."""
        return Registry(self.plugins, self.classes)

    @cached_property
    def rows(self) -> list[Spec]:
        if not self.methods:
            return []
        rows = self.registry.parse("method", self.methods)
        rows = parse_settings(self.settings, rows, self.registry.takes_text("method"))
        if self.budgets is not None:
            rows = at_budgets(rows, parse_budgets(self.budgets), self._is_fitted)
        self._check_aliases(rows)
        return rows

    def _is_fitted(self, row: Spec) -> bool:
        """Whether a row has a fit of its own; one whose plugin cannot be loaded has none."""
        try:
            return is_fitted(self.registry.load("method", row.name))
        except PluginError:
            return False

    @cached_property
    def dataset_specs(self) -> list[Spec]:
        return self.registry.parse("dataset", self.datasets)

    def _check_aliases(self, rows: list[Spec]) -> None:
        """Raise unless every row has a name of its own, which is not that of another method."""
        known = {*self.registry.names("method"), *(row.label for row in rows)}
        aliases = [row.alias for row in rows if row.alias]
        for alias in aliases:
            if alias in known:
                raise UserError(f"{alias!r} is the name of a method or of another row; give the row another name")
            if aliases.count(alias) > 1:
                raise UserError(f"{alias!r} names two rows; give one another name")

    @property
    def training_seeds(self) -> tuple[int, ...]:
        """The training seeds."""
        if self.seeds is None:
            return self.job.budget.seeds
        try:
            seeds = tuple(dict.fromkeys(int(s) for s in self.seeds.split(",")))
        except ValueError:
            raise UserError(f"--seeds {self.seeds!r} is no list of whole numbers; write 0,1,2") from None
        if min(seeds) < 0:
            raise UserError(f"--seeds {self.seeds!r} holds a negative number; write 0,1,2")
        if max(seeds) >= LARGEST:
            raise UserError(f"--seeds {one_line(self.seeds, 60)!r} holds too large a number; write 0,1,2")
        return seeds

    def _default_name(self) -> str:
        action = f"{self.action}-action" if self.action else ""
        budgets = "budgets" if self.budgets is not None else ""
        others = (
            *((budgets, ""), (self.plan, "marginal"), (self.split, "test")),
            *((self.precision, "fp32"), (action, "")),
        )
        bundles = (f"{b.name}-{b.version}" for b in self.assigned_bundles)
        return "-".join([self.preset, *(value for value, usual in others if value != usual), *bundles])

    def _check_data(self, spec: Spec) -> None:
        dataset = self.loaded.dataset(spec)
        check_plan(dataset, spec.label, self.plan)
        self.loaded.action(spec)
        with print_dataset_progress(dataset, f"reading {spec.label}"):
            if bundle := self.loaded.bundle(spec):
                check_bundle(bundle, dataset, self.job)
            if (
                dataset.network
            ):  # a run never downloads: what is missing or damaged is reported before anything is written
                dataset.split(self.job.data_root, "train"), dataset.split(self.job.data_root, self.split)

    def _check_row(self, spec: Spec) -> None:
        try:
            self.loaded.method_class(spec)
        except PluginError as error:
            print(f"cfbench: {spec.label} will fail: {error}", file=sys.stderr)

    def _class(self, spec: Spec) -> type[Any]:
        """The class of a row; `Method` where it cannot be loaded."""
        try:
            return self.loaded.registry.load("method", spec.name)
        except PluginError:
            return Method

    def _metrics(self) -> list[str]:
        """The metrics of the run; by default all that can be loaded."""
        if not self.metrics:
            return self.loaded.loadable("metric")
        names = [s.label for s in parse_specs(self.metrics)]
        for name in names:
            self.loaded.registry.load("metric", name)
        return names

    @cached_property
    def _controls(self) -> list[Spec]:
        """The controls that are added to the rows of the user, the derived ones without the row they answer through."""
        named = {row.label for row in self.rows}
        return [Spec(c) for c in self.loaded.registry.controls if self.controls and c not in named]

    def _derived(self) -> list[Spec]:
        """The controls that answer through rows of the user.

        Rows that share a fit share one, and so do rows that differ in their budget: it answers through the largest.
        """
        found: dict[tuple[str, str], tuple[int, Spec]] = {}
        for control in self._controls:
            cls = self._class(control)
            for row in self.rows if issubclass(cls, Derived) else ():
                of = self._class(row)
                method = of is not Method and issubclass(of, Method) and self.loaded.derived_from(row) is None
                if method and cls.applies(of):
                    fit = {k: v for k, v in row.params.items() if k not in of.answer_params}
                    key = control.name, replace(row, preset=self.loaded.fit_preset(row), params=fit, images=None).label
                    alias = f"{control.name}[of={row.alias}]" if row.alias else ""
                    images = self.job.images(row)
                    if key not in found or images > found[key][0]:
                        found[key] = images, replace(control, params={"of": row.label}, alias=alias)
        return [spec for _, spec in found.values() if spec.label not in {row.label for row in self.rows}]

    def _applies(self, dataset: Spec, method: Spec, controls: list[Spec]) -> bool:
        """Whether a row runs on a data set: all do, except controls that were added and do not apply to it."""
        if method not in controls or not issubclass(self._class(method), Control):
            return True
        return applies(self.loaded, dataset, method)
