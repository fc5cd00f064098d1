"""Training logs as TensorBoard scalars, written when a fit is over from the rows that it logged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import store
from .cells import Cell
from .errors import UserError

__all__ = ["FOLDER", "check_installed", "scalars", "write_scalars"]

FOLDER = "tensorboard"


def check_installed() -> None:
    """Nothing, where scalars can be written.

    Raises:
        UserError: the package is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard needs a package that is missing ({error}); pip install 'cfbench-scm[tensorboard]'"
        ) from None


def write_scalars(folder: Path, cells: Iterable[Cell]) -> list[Path]:
    """Write the scalars of every fit of a run that is over and has a log, each once; the new folders."""
    written = []
    for stage in dict.fromkeys(cell.stage("train") for cell in cells if not cell.external):
        log, out = folder / stage / "log.jsonl", folder / FOLDER / stage.relative_to("cells")
        if out.exists() or not store.complete(folder / stage) or not log.is_file():
            continue
        if found := list(scalars(json.loads(line) for line in log.read_text().splitlines())):
            _write(found, out)
            written.append(out)
    return written


def _write(found: Iterable[tuple[str, float, int]], out: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with store.drafted(out) as draft:
        with SummaryWriter(str(draft)) as writer:
            for tag, value, step in found:
                writer.add_scalar(tag, value, step)
        draft.chmod(0o755)
        draft.rename(out)


def scalars(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step of every number in the rows of a log: ``stage/key`` at the row's ``step``, or its place."""
    for number, row in enumerate(rows):
        stage, step = row.get("stage"), row.get("step", number)
        for key, value in row.items():
            if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                yield f"{stage}/{key}" if isinstance(stage, str) else key, float(value), int(step)
