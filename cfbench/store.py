"""Stage folders: written under a temporary name, renamed when complete, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = [
    "complete",
    "discard_broken",
    "read_json",
    "read_tensors",
    "replacing",
    "sha256",
    "whole",
    "write_json",
    "write_tensors",
    "writing",
]

MANIFEST = "stage.json"


@contextmanager
def writing(folder: Path, **about: Any) -> Iterator[Path]:
    """A temporary folder that becomes ``folder``, with a manifest of its files, when the block ends well.

    Whoever comes second with the same folder finds it complete and drops its own work.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        files = {str(p.relative_to(draft)): sha256(p) for p in sorted(draft.rglob("*")) if p.is_file()}
        write_json(draft / MANIFEST, {**about, "files": files})
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not complete(folder):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def complete(folder: Path) -> bool:
    """Whether a stage's folder is there, finished."""
    return (folder / MANIFEST).is_file()


def whole(folder: Path) -> bool:
    """Whether a stage is there and its files match its manifest; one that does not match is removed."""
    return complete(folder) and not discard_broken(folder)


def discard_broken(folder: Path) -> list[str]:
    """Remove a stage whose files do not match its manifest; the names of those files."""
    if not folder.exists():
        return []
    try:
        files: Mapping[str, str] = read_json(folder / MANIFEST)["files"]
        broken = [n for n, digest in files.items() if not (folder / n).is_file() or sha256(folder / n) != digest]
    except (UserError, KeyError, TypeError, AttributeError):
        broken = [MANIFEST]
    if broken:
        shutil.rmtree(folder)
    return broken


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which takes its place when the block ends well; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(value, indent=1, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the same `cfbench run` again") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); remove it and run the same `cfbench run` again") from None


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    with replacing(path) as draft:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, draft)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read safetensors onto the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def sha256(path: Path) -> str:
    """The digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
