"""Published data files: read compressed or not, and checked against known checksums."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

__all__ = ["CorruptFile", "read_checked"]


class CorruptFile(Exception):
    """A file that is not the published one: ``path``, and the ``data`` that it holds once decompressed."""

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(f"{path} is corrupt (wrong checksum)")
        self.path, self.data = path, data


def read_checked(folder: Path, name: str, checksum: str, algorithm: str = "sha256") -> bytes | None:
    """Return the decompressed bytes of ``name.gz`` or ``name``, whichever has the checksum; None where both are absent.

    Raises:
        CorruptFile: there are copies, but none has the checksum.
    """
    corrupt = None
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
        corrupt = CorruptFile(path, data)
    if corrupt is not None:
        raise corrupt
    return None
