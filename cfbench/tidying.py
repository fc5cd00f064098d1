"""The rows of the tidy table, a column of the leaderboard at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from .batches import estimates
from .samples import Estimate, Resamples
from .scored import Scored, Stack
from .sections import Key

__all__ = ["TIDY", "Tidying"]

TIDY = [
    *("dataset", "method", "seed", "metric", "variable", "do", "questions", "value", "low", "high", "n", "coverage"),
    *("direction", "unit", "status", "keys", "rank_low", "rank_high"),
]


class Tidying:
    """Makes rows: one for each method, all seeds, and one for each of its seeds where there are several."""

    def __init__(self, scored: Scored, resamples: Resamples) -> None:
        self.scored = scored
        self.resamples = resamples
        self._parts: list[dict[str, list[Any]]] = []
        self._texts: dict[str, list[str]] = {}

    @cached_property
    def rows(self) -> list[tuple[str, slice]]:
        """The method and the lines of a stack behind each row."""
        return [
            (m, row)
            for m, lines in self.scored.pooled.items()
            for row in (lines, *(_seeds(lines) if lines.stop - lines.start > 1 else ()))
        ]

    def add(
        self, key: Key, questions: str, stack: Stack, told: Mapping[str, Estimate], place: Mapping[str, tuple[int, int]]
    ) -> None:
        """The rows of a column, for methods with what is told of them and their first and last rank."""
        about = self.scored.about(key)
        pooled = [row == self.scored.pooled[m] for m, row in self.rows]
        samples = [stack.sample(row) for _, row in self.rows]
        some = iter(
            estimates([s for s, whole in zip(samples, pooled, strict=True) if not whole], self.resamples, about)
        )
        found = [told[m] if whole else next(some) for (m, _), whole in zip(self.rows, pooled, strict=True)]
        places = [
            place.get(m, _NOWHERE) if whole else _NOWHERE for (m, _), whole in zip(self.rows, pooled, strict=True)
        ]
        direction = about.direction if about.target is None else f"target {about.target:g}"
        common = {"dataset": self.scored.results.dataset, "metric": key.path, "variable": key.variable, "do": key.do}
        common |= {"questions": questions, "direction": direction, "unit": about.unit}
        self._parts.append({name: [value] * len(self.rows) for name, value in common.items()})
        self._parts[-1] |= {
            "method": [m for m, _ in self.rows],
            "seed": self._seed_names,
            "value": [e.value for e in found],
            "low": [e.low for e in found],
            "high": [e.high for e in found],
            "n": [s.finite for s in samples],
            "coverage": [s.coverage for s in samples],
            "status": self._status(key, stack),
            "keys": self._keys(key.metric),
            "rank_low": [low for low, _ in places],
            "rank_high": [high for _, high in places],
        }

    def table(self) -> pd.DataFrame:
        """All rows that were added; where there are none, one for each method that says why."""
        if self._parts:
            return pd.DataFrame({name: list(chain.from_iterable(p[name] for p in self._parts)) for name in TIDY})
        blank = dict.fromkeys(TIDY, "") | dict.fromkeys(("value", "low", "high", "rank_low", "rank_high"), np.nan)
        blank |= {"dataset": self.scored.results.dataset, "seed": "all", "questions": "all", "n": 0, "coverage": 0.0}
        rows = [blank | {"method": m, "status": self.scored.pooled_status(m)} for m in self.scored.methods]
        return pd.DataFrame(rows, columns=TIDY)

    @cached_property
    def _seed_names(self) -> list[str]:
        return ["all" if row == self.scored.pooled[m] else str(self.scored.lines[row.start][1]) for m, row in self.rows]

    @cached_property
    def _fine(self) -> np.ndarray:
        cells = (self.scored.cells.get(line) for line in self.scored.lines)
        return np.array([cell is not None and cell.status == "ok" for cell in cells], dtype=bool)

    def _status(self, key: Key, stack: Stack) -> list[str]:
        fine = (self._fine & np.isfinite(stack.points)).tolist()
        return ["ok" if all(fine[row]) else self._trouble(m, row, key) for m, row in self.rows]

    def _trouble(self, method: str, row: slice, key: Key) -> str:
        if row == self.scored.pooled[method]:
            return self.scored.pooled_status(method, key)
        _, seed = self.scored.lines[row.start]
        return self.scored.status(method, seed, key)

    def _keys(self, metric: str) -> list[str]:
        """The keys of answers and scores behind each row, cut short."""
        if metric not in self._texts:
            each = [self._keys_of(line, metric) for line in self.scored.lines]
            self._texts[metric] = ["; ".join(filter(None, each[row])) for _, row in self.rows]
        return self._texts[metric]

    def _keys_of(self, line: tuple[str, int], metric: str) -> str:
        cell = self.scored.cells.get(line)
        keys = {} if cell is None else cell.keys
        score = keys.get(f"score-{metric}", keys.get(metric, keys.get("score", "")))
        named = {"images": keys.get("images", ""), "score": score}
        return " ".join(f"{k}={v[:8]}" for k, v in named.items() if v)


_NOWHERE = (np.nan, np.nan)


def _seeds(lines: slice) -> Iterable[slice]:
    return (slice(i, i + 1) for i in range(lines.start, lines.stop))
