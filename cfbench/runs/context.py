"""A job with its plugins loaded, and what the stages of a run work with."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from .. import storage
from ..contract import Control, Dataset, Derived, Method, Metric
from ..errors import PluginError, UserError
from ..evaluation.precision import bfloat16
from ..plugins.digest import key_of
from ..plugins.discovery import is_instance
from ..plugins.registry import Registry
from ..plugins.signatures import Kind
from ..plugins.spec import Spec, parse_specs
from ..rng import derive
from .bundle import Bundle
from .console import forward_progress
from .environment import describe_environment, isolated, pick_device
from .job import Cell, Job, PretrainedWeights, without_base
from .keys import Keys
from .progress import log_event

__all__ = ["Context", "LoadedJob", "Run", "load_job", "open_dataset"]


@dataclass(frozen=True)
class LoadedJob:
    """A job with the plugins it names loaded: what a process needs to work on a cell.

    ``classes`` are plugins that exist in this process only, by name.
    """

    job: Job
    classes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.job.plugins, self.classes)

    @cached_property
    def keys(self) -> Keys:
        return Keys(self)

    @cached_property
    def _datasets(self) -> dict[str, Dataset]:
        return {}

    def dataset(self, spec: Spec) -> Dataset:
        """The data set, constructed and opened once a process."""
        if spec.label not in self._datasets:
            self._datasets[spec.label] = open_dataset(self.registry, spec, self.job.data_root)
        return self._datasets[spec.label]

    def method_class(self, spec: Spec) -> type[Method] | type[Control]:
        """The class of a row, once its name and settings have been checked.

        Raises:
            UserError: the method is unknown, or a setting is wrong.
        """
        base = self.derived_from(spec)
        if base is None:
            return self.registry.resolve("method", spec)[0]
        cls, of = self.registry.load("method", spec.name), self.method_class(base)
        if issubclass(of, (Control, Derived)) or not cls.applies(of):
            raise UserError(f"{spec.name} cannot answer through {base.name}; `cfbench list methods` shows the others")
        self.registry.resolve("method", without_base(spec))
        return cls

    def derived_from(self, spec: Spec) -> Spec | None:
        """The row that a derived one answers through; None for one that is not derived.

        Raises:
            UserError: a derived row does not name exactly one.
        """
        if not issubclass(self.registry.load("method", spec.name), Derived):
            return None
        if "of" not in spec.params:
            raise UserError(f"{spec.name} answers through another method; write {spec.name}[of=method]")
        specs = parse_specs(str(spec.params["of"]), self.registry.takes_text("method"))
        if len(specs) > 1:
            raise UserError(f"{spec.label} names {len(specs)} methods; write one {spec.name}[of=method] for each")
        return specs[0]

    def method_params(self, spec: Spec) -> tuple[dict[str, Any], dict[str, Any]]:
        """The keywords of a method's fit, and those that change its answers only."""
        cls, params = self.registry.resolve("method", spec)
        answer: frozenset[str] = getattr(cls, "answer_params", frozenset())
        fit = {k: v for k, v in params.items() if k not in answer}
        return fit, {k: v for k, v in params.items() if k in answer}

    def method(self, cell: Cell, **chosen: Any) -> Method | Control:
        """A cell's method or control, not fitted; ``chosen`` sets what tuning chose and the user left open."""
        cell = cell.base
        cls, params = self.registry.resolve("method", cell.method)
        open_ = {k: v for k, v in chosen.items() if params.get(k) is None}
        if (instance := self.given_instance("method", cell.method)) is not None:
            return instance
        return cls(self.dataset(cell.dataset).graph, **{**params, **open_})

    def answering_method(self, cell: Cell, method: Method | Control) -> Method | Control:
        """The fitted method of a cell; of a derived one, the row that answers through it."""
        if cell.of is None:
            return method
        cls, params = self.registry.resolve("method", without_base(cell.method))
        return cls(method.graph, of=method, **params)

    def loadable(self, kind: Kind) -> list[str]:
        """The names of a kind's plugins, without those that cannot be loaded, each of which is reported."""
        found = []
        for name in self.registry.names(kind):
            try:
                self.registry.load(kind, name)
                found.append(name)
            except PluginError as error:
                print(f"cfbench: the {kind} {name} is left out: {error}", file=sys.stderr)
        return found

    def metric(self, name: str) -> Metric:
        instance = self.given_instance("metric", Spec(name))
        return self.registry.load("metric", name)() if instance is None else instance

    def given_instance(self, kind: Kind, spec: Spec) -> Any:
        """A copy of the instance that was given under a name; None where that was a class."""
        return _copy_of_instance(self.registry, kind, spec.name)

    def bundle(self, spec: Spec) -> Bundle | None:
        """The bundle that a data set's questions and judges come from; None where the run computes its own."""
        return next((b for b in self.job.bundles if b.dataset == spec.label), None)

    def action(self, spec: Spec) -> Literal["exact", "learned"]:
        """Whether the parents of a data set respond as its SCM says, or by mechanisms that are fitted to them.

        Raises:
            UserError: the exact response is asked for, and the data set knows none.
        """
        if bundle := self.bundle(spec):
            return bundle.action
        exact = _knows_action(self.dataset(spec))
        if self.job.action == "exact" and not exact:
            raise UserError(f"{spec.label} does not know how its parents respond to do(); use --action learned")
        return self.job.action or ("exact" if exact else "learned")

    def weights(self, spec: Spec) -> PretrainedWeights | None:
        """The weights that rows are given in place of the fit ``spec`` that they share."""
        return next((w for w in self.job.weights if w.fits(spec) or self._fit_of(w.row) == spec.label), None)

    def _fit_of(self, row: str) -> str:
        """The label of the fit of a row that is named by its label."""
        (spec,) = parse_specs(row, self.registry.takes_text("method"))
        return self.fit_spec(spec).label

    def fit_spec(self, spec: Spec) -> Spec:
        """The spec of a row's fit, without parameters that change answers only, or a budget that is the run's."""
        fit, _ = self.method_params(spec)
        images = None if spec.images == self.job.budget.images else spec.images
        params = {k: v for k, v in spec.params.items() if k in fit}
        return Spec(spec.name, self.fit_preset(spec), params, images=images)

    def fit_preset(self, spec: Spec) -> str:
        """The preset that a fit needs: none where it sets answer parameters only, so that such rows share the fit."""
        cls = self.registry.load("method", spec.name)
        settings = cls.presets.get(spec.preset, {})
        return "" if set(settings) <= getattr(cls, "answer_params", frozenset()) else spec.preset

    def plan_folder(self, dataset: Spec) -> Path:
        return self.job.folder / "plans" / f"{dataset.folder}-{self.keys.plan(dataset)}"

    def mechanisms_folder(self, dataset: Spec) -> Path:
        return self.job.folder / "mechanisms" / f"{dataset.folder}-{self.keys.mechanisms(dataset)}"

    def judge_folder(self, dataset: Spec) -> Path:
        return self.job.folder / "judges" / f"{dataset.folder}-{self.keys.judges(dataset)}"

    def shared_folder(self, stage: str, dataset: Spec) -> Path:
        """The folder of a stage that all cells of a data set share."""
        return {"prepare": self.plan_folder, "judges": self.judge_folder}[stage](dataset)


@lru_cache(maxsize=4)
def load_job(job: Job) -> LoadedJob:
    """The job's plugins, loaded once a process."""
    return LoadedJob(job)


def open_dataset(registry: Registry, spec: Spec, data_root: Path) -> Dataset:
    """A new data set, or a copy of the instance that was given under its name, opened.

    Raises:
        UserError: it is unknown, a setting is wrong, or its data cannot be read.
    """
    dataset = registry.dataset(spec)
    dataset.open(data_root)
    return dataset


def _copy_of_instance(registry: Registry, kind: Kind, name: str) -> Any:
    plugin = registry.find(kind, name)
    return copy.deepcopy(plugin.cls) if is_instance(plugin.cls) else None


def _knows_action(dataset: Dataset) -> bool:
    """Whether a data set says how its parents respond, asked about parents in the middle of their ranges."""
    graph = dataset.graph
    middle = [[0.0 if v.categorical else (v.low + v.high) / 2 for v in graph.variables]]
    first = graph.variables[0].name
    pa = torch.tensor(middle)
    return dataset.act(pa, {first: pa[:, 0]}, torch.Generator()) is not None


@dataclass(frozen=True)
class Context:
    """What a stage of a run works with.

    Attributes:
        loaded: the job.
        progress: ``progress(stage, done, total, loss)`` updates the live display.
        other_tasks: the largest number of other tasks that computed on the device at once since this one began.
        inputs: what keys of a cell are made of, by key.
        resumed: called with a description of where the work continues that an earlier process began.
    """

    loaded: LoadedJob
    progress: Callable[..., None] = field(default=lambda stage, done, total, loss=None: None)
    other_tasks: Callable[[], int] = field(default=lambda: 0)
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    resumed: Callable[[Mapping[str, Any]], None] = field(default=lambda about: None)

    @property
    def device(self) -> torch.device:
        return pick_device(self.loaded.job.device)

    def dataset_progress(self, spec: Spec) -> AbstractContextManager[None]:
        """Context manager under which a data set reports its progress to the live display."""
        return forward_progress(self.loaded.dataset(spec), self.progress)

    def folder(self, cell: Cell, stage: str) -> Path:
        """The folder of a stage of a cell."""
        return self.loaded.job.folder / cell.stage(stage)

    @contextmanager
    def write_stage(self, folder: Path, **about: Any) -> Iterator[Path]:
        """Context manager like `storage.write_stage` that logs the stage, unless another process wrote it first.

        What its key is made of is written too, where that is known.
        """
        key = folder.name.rpartition("-")[2]
        if inputs := self.inputs.get(key) or self.loaded.keys.inputs.get(key):
            about["inputs"] = inputs
        with storage.write_stage(folder, **about) as draft:
            yield draft
            inode = draft.stat().st_ino
        if folder.stat().st_ino == inode:
            log_event(self.loaded.job.folder, "wrote", stage=str(folder.relative_to(self.loaded.job.folder)))

    def isolated(self, stage: str, seed: int = 0) -> AbstractContextManager[None]:
        """Context manager with the global random state and the threads of a stage, both restored afterwards."""
        return isolated(derive(stage, seed), self.loaded.job.threads)

    def precision(self, plugin: Method | Control) -> AbstractContextManager[None]:
        """Context manager under which a plugin computes: a method in bfloat16 where the job says so."""
        lowered = self.loaded.job.precision == "bf16" and isinstance(plugin, Method)
        return bfloat16(self.device) if lowered else nullcontext()

    def record_environment(self, environment: Mapping[str, Any] | None = None) -> str:
        """Describe an environment, by default that of this process, in the run's folder; the key of the description."""
        about = environment or describe_environment(self.device, self.loaded.job.threads)
        key = key_of(about)
        path = self.loaded.job.folder / "env" / f"{key}.json"
        if not path.exists():
            storage.write_json(path, about)
        return key


@dataclass(frozen=True)
class Run:
    """The cells of a run and the job that they share."""

    job: Job
    cells: tuple[Cell, ...]
    loaded: LoadedJob
    controls: tuple[str, ...]
    datasets: tuple[Spec, ...]
