"""A job with its plugins loaded, the keys of all that it makes, and what a stage works with."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from .. import storage
from ..contract import Control, Dataset, Derived, Method, Metric
from ..errors import PluginError, UserError
from ..evaluation.answers import Caller, answer_plan
from ..evaluation.plan import Plan
from ..evaluation.precision import bfloat16
from ..evaluation.scoring import score
from ..evidence import Evidence
from ..plugins.digest import key_of, module_digest, object_digest, source_digest
from ..plugins.discovery import SESSION
from ..plugins.registry import Registry
from ..plugins.signatures import Kind
from ..plugins.spec import Spec, parse_specs
from ..rng import derive
from .bundle import Bundle
from .chain import KEYS
from .environment import describe_environment, isolated, pick_device
from .job import Cell, GivenWeights, Job
from .progress import forwarding_progress, log_event

__all__ = ["Context", "LoadedJob", "Run", "load_job"]


FIT, PREPARE = "cfbench.engine.fit", "cfbench.engine.prepare"
"""Modules whose code is part of keys."""


@dataclass(frozen=True)
class LoadedJob:
    """A job with the plugins it names, loaded: what a process needs to work on a cell.

    ``classes`` are plugins that live in this process alone, by name.
    """

    job: Job
    classes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.job.plugins, self.classes)

    @cached_property
    def _datasets(self) -> dict[str, Dataset]:
        return {}

    def dataset(self, spec: Spec) -> Dataset:
        """The data set, made once a process."""
        if spec.label not in self._datasets:
            self.registry.resolve("dataset", spec)
            dataset = self._given("dataset", spec) or self.registry.dataset(spec)
            dataset.open(self.job.data_root)
            self._datasets[spec.label] = dataset
        return self._datasets[spec.label]

    def method_class(self, spec: Spec) -> type[Method] | type[Control]:
        """The class of a row whose name and settings are as they should be.

        Raises:
            UserError: they are not.
        """
        base = self.derived_from(spec)
        if base is None:
            return self.registry.resolve("method", spec)[0]
        cls, of = self.registry.load("method", spec.name), self.method_class(base)
        if issubclass(of, (Control, Derived)) or not cls.applies(of):
            raise UserError(f"{spec.name} cannot answer through {base.name}; `cfbench list methods` shows the others")
        self.registry.resolve("method", _without_base(spec))
        return cls

    def derived_from(self, spec: Spec) -> Spec | None:
        """The row that a derived one answers through; None for any other.

        Raises:
            UserError: it does not name one.
        """
        if not issubclass(self.registry.load("method", spec.name), Derived):
            return None
        if "of" not in spec.params:
            raise UserError(f"{spec.name} answers through another method; write {spec.name}[of=method]")
        specs = parse_specs(str(spec.params["of"]))
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
        """The method or control that a cell fits, not fitted; what tuning chose fills in what the user left open."""
        cell = cell.base
        cls, params = self.registry.resolve("method", cell.method)
        open_ = {k: v for k, v in chosen.items() if params.get(k) is None}
        if (given := self._given("method", cell.method)) is not None:
            return given
        return cls(self.dataset(cell.dataset).graph, **{**params, **open_})

    def dressed(self, cell: Cell, method: Method | Control) -> Method | Control:
        """What answers in a cell, through a fitted method where the cell's own is derived."""
        if cell.of is None:
            return method
        cls, params = self.registry.resolve("method", _without_base(cell.method))
        return cls(method.graph, of=method, **params)

    def loadable(self, kind: Kind) -> list[str]:
        """The plugins of a kind, but for those that cannot be loaded, each of which is told."""
        found = []
        for name in self.registry.names(kind):
            try:
                self.registry.load(kind, name)
                found.append(name)
            except PluginError as error:
                print(f"cfbench: the {kind} {name} is left out: {error}", file=sys.stderr)
        return found

    def metric(self, name: str) -> Metric:
        return self._given("metric", Spec(name)) or self.registry.load("metric", name)()

    def _given(self, kind: Kind, spec: Spec) -> Any:
        """A copy of the object that was given for a name in place of a class; None where it was a class."""
        given = self.classes.get(spec.name) if self.registry.find(kind, spec.name).origin == SESSION else None
        return None if given is None or isinstance(given, type) else copy.deepcopy(given)

    @cached_property
    def _keys(self) -> dict[tuple[str, str], str]:
        return {}

    def _once(self, what: str, spec: Spec, made: Callable[[Spec], str]) -> str:
        """A key, which is made once: a run's keys stay what they were, and data that are handed over may be large."""
        if (what, spec.label) not in self._keys:
            self._keys[what, spec.label] = made(spec)
        return self._keys[what, spec.label]

    def data_key(self, spec: Spec) -> str:
        """What the images and parents of a data set depend on."""
        return self._once("data", spec, self._data_key)

    def _data_key(self, spec: Spec) -> str:
        dataset = self.dataset(spec)
        drawing = module_digest("cfbench.rng"), module_digest("cfbench.graph")
        return self._of("dataset", spec, dict(spec.params), dataset.fingerprint(self.job.data_root), *drawing)

    def bundle(self, spec: Spec) -> Bundle | None:
        """The bundle that a data set's questions and judges come from; None where the run makes its own."""
        return next((b for b in self.job.bundles if b.dataset == spec.label), None)

    def action(self, spec: Spec) -> Literal["exact", "learned"]:
        """Whether the parents of a data set respond as its SCM says or by mechanisms that are fitted to them.

        Raises:
            UserError: the exact response is asked for, and the data set knows none.
        """
        if bundle := self.bundle(spec):
            return bundle.action
        exact = _knows_action(self.dataset(spec))
        if self.job.action == "exact" and not exact:
            raise UserError(f"{spec.label} does not know how its parents respond to do(); use --action learned")
        return self.job.action or ("exact" if exact else "learned")

    def mechanisms_key(self, spec: Spec) -> str:
        """What the learned mechanisms of the parents depend on."""
        return self._once("mechanisms", spec, self._mechanisms_key)

    def _mechanisms_key(self, spec: Spec) -> str:
        from ..evaluation.mechanisms import ParentMechanisms

        if bundle := self.bundle(spec):
            return bundle.key("mechanisms")
        return key_of(self.data_key(spec), source_digest(ParentMechanisms), module_digest(PREPARE, "mechanisms"))

    def plan_key(self, spec: Spec) -> str:
        """What the questions depend on."""
        return self._once("plan", spec, self._plan_key)

    def _plan_key(self, spec: Spec) -> str:
        if bundle := self.bundle(spec):
            return bundle.key("plan")
        job = self.job
        learned = [self.mechanisms_key(spec)] if self.action(spec) == "learned" else []
        sources = source_digest(Plan), module_digest(PREPARE, "prepare")
        return key_of(self.data_key(spec), *sources, job.plan, job.split, job.budget.factuals, *learned)

    def judge_key(self, spec: Spec) -> str:
        """What the judges depend on."""
        return self._once("judges", spec, self._judge_key)

    def _judge_key(self, spec: Spec) -> str:
        from ..judges import card, train_judges

        if bundle := self.bundle(spec):
            return bundle.key("judges")
        sources = source_digest(train_judges), source_digest(card), module_digest(PREPARE, "judges")
        return key_of(self.data_key(spec), *sources, self.job.budget.judge)

    def weights(self, spec: Spec) -> GivenWeights | None:
        """The weights that a row is given in place of a fit."""
        return next((w for w in self.job.weights if w.fits(spec)), None)

    def cell(self, dataset: Spec, method: Spec, seed: int, metrics: list[str]) -> Cell:
        """The cell with the keys of all its stages, none of which needs to have run.

        One whose plugin cannot be loaded has keys of the reason, and fails when it is fitted.
        """
        try:
            return self._cell(dataset, method, seed, metrics)
        except PluginError as error:
            key = key_of(method.label, str(error))
            return Cell(dataset, method, seed, method, dict.fromkeys(KEYS, key), dict.fromkeys(metrics, key))

    def _cell(self, dataset: Spec, method: Spec, seed: int, metrics: list[str]) -> Cell:
        of = self.derived_from(method)
        base = of or method
        fit, answer = self.method_params(base)
        fitted = self.data_key(dataset), seed, self.job.budget.images, module_digest(FIT, "train"), _contract()
        precision = () if self.job.precision == "fp32" else (self.job.precision,)
        fit_spec = self.fit_spec(base)
        given = self.weights(fit_spec)
        train = self._of("method", base, fit, *fitted, *precision, *((given.digest,) if given else ()))
        tune = key_of(train, answer, module_digest(FIT, "tune"))
        derived = [self._of("method", method, _without_base(method).params)] if of else []
        asking = source_digest(answer_plan), source_digest(Caller), module_digest(FIT, "images")
        images = key_of(tune, self.plan_key(dataset), self.job.budget.rounds, *asking, *derived)
        keys = {"train": train, "tune": tune, "images": images, **self.shared_keys(dataset)}
        scores = self.score_keys(dataset, images, metrics)
        return Cell(dataset, method, seed, fit_spec, keys, scores, of)

    def shared_keys(self, dataset: Spec) -> dict[str, str]:
        """What all cells of a data set share."""
        return {"plan": self.plan_key(dataset), "judges": self.judge_key(dataset)}

    def score_keys(self, dataset: Spec, images: str, metrics: list[str]) -> dict[str, str]:
        """The keys of the scores of answers under a key."""
        reading = module_digest("cfbench.engine.score"), module_digest("cfbench.images")
        scoring = source_digest(score), source_digest(Evidence), *reading
        shared = self.judge_key(dataset), *scoring
        return {m: self._of("metric", Spec(m), images, *shared) for m in metrics}

    def fit_spec(self, spec: Spec) -> Spec:
        """What a row asks of its fit: no parameter that changes answers only."""
        fit, _ = self.method_params(spec)
        return Spec(spec.name, self.fit_preset(spec), {k: v for k, v in spec.params.items() if k in fit})

    def fit_preset(self, spec: Spec) -> str:
        """The preset that a fit needs: none where it sets answer parameters only, so that such rows share the fit."""
        cls = self.registry.load("method", spec.name)
        settings = cls.presets.get(spec.preset, {})
        return "" if set(settings) <= getattr(cls, "answer_params", frozenset()) else spec.preset

    def plan_folder(self, dataset: Spec) -> Path:
        return self.job.folder / "plans" / f"{dataset.folder}-{self.plan_key(dataset)}"

    def mechanisms_folder(self, dataset: Spec) -> Path:
        return self.job.folder / "mechanisms" / f"{dataset.folder}-{self.mechanisms_key(dataset)}"

    def judge_folder(self, dataset: Spec) -> Path:
        return self.job.folder / "judges" / f"{dataset.folder}-{self.judge_key(dataset)}"

    def shared_folder(self, stage: str, dataset: Spec) -> Path:
        """Where a stage that all cells of a data set share lies."""
        return {"prepare": self.plan_folder, "judges": self.judge_folder}[stage](dataset)

    def _of(self, kind: Kind, spec: Spec, *parts: Any) -> str:
        origin = self.registry.find(kind, spec.name).origin
        given = self._given(kind, spec)
        state = () if given is None else (object_digest(given),)
        return key_of(spec.name, origin, source_digest(self.registry.load(kind, spec.name)), *state, *parts)


@lru_cache(maxsize=4)
def load_job(job: Job) -> LoadedJob:
    """The job's plugins, loaded once a process."""
    return LoadedJob(job)


def _contract() -> str:
    """A digest of what a fit is given, and of what every method does that does not say otherwise."""
    return module_digest("cfbench.contract", "Fit", "Split", "Method", "Control", "Derived")


def _without_base(spec: Spec) -> Spec:
    return replace(spec, params={k: v for k, v in spec.params.items() if k != "of"})


def _knows_action(dataset: Dataset) -> bool:
    """Whether a data set says how its parents respond, asked about parents in the middle of their ranges."""
    graph = dataset.graph
    middle = [[0.0 if v.categorical else (v.low + v.high) / 2 for v in graph.variables]]
    first = graph.variables[0].name
    pa = torch.tensor(middle)
    return dataset.act(pa, {first: pa[:, 0]}, torch.Generator()) is not None


@dataclass(frozen=True)
class Context:
    """A place to work on one run.

    ``progress(stage, done, total, loss)`` moves the live display; ``others()`` is how many other tasks were seen to
    compute on the device since this one began.
    """

    loaded: LoadedJob
    progress: Callable[..., None] = field(default=lambda stage, done, total, loss=None: None)
    others: Callable[[], int] = field(default=lambda: 0)

    @property
    def device(self) -> torch.device:
        return pick_device(self.loaded.job.device)

    def reporting(self, spec: Spec) -> AbstractContextManager[None]:
        """A block in which a data set says in the live display what it makes."""
        return forwarding_progress(self.loaded.dataset(spec), self.progress)

    def folder(self, cell: Cell, stage: str) -> Path:
        """Where a stage of a cell lies."""
        return self.loaded.job.folder / cell.stage(stage)

    @contextmanager
    def writing(self, folder: Path, **about: Any) -> Iterator[Path]:
        """A stage's folder in the making, as `store.writing`, noted in the run's log by whoever made it first."""
        with storage.write_stage(folder, **about) as draft:
            yield draft
            made = draft.stat().st_ino
        if folder.stat().st_ino == made:
            log_event(self.loaded.job.folder, "wrote", stage=str(folder.relative_to(self.loaded.job.folder)))

    def quiet(self, stage: str, seed: int = 0) -> AbstractContextManager[None]:
        """A block with the global random state and the threads of a stage, both put back afterwards."""
        return isolated(derive(stage, seed), self.loaded.job.threads)

    def precise(self, plugin: Method | Control) -> AbstractContextManager[None]:
        """Context manager under which a plugin computes: a method in bfloat16 where the job says so."""
        lowered = self.loaded.job.precision == "bf16" and isinstance(plugin, Method)
        return bfloat16(self.device) if lowered else nullcontext()

    def env(self) -> str:
        """The key under which the environment of this process is described in the run's folder."""
        about = describe_environment(self.device, self.loaded.job.threads)
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
