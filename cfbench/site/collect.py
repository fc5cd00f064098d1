"""From stored runs, and from folders of published tables, to what a page shows."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd

from .. import storage
from ..errors import UserError
from ..plugins.spec import parse_specs
from ..report.board import Board
from ..report.notes import detail_notes, devices, plan_note, settings_note
from ..report.publish import load_board
from ..report.render import write_tables
from ..report.summary.files import READING, summaries_in
from ..report.summary.rows import of_board
from ..report.summary.tables import summary_notes
from ..report.sweeps import sweeps
from ..runs.folders import find_run
from ..runs.manifest import Manifest, refuse_links
from ..runs.reader import StoredRun, read_run
from ..runs.stage_reader import reading_run
from ..storage.plain import read_plain
from ..storage.schema import mapping
from ..storage.scratch import scratch_folder
from ..version import __version__
from .cards import make_cards
from .costs import cost_charts
from .gallery import make_gallery
from .model import DataSet, Page
from .tables import Filters, detail_table, judge_table, summary_table

__all__ = ["collect"]

LARGEST = 2**30
"""Bytes of a table that is read."""


def collect(names: Iterable[str], run_root: Path) -> Page:
    """The page of some runs.

    Args:
        names: runs by name or folder, or folders of published tables.
        run_root: the folder with runs.

    Raises:
        UserError: there is no such run, it has no plan yet, or a file is not as cfbench writes it.
    """
    found = [(source, label) for name in names for source, label in _sources(name, run_root)]
    labels = [label for _, label in found]
    datasets: list[DataSet] = []
    for number, (source, label) in enumerate(found):
        where = (source.folder if isinstance(source, StoredRun) else source).resolve().name
        name = label if labels.count(label) == 1 else f"{label} ({where})"
        name = name if name not in {d.name for d in datasets} else f"{name} {number + 1}"
        stem = f"data-{number + 1}"
        datasets.append(
            _of_run(source, label, name, stem)
            if isinstance(source, StoredRun)
            else _of_tables(source, label, name, stem)
        )
    return Page(tuple(datasets), __version__)


def _sources(name: str, run_root: Path) -> Iterator[tuple[StoredRun | Path, str]]:
    """The data sets of a run or of a folder of tables, each with its source."""
    if tables := list(summaries_in(Path(name))):
        yield from ((Path(name), summary.dataset) for _, summary, _, _ in tables)
        return
    run = read_run(find_run(name, run_root))
    planned = [label for label, d in run.manifest.datasets.items() if storage.is_complete(run.folder / d.plan)]
    if not planned:
        raise UserError(f"{run.folder} has no questions yet, so there is nothing to show; run the same `cfbench run`")
    yield from ((run, label) for label in planned)


def _of_run(run: StoredRun, label: str, name: str, stem: str) -> DataSet:
    board = load_board(run, label)
    if board is None:
        raise UserError(f"{run.folder} has no plan of {label}; run the same `cfbench run` again")
    with reading_run(run.folder):
        s = of_board(board)
        families = {state.method: cell.method.name for cell, state in run.states_of(label)}
        filters = _filters(name, families, frozenset(board.results.controls))
        return DataSet(
            name=name,
            stem=stem,
            summary=summary_table(s, filters, board),
            tables=tuple(detail_table(board, section, filters) for section in board.sections),
            notes=tuple(summary_notes(board, s)),
            details=tuple(detail_notes(board)),
            costs=cost_charts(s, sweeps(board)),
            cards=make_cards(run, board),
            gallery=make_gallery(run, board),
            judges=judge_table(board),
            facts=dict(_facts(run, board)),
            commands=tuple(shlex.join(["cfbench", *words]) for words in run.manifest.commands),
            files=_files_of(board),
        )


def _filters(dataset: str, families: Mapping[str, str], controls: frozenset[str]) -> Filters:
    """What a row can be filtered by; a control belongs to no family."""

    def of(method: str) -> dict[str, str]:
        return {"dataset": dataset} | ({} if method in controls else {"family": families.get(method, method)})

    return of


def _facts(run: StoredRun, board: Board) -> Iterator[tuple[str, str]]:
    """How the numbers were made, by name."""
    m: Manifest = run.manifest
    yield "run", run.folder.resolve().name
    yield "questions", plan_note(board.results)
    yield "settings", settings_note(board.results)
    yield "device", devices(board) or "unknown"
    yield "cfbench", m.cfbench + (f", revision {m.revision}" if m.revision else "") + (", changed" if m.dirty else "")
    for number, text in enumerate(_environments(run), 1):
        yield f"environment {number}", text


def _environments(run: StoredRun) -> list[str]:
    """The machines and packages that the run's stages were computed with."""
    files, found = sorted((run.folder / "env").glob("*.json")), []
    refuse_links([run.folder / "env", *files])
    for file in files:
        env = mapping(storage.read_json(file))
        packages = mapping(env.get("packages", {}))
        about = [f"Python {env.get('python')}", str(env.get("system")), str(env.get("device"))]
        about += [f"{env.get('cores')} cores, {env.get('threads')} threads a task"]
        found.append("; ".join([*about, ", ".join(f"{name} {version}" for name, version in packages.items())]))
    return found


def _files_of(board: Board) -> dict[str, tuple[str, bytes]]:
    """The tables of a board to download."""
    with scratch_folder() as folder:
        return _downloads(folder, write_tables(board, folder)["csv"].stem)


def _downloads(folder: Path, stem: str) -> dict[str, tuple[str, bytes]]:
    """The wide table, and an archive with it and the others; comparisons of pairs, the largest, are left out."""
    names = [f"{stem}-wide.csv", f"{stem}.csv", f"{stem}.md", f"{stem}.tex"]
    tables = {name: read_plain(folder / name, LARGEST) for name in names if (folder / name).is_file()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in tables.items():
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return {
        names[0]: ("a line for each row, with every metric and its interval", tables[names[0]]),
        f"{stem}-tables.zip": (", ".join(tables), archive.getvalue()),
    }


def _of_tables(folder: Path, label: str, name: str, stem: str) -> DataSet:
    """What tables without their run show: the summary, costs, and the tables themselves."""
    file, s, _, wide = next(found for found in summaries_in(folder) if found[1].dataset == label)
    families = _families(wide)
    return DataSet(
        name=name,
        stem=stem,
        summary=summary_table(s, _filters(name, families, s.controls)),
        notes=(" ".join(READING.split()),),
        costs=cost_charts(s),
        facts={"tables": folder.resolve().name},
        files=_downloads(folder, file.stem),
    )


def _families(wide: pd.DataFrame) -> dict[str, str]:
    """The method behind each row of a table; a row that is called otherwise is its own."""
    found = {}
    for method, spec in zip(wide["method"], wide["spec"] if "spec" in wide else wide["method"], strict=True):
        try:
            found[method] = parse_specs(spec)[0].name
        except UserError:
            found[method] = method
    return found
