"""What a page shows, as data: tables, charts, cards of methods and the gallery of each data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Card", "Chart", "Column", "DataSet", "Entry", "Gallery", "Page", "Row", "Table"]


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, what stands below it, what it means, and which side is better.

    Of columns that only some data sets have, those that are more ``last`` stand behind the others.
    """

    heading: str
    below: str = ""
    about: str = ""
    higher: bool = False
    weak: bool = False
    last: int = 0


@dataclass(frozen=True)
class Entry:
    """An entry of a table: the number as shown, its value for sorting, and what hover and focus say about it."""

    text: str
    half: str = ""
    rank: str = ""
    about: str = ""
    value: float = math.nan
    best: bool = False
    failed: bool = False

    @property
    def order(self) -> str:
        """The value that sorts the column; empty where there is none."""
        return repr(self.value) if math.isfinite(self.value) else ""


@dataclass(frozen=True)
class Row:
    """A row of a table; ``filters`` holds what it can be filtered by, each a word in `Page.filters`."""

    name: str
    control: bool
    filters: Mapping[str, str]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """A table with its title; rows are in the order of the report, controls last. ``head`` says what a row is."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    head: str = "method"

    @property
    def positions(self) -> dict[tuple[str, str], int]:
        """Where each column stands, by its heading and what is below it."""
        return {(c.heading, c.below): i for i, c in enumerate(self.columns)}


@dataclass(frozen=True)
class Chart:
    """A chart: what it shows in words, the quantity by which it is chosen, and what BokehJS draws it from."""

    title: str
    quantity: str
    item: Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """What is known about a method: facts by name, its curves, and what ``cfbench show`` says about its plugin."""

    name: str
    control: bool
    failure: str
    facts: Mapping[str, str]
    charts: tuple[Chart, ...] = ()
    plugin: str = ""


@dataclass(frozen=True)
class Gallery:
    """Questions with all answers: ``data`` is what the page's script reads, ``images`` the PNG files by name."""

    data: Mapping[str, Any]
    images: Mapping[str, bytes]
    note: str


@dataclass(frozen=True)
class DataSet:
    """What a page shows about one data set of a run.

    ``name`` is unique on the page. ``files`` are the tables to download by name, each with its description.
    """

    name: str
    stem: str
    summary: Table
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    costs: tuple[Chart, ...] = ()
    cards: tuple[Card, ...] = ()
    gallery: Gallery | None = None
    judges: Table | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """The whole page."""

    datasets: tuple[DataSet, ...]
    version: str

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of all summaries, each once."""
        found = {(c.heading, c.below): c for d in self.datasets for c in d.summary.columns}
        return tuple(sorted(found.values(), key=lambda c: c.last))

    @property
    def filters(self) -> Mapping[str, tuple[str, ...]]:
        """The words that rows can be filtered by, for each thing that they differ in."""
        rows = [row for d in self.datasets for row in d.summary.rows]
        names = dict.fromkeys(name for row in rows for name in row.filters)
        words = {n: tuple(dict.fromkeys(row.filters[n] for row in rows if n in row.filters)) for n in names}
        return {name: found for name, found in words.items() if len(found) > 1}
