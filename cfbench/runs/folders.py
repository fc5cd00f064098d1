"""The folders of runs and data, found and checked without importing anything else."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError, did_you_mean

__all__ = ["DATA_ROOT", "MANIFEST", "check_run_name", "check_writable", "find_run", "refuse_unwritable"]

DATA_ROOT = "CFBENCH_DATA_ROOT"
"""The environment variable that names the folder with data sets."""
MANIFEST = "run.json"


def find_run(name: str, run_root: Path) -> Path:
    """The folder of a run, given by name or path.

    Raises:
        UserError: there is none.
    """
    for folder in (run_root / name, Path(name)):
        if (folder / MANIFEST).is_file():
            return folder
    known = [p.parent.name for p in run_root.glob(f"*/{MANIFEST}") if p.is_file()]
    raise UserError(f"no run {name!r} in {run_root}; {did_you_mean(name, known)}")


def check_run_name(name: str) -> str:
    """Return the name of a run.

    Raises:
        UserError: it is a path or hidden, so that it names no folder directly inside the folder with runs, or cannot be
            printed.
    """
    if Path(name).name != name or name.startswith(".") or not name.isprintable() or name != name.strip():
        raise UserError(f"--name {name!r} is no plain name; write letters, digits and dashes")
    return name


def check_writable(folder: Path) -> None:
    """Create a folder where it is missing, and raise unless it can be written to.

    Raises:
        UserError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another --run-root") from error


def refuse_unwritable(folder: Path) -> None:
    """Raise where it can be seen, without writing, that a folder cannot be created or written to.

    Raises:
        UserError: the folder, or the first above it that exists, is a file or must not be written to.
    """
    found = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not found.is_dir():
        raise UserError(f"{folder} cannot be written ({found} is no folder); give another --run-root")
    if not os.access(found, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written ({found} is read-only for you); give another --run-root")
