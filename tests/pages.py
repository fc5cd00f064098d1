"""Pages for tests: one of a small run with controls and a row that fails, and one of a made-up table."""

from __future__ import annotations

from pathlib import Path

from small import toy_run

from cfbench.cli.main import _main
from cfbench.site.model import Column, DataSet, Entry, Page, Row, Table

ROWS = "learns,tunes,raises"
METRICS = "truth,skill,effectiveness,composition,realism,runtime"


def make_run(root: Path) -> Path:
    """The folder of a run of toy methods, one of which fails, with controls."""
    words = ["--methods", ROWS, "--metrics", METRICS, "--jobs", "1", "--no-plots", "--name", "toys"]
    assert _main(toy_run(root, *words, "--data-root", str(root))) == 2
    return root / "toys"


def made_up(names: list[str], **how: str) -> Page:
    """A page about rows that have numbers in eight columns, in the order of the first."""
    columns = tuple(Column(f"score {i}", "unit", "what it means", higher=True) for i in range(8))
    rows = tuple(
        Row(name, False, {"dataset": "made up", "family": name}, tuple(_entry(k, i) for i in range(8)))
        for k, name in enumerate(names)
    )
    return Page((DataSet("made up", "data-1", Table("Summary", columns, rows), **how),), "0")


def _entry(row: int, column: int) -> Entry:
    value = (row * 37 + column * 11) % 101 / 100
    return Entry(f"{value:.2f}", "±.01", "#1–2", "95 % interval [0, 1]", value)
