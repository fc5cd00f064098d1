"""What the key of each stage is made of: a stage is computed again when, and only when, its key has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from ..errors import PluginError
from ..evaluation.answers import Caller, answer_plan
from ..evaluation.plan import Plan
from ..evaluation.scoring import score
from ..evidence import Evidence
from ..plugins.digest import key_of, module_digest, object_digest, source_digest, source_parts
from ..plugins.signatures import Kind, defaults
from ..plugins.spec import Spec
from .chain import KEYS
from .job import Cell, without_base

if TYPE_CHECKING:
    from .context import LoadedJob

__all__ = ["STAGE_INPUTS", "Keys"]


FIT, PREPARE = "cfbench.engine.fit", "cfbench.engine.prepare"
"""Modules whose code is part of keys."""
STAGE_INPUTS: Mapping[str, str] = {
    "train": "train", "tune": "tune", "images": "images", "plan": "prepare",
    "mechanisms": "prepare", "judges": "judges",
}  # fmt: skip
"""Inputs that are keys of other stages, with the stages."""


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
    """The keys of all stages of a job; none of the stages needs to have run.

    ``inputs`` holds what each key is made of, by the key and the name of the input, to say later what has changed:
    texts, numbers, mappings of those, and the keys of other stages under the names in `STAGE_INPUTS`.
    """

    def __init__(self, loaded: LoadedJob) -> None:
        self.loaded, self.job = loaded, loaded.job
        self.computed: dict[tuple[str, str], str] = {}
        self.inputs: dict[str, Mapping[str, Any]] = {}

    @_once
    def data(self, dataset: Spec) -> str:
        """What the images and parents of a data set depend on."""
        fingerprint = self.loaded.dataset(dataset).fingerprint(self.job.data_root)
        params = dict(dataset.params)
        drawing = module_digest("cfbench.rng"), module_digest("cfbench.graph")
        return self._plugin(
            "dataset", dataset, params, fingerprint, *drawing,
            inputs={"settings": params, "files": key_of(fingerprint), "code of cfbench's draws": key_of(*drawing)},
        )  # fmt: skip

    @_once
    def mechanisms(self, dataset: Spec) -> str:
        """What the learned mechanisms of the parents depend on."""
        from ..evaluation.mechanisms import ParentMechanisms

        if bundle := self.loaded.bundle(dataset):
            return bundle.key("mechanisms")
        sources = source_digest(ParentMechanisms), module_digest(PREPARE, "mechanisms")
        return self._key((self.data(dataset), *sources), {**self._data(dataset), **_cfbench(sources)})

    @_once
    def plan(self, dataset: Spec) -> str:
        """What the questions depend on."""
        if bundle := self.loaded.bundle(dataset):
            return bundle.key("plan")
        job = self.job
        learned = [self.mechanisms(dataset)] if self.loaded.action(dataset) == "learned" else []
        sources = source_digest(Plan), module_digest(PREPARE, "prepare")
        asked = {"plan": job.plan, "split": job.split, "factuals": job.budget.factuals}
        inputs = {**self._data(dataset), **_cfbench(sources), "settings": asked}
        inputs |= {"mechanisms": learned[0]} if learned else {}
        return self._key((self.data(dataset), *sources, *asked.values(), *learned), inputs)

    @_once
    def judges(self, dataset: Spec) -> str:
        """What the judges depend on."""
        from ..judges import card, train_judges

        if bundle := self.loaded.bundle(dataset):
            return bundle.key("judges")
        sources = source_digest(train_judges), source_digest(card), module_digest(PREPARE, "judges")
        scale = self.job.budget.judge
        inputs = {**self._data(dataset), **_cfbench(sources), "settings": {"judge": scale}}
        return self._key((self.data(dataset), *sources, scale), inputs)

    def shared(self, dataset: Spec) -> dict[str, str]:
        """The keys that all cells of a data set share, by name."""
        return {"plan": self.plan(dataset), "judges": self.judges(dataset)}

    def scores(self, dataset: Spec, images: str, metrics: list[str]) -> dict[str, str]:
        """The keys of the scores, by metric, of answers under the key ``images``."""
        reading = module_digest("cfbench.engine.score"), module_digest("cfbench.images")
        sources = source_digest(score), source_digest(Evidence), *reading
        judges = self.judges(dataset)
        inputs = {"images": images, "judges": judges, **_cfbench(sources)}
        return {m: self._plugin("metric", Spec(m), images, judges, *sources, inputs=inputs) for m in metrics}

    def cell(self, dataset: Spec, method: Spec, seed: int, metrics: list[str], kept: str = "") -> Cell:
        """The cell with the keys of all its stages; ``kept`` is the key of a fit by other code to answer with.

        One whose plugin cannot be loaded has keys of the reason, and fails when it is fitted.
        """
        try:
            return self._cell(dataset, method, seed, metrics, kept)
        except PluginError as error:
            key = key_of(method.label, str(error))
            return Cell(dataset, method, seed, method, dict.fromkeys(KEYS, key), dict.fromkeys(metrics, key))

    def _cell(self, dataset: Spec, method: Spec, seed: int, metrics: list[str], kept: str) -> Cell:
        of = self.loaded.derived_from(method)
        base = of or method
        fit, answer = self.loaded.method_params(base)
        fit_spec = self.loaded.fit_spec(base)
        own = self._train(dataset, base, fit_spec, fit, seed)
        train, kept = kept or own, own if kept not in ("", own) else ""
        tuning = module_digest(FIT, "tune")
        fitted = {"train": train, **({"kept in place of": kept} if kept else {})}
        tune = self._key((*fitted.values(), answer, tuning), {**fitted, "settings": answer, **_cfbench([tuning])})
        asking = source_digest(answer_plan), source_digest(Caller), module_digest(FIT, "images")
        plan, rounds = self.plan(dataset), self.job.budget.rounds
        inputs = {"tune": tune, "plan": plan, "settings": {"rounds": rounds}, **_cfbench(asking)}
        derived = []
        if of:
            derived = [self._plugin("method", method, without_base(method).params, inputs={})]
            inputs |= self.inputs[derived[0]]
        images = self._key((tune, plan, rounds, *asking, *derived), inputs)
        keys = {"train": train, "tune": tune, "images": images, **self.shared(dataset)}
        scores = self.scores(dataset, images, metrics)
        known = {key: self.inputs[key] for key in (own, tune, images, *scores.values())}
        return Cell(dataset, method, seed, fit_spec, keys, scores, of, kept=kept, inputs=known)

    def _train(self, dataset: Spec, method: Spec, fit_spec: Spec, params: dict[str, Any], seed: int) -> str:
        harness = module_digest(FIT, "train"), _contract()
        fitted = self.data(dataset), seed, self.job.images(fit_spec), *harness
        precision = () if self.job.precision == "fp32" else (self.job.precision,)
        weights = self.loaded.weights(fit_spec)
        settings = {**self._defaults(method), **params, "seed": seed, "images": self.job.images(fit_spec)}
        inputs = {**self._data(dataset), "settings": settings}
        inputs |= {"precision": self.job.precision, "weights": weights.digest if weights else "", **_cfbench(harness)}
        given = (weights.digest,) if weights else ()
        return self._plugin("method", method, params, *fitted, *precision, *given, inputs=inputs)

    def _defaults(self, method: Spec) -> dict[str, Any]:
        """The settings of a method's fit that are not given, which its code decides."""
        cls = self.loaded.registry.load("method", method.name)
        answer: frozenset[str] = getattr(cls, "answer_params", frozenset())
        return {name: value for name, value in defaults(cls).items() if name not in answer}

    def _plugin(self, kind: Kind, spec: Spec, *parts: Any, inputs: Mapping[str, Any]) -> str:
        """A key of a plugin's source, of the state of an instance, and of further parts."""
        registry = self.loaded.registry
        origin, instance = registry.find(kind, spec.name).origin, self.loaded.given_instance(kind, spec)
        state = () if instance is None else (object_digest(instance),)
        cls = registry.load(kind, spec.name)
        own = {"origin": origin, f"code of {spec.name}": source_parts(cls), "state": state[0] if state else ""}
        return self._key((spec.name, origin, source_digest(cls), *state, *parts), {**own, **inputs})

    def _data(self, dataset: Spec) -> dict[str, Any]:
        """The inputs of a data set among those of a stage that reads it."""
        found = self.inputs[self.data(dataset)]
        return {name if name.startswith("code of") else f"data's {name}": value for name, value in found.items()}

    def _key(self, parts: Iterable[Any], inputs: Mapping[str, Any]) -> str:
        key = key_of(*parts)
        self.inputs[key] = json.loads(json.dumps(inputs, default=str))  # as it is read back
        return key


def _cfbench(digests: Iterable[str]) -> dict[str, Any]:
    """The code of the harness as an input."""
    return {"code of cfbench": key_of(*digests)}


def _contract() -> str:
    """A digest of what a fit is given, and of what every method does that does not say otherwise."""
    return module_digest("cfbench.contract", "Fit", "Split", "Method", "Control", "Derived")
