"""The stages of a cell, each one folder: prepare, judges, train, tune, images, scores."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import store
from .answer import answer_plan, mechanism
from .cells import Cell, Workshop
from .contract import Fit, Method
from .digest import key_of
from .environment import describe, peak_memory, pick_device, quiet
from .plan import Plan, make_plan
from .rng import derive
from .scoring import Row, evidences, score
from .spec import Spec

__all__ = ["Stages"]

Progress = Callable[..., None]


@dataclass(frozen=True)
class Stages:
    """Work on one run: every method leaves a finished folder behind, and does nothing where it is already there.

    ``progress(stage, done, total, loss)`` moves the live display.
    """

    shop: Workshop
    progress: Progress = field(default=lambda stage, done, total, loss=None: None)

    @property
    def device(self) -> torch.device:
        return pick_device(self.shop.job.device)

    def prepare(self, spec: Spec) -> None:
        """The data, and the plan with its true counterfactuals."""
        job, dataset = self.shop.job, self.shop.dataset(spec)
        if not dataset.network:
            dataset.prepare(job.data_root)
        folder = self.shop.plan_folder(spec)
        if _done(folder):
            return
        self.progress("plan", 0, 1)
        plan = make_plan(dataset, job.data_root, name=job.plan, split=job.split, factuals=job.budget.factuals)
        truth = {}
        for v, asked in plan.asked.items():
            images = dataset.oracle(job.data_root, job.split, plan.index[asked.factual], asked.cf_pa)
            if images is not None:
                truth[f"do/{v}"] = images.float()
        factuals = dataset.split(job.data_root, job.split).images[plan.rows]
        with store.writing(folder, stage="plan", data=self.shop.data_key(spec)) as draft:
            plan.save(draft)
            store.write_tensors(draft / "factuals.safetensors", {"x": factuals})
            store.write_tensors(draft / "truth.safetensors", truth)

    def judges(self, spec: Spec) -> None:
        """The judges of a data set and their card."""
        from .judges import JudgeBudget, card, train_judges

        folder = self.shop.judge_folder(spec)
        if _done(folder):
            return
        job, dataset = self.shop.job, self.shop.dataset(spec)
        start = time.perf_counter()
        with quiet(derive("judges"), job.threads):
            budget = JudgeBudget().scaled(job.budget.judge)
            judges = train_judges(dataset, job.data_root, dataset.graph, budget, self.device, progress=self.progress)
            self.progress("card", 0, 1)
            rows = card(judges, dataset, job.data_root)
        with store.writing(folder, stage="judges", seconds=time.perf_counter() - start, env=self.env()) as draft:
            judges.save(draft)
            store.write_json(draft / "card.json", rows)

    def train(self, cell: Cell) -> None:
        """The weights of a method, with its training log and what it recorded."""
        folder = self._folder(cell, "train")
        if _done(folder):
            return
        job = self.shop.job
        with self._quiet(cell, "train"), peak_memory(self.device) as peak:
            method = self.shop.method(cell)
            costs = {"parameters": 0.0, "images_seen": 0.0, "fit_s": 0.0}
            records, log = Records(), Log()
            if isinstance(method, Method):
                run = self._fit(cell, records, log, job.budget.images)
                method.to(self.device).train()
                start = time.perf_counter()
                with torch.enable_grad():
                    method.fit(run)
                _synchronize(self.device)
                costs["fit_s"] = time.perf_counter() - start
                costs["images_seen"] = float(run.seen)
                costs["parameters"] = float(sum(p.numel() for p in method.parameters()))
                _check_finite(method)
        with store.writing(folder, stage="train", key=cell.keys["train"], env=self.env()) as draft:
            if isinstance(method, Method):
                store.write_tensors(draft / "weights.safetensors", method.state_dict())
            store.write_json(draft / "costs.json", costs | {"train_peak_mb": peak["peak_mb"]})
            records.write(draft, log)

    def tune(self, cell: Cell) -> None:
        """The answer parameters that a method leaves open, chosen by itself on the validation split."""
        folder = self._folder(cell, "tune")
        if _done(folder):
            return
        records, log, chosen, seconds = Records(), Log(), {}, 0.0
        with self._quiet(cell, "tune"):
            method = self._trained(cell)
            if isinstance(method, Method):
                start = time.perf_counter()
                with torch.no_grad():
                    chosen = dict(method.tune(self._fit(cell, records, log, 0)))
                _synchronize(self.device)
                seconds = time.perf_counter() - start
        with store.writing(folder, stage="tune", key=cell.keys["tune"], env=self.env()) as draft:
            store.write_json(draft / "chosen.json", chosen)
            store.write_json(draft / "costs.json", {"tune_s": seconds})
            records.write(draft, log)

    def images(self, cell: Cell) -> None:
        """The answers to the plan, and what they cost."""
        folder = self._folder(cell, "images")
        if _done(folder):
            return
        job, dataset = self.shop.job, self.shop.dataset(cell.dataset)
        plan = Plan.load(self.shop.plan_folder(cell.dataset))
        x = dataset.split(job.data_root, job.split).x[plan.rows]
        with self._quiet(cell, "images"), peak_memory(self.device) as peak:
            method = self._trained(cell, **self._chosen(cell))
            answers = answer_plan(
                mechanism(method, dataset, job.data_root, job.split), plan, x,
                seed=cell.seed, device=self.device, rounds=job.budget.rounds,
                progress=lambda done, total: self.progress("images", done, total),
            )  # fmt: skip
        calls = dict(method.evaluations) if isinstance(method, Method) else {}
        costs = {f"{step}_ms": answers.milliseconds(step) for step in ("abduct", "predict")}
        costs |= {f"{step}_evals": float(calls.get(step, math.nan)) for step in ("abduct", "predict")}
        wrong = answers.wrong if isinstance(method, Method) else {k: v for k, v in answers.wrong.items() if "out" in k}
        about: dict[str, Any] = {"residual": str(getattr(method, "residual", "")), "wrong": wrong}
        with store.writing(folder, stage="images", key=cell.keys["images"], env=self.env(), **about) as draft:
            store.write_tensors(draft / "answers.safetensors", answers.images)
            store.write_json(draft / "costs.json", costs | {"peak_mb": peak["peak_mb"]})

    def scores(self, cell: Cell, metric_name: str) -> None:
        """All columns of one metric."""
        folder = self._folder(cell, f"score-{metric_name}")
        if _done(folder):
            return
        job, dataset, metric = self.shop.job, self.shop.dataset(cell.dataset), self.shop.metric(metric_name)
        plan_folder = self.shop.plan_folder(cell.dataset)
        plan, truth = Plan.load(plan_folder), store.read_tensors(plan_folder / "truth.safetensors")
        images = store.read_tensors(self._folder(cell, "images") / "answers.safetensors")
        rows: list[Row] = []
        with self._quiet(cell, "scores"):
            found = evidences(
                dataset, plan, dataset.split(job.data_root, job.split), images, truth,
                self._judges(cell.dataset), job.budget.rounds, self._costs(cell),
            )  # fmt: skip
            for evidence in found:
                if metric.scope == (evidence.do if evidence.do in ("null", "cell") else "do"):
                    asked = plan.asked.get(evidence.do)
                    factual = asked.factual.numpy() if asked else np.arange(len(plan))
                    rows += score(metric, evidence, factual, plan, cell.keys["plan"], job.budget.rounds)
                self.progress(metric_name, 0, 1)
        _write_scores(folder, metric_name, rows, {c: vars(about) for c, about in metric.columns.items()})

    def env(self) -> str:
        """The key under which the environment of this process is described in the run's folder."""
        about = describe(self.device, self.shop.job.threads)
        key = key_of(about)
        path = self.shop.job.folder / "env" / f"{key}.json"
        if not path.exists():
            store.write_json(path, about)
        return key

    def _folder(self, cell: Cell, stage: str) -> Path:
        return self.shop.job.folder / cell.stage(stage)

    def _quiet(self, cell: Cell, stage: str) -> Any:
        return quiet(derive(stage, cell.seed), self.shop.job.threads)

    def _fit(self, cell: Cell, records: Records, log: Log, images: int) -> Fit:
        root, dataset = self.shop.job.data_root, self.shop.dataset(cell.dataset)
        rng = torch.Generator().manual_seed(derive("fit", cell.seed))
        train, valid = dataset.split(root, "train"), dataset.split(root, "valid")
        return Fit(train, valid, images, self.device, rng, log.append, records.__setitem__, self.progress)

    def _trained(self, cell: Cell, **chosen: Any) -> Any:
        method = self.shop.method(cell, **chosen)
        if isinstance(method, Method):
            method.load_state_dict(store.read_tensors(self._folder(cell, "train") / "weights.safetensors"))
            method.to(self.device).eval()
        return method

    def _chosen(self, cell: Cell) -> dict[str, Any]:
        return store.read_json(self._folder(cell, "tune") / "chosen.json")

    def _costs(self, cell: Cell) -> dict[str, float]:
        costs: dict[str, float] = {}
        for stage in ("train", "tune", "images"):
            costs |= store.read_json(self._folder(cell, stage) / "costs.json")
        return costs

    def _judges(self, spec: Spec) -> Any:
        from .judges import Judges

        return Judges.load(self.shop.judge_folder(spec), self.shop.dataset(spec).graph, self.device)


class Log(list[Mapping[str, object]]):
    """The rows of a training log."""


class Records(dict[str, object]):
    """Tables that a method records, written as JSON beside its log."""

    def write(self, folder: Path, log: Log) -> None:
        for name, table in self.items():
            store.write_json(folder / f"{name}.json", table)
        if log:
            (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def _done(folder: Path) -> bool:
    """Whether a stage is there and whole; a broken one is removed."""
    return store.complete(folder) and not store.discard_broken(folder)


def _check_finite(method: Method) -> None:
    bad = [name for name, value in method.state_dict().items() if not value.double().isfinite().all()]
    if bad:
        raise FloatingPointError(f"training diverged: {bad[0]} is not finite")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _write_scores(folder: Path, metric: str, rows: list[Row], columns: dict[str, Any]) -> None:
    entries = [{k: v for k, v in vars(row).items() if k != "values"} for row in rows]
    tensors: dict[str, Tensor] = {f"{r.do}|{r.column}|{r.variable}": torch.from_numpy(r.values) for r in rows}
    with store.writing(folder, stage="score", metric=metric) as draft:
        store.write_json(draft / "scores.json", {"columns": columns, "rows": entries})
        store.write_tensors(draft / "scores.safetensors", tensors)
