"""What methods recorded while they were fitted and tuned, read from the stages of a run."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import storage
from ...errors import UserError
from ...runs.chain import STAGES
from ...runs.findings import HEALTH, Finding, read_findings
from ...runs.reader import StoredRun

__all__ = ["LogRow", "Trace", "finite", "read_log", "read_trace", "traces_of"]

LogRow = Mapping[str, Any]
NO_TABLES = {"stage", "chosen", "costs", "labels", HEALTH}
MAX_LOG = 2**24
"""Bytes of a log that are read."""
LARGEST = 1e100
"""Numbers that are larger count as none: they are no losses, and the axes could not hold them."""


@dataclass(frozen=True)
class Trace:
    """What one fit recorded: a label of its method and seed, its log, its tables by name, and their columns' labels."""

    label: str
    log: tuple[LogRow, ...]
    tables: Mapping[str, tuple[LogRow, ...]]
    images: float = math.nan
    labels: Mapping[str, str] = field(default_factory=dict)
    health: tuple[Finding, ...] = ()


def traces_of(run: StoredRun, dataset: str, stage: str) -> Iterator[Trace]:
    """One trace for each fit (or tuning) of the data set; rows that share one share its trace."""
    own = [c for c in run.manifest.cells if c.dataset.label == dataset and STAGES[stage].belongs_to(c)]
    several = len({c.seed for c in own}) > 1
    paths = {run.folder / c.stage(stage): c.owner(STAGES[stage]) for c in own}
    titles: dict[Path, set[str]] = {}
    for c in own:
        titles.setdefault(run.folder / c.stage(stage), set()).add(run.manifest.titles[c.method.label])
    for path, cell in paths.items():
        if storage.is_complete(path):
            shown = titles[path].pop() if len(titles[path]) == 1 else cell.method.label
            yield read_trace(path, shown + (f"\nseed {cell.seed}" if several else ""))


def read_trace(path: Path, label: str) -> Trace:
    """What a fit or a tuning recorded in its stage's folder."""
    tables = {p.stem: table for p in sorted(path.glob("*.json")) if (table := _table(p))}
    images = (_read(path / "costs.json") or {}).get("images_seen")
    return Trace(
        label,
        tuple(read_log(path / "log.jsonl")),
        tables,
        finite(images),
        _labels(path / "labels.json"),
        _findings(path),
    )


def _table(path: Path) -> tuple[LogRow, ...]:
    """The rows of a recorded table; none where it is something else."""
    table = [] if path.stem in NO_TABLES else _read(path)
    return tuple(table) if isinstance(table, list) and all(isinstance(row, dict) for row in table) else ()


def _findings(path: Path) -> tuple[Finding, ...]:
    try:
        return read_findings(path) or ()
    except (UserError, ValueError, LookupError):
        return ()


def _labels(path: Path) -> dict[str, str]:
    """The columns of a method's tables that are drawn, with a label for each; empty where it names none."""
    labels = _read(path) if path.is_file() else None
    known = labels.items() if isinstance(labels, dict) else ()
    return {name: label for name, label in known if isinstance(label, str)}


def _read(path: Path) -> Any:
    try:
        return storage.read_json(path)
    except (UserError, UnicodeDecodeError):
        return None


def read_log(path: Path) -> Iterator[LogRow]:
    """The rows of a log; lines that hold none are left out, with a note."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        lines = file.read(MAX_LOG).splitlines()
        unread = bool(file.read(1))
    bad = 0
    for line in lines:
        try:
            row = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            bad += 1
    if bad or unread:
        what = [f"{bad:,} lines that hold no record"] * bool(bad) + [f"all after {MAX_LOG >> 20} MiB"] * unread
        print(f"cfbench: {path}: {' and '.join(what)} left out", file=sys.stderr)


def finite(value: Any) -> float:
    """The value as a finite number of a size that can be drawn, NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return math.nan
    return float(value)
