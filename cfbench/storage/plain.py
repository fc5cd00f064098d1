"""Regular files of bounded size, opened without waiting: no pipe, device or endless file is read."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = ["open_plain", "read_plain"]


def open_plain(path: Path, largest: int | None = None) -> BufferedReader:
    """Open a regular file, or what a link to one leads to, for reading.

    Args:
        path: of the file.
        largest: its maximum number of bytes.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger; ``strerror`` says which.
    """
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb")  # noqa: SIM115
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, no plain file", str(path))
        if largest is not None and found.st_size > largest:
            what = f"it has {found.st_size:,} bytes, more than the {largest:,} that are read"
            raise OSError(errno.EFBIG, what, str(path))
    except OSError:
        file.close()
        raise
    return file


def read_plain(path: Path, largest: int) -> bytes:
    """The bytes of a regular file, as many as it has when it is opened.

    Raises:
        OSError: it cannot be read, is no regular file, or has more bytes than ``largest``.
    """
    with open_plain(path, largest) as file:
        return file.read(os.fstat(file.fileno()).st_size)
