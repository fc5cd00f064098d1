"""Published data files: read compressed or not, and checked against known checksums."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from cfbench.storage.plain import open_plain

__all__ = ["CorruptFile", "read_checked"]

LARGEST = 2**26
"""Bytes of a published file, compressed or not: the largest, of MNIST's training images, has 47 million."""


class CorruptFile(Exception):
    """A file that is not the published one: ``path``, and the ``data`` that it holds once decompressed."""

    def __init__(self, path: Path, data: bytes, reason: str = "wrong checksum") -> None:
        super().__init__(f"{path} is corrupt ({reason})")
        self.path, self.data = path, data


def read_checked(folder: Path, name: str, checksum: str, algorithm: str = "sha256") -> bytes | None:
    """Return the decompressed bytes of ``name.gz`` or ``name``, whichever has the checksum; None where both are absent.

    Raises:
        CorruptFile: there are copies, but none has the checksum.
    """
    corrupt = None
    for path in (folder / f"{name}.gz", folder / name):
        try:
            data = _contents(path)
        except FileNotFoundError:
            continue
        except (OSError, EOFError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            corrupt = CorruptFile(path, b"", reason or "wrong checksum")
            continue
        if hashlib.new(algorithm, data, usedforsecurity=False).hexdigest() == checksum:
            return data
        corrupt = CorruptFile(path, data)
    if corrupt is not None:
        raise corrupt
    return None


def _contents(path: Path) -> bytes:
    """The decompressed bytes of a file, no more than `LARGEST` and one."""
    with open_plain(path, LARGEST) as file:
        if path.suffix != ".gz":
            return file.read(LARGEST + 1)
        with gzip.GzipFile(fileobj=file) as decompressed:
            return decompressed.read(LARGEST + 1)
