"""Whether tables that were published still say what the cells of their run do."""

from __future__ import annotations

import csv
import math
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

from .commands import find_run
from .errors import one_line
from .publish import board_of
from .reading import read_about

__all__ = ["check_command", "first_difference"]

CLOSE = 1e-9
"""Numbers of a CSV that differ by less than this share are the same: machines sum in another order."""


def check_command(name: str, run_root: Path, out: Path | None) -> int:
    """Derive the tables anew and compare; 2 where one differs. Nothing is written but into a temporary folder."""
    from .tables import write

    folder = find_run(name, run_root)
    out = out or folder / "leaderboard"
    checked, different = 0, 0
    with tempfile.TemporaryDirectory(prefix="cfbench-") as fresh:
        for dataset in read_about(folder)["datasets"]:
            board = board_of(folder, dataset)
            for path in write(board, Path(fresh)).values() if board else ():
                told = first_difference(path, out / path.name)
                checked, different = checked + 1, different + bool(told)
                if told:
                    print(f"cfbench: {out / path.name} {told}", file=sys.stderr)
    print(f"{checked - different} of {checked} tables in {out} are what the cells of {folder} say")
    return 2 if different or not checked else 0


def first_difference(fresh: Path, there: Path) -> str:
    """Where a file first differs from what it should be, in words; nothing where it does not."""
    if not there.is_file():
        return "is missing"
    new, old = (path.read_text(encoding="utf-8", errors="replace").splitlines() for path in (fresh, there))
    for number, (right, found) in enumerate(zip_longest(new, old), 1):
        if right != found and not (fresh.suffix == ".csv" and _close(right, found)):
            said = ("nothing" if line is None else repr(one_line(line, 160)) for line in _around(found, right))
            return "differs in line {}: it says {}, the cells say {}".format(number, *said)
    return ""


def _around(found: str | None, right: str | None) -> tuple[str | None, str | None]:
    """Two lines from shortly before the letter in which they first differ."""
    if found is None or right is None:
        return found, right
    same = next((i for i, (a, b) in enumerate(zip(found, right, strict=False)) if a != b), min(len(found), len(right)))
    start = max(same - 60, 0)
    return found[start:], right[start:]


def _close(right: str | None, found: str | None) -> bool:
    """Whether two lines of a CSV hold the same texts, and numbers that differ in their last digits at most."""
    if right is None or found is None:
        return False
    a, b = (next(csv.reader([line]), []) for line in (right, found))
    return len(a) == len(b) and all(x == y or _near(x, y) for x, y in zip(a, b, strict=True))


def _near(x: str, y: str) -> bool:
    try:
        return math.isclose(float(x), float(y), rel_tol=CLOSE, abs_tol=CLOSE)
    except ValueError:
        return False
