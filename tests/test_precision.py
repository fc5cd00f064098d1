"""What a fit computes depends on its settings alone: not on the precision's casts, nor on what the caller has set."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toys

import cfbench
from cfbench import storage
from cfbench.contract import Method
from cfbench.engine import fit
from cfbench.engine.request import Request
from cfbench.plugins.registry import Registry
from cfbench.plugins.spec import Spec
from cfbench.runs.context import Context, LoadedJob
from cfbench.runs.environment import ProcessState, isolated

MULT = {"width": 8, "mult": (1, 2)}
LEARNED = {
    "deepscm": {"latent": 4, "width": 8, "hidden": 32, "lr": 1e-2, "batch": 16},
    "diffscm": {**MULT, "predictor_width": 8, "predictor_mult": (1, 2), "predictor_share": 0.2}
    | {"output": "eps", "batch": 16},
    "diffscm-cfg": {**MULT, "clean_share": 0.05, "output": "eps", "loss": "eps", "batch": 16},
    "flowmatching": {**MULT, "batch": 16, "lr": 1e-2},
    "flowscm": {"width": (24, 8), "depth": (2, 1), "couplings": (4, 2), "batch": 16},
    "hvae": {"widths": (8, 12, 16), "latents": (2, 3, 4), "blocks": (1, 1, 1), "layers": (1, 1, 2), "batch": 16},
}
"""Small networks of all methods that learn."""


def bench(root, methods, precision="fp32", images=2400, classes=None):
    asked = {"methods": methods, "datasets": "bars", "controls": False, "preset": "tiny", "device": "cpu"}
    request = Request(
        **asked, precision=precision, plugins=(Path(toys.__file__),), classes=classes or {}, run_root=root,
        data_root=root,
    )  # fmt: skip
    budget = replace(request.job.budget, images=images)
    return Context(LoadedJob(replace(request.job, budget=budget), request.classes))


def losses(root, name, precision):
    """Those of the longest stage of a fit, in the order of its training log."""
    here = bench(root / precision, name, precision)
    cell = here.loaded.keys.cell(Spec("bars"), Spec(name, params=LEARNED[name]), 0, [])
    fit.train(here, cell)
    rows = [json.loads(row) for row in (here.folder(cell, "train") / "log.jsonl").read_text().splitlines()]
    stages = [row["stage"] for row in rows if "loss" in row]
    longest = max(stages, key=stages.count)
    return [row["loss"] for row in rows if row["stage"] == longest]


def test_all_methods_that_learn_are_compared():
    registry = Registry()
    classes = {name: registry.load("method", name) for name in registry.names("method")}
    learned = {n for n, cls in classes.items() if issubclass(cls, Method) and "Untrained" not in cls.__name__}
    assert {n for n in learned if classes[n].fit is not Method.fit} == set(LEARNED)


@pytest.mark.parametrize("name", LEARNED)
def test_a_fit_in_bfloat16_reaches_the_loss_of_one_in_float32(tmp_path, name):
    exact, lowered = (losses(tmp_path, name, precision) for precision in ("fp32", "bf16"))
    assert exact != lowered, "the precision made no difference"
    last = max(2, len(exact) // 4)
    end, other = (sum(found[-last:]) / last for found in (exact, lowered))
    assert abs(other - end) < 0.15 * (exact[0] - end), (exact, lowered)


class Counts(Method):
    """Sets a weight to 1, 2, 3, ... and writes down what a product with it gives."""

    def __init__(self, graph):
        super().__init__(graph)
        self.weight = torch.nn.Parameter(torch.zeros(1, 1))
        self.seen = {}

    def count(self, what):
        for number in (1.0, 2.0, 3.0):
            with torch.no_grad():
                self.weight.fill_(number)
            self.seen.setdefault(what, []).append((torch.ones(1, 1) @ self.weight).item())

    def fit(self, run):
        self.count("fit")
        run.record("fit", self.seen)

    def tune(self, run):
        self.count("tune")
        run.record("tune", self.seen)
        return {}

    def abduct(self, x, pa, rng):
        return x

    def predict(self, u, pa, rng):
        self.count("predict")
        return u * 0 + (self.seen["predict"][-3:] == [1, 2, 3])


def test_what_a_method_does_to_its_weights_is_seen_at_once_in_bfloat16(tmp_path):
    here = bench(tmp_path, "counts", "bf16", classes={"counts": Counts})
    cell = here.loaded.keys.cell(Spec("bars"), Spec("counts"), 0, [])
    for stage in ("train", "tune"):
        getattr(fit, stage)(here, cell)
    for stage, what in (("train", "fit"), ("tune", "tune")):
        assert storage.read_json(here.folder(cell, stage) / f"{what}.json") == {what: [1, 2, 3]}
    run = cfbench.run(
        {"counts": Counts}, toys.Bars, preset="tiny", controls=False, metrics="composition", precision="bf16",
        run_root=tmp_path, data_root=tmp_path, progress=False,
    )  # fmt: skip
    method = cfbench.load_method(run, "counts")
    split = toys.Bars().split(tmp_path, "test")[:3]
    answer = cfbench.counterfactual(method, split.x, split.parents, {"level": 0.5}, dataset=toys.Bars())
    (images,) = run.folder.glob("cells/*/counts/seed-0/images-*/answers.safetensors")
    for answers in (answer.image, *storage.read_tensors(images).values()):
        assert (answers == 1).all()


class Measures(cfbench.Control):
    """Answers 1 where products are those of float32."""

    def answer(self, questions):
        third = torch.full((1, 1), 1 / 3)
        return torch.ones_like(questions.x) * ((third @ third).dtype == torch.float32)


def test_controls_compute_in_float32_whatever_the_precision(tmp_path):
    run = cfbench.run(
        {"measures": Measures}, toys.Bars, preset="tiny", controls=False, metrics="truth", precision="bf16",
        run_root=tmp_path, data_root=tmp_path, progress=False,
    )  # fmt: skip
    (images,) = run.folder.glob("cells/*/measures/seed-0/images-*/answers.safetensors")
    assert all((answers == 1).all() for answers in storage.read_tensors(images).values())


class Sensitive(Method):
    """Learns by products and by all global generators, and needs a gradient to answer."""

    def __init__(self, graph):
        super().__init__(graph)
        self.mix = torch.nn.Linear(64, 64)

    def fit(self, run):
        optimiser = torch.optim.SGD(self.parameters(), 0.1)
        for x, _ in run.batches(20, 32):
            noise = torch.randn(x.shape) * np.random.rand() * random.random()
            loss = (self.mix((x + noise).flatten(1)) - x.flatten(1)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            run.log({"loss": loss.item()})

    def abduct(self, x, pa, rng):
        return x.flatten(1) @ (x.flatten(1).T @ x.flatten(1) / 64) + rng.normal(64)

    def predict(self, u, pa, rng):
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.mix(u).square().sum(), u)
        return torch.sigmoid(torch.linspace(0, 1, 64) + u + 0.1 * slope).view(-1, *self.graph.shape)


@contextmanager
def set_by(change):
    """Context manager that puts all that a change sets back."""
    before = ProcessState()
    try:
        change()
        yield
    finally:
        before.restore()


CALLERS = {
    "nothing": lambda: set_by(lambda: None),
    "double": lambda: set_by(lambda: torch.set_default_dtype(torch.float64)),
    "medium": lambda: set_by(lambda: torch.set_float32_matmul_precision("medium")),
    "backend": lambda: set_by(lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16")),
    "deterministic": lambda: set_by(lambda: torch.use_deterministic_algorithms(True)),
    "threads": lambda: set_by(lambda: torch.set_num_threads(2)),
    "seeds": lambda: set_by(lambda: (torch.manual_seed(9), np.random.seed(9), random.seed(9))),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
}
"""What may be set where cfbench is called."""
FACTUALS = toys.Bars().split(Path(), "test")[:4]


def computed(root, caller):
    """All tensors that a run stores, one of its answers again, and what the run leaves behind."""
    with CALLERS[caller]():
        before = ProcessState()
        run = cfbench.run(
            {"sensitive": Sensitive}, toys.Bars, preset="tiny", metrics="truth,composition,effectiveness",
            run_root=root, data_root=root, progress=False,
        )  # fmt: skip
        method = cfbench.load_method(run, "sensitive")
        x, pa = FACTUALS.x.to(torch.float32), FACTUALS.parents.clone()
        answer = cfbench.counterfactual(method, x, pa, {"kind": 1.0}, dataset=toys.Bars())
        left = before.changes()
    files = [p for p in run.folder.rglob("*.safetensors") if "plans" in p.parts or "cells" in p.parts]
    files += run.folder.rglob("judges/**/*.safetensors")
    found = {str(p.relative_to(run.folder)) + name: v for p in files for name, v in storage.read_tensors(p).items()}
    return found | {"answer": answer.image}, left


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What is computed where nothing is set."""
    return computed(tmp_path_factory.mktemp("nothing"), "nothing")[0]


@pytest.mark.parametrize("caller", CALLERS)
def test_nothing_that_the_caller_has_set_changes_what_is_computed(tmp_path, plain, caller):
    found, left = computed(tmp_path, caller)
    assert not left
    assert found.keys() == plain.keys()
    differ = [name for name, value in found.items() if not torch.equal(value.nan_to_num(9), plain[name].nan_to_num(9))]
    assert not differ


def test_matrix_products_of_a_task_have_its_threads():
    from threadpoolctl import threadpool_info

    def blas():
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    before = blas()
    with isolated(0, 1):
        assert blas() == {1}
    assert blas() == before
