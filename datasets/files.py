"""Data files that others publish: found packed or not, checked against known checksums."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

__all__ = ["Spoilt", "contents"]


class Spoilt(Exception):
    """A file is there but is not the published one; ``path`` is where, ``data`` what it holds."""

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(f"{path} is spoilt (wrong checksum)")
        self.path, self.data = path, data


def contents(folder: Path, name: str, checksum: str, algorithm: str = "sha256") -> bytes | None:
    """The decompressed bytes of a file, packed or not, whose checksum is right; None where it is absent.

    Raises:
        Spoilt: there are copies, none of them right.
    """
    spoilt = None
    for path in (folder / f"{name}.gz", folder / name):
        try:
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
        except FileNotFoundError:
            continue
        except (OSError, EOFError, zlib.error):
            data = b""
        if hashlib.new(algorithm, data, usedforsecurity=False).hexdigest() == checksum:
            return data
        spoilt = Spoilt(path, data)
    if spoilt is not None:
        raise spoilt
    return None
