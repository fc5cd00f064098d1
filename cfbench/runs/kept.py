"""Fits that are kept although the code of their method was edited, because the user says that `fit` is the same."""

from __future__ import annotations

from pathlib import Path

from .. import storage
from ..errors import UserError
from .job import Cell
from .reasons import changes, stored_stages

__all__ = ["kept_fit"]


def kept_fit(folder: Path, cell: Cell) -> str:
    """The key of the newest stored fit of a cell that differs in the code of its method or of cfbench at most.

    Args:
        folder: of the run.
        cell: with its present keys; where their fit is stored, it is that one.

    Raises:
        UserError: there is no such fit; it says what differs in the newest.
    """
    present = folder / cell.stage("train")
    if storage.is_intact(present):
        return cell.keys["train"]
    code = {"origin", "data's origin", f"code of {cell.fit.name}", "code of cfbench"}
    found = [path for path in reversed(stored_stages(present)) if storage.is_intact(path)]
    for path in found:
        if not changes(path, cell.inputs.get(cell.keys["train"], {}), but=code):
            return path.name.rpartition("-")[2]
    why = "none is stored"
    if found:
        what = changes(found[0], cell.inputs.get(cell.keys["train"], {}), but=code)
        why = f"in {found[0].name}, {'; '.join(what[:3])}"
    raise UserError(
        f"--keep-fit {cell.method.name}: {folder} has no fit of {cell.dataset.label} {cell.fit.label} seed {cell.seed} "
        f"that differs in code only ({why}); leave --keep-fit out to fit it anew"
    )
