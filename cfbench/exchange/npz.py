"""The arrays of an ``.npz``, each described by its header before any of it is read; nothing is unpickled."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ..errors import UserError
from ..storage.plain import open_plain
from ..storage.schema import printable

__all__ = ["CheckHeader", "read_npz"]

MAX_HEADER = 2**14
"""Bytes of an array that its header lies in: numpy takes no more than 10,000."""
CheckHeader = Callable[[str, tuple[int, ...], np.dtype], None]
"""Called with name, shape and type of an array; raises where it is not to be read."""


def read_npz(path: Path, check: CheckHeader) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` by name.

    Args:
        path: of the file.
        check: called for every array before it is read, so that what it accepts bounds the memory.

    Raises:
        UserError: there is no such file, it is no ``.npz`` of plain arrays, or ``check`` raises it.
    """
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if not m.is_dir()}
            for name, member in members.items():
                with archive.open(member) as stream:
                    shape, dtype = _header(name, io.BytesIO(stream.read(MAX_HEADER)))
                check(name, shape, dtype)
            return {name: _array(archive, member) for name, member in members.items()}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the .npz with the answers") from None
    except Exception as error:  # a damaged archive makes zipfile, zlib and numpy raise exceptions of every kind
        what = (error.strerror if isinstance(error, OSError) else None) or printable(error, 160) or type(error).__name__
        raise UserError(f"{path} is no .npz of plain arrays ({what}); write it with numpy.savez") from error


def _header(name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array.

    Raises:
        ValueError: the member is no array, or one of Python objects.
    """
    version = npy.read_magic(stream)
    # Versions 2 and 3 differ in the encoding of names of fields, which no array of answers has.
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    return shape, dtype


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)
