"""A run in a notebook: its scores as data frames, and tables and pictures that display themselves."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from ..errors import UserError, one_of
from ..report.board import TIDY, Board
from ..report.publish import load_board, write_leaderboard, write_sheet
from ..report.summary.write import write_summary
from ..runs.chain import Status
from ..runs.reader import read_run
from ..storage.scratch import new_scratch_folder
from .notebook import show_tuples

__all__ = ["Picture", "Result", "Table"]


@dataclass(frozen=True)
class Picture:
    """A PNG that a notebook displays; the file exists at least as long as this object."""

    path: Path
    keep: Any = field(default=None, repr=False, compare=False)

    def save(self, path: str | Path) -> Path:
        """Copy the PNG to ``path``."""
        return Path(shutil.copyfile(self.path, path))

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True, repr=False)
class Table:
    """The summaries of some data sets, and their tables of all metrics: HTML in a notebook, text in a terminal.

    In HTML the tables of all metrics are folded up below the summary; text has them where ``details`` is true.
    """

    boards: tuple[Board, ...]
    missing: tuple[str, ...] = ()
    details: bool = False

    def text(self, width: int = 120) -> str:
        """The tables for ``width`` columns of text, with footnotes."""
        from rich.console import Console

        from ..report.render import render

        out = io.StringIO()
        console = Console(file=out, width=width, color_system=None, legacy_windows=False, force_jupyter=False)
        for board in self.boards:
            console.print(render(board, width, details=self.details))
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return "\n".join([*lines, *map(_no_plan, self.missing)])

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        from ..report.render import html

        return "\n".join([*map(html, self.boards), *(f"<p>{escape(_no_plan(d))}</p>" for d in self.missing)])


def _no_plan(dataset: str) -> str:
    return f"{dataset} has no plan yet, so there is no table of it."


class Result:
    """A run, read from its folder; results are computed from its cells once, when they are first needed.

    It shows the cells that the run had declared when it was read, not those that are declared afterwards.

    Args:
        folder: of the run.
        classes: classes and instances of plugins that the run was given, by name.
        files: plugin files that it was given.
        data_root: folder with its data sets.

    Raises:
        UserError: there is no run in the folder.
    """

    def __init__(
        self,
        folder: Path,
        classes: Mapping[str, Any] | None = None,
        data_root: Path | None = None,
        files: tuple[Path, ...] = (),
    ) -> None:
        self.folder, self.classes, self.data_root, self.files = folder, dict(classes or {}), data_root, files
        show_tuples()
        self.stored = read_run(folder)
        self.manifest = self.stored.manifest
        self._boards: dict[str, Board | None] = {}

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets of the run."""
        return tuple(self.manifest.datasets)

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows of the run, controls left out."""
        controls = self.manifest.controls
        return tuple(dict.fromkeys(s.method for c, s in self.stored.states if c.method.label not in controls))

    @property
    def failures(self) -> pd.DataFrame:
        """The cells that have not come to a good end: dataset, method, seed, status, reason."""
        rows = [
            (c.dataset.label, s.method, c.seed, s.status, s.reason or "not run")
            for c, s in self.stored.states
            if s.status is not Status.OK
        ]
        return pd.DataFrame(rows, columns=["dataset", "method", "seed", "status", "reason"])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row for each score, as in ``DATASET.csv``."""
        return self._stacked(lambda board: board.tidy, TIDY)

    @cached_property
    def wide(self) -> pd.DataFrame:
        """One row for each method and data set, as in ``DATASET-wide.csv``."""
        return self._stacked(lambda b: b.wide.assign(dataset=b.results.dataset).set_index("dataset").reset_index())

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Paired differences of methods, as in ``DATASET-pairs.csv``."""
        return self._stacked(lambda board: board.pairs)

    def _stacked(self, frame: Callable[[Board], pd.DataFrame], columns: list[str] | None = None) -> pd.DataFrame:
        frames = [frame(board) for d in self.datasets if (board := self._board(d))]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def _board(self, dataset: str) -> Board | None:
        if dataset not in self._boards:
            self._boards[dataset] = load_board(self.stored, dataset)
        return self._boards[dataset]

    def _one(self, dataset: str | None) -> Board:
        """The leaderboard of a data set, which may be left out where there is one."""
        if dataset is None:
            dataset = one_of("data set with a plan", None, [d for d in self.datasets if self._board(d)])
        if board := self._board(one_of("data set", dataset, self.datasets)):
            return board
        raise UserError(_no_plan(dataset))

    def table(self, dataset: str | None = None, *, details: bool = False) -> Table:
        """The summary of a data set, or of all; as text with the tables of all metrics only where ``details`` is true.

        Raises:
            UserError: there is no such data set in the run.
        """
        asked = [one_of("data set", dataset, self.datasets)] if dataset else self.datasets
        boards = {d: self._board(d) for d in asked}
        return Table(tuple(b for b in boards.values() if b), tuple(d for d, b in boards.items() if not b), details)

    @property
    def plots(self) -> list[str]:
        """The charts that `plot` can draw, over all data sets."""
        boards = [b for d in self.datasets if (b := self._board(d))]
        return list(dict.fromkeys(name for b in boards for name in [*self._charts(b), *self._curves(b)]))

    @staticmethod
    def _charts(board: Board) -> list[str]:
        from ..report.charts.files import charts

        return list(charts(board))

    def _curves(self, board: Board) -> dict[str, Path]:
        """The charts of what methods recorded, by name."""
        from ..report.charts.curves import write_curves

        if board.results.dataset not in self._drawn:
            stem = board.results.stem
            paths = write_curves(self.stored, board.results.dataset, self._folder, stem)
            self._drawn[board.results.dataset] = {p.stem.removeprefix(f"{stem}-"): p for p in paths}
        return self._drawn[board.results.dataset]

    @cached_property
    def _drawn(self) -> dict[str, dict[str, Path]]:
        return {}

    @cached_property
    def _temporary(self) -> TemporaryDirectory[str]:
        return new_scratch_folder()

    @property
    def _folder(self) -> Path:
        return Path(self._temporary.name)

    def plot(self, metric: str | None = None, dataset: str | None = None) -> Picture:
        """A chart: of a metric's scores, ``quality-cost`` (by default), or of what methods recorded (see `plots`).

        Raises:
            UserError: there is no such chart, or no such data set.
        """
        from ..report.charts.files import write_plot

        board = self._one(dataset)
        known = self._charts(board)
        name = "quality-cost" if metric is None and "quality-cost" in known else metric
        if name not in known:
            curves = self._curves(board)
            return Picture(curves[one_of("chart", name, [*known, *curves])], self._temporary)
        return Picture(write_plot(board, name, self._folder), self._temporary)

    def gallery(self, dataset: str | None = None, columns: int = 16) -> Picture:
        """The contact sheet: the same questions answered by every row, about ``columns`` of them.

        Raises:
            UserError: there is no such data set.
        """
        folder = self._folder / f"gallery-{columns}"
        return Picture(
            write_sheet(self.stored, self._one(dataset).results.dataset, folder, columns),
            self._temporary,
        )

    def write(self, out: str | Path | None = None, *, pictures: bool = True) -> list[Path]:
        """Write all tables and pictures, by default where ``cfbench run`` does; the files written."""
        out = Path(out or self.folder / "leaderboard")
        boards = [b for d in self.datasets if (b := self._board(d))]
        written = [write_leaderboard(self.stored, b, out, pictures=pictures) for b in boards]
        return [*(path for kinds in written for paths in kinds.values() for path in paths), *write_summary(out)]

    def __repr__(self) -> str:
        total, bad = len(self.stored.states), len(self.failures)
        summary = f"{bad} of {total} cells unfinished, see .failures" if bad else f"{total} of {total} cells finished"
        rows, datasets = ", ".join(self.methods) or "controls", ", ".join(self.datasets)
        return f"Result({self.folder.name}: {rows} on {datasets}; {summary})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>\n{self.table()._repr_html_()}"
