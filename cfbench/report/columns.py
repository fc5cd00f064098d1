"""Columns of a leaderboard, and which of them are printed, in which table and in which order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..contract import Column

__all__ = ["Key", "Section", "matrix", "sections"]


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


def sections(alive: Sequence[Key], about: Callable[[Key], Column]) -> tuple[Section, ...]:
    """A table for each intervened variable, then soundness and cost, from the columns that have a score."""
    found = []
    for do in dict.fromkeys(k.do for k in alive if k.do not in ("none", "")):
        mine = [k for k in alive if k.do == do and k.variable in ("", do) and about(k).direction != "none"]
        keys = (*_first(HINTS, mine), *_strangers((*HINTS, *EXTRA), mine))
        found.append(Section(f"do({do})", do, keys))
    null = [k for k in alive if k.do == "none" and not k.variable]
    cost = [k for k in alive if not k.do]
    keys = (*_first(SOUND, null), *_strangers(SOUND, null))
    keys += (*_first(COSTS, cost), *_strangers((*COSTS, *EXTRA_COSTS), cost))
    return (*found, Section("no intervention, and cost", "", keys))


def matrix(columns: Iterable[Key]) -> tuple[Key, ...]:
    """Judged scores of each variable under each intervention, where more than one is intervened on."""
    keys = [k for k in columns if k.variable and re.search(HINTS[0], k.path, re.I)]
    return tuple(keys) if len({k.do for k in keys}) > 1 else ()


def _first(patterns: Iterable[str], keys: list[Key]) -> list[Key]:
    found: list[Key] = []
    for pattern in patterns:
        found += [k for k in keys if k not in found and re.search(pattern, k.path, re.I)][:1]
    return found


def _strangers(patterns: Iterable[str], keys: list[Key]) -> list[Key]:
    """The first column of each metric that no pattern knows."""
    known = {k.metric for k in keys if any(re.search(p, k.path, re.I) for p in patterns)}
    return list({k.metric: k for k in reversed(keys) if k.metric not in known}.values())[::-1]
