"""A user's own images: a folder with a causal graph, a table of parents, and image files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from cfbench.contract import Dataset, Split
from cfbench.errors import UserError

from .graph_file import normal
from .image_folder import ImageFolder, on_disk, open_folder

__all__ = ["Folder"]


class Folder(Dataset):
    """Your own images: ``path`` contains graph.toml, a CSV of parents, and image files; there is no truth.

    80 % of the images train, 10 % validate and 10 % test, chosen by a hash of each file's name, so that further
    images leave those that are there in their splits; a column ``split`` overrides it. Rows are numbered in the
    order of their names. Where the graph has edges, the harness fits the parents' mechanisms.

    Read `image_folder`, then `graph_file`, `parents_table` and `decode`.

    Args:
        path: of the folder, under the data root or absolute.

    Raises:
        UserError: in `open` and `prepare`, where anything in the folder is invalid.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._opened: dict[Path, ImageFolder] = {}

    def open(self, root: Path) -> None:
        """Read the folder and take its graph."""
        self.graph = self._open(root).graph

    def prepare(self, root: Path) -> None:
        """Check everything in the folder; keep images that are slow to decode under ``root``."""
        self.open(root)

    def fingerprint(self, root: Path) -> str:
        """Return a digest of graph.toml, the table and every image file."""
        return self._open(root).digest

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """Return the named split."""
        return self._open(root).splits[name]

    def _open(self, root: Path) -> ImageFolder:
        if root not in self._opened:
            self._opened[root] = open_folder(_resolve(Path(root), self.path), Path(root))
        return self._opened[root]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": {}}


def _resolve(root: Path, path: str) -> Path:
    """Return the folder of that path, which is relative to the data root or absolute.

    Raises:
        UserError: there is no path, it leads out of the data root, or there is no such folder.
    """
    if not path:
        raise UserError("folder: which one? write folder[path=FACES], a folder under the data root or an absolute path")
    expanded = Path(os.path.expanduser(path))
    if ".." in expanded.parts and not expanded.is_absolute():
        raise UserError(f"folder: {path!r} leads out of the data root {root}; give an absolute path")
    folder = root / on_disk(root, [normal(str(expanded))])[normal(str(expanded))]
    folder = root / expanded if os.path.isdir(root / expanded) else folder
    if not os.path.isdir(folder):  # False too where permission is denied
        raise UserError(f"folder: no folder {folder}; put it there, choose --data-root, or give an absolute path")
    return folder
