"""Where runs and data lie: folders found and checked, without anything else being loaded."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError, did_you_mean

__all__ = ["DATA_ROOT", "MANIFEST", "check_writable", "find_run"]

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


def check_writable(folder: Path) -> None:
    """Make a folder.

    Raises:
        UserError: that cannot be done, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another --run-root") from error
