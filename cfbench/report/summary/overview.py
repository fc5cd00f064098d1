"""Tables over all data sets and runs that are published in the folders of a folder: in its README, and beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ...names import SUMMARY
from ...storage.plain import read_plain
from ..agreement import Agreement, agreement_texts, agreements
from ..columns import Key
from ..markup import md, md_table
from ..spreadsheet import csv
from .files import rows_of, summaries_in
from .rows import Cell, Summary, short_names
from .tables import legend

__all__ = ["BEGIN", "END", "overview_texts", "published_agreements"]

BEGIN, END = "<!-- cfbench: table over all folders -->", "<!-- cfbench: end -->"
"""What the table of a README stands between; a README without these lines is left alone."""
LARGEST = 2**24
"""Bytes of a README that is read."""
NAME = 30
"""Characters of a name."""
PICTURES = {"quality-cost": "quality against cost", "counterfactuals": "answers"}


@dataclass(frozen=True)
class Published:
    """The tables of a data set in a folder: how the names of their files begin, and its summary."""

    folder: str
    stem: str
    summary: Summary
    tidy: pd.DataFrame
    wide: pd.DataFrame

    @property
    def key(self) -> Key:
        """The column that leads its summary."""
        return self.summary.keys[0]


def overview_texts(folder: Path) -> dict[str, str]:
    """The texts of ``README.md``, with its table made anew, and of the files that stand beside it, by name.

    These are ``summary.csv`` and, where data sets have a truth, ``metrics.md`` and ``metrics.csv``.
    None where the folder has no README with the lines `BEGIN` and `END`, or its folders have no tables.
    """
    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    text = read_plain(readme, LARGEST).decode(errors="replace")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    found = _published(folder) if begin and end else []
    if not found:
        return {}
    rows = [{"folder": p.folder, **row} for p in found for row in rows_of(p.summary, p.wide)]
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(name for row in rows for name in row)))
    made = f"{_table(found)}\n{_links(folder, found)}"
    texts = {"README.md": f"{head}{BEGIN}\n\n{made}\n{END}{tail}", f"{SUMMARY}.csv": csv(table)}
    return texts | agreement_texts(_agreements(found))


def published_agreements(folder: Path) -> list[Agreement]:
    """What each metric is worth by all tables that lie in the folders of a folder."""
    return _agreements(_published(folder))


def _agreements(found: Sequence[Published]) -> list[Agreement]:
    return agreements((p.tidy, p.wide) for p in found)


def _published(folder: Path) -> list[Published]:
    """All tables that lie in the folders, those of most methods first."""
    found = [
        Published(inner.name, file.stem, summary, tidy, wide)
        for inner in sorted(path for path in folder.iterdir() if path.is_dir())
        for file, summary, tidy, wide in summaries_in(inner)
        if summary.keys
    ]
    return sorted(found, key=lambda p: -p.summary.own)


def _table(found: Sequence[Published]) -> str:
    """A row for each method, in the order of the tables, and a column for each data set and folder."""
    methods = list(dict.fromkeys(m for p in found for m in p.summary.methods[: p.summary.own]))
    names = short_names(methods, NAME)
    heads = [_head(p) for p in found]
    rows = [[md(names[m]), *(_entry(p.summary.cells, m, p.key) for p in found)] for m in methods]
    cut = legend(names)
    return md_table(["method", *heads], rows) + (f"\n{md(cut)}\n" if cut else "")


def _head(p: Published) -> str:
    quantity = " ".join(filter(None, p.summary.head(p.key)))
    return f"[{md(p.summary.dataset)}]({p.folder}/{p.stem}.md)<br>{md(p.folder)}<br>{md(quantity)}"


def _entry(cells: Mapping[tuple[str, Key], Cell], method: str, key: Key) -> str:
    cell = cells.get((method, key))
    if cell is None:
        return ""
    value = md(cell.number + cell.half)
    return (f"**{value}**" if cell.best else value) + (f"<br><sub>{md(cell.rank)}</sub>" if cell.rank else "")


def _links(folder: Path, found: Sequence[Published]) -> str:
    """Where the summary and the pictures of each data set are."""
    lines = []
    for p in sorted(found, key=lambda p: (p.folder, p.stem)):
        pictures = {f"{p.folder}/{p.stem}-{name}.png": text for name, text in PICTURES.items()}
        links = [f"[{text}]({path})" for path, text in pictures.items() if (folder / path).is_file()]
        links = [f"[summary]({p.folder}/{SUMMARY}.md)", f"[all metrics]({p.folder}/{p.stem}.md)", *links]
        lines.append(f"- {md(p.summary.dataset)} in {md(p.folder)}: {', '.join(links)}\n")
    return "".join(lines)
