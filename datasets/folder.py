"""A user's own images: a folder with a causal graph, a table of parents, and image files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from cfbench.contract import Dataset, Split
from cfbench.errors import UserError

from .album import Album, open_album

__all__ = ["Folder"]


class Folder(Dataset):
    """Your own images: ``path`` holds graph.toml, a CSV of parents, and image files; there is no truth.

    80 % of the images train, 10 % validate and 10 % test, chosen by a hash of each file's name, so that further
    images leave those that are there in their splits; a column ``split`` overrides it. Rows are numbered in the
    order of their names. Where the graph has edges, the harness fits the parents' mechanisms.

    Args:
        path: of the folder, under the data root or absolute.

    Raises:
        UserError: in `open` and `prepare`, where anything in the folder is not as it should be.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._albums: dict[Path, Album] = {}

    def open(self, root: Path) -> None:
        """Read the folder and take its graph."""
        self.graph = self._album(root).graph

    def prepare(self, root: Path) -> None:
        """Check everything in the folder; images that are slow to decode are kept under ``root``."""
        self.open(root)

    def fingerprint(self, root: Path) -> str:
        """A digest of graph.toml, the table and every image file."""
        return self._album(root).digest

    def split(self, root: Path, name: Literal["train", "valid", "test"]) -> Split:
        """The named split."""
        return self._album(root).splits[name]

    def _album(self, root: Path) -> Album:
        if root not in self._albums:
            self._albums[root] = open_album(_place(Path(root), self.path), Path(root))
        return self._albums[root]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_albums": {}}


def _place(root: Path, path: str) -> Path:
    if not path:
        raise UserError("folder: which one? write folder[path=FACES], a folder under the data root or an absolute path")
    place = Path(os.path.expanduser(path))
    if ".." in place.parts and not place.is_absolute():
        raise UserError(f"folder: {path!r} leads out of the data root {root}; give an absolute path")
    folder = root / place
    if not os.path.isdir(folder):  # a folder that may not be looked at is none
        raise UserError(f"folder: no folder {folder}; put it there, choose --data-root, or give an absolute path")
    return folder
