"""Columns of a leaderboard, and which of them are printed, in which table and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..contract import Column

__all__ = ["MEAN", "Key", "Section", "matrix", "sections", "where"]

MEAN = "mean of do()"
"""In place of a variable: the mean over the interventions. As "none" and "", it is no name (`name_error`)."""


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
        place = f"{where(self.do)} " if self.do else ""
        return place + self.path + (f"/{self.variable}" if self.variable else "")

    @property
    def path(self) -> str:
        return f"{self.metric}.{self.column}"


def where(do: str) -> str:
    """An intervention in words: ``do(digit)``, ``no intervention``, ``mean of do()``, or ``cost``."""
    return {"": "cost", "none": "no intervention", MEAN: MEAN}.get(do, f"do({do})")


@dataclass(frozen=True)
class Section:
    """One printed table: a title and its columns; ``do`` is the intervened variable, `MEAN`, or empty."""

    title: str
    do: str
    keys: tuple[Key, ...]


About = Callable[[Key], Column]


def sections(scored: Sequence[Key], about: About) -> tuple[Section, ...]:
    """A table for each intervened variable, then soundness and cost, from the columns that have a score."""
    found = []
    for do in dict.fromkeys(k.do for k in scored if k.do not in ("none", "")):
        own = [k for k in scored if k.do == do and k.variable in ("", do)]
        found.append(Section(where(do), do, _printed(own, about)))
    null = _printed([k for k in scored if k.do == "none" and not k.variable], about)
    cost = _printed([k for k in scored if not k.do], about)
    return (*found, Section("no intervention, and cost", "", (*null, *cost)))


def _printed(keys: Sequence[Key], about: About) -> tuple[Key, ...]:
    """The columns that are to be printed in their order; of a metric that does not say which, the first one.

    A description of an intervention's answers is printed only where its metric says so.
    """
    decided = {k.metric for k in keys if about(k).printed is not None}
    first: dict[str, Key] = {}
    for key in keys:
        if key.metric not in decided and (key.do in ("none", "") or about(key).direction != "none"):
            first.setdefault(key.metric, key)
    chosen = [k for k in keys if about(k).printed or first.get(k.metric) == k]
    return tuple(sorted(chosen, key=lambda k: about(k).order))


def matrix(columns: Iterable[Key], about: About) -> tuple[Key, ...]:
    """The effectiveness of each variable under each intervention, where more than one is intervened on."""
    keys = [k for k in columns if k.variable and about(k).role == "effectiveness"]
    return tuple(keys) if len({k.do for k in keys}) > 1 else ()
