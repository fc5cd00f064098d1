"""From the scores of all cells to tidy rows, wide rows and the sections that a table prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from .batches import estimates
from .contract import Column
from .results import CellState, Results, Score
from .samples import Estimate, Resamples, Sample
from .stats import Comparison, compare, draw, ranks, surely_better

__all__ = ["TIDY", "Board", "Key", "Section", "tidy", "wide"]

TIDY = [
    *("dataset", "method", "seed", "metric", "variable", "do", "questions", "value", "low", "high", "n", "coverage"),
    *("direction", "unit", "status", "keys", "rank_low", "rank_high"),
]

# What a paper prints first, in this order: each pattern takes its first match. A metric that neither these nor
# EXTRA know follows with its first column, so that a plugin's score is never left out of the table.
HINTS = (
    r"effect(?!.*(measur|tea))",
    r"measur(?!.*drift)",
    r"abs_error",
    r"revers",
    r"cld(?!.*weighted)",
    r"cld.*weighted",
    r"fid(?!.*truth)",
    r"kid(?!.*truth)",
    r"fid.*truth",
    r"im1(?!_of)",
    r"(?<![a-z0-9])l1(?![0-9])",
)
EXTRA = (r"tea", r"density|coverage", r"drift|flip", r"kid", r"im[12]")
SOUND = (r"composition_1$|composition(?!_)", r"composition_10", r"composition", r"commut")
COSTS = (r"fit", r"abduct_ms|abduct(?!_)", r"predict_ms|predict(?!_)", r"predict_eval", r"bits", r"param", r"peak|mem")
EXTRA_COSTS = (r"runtime|costs?",)


@dataclass(frozen=True)
class Key:
    """A column of the leaderboard: a metric's output, for one measured variable, under one intervention."""

    metric: str
    column: str
    variable: str
    do: str

    @property
    def name(self) -> str:
        """``do(digit) effectiveness.accuracy/digit``: unique within a data set."""
        where = "" if not self.do else "no intervention " if self.do == "none" else f"do({self.do}) "
        return where + self.path + (f"/{self.variable}" if self.variable else "")

    @property
    def path(self) -> str:
        return f"{self.metric}.{self.column}"


@dataclass(frozen=True)
class Section:
    """One printed table: a title and its columns; ``do`` is the intervened variable, or empty."""

    title: str
    do: str
    keys: tuple[Key, ...]


def _key(score: Score) -> Key:
    do = "" if score.kind == "cell" else score.do
    return Key(score.metric, score.column, score.variable, "none" if do == "null" else do)


def _first(patterns: Iterable[str], keys: list[Key]) -> list[Key]:
    found: list[Key] = []
    for pattern in patterns:
        found += [k for k in keys if k not in found and re.search(pattern, k.path, re.I)][:1]
    return found


class Board:
    """The leaderboard of one data set, every interval and rank from the same resamples.

    ``replicates`` counts them; fewer are faster and coarser.
    """

    def __init__(self, results: Results, replicates: int = 1000) -> None:
        self.results = results
        self.resamples: Resamples = draw(results.plan_key, results.factuals, max(len(results.seeds), 1), replicates)
        self.scores: dict[Key, dict[tuple[str, int], Score]] = {}
        for s in results.scores:
            self.scores.setdefault(_key(s), {})[s.method, s.seed] = s
        self.cells = {(c.method, c.seed): c for c in results.cells}
        self._controls = frozenset(results.controls)
        self._placed: dict[Key, dict[str, tuple[int, int]]] = {}
        self._short: dict[tuple[str, int, str], str] = {}

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Rows of the table, controls last."""
        r = self.results
        asked = [*r.methods, *(c.method for c in r.cells), *r.controls]
        return tuple(sorted(dict.fromkeys(asked), key=lambda m: m in r.controls))

    @cached_property
    def columns(self) -> dict[Key, Score]:
        """Every column that any cell has a score for, with one score (where there is one, finite) that tells its kind.

        A metric that could not score a cell names no variables: such a stand-in goes where others name them.
        """
        named = {replace(k, variable="") for k in self.scores if k.variable}
        order = {m: i for i, m in enumerate(dict.fromkeys(k.metric for k in self.scores))}
        dos = {d: i for i, d in enumerate([*self.results.variables, "none", ""])}
        keys = sorted(
            (k for k in self.scores if k.variable or k not in named),
            key=lambda k: (dos.get(k.do, len(dos)), order[k.metric], dos.get(k.variable, -1)),
        )
        return {k: max(self.scores[k].values(), key=lambda s: np.isfinite(s.value)) for k in keys}

    def about(self, key: Key) -> Column:
        return self.columns[key].about

    def is_control(self, method: str) -> bool:
        return method in self._controls

    def seeds(self, method: str) -> tuple[int, ...]:
        """The seeds of a method's cells: one for what is not trained, else those of the run."""
        own = self._own.get(method, frozenset())
        return tuple(own) if len(own) == 1 else tuple(self.results.seeds)

    @cached_property
    def _own(self) -> dict[str, frozenset[int]]:
        own: dict[str, set[int]] = {}
        for c in self.results.cells:
            own.setdefault(c.method, set()).add(c.seed)
        return {method: frozenset(seeds) for method, seeds in own.items()}

    def sample(self, method: str, key: Key, seeds: tuple[int, ...], rows: np.ndarray | None = None) -> Sample:
        """A method's scores in a column; ``rows`` [Q] picks questions.

        Raises:
            ValueError: scores and questions differ in number.
        """
        kind, asked = self.columns[key].kind, self._asked[key]
        scores = [self.scores[key].get((method, seed)) for seed in seeds]
        points = np.array([np.nan if s is None else s.value for s in scores], dtype=np.float64)
        finite = sum(0 if s is None else s.finite for s in scores)
        sample = Sample(kind, points, None, None, finite, sum(asked if s is None else s.asked for s in scores))
        if kind == "image":
            return self._questions(sample, scores, key, rows)
        if kind == "set":
            width = min((np.size(s.values) for s in scores if s is not None and s.kind == kind), default=0)
            lines = [np.full(width, np.nan) if s is None or s.kind != kind else s.values[:width] for s in scores]
            return replace(sample, values=np.stack(lines))
        return sample

    def _questions(self, sample: Sample, scores: list[Score | None], key: Key, rows: np.ndarray | None) -> Sample:
        factual = self._factual(key)
        values = np.full((len(scores), len(factual)), np.nan)
        for line, s in zip(values, scores, strict=True):
            if s is not None and len(s.values) != len(factual):
                raise ValueError(f"{key.name} of {s.method}: {len(s.values)} scores for {len(factual)} questions")
            if s is not None:
                line[:] = s.values
        if rows is None:
            return replace(sample, values=values, factual=factual)
        values, asked = values[:, rows], self._asked_among(key, rows) * len(scores)
        finite = int(np.isfinite(values).sum())
        return Sample(sample.kind, sample.points, values, self._among(key, rows), finite, asked)

    @cached_property
    def _asked(self) -> dict[Key, int]:
        return {key: max(s.asked for s in scores.values()) for key, scores in self.scores.items()}

    def _among(self, key: Key, rows: np.ndarray) -> np.ndarray:
        """The factuals behind some questions: the same array for all methods, so that they are worked on together."""
        name = self.columns[key].do, rows.tobytes()
        if name not in self._chosen:
            self._chosen[name] = self._factual(key)[rows]
        return self._chosen[name]

    @cached_property
    def _chosen(self) -> dict[tuple[str, bytes], np.ndarray]:
        return {}

    def _asked_among(self, key: Key, rows: np.ndarray) -> int:
        if key not in self._masks:
            self._masks[key] = self._mask(key)
        return int((self._masks[key] & rows).sum())

    @cached_property
    def _masks(self) -> dict[Key, np.ndarray]:
        return {}

    def _mask(self, key: Key) -> np.ndarray:
        """The questions that a metric was asked about: all, or for a subset those that anybody has a score for."""
        total = len(self._factual(key))
        if self._asked[key] >= total:
            return np.ones(total, dtype=bool)
        return np.any([np.isfinite(s.values) for s in self.scores[key].values()], axis=0)

    def _factual(self, key: Key) -> np.ndarray:
        return self._factuals[self.columns[key].do]

    @cached_property
    def _factuals(self) -> dict[str, np.ndarray]:
        every, known = np.arange(self.results.factuals), self.results.factual
        return {s.do: np.asarray(known.get(s.do, every), np.int64) for s in self.columns.values()}

    def samples(self, key: Key, rows: np.ndarray | None = None, controls: bool = True) -> dict[str, Sample]:
        """Every method's scores in a column, all seeds."""
        asked = [m for m in self.methods if controls or not self.is_control(m)]
        return {m: self.sample(m, key, self.seeds(m), rows) for m in asked}

    @cached_property
    def flagged(self) -> dict[Key, str]:
        """Columns that the oracle does not win, with a row that is surely better; costs are not asked.

        The level is Bonferroni's over the oracle's rivals, for a flag accuses the metric.
        """
        oracle = next((m for m in self.methods if re.split(r"[:\[]", m)[0] == "oracle"), None)
        level = 1 - 0.05 / max(len(self.methods) - 1, 1)
        found = {}
        for key, score in self.columns.items():
            if score.kind == "cell" or oracle is None:
                continue
            told = surely_better(self.samples(key), self.resamples, score.about, level)
            if winners := [a for a, b in told if b == oracle]:
                found[key] = min(winners, key=self.methods.index)
        return found

    def status(self, method: str, seed: int, key: Key | None = None) -> str:
        """``ok``, or why there is no score, or not all of it."""
        cell = self.cells.get((method, seed), CellState(method, seed, "pending"))
        score = None if key is None else self.scores[key].get((method, seed))
        if cell.status != "ok":
            return f"{cell.status}: {cell.reason}" if cell.reason else cell.status
        if key is None or (score is not None and np.isfinite(score.value)):
            return "ok"
        reasons: Mapping[str, Any] = cell.notes.get("metrics", {})
        return str(reasons.get(key.metric, "no score"))

    def pooled_status(self, method: str, key: Key | None = None) -> str:
        """The status over a method's seeds, one line."""
        told = {seed: self.status(method, seed, key) for seed in self.seeds(method)}
        if len(set(told.values())) == 1:
            return next(iter(told.values()))
        ok = sum(t == "ok" for t in told.values())
        bad = "; ".join(f"seed {seed} {t}" for seed, t in told.items() if t != "ok")
        return f"{ok} of {len(told)} seeds ok; {bad}"

    def _keys(self, method: str, seeds: tuple[int, ...], metric: str) -> str:
        """The keys of answers and scores of some seeds, cut short."""
        return "; ".join(text for seed in seeds if (text := self._keys_of(method, seed, metric)))

    def _keys_of(self, method: str, seed: int, metric: str) -> str:
        name = method, seed, metric
        if name not in self._short:
            cell = self.cells.get((method, seed))
            keys = {} if cell is None else cell.keys
            score = keys.get(f"score-{metric}", keys.get(metric, keys.get("score", "")))
            named = {"images": keys.get("images", ""), "score": score}
            self._short[name] = " ".join(f"{k}={v[:8]}" for k, v in named.items() if v)
        return self._short[name]

    def _row(self, method: str, seeds: tuple[int, ...], key: Key, sample: Sample, told: Estimate) -> dict[str, Any]:
        one = len(seeds) == 1 < len(self.seeds(method))
        return {
            "method": method,
            "seed": str(seeds[0]) if one else "all",
            "value": told.value,
            "low": told.low,
            "high": told.high,
            "n": sample.finite,
            "coverage": sample.coverage,
            "status": self.status(method, seeds[0], key) if one else self.pooled_status(method, key),
            "keys": self._keys(method, seeds, key.metric),
        }

    def _rows(self, key: Key, questions: str, rows: np.ndarray | None) -> Iterable[dict[str, Any]]:
        about, pooled = self.about(key), self.samples(key, rows)
        place = self._place(key, rows, pooled)
        common = {"dataset": self.results.dataset, "metric": key.path, "variable": key.variable, "do": key.do}
        common |= {"questions": questions, "unit": about.unit}
        common["direction"] = about.direction if about.target is None else f"target {about.target:g}"
        asked: list[tuple[str, tuple[int, ...], Sample]] = []
        for m, sample in pooled.items():
            seeds = self.seeds(m)
            asked.append((m, seeds, sample))
            asked += [(m, (s,), self.sample(m, key, (s,), rows)) for s in seeds] if len(seeds) > 1 else []
        told = estimates([sample for *_, sample in asked], self.resamples, about)
        for (m, seeds, sample), e in zip(asked, told, strict=True):
            low, high = place.get(m, (np.nan, np.nan)) if seeds == self.seeds(m) else (np.nan, np.nan)
            yield common | self._row(m, seeds, key, sample, e) | {"rank_low": low, "rank_high": high}

    def _place(
        self, key: Key, rows: np.ndarray | None = None, samples: Mapping[str, Sample] | None = None
    ) -> dict[str, tuple[int, int]]:
        """First and last rank of each method in a column, on all questions or on some."""
        if rows is None and key in self._placed:
            return self._placed[key]
        samples = self.samples(key, rows) if samples is None else samples
        own = {m: s for m, s in samples.items() if not self.is_control(m)}
        found = ranks(own, self.resamples, self.about(key))
        if rows is None:
            self._placed[key] = found
        return found

    @cached_property
    def tidy(self) -> pd.DataFrame:
        """One row for each method, column and intervention, whether or not there is a score."""
        rows: list[dict[str, Any]] = []
        for key, score in self.columns.items():
            rows += self._rows(key, "all", None)
            if score.kind == "image" and score.do != "null" and score.do in self.results.supported:
                rows += self._rows(key, "supported", np.asarray(self.results.supported[score.do], dtype=bool))
        if not rows:
            blank = dict.fromkeys(TIDY, "") | dict.fromkeys(("value", "low", "high", "rank_low", "rank_high"), np.nan)
            about = {"dataset": self.results.dataset, "seed": "all", "questions": "all", "n": 0, "coverage": 0.0}
            rows = [blank | about | {"method": m, "status": self.pooled_status(m)} for m in self.methods]
        return pd.DataFrame(rows, columns=TIDY)

    @cached_property
    def estimates(self) -> dict[tuple[str, Key], Estimate]:
        """The pooled score of each method in each column, on all questions."""
        found: dict[tuple[str, Key], Estimate] = {}
        for key, score in self.columns.items():
            samples = self.samples(key)
            told = estimates(list(samples.values()), self.resamples, score.about)
            found |= {(m, key): e for m, e in zip(samples, told, strict=True)}
        return found

    @cached_property
    def coverage(self) -> dict[tuple[str, Key], tuple[int, int]]:
        """How many questions were scored, and asked, over all seeds."""
        return {(m, key): (s.finite, s.asked) for key in self.columns for m, s in self.samples(key).items()}

    @cached_property
    def places(self) -> dict[Key, dict[str, tuple[int, int]]]:
        """First and last rank of each method (controls are not ranked) in each column."""
        return {key: self._place(key) for key in self.columns}

    @cached_property
    def best(self) -> dict[Key, frozenset[str]]:
        """In each column the methods that none is surely better than and that answered as much as any: bold."""
        found = {}
        for key, place in self.places.items():
            share = {m: finite / max(asked, 1) for m in place for finite, asked in [self.coverage[m, key]]}
            first = [m for m, (low, _) in place.items() if low == 1 and share[m] >= max(share.values())]
            found[key] = frozenset(first if len(place) > 1 else ())
        return found

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Methods against each other, and against controls: paired differences on all questions, a row each.

        Holm's correction runs over the pairs of a column, controls apart.
        """
        own = [m for m in self.methods if not self.is_control(m)]
        others = [m for m in self.methods if self.is_control(m)]
        rows: list[dict[str, Any]] = []
        for key, score in self.columns.items():
            if score.about.direction == "none":
                continue
            about = {"dataset": self.results.dataset, "metric": key.path, "variable": key.variable, "do": key.do}
            for which in (combinations(own, 2), product(own, others)):
                told = compare(self.samples(key), self.resamples, score.about, which)
                rows += [about | asdict(c) for c in told if np.isfinite(c.difference)]
        fields = ("dataset", "metric", "variable", "do", *Comparison.__annotations__)
        return pd.DataFrame(rows, columns=list(fields))

    @cached_property
    def wide(self) -> pd.DataFrame:
        """A row for each method: value, low and high of every column on all questions."""
        rows = []
        for m in self.methods:
            seeds = [s for s in self.seeds(m) if self.status(m, s) == "ok"]
            residual = next((c.residual for c in self.results.cells if c.method == m and c.residual), "")
            row: dict[str, Any] = {"method": m, "role": "control" if self.is_control(m) else "method"}
            row |= {"seeds": len(seeds), "residual": residual, "status": self.pooled_status(m)}
            for key in self.columns:
                e = self.estimates[m, key]
                row |= {key.name: e.value, f"{key.name} low": e.low, f"{key.name} high": e.high}
            rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """What is printed: a table for each intervened variable, then soundness and cost.

        Columns that apply to nobody (no truth, no class) are left to the CSV.
        """
        alive = [k for k in self.columns if any(np.isfinite(self.estimates[m, k].value) for m in self.methods)]
        found = []
        for do in dict.fromkeys(k.do for k in alive if k.do not in ("none", "")):
            mine = [k for k in alive if k.do == do and k.variable in ("", do) and self.about(k).direction != "none"]
            keys = (*_first(HINTS, mine), *_strangers((*HINTS, *EXTRA), mine))
            found.append(Section(f"do({do})", do, keys))
        null = [k for k in alive if k.do == "none" and not k.variable]
        cost = [k for k in alive if not k.do]
        keys = (*_first(SOUND, null), *_strangers(SOUND, null))
        keys += (*_first(COSTS, cost), *_strangers((*COSTS, *EXTRA_COSTS), cost))
        return (*found, Section("no intervention, and cost", "", keys))

    @cached_property
    def matrix(self) -> tuple[Key, ...]:
        """Judged scores of each variable under each intervention, where more than one is intervened on."""
        keys = [k for k in self.columns if k.variable and re.search(HINTS[0], k.path, re.I)]
        return tuple(keys) if len({k.do for k in keys}) > 1 else ()


def _strangers(patterns: Iterable[str], keys: list[Key]) -> list[Key]:
    """The first column of each metric that no pattern knows."""
    known = {k.metric for k in keys if any(re.search(p, k.path, re.I) for p in patterns)}
    return list({k.metric: k for k in reversed(keys) if k.metric not in known}.values())[::-1]


def tidy(results: Results) -> pd.DataFrame:
    """The leaderboard as one row for each score (columns ``TIDY``)."""
    return Board(results).tidy


def wide(results: Results) -> pd.DataFrame:
    """The leaderboard as one row for each method, controls last."""
    return Board(results).wide
