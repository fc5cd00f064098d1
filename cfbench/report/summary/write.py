"""The summaries of a folder of published tables and of the folder around it, written together."""

from __future__ import annotations

from pathlib import Path

from ...storage.temporary import atomic_write
from .files import summary_texts
from .overview import overview_texts

__all__ = ["summary_files", "write_summary"]


def summary_files(folder: Path) -> dict[Path, str]:
    """The texts of the summaries of a folder, and of the README and the CSV over all folders beside it."""
    own = {folder / name: text for name, text in summary_texts(folder).items()}
    around = folder.parent if folder.name not in ("", "..") else folder.resolve().parent
    return own | {around / name: text for name, text in (overview_texts(around) if own else {}).items()}


def write_summary(folder: Path) -> list[Path]:
    """Write ``summary.csv`` and ``summary.md`` over all data sets whose tables lie in a folder, atomically.

    Where the folder around it has a README with a table over all folders, that table and its ``summary.csv`` are made
    anew too.

    Returns:
        the files.
    """
    written = []
    for path, text in summary_files(folder).items():
        with atomic_write(path) as draft:
            draft.write_text(text, encoding="utf-8")
        written.append(path)
    return written
