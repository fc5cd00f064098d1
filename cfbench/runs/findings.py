"""What was found wrong with a fit or a tuning, as its stage's folder holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import storage
from ..storage.schema import each, mapping, number, printable

__all__ = ["BROKEN", "HEALTH", "VALIDATION", "Finding", "marked", "read_findings", "write_findings"]

HEALTH = "health"
"""The name of the table of findings in a stage's folder."""
BROKEN = "!"
"""The mark behind the name of a row whose fit or tuning something was found wrong with."""
VALIDATION = " validation"
"""How stages of a fit's log end whose losses are those of validation images."""


def marked(name: str, is_broken: bool) -> str:
    """The name of a row as tables show it, with `BROKEN` where its fit is."""
    return f"{name} {BROKEN}" if is_broken else name


@dataclass(frozen=True)
class Finding:
    """Something wrong with a fit: a ``jump``, ``collapse``, ``unguided`` or ``overfitting``.

    ``stage`` is that of the log, ``images`` how many had been seen when it happened (NaN where that has no time), and
    ``sentence`` says it without a full stop; ``numbers`` has what it rests on.
    """

    kind: str
    stage: str
    images: float
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def write_findings(folder: Path, found: Iterable[Finding]) -> None:
    """Write findings into a stage's folder; an empty list says that it was checked."""
    rows = []
    for f in found:
        numbers = {name: value for name, value in f.numbers.items() if math.isfinite(value)}
        rows.append(asdict(f) | {"images": f.images if math.isfinite(f.images) else None, "numbers": numbers})
    storage.write_json(folder / f"{HEALTH}.json", rows)


def read_findings(folder: Path) -> tuple[Finding, ...] | None:
    """The findings in a stage's folder; None where it was not checked, as by an older version.

    Raises:
        SchemaError: the file is not as cfbench writes it.
    """
    file = folder / f"{HEALTH}.json"
    return tuple(each(_finding)(storage.read_json(file))) if file.is_file() else None


def _finding(value: Any) -> Finding:
    row = mapping(value)
    texts = {name: printable(row[name]) for name in ("kind", "stage", "sentence")}
    images = math.nan if row["images"] is None else float(number(row["images"]))
    return Finding(**texts, images=images, numbers=mapping(row["numbers"], number))
