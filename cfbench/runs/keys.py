"""What the key of each stage is made of: a stage is computed again when, and only when, its key has changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from ..errors import PluginError
from ..evaluation.answers import Caller, answer_plan
from ..evaluation.plan import Plan
from ..evaluation.scoring import score
from ..evidence import Evidence
from ..plugins.digest import key_of, module_digest, object_digest, source_digest
from ..plugins.signatures import Kind
from ..plugins.spec import Spec
from .chain import KEYS
from .job import Cell, without_base

if TYPE_CHECKING:
    from .context import LoadedJob

__all__ = ["Keys"]


FIT, PREPARE = "cfbench.engine.fit", "cfbench.engine.prepare"
"""Modules whose code is part of keys."""


def _once(compute: Callable[[Keys, Spec], str]) -> Callable[[Keys, Spec], str]:
    """Compute a data set's key once: the keys of a run stay as they were, and fingerprints of large data take long."""

    @wraps(compute)
    def cached(keys: Keys, dataset: Spec) -> str:
        at = compute.__name__, dataset.label
        if at not in keys.computed:
            keys.computed[at] = compute(keys, dataset)
        return keys.computed[at]

    return cached


class Keys:
    """The keys of all stages of a job; none of the stages needs to have run."""

    def __init__(self, loaded: LoadedJob) -> None:
        self.loaded, self.job = loaded, loaded.job
        self.computed: dict[tuple[str, str], str] = {}

    @_once
    def data(self, dataset: Spec) -> str:
        """What the images and parents of a data set depend on."""
        fingerprint = self.loaded.dataset(dataset).fingerprint(self.job.data_root)
        drawing = module_digest("cfbench.rng"), module_digest("cfbench.graph")
        return self._plugin("dataset", dataset, dict(dataset.params), fingerprint, *drawing)

    @_once
    def mechanisms(self, dataset: Spec) -> str:
        """What the learned mechanisms of the parents depend on."""
        from ..evaluation.mechanisms import ParentMechanisms

        if bundle := self.loaded.bundle(dataset):
            return bundle.key("mechanisms")
        return key_of(self.data(dataset), source_digest(ParentMechanisms), module_digest(PREPARE, "mechanisms"))

    @_once
    def plan(self, dataset: Spec) -> str:
        """What the questions depend on."""
        if bundle := self.loaded.bundle(dataset):
            return bundle.key("plan")
        job = self.job
        learned = [self.mechanisms(dataset)] if self.loaded.action(dataset) == "learned" else []
        sources = source_digest(Plan), module_digest(PREPARE, "prepare")
        return key_of(self.data(dataset), *sources, job.plan, job.split, job.budget.factuals, *learned)

    @_once
    def judges(self, dataset: Spec) -> str:
        """What the judges depend on."""
        from ..judges import card, train_judges

        if bundle := self.loaded.bundle(dataset):
            return bundle.key("judges")
        sources = source_digest(train_judges), source_digest(card), module_digest(PREPARE, "judges")
        return key_of(self.data(dataset), *sources, self.job.budget.judge)

    def shared(self, dataset: Spec) -> dict[str, str]:
        """The keys that all cells of a data set share, by name."""
        return {"plan": self.plan(dataset), "judges": self.judges(dataset)}

    def scores(self, dataset: Spec, images: str, metrics: list[str]) -> dict[str, str]:
        """The keys of the scores, by metric, of answers under the key ``images``."""
        reading = module_digest("cfbench.engine.score"), module_digest("cfbench.images")
        shared = self.judges(dataset), source_digest(score), source_digest(Evidence), *reading
        return {m: self._plugin("metric", Spec(m), images, *shared) for m in metrics}

    def cell(self, dataset: Spec, method: Spec, seed: int, metrics: list[str]) -> Cell:
        """The cell with the keys of all its stages.

        One whose plugin cannot be loaded has keys of the reason, and fails when it is fitted.
        """
        try:
            return self._cell(dataset, method, seed, metrics)
        except PluginError as error:
            key = key_of(method.label, str(error))
            return Cell(dataset, method, seed, method, dict.fromkeys(KEYS, key), dict.fromkeys(metrics, key))

    def _cell(self, dataset: Spec, method: Spec, seed: int, metrics: list[str]) -> Cell:
        of = self.loaded.derived_from(method)
        base = of or method
        fit, answer = self.loaded.method_params(base)
        fit_spec = self.loaded.fit_spec(base)
        train = self._train(dataset, base, fit_spec, fit, seed)
        tune = key_of(train, answer, module_digest(FIT, "tune"))
        derived = [self._plugin("method", method, without_base(method).params)] if of else []
        asking = source_digest(answer_plan), source_digest(Caller), module_digest(FIT, "images")
        images = key_of(tune, self.plan(dataset), self.job.budget.rounds, *asking, *derived)
        keys = {"train": train, "tune": tune, "images": images, **self.shared(dataset)}
        return Cell(dataset, method, seed, fit_spec, keys, self.scores(dataset, images, metrics), of)

    def _train(self, dataset: Spec, method: Spec, fit_spec: Spec, params: dict[str, Any], seed: int) -> str:
        fitted = self.data(dataset), seed, self.job.budget.images, module_digest(FIT, "train"), _contract()
        precision = () if self.job.precision == "fp32" else (self.job.precision,)
        weights = self.loaded.weights(fit_spec)
        return self._plugin("method", method, params, *fitted, *precision, *((weights.digest,) if weights else ()))

    def _plugin(self, kind: Kind, spec: Spec, *parts: Any) -> str:
        """A key of a plugin's source, of the state of an instance, and of further parts."""
        registry = self.loaded.registry
        origin, instance = registry.find(kind, spec.name).origin, self.loaded.given_instance(kind, spec)
        state = () if instance is None else (object_digest(instance),)
        return key_of(spec.name, origin, source_digest(registry.load(kind, spec.name)), *state, *parts)


def _contract() -> str:
    """A digest of what a fit is given, and of what every method does that does not say otherwise."""
    return module_digest("cfbench.contract", "Fit", "Split", "Method", "Control", "Derived")
