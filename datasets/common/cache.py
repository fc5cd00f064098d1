"""Derived tensors on disk: written once under a data root, checked when read, made again when corrupt."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cfbench.errors import UserError

__all__ = ["checksum", "load", "writable"]

FULL = (errno.ENOSPC, errno.EDQUOT)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().data)
    return digest.hexdigest()


def load(root: Path, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of ``root/name``; made, and written where the folders allow, if missing or corrupt.

    Raises:
        UserError: ``root`` is missing and cannot be created.
    """
    path = root / name
    found = _read(path)
    if found is None:
        found = make()
        if writable(root, name):
            _write(path, found)
    return found


def writable(root: Path, name: str = "") -> bool:
    """Return whether files may be written under ``root``, which is created if missing, or the file ``name`` under it.

    A subfolder may be another user's, who shares the data root.

    Raises:
        UserError: ``root`` is missing and cannot be created.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data root {root} cannot be created ({error.strerror}): choose another --data-root") from None
    folder = next(path for path in (root / name).parents if path.exists()) if name else root
    # The superuser may write where the folder's mode forbids it; the mode says what its owner wants.
    forbidden = not folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    return os.access(folder, os.W_OK) and not forbidden


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            known = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError, ValueError):
        return None
    return tensors if checksum(tensors) == known else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
            part = Path(folder) / path.name
            save_file(tensors, part, metadata={"sha256": checksum(tensors)})
            os.replace(part, path)
    except OSError as error:
        remedy = "free the disk or change" if error.errno in FULL else "change"
        raise UserError(f"{path} cannot be written ({error.strerror}): {remedy} --data-root") from None
