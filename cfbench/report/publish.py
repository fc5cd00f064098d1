"""The tables and pictures of a data set, written from its cells, and whether published tables still agree."""

from __future__ import annotations

import csv
import math
import shutil
import sys
from collections.abc import Collection, Iterable
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor

from .. import storage
from ..errors import one_line
from ..evaluation.plan import Plan
from ..graph import Variable
from ..names import file_stem
from ..runs.folders import find_run
from ..runs.reader import StoredRun, aliases_of, read_results, read_run
from ..runs.stage_reader import reading_run
from ..runs.terminal import open_console
from ..storage.scratch import scratch_folder
from ..storage.tensors import StoredArray, open_arrays
from .agreement import METRICS
from .board import Board
from .charts.figure import leaving_out
from .summary.overview import published_agreements
from .summary.write import summary_files, write_summary

__all__ = ["check_tables_command", "first_difference", "load_board", "publish", "write_leaderboard", "write_sheet"]


MAX_ROWS = 200
"""Rows of a table that are printed and drawn."""
NAMED = 5
"""Files that are named where many are written."""


def publish(
    run: StoredRun, datasets: Iterable[str], out: Path, *, pictures: bool = True, details: bool = False,
    rows: Collection[str] | None = None,
) -> None:  # fmt: skip
    """Write the tables of data sets into ``out``, then their pictures, and then print the tables and the files written.

    Args:
        run: the run.
        datasets: those of its data sets whose tables are asked for.
        out: the folder; its summary is about all data sets whose tables lie there.
        pictures: whether charts and contact sheets are drawn.
        details: whether the tables of all metrics are printed below the summary.
        rows: specs of those that are printed, by default all; the files and pictures have all.

    Raises:
        UserError: a file of the run is not as cfbench writes it.
    """
    boards = {dataset: load_board(run, dataset) for dataset in datasets}
    written = [(board, {"tables": _write_tables(run, board, out)}) for board in boards.values() if board]
    summaries = write_summary(out)
    for board, files in written if pictures else ():
        files |= _write_pictures(run, board, out)
    summaries += _write_worth(summaries) if pictures else []
    for dataset in (dataset for dataset, board in boards.items() if board is None):
        print(f"cfbench: {dataset} has no plan yet, so there is no table of it", file=sys.stderr)
    for board, files in written:
        specs = board.results.specs
        shown = board if rows is None else board.showing({m for m in board.methods if specs.get(m, m) in rows})
        with leaving_out(f"the printed tables of {board.results.dataset}"):
            _show(shown, details=details)
        if others := len(board.methods) - len(shown.methods):
            are = "row of this run is" if others == 1 else "rows of this run are"
            print(f"{others} other {are} in the files; --all shows them")
        for what, paths in files.items():
            _print_files(what, paths)
    _print_files("all data sets", [path for path in summaries if path.parent == out])
    _print_files("all folders", [path for path in summaries if path.parent != out])
    if written and not details:
        print(f"every metric: cfbench leaderboard {run.folder} --details")


def _write_worth(summaries: Iterable[Path]) -> list[Path]:
    """Draw what metrics are worth beside the table that says so, where there is one."""
    from .charts.agreement import write_agreements

    tables = [path for path in summaries if path.name == f"{METRICS}.md"]
    with leaving_out("the chart of what metrics are worth"):
        return [write_agreements(published_agreements(t.parent), t.with_suffix(".png")) for t in tables]
    return []


def _print_files(what: str, paths: list[Path]) -> None:
    """Name files, the first of many."""
    if paths:
        more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
        print(f"{what}: {paths[0].parent}/ {', '.join(p.name for p in paths[:NAMED])}{more}")


def load_board(run: StoredRun, dataset: str) -> Board | None:
    """The leaderboard of a data set that a run asks about, read from the cells; None where it has no plan yet."""
    planned = storage.is_complete(run.folder / run.manifest.datasets[dataset].plan)
    with reading_run(run.folder):
        return Board(read_results(run, dataset)) if planned else None


def write_leaderboard(run: StoredRun, board: Board, out: Path, *, pictures: bool = True) -> dict[str, list[Path]]:
    """Write the tables and pictures of a data set into ``out``; the files by what they are."""
    written = {"tables": _write_tables(run, board, out)}
    return written | (_write_pictures(run, board, out) if pictures else {})


def _write_tables(run: StoredRun, board: Board, out: Path) -> list[Path]:
    from .render import write_tables

    with reading_run(run.folder):  # scores that contradict each other are met here
        return list(write_tables(board, out).values())


def _write_pictures(run: StoredRun, board: Board, out: Path) -> dict[str, list[Path]]:
    from .charts.curves import write_curves
    from .charts.files import write_plots

    dataset = board.results.dataset
    if len(board.methods) > MAX_ROWS:
        print(f"cfbench: {dataset} has {len(board.methods):,} rows; pictures show {MAX_ROWS} at most", file=sys.stderr)
        return {}
    charts, sheets = [*write_plots(board, out), *write_curves(run, dataset, out, board.results.stem)], []
    with leaving_out("the contact sheet"):
        sheets = [write_sheet(run, dataset, out)]
    return {"charts": charts, "contact sheet": sheets}


def _show(board: Board, *, details: bool) -> None:
    from .render import render

    if len(board.methods) > MAX_ROWS:
        print(f"{board.results.dataset} has {len(board.methods):,} rows; up to {MAX_ROWS} are printed here")
        return
    width = shutil.get_terminal_size((120, 40)).columns
    open_console(width=max(width, 80)).print(render(board, width, details=details))


def write_sheet(run: StoredRun, dataset: str, out: Path, columns: int = 16) -> Path:
    """Write the contact sheet: the plan's first questions about each variable, answered by each row's first seed."""
    from .sheet import contact_sheet

    with reading_run(run.folder):
        labels, rows, title = _questions(run, dataset, columns)
    stem = file_stem(dataset, run.manifest.datasets)
    return contact_sheet(out / f"{stem}-counterfactuals.png", labels, rows, title=title, unknown=("truth",))


def _questions(run: StoredRun, dataset: str, columns: int) -> tuple[list[str], dict[str, Tensor], str]:
    """The labels of the columns, the images of each row, and the line below them."""
    entry = run.manifest.datasets[dataset]
    plan_folder = run.folder / entry.plan
    plan, truth = Plan.load(plan_folder), open_arrays(plan_folder / "truth.safetensors")
    factuals = open_arrays(plan_folder / "factuals.safetensors")["x"]
    each = max(columns // max(len(plan.asked), 1), 2)
    labels = [label for v in plan.asked for label in _labels(entry.graph[v], plan, each)]
    rows = {"factual": torch.cat([factuals[a.factual[:each]].float() / 255 for a in plan.asked.values()])}
    if truth:
        rows["truth"] = torch.cat([_first(truth.get(f"do/{v}"), rows["factual"], each) for v in plan.asked])
    for cell, images in _answers(run, dataset).items():
        rows[f"{cell} (row)" if cell in rows else cell] = torch.cat([images[f"do/{v}"][:each] for v in plan.asked])
    conventions = [v.name for v in entry.variables if v.truth == "convention"]
    title = f"{dataset}, preset {run.manifest.budget.name}, first seed of each method"
    specs = {state.method: cell.method.label for cell, state in run.states_of(dataset) if state.method in rows}
    title += "".join(f"; {alias}: {label}" for alias, label in aliases_of(specs).items())
    title += "".join(f"; the truth of do({v}) is a convention" for v in conventions)
    return labels, rows, title


def _first(images: StoredArray | None, like: Tensor, each: int) -> Tensor:
    return torch.full_like(like[:each], torch.nan) if images is None else images[:each]


def _labels(v: Variable, plan: Plan, each: int) -> list[str]:
    values = plan.asked[v.name].value[:each].tolist()
    return [f"do({v.name}={int(x) if v.categorical else format(x, '.3g')})" for x in values]


def _answers(run: StoredRun, dataset: str) -> dict[str, dict[str, StoredArray]]:
    """The images of the first seed of each method that answered, those left out that repeat another row."""
    first: dict[str, Path] = {}
    for cell, state in run.states_of(dataset):
        images = run.folder / cell.stage("images")
        if state.in_gallery and storage.is_complete(images):
            first.setdefault(state.method, images)
    return {label: open_arrays(images / "answers.safetensors") for label, images in first.items()}


CLOSE = 1e-9
"""Numbers of a CSV that differ by less than this share are the same: machines sum in another order."""


def check_tables_command(name: str, run_root: Path, out: Path | None) -> int:
    """Derive the tables anew and compare; 2 where one differs. Nothing is written but into a temporary folder."""
    folder = find_run(name, run_root)
    run, out = read_run(folder), out or folder / "leaderboard"
    checked, different = 0, 0
    with scratch_folder() as fresh:
        for dataset in run.manifest.datasets:
            board = load_board(run, dataset)
            for path in _write_tables(run, board, fresh) if board else ():
                difference = first_difference(path, out / path.name)
                checked, different = checked + 1, different + bool(difference)
                if difference:
                    print(f"cfbench: {out / path.name} {difference}", file=sys.stderr)
        for path, text in summary_files(out).items() if checked and not different else ():
            derived = Path(fresh) / path.name
            derived.write_text(text, encoding="utf-8")
            difference = first_difference(derived, path)
            checked, different = checked + 1, different + bool(difference)
            if difference:
                print(f"cfbench: {path} {difference}", file=sys.stderr)
    print(f"{checked - different} of {checked} tables in {out} are what the cells of {folder} say")
    return 2 if different or not checked else 0


def first_difference(derived: Path, published: Path) -> str:
    """Where a file first differs from what it should be, in words; empty where it does not."""
    if not published.is_file():
        return "is missing"
    new, old = (path.read_text(encoding="utf-8", errors="replace").splitlines() for path in (derived, published))
    for number, (right, found) in enumerate(zip_longest(new, old), 1):
        if right != found and not (derived.suffix == ".csv" and _close(right, found)):
            lines = ("nothing" if line is None else repr(one_line(line, 160)) for line in _around(found, right))
            return "differs in line {}: it says {}, the cells say {}".format(number, *lines)
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
