"""Stage folders: written under a temporary name, renamed when complete, checked when read.

What is read may come from a stranger: JSON and safetensors only, of bounded size, no link followed out of a stage,
and no path that a manifest names outside of its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UserError, one_line
from .temporary import atomic_write, temporary_folder

__all__ = [
    "MANIFEST",
    "copy_stage",
    "damaged_files",
    "is_complete",
    "is_intact",
    "next_numbered",
    "read_json",
    "read_tensors",
    "read_verified",
    "records",
    "remove_damaged",
    "sha256",
    "write_json",
    "write_stage",
    "write_tensors",
]


MANIFEST = "stage.json"
REMOVE = "remove its folder and run the same `cfbench run` again"
LARGEST = 32 * 2**20
"""Bytes of a JSON file that is read at all: a hundred times what ten thousand rows need."""


@contextmanager
def write_stage(folder: Path, **about: Any) -> Iterator[Path]:
    """A temporary folder that becomes ``folder``, with a manifest of its files, when the block ends well.

    Whoever comes second with the same folder finds it complete and drops its own work.
    """
    with temporary_folder(folder) as draft:
        yield draft
        files = {str(p.relative_to(draft)): sha256(p) for p in sorted(draft.rglob("*")) if p.is_file()}
        write_json(draft / MANIFEST, {**about, "files": files})
        _settle(draft, folder)


def _settle(draft: Path, folder: Path) -> None:
    """Give a draft its name, unless someone else's stands there whole; a damaged one gives way."""
    draft.chmod(0o755)
    try:
        draft.rename(folder)
    except OSError:
        if is_intact(folder):
            return
        broken = remove_damaged(folder)
        print(f"cfbench: {folder}: {', '.join(broken[:3])} does not match its manifest; replaced", file=sys.stderr)
        draft.rename(folder)


def is_complete(folder: Path) -> bool:
    """Whether a stage's folder is there, finished.

    Raises:
        UserError: it is a link or holds one, so that what is read would lie elsewhere.
    """
    if not os.path.lexists(folder / MANIFEST):
        return False
    if odd := next(_odd(folder), None):
        raise UserError(f"{odd} is a link or no plain file; a stage holds its files themselves: remove it")
    return True


def _odd(folder: Path) -> Iterator[Path]:
    """What is neither a file nor a folder of its own in a stage, links first of all."""
    if folder.is_symlink():
        yield folder
        return
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _odd(Path(entry.path))
        elif not entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def is_intact(folder: Path) -> bool:
    """Whether a stage is there and its files match its manifest."""
    return os.path.lexists(folder / MANIFEST) and not damaged_files(folder)


def damaged_files(folder: Path) -> list[str]:
    """The files of a stage that are not as its manifest says, or that are links."""
    try:
        files: Mapping[str, str] = read_json(folder / MANIFEST)["files"]
        if odd := [str(p.relative_to(folder)) for p in _odd(folder)]:
            return odd
        return [n for n, digest in files.items() if not _matches(folder, n, digest)]
    except (UserError, LookupError, TypeError, AttributeError, OSError):
        return [MANIFEST]


def _matches(folder: Path, name: str, digest: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and (folder / path).is_file() and sha256(folder / path) == digest


def remove_damaged(folder: Path) -> list[str]:
    """Remove a stage whose files do not match its manifest; the names of those files."""
    broken = damaged_files(folder) if os.path.lexists(folder) else []
    if broken and folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    elif broken:
        folder.unlink()
    return broken


def copy_stage(source: Path, folder: Path) -> list[str]:
    """Copy the files that a stage's manifest names under a temporary name and rename them when they match it.

    Returns:
        what does not match; nothing is left behind then.
    """
    with temporary_folder(folder) as draft:
        if broken := damaged_files(source):
            return broken
        for name in (MANIFEST, *read_json(source / MANIFEST)["files"]):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, draft / name, follow_symlinks=False)
        if broken := damaged_files(draft):
            return broken
        _settle(draft, folder)
        return []


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(value, indent=1, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing, too large or no JSON.
    """
    _check(path, LARGEST)
    return _parsed(path, path.read_bytes())


def _parsed(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is no JSON ({one_line(error, 120)}); remove it and run the same `cfbench run` again"
        ) from None


def read_verified(folder: Path, json_name: str, tensors_name: str, largest: int) -> tuple[Any, dict[str, Any]]:
    """JSON and arrays of a stage from one look at each file, whose bytes are as the manifest says.

    Args:
        folder: of the stage.
        json_name: the file that holds JSON.
        tensors_name: the file that holds safetensors.
        largest: bytes that it may have.

    Raises:
        UserError: a file is missing, too large, not what the manifest says, no JSON or no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    digests = read_json(folder / MANIFEST)["files"]
    found = {}
    for name, most in ((json_name, LARGEST), (tensors_name, largest)):
        _check(folder / name, most)
        found[name] = (folder / name).read_bytes()
        if hashlib.sha256(found[name]).hexdigest() != digests.get(name):
            raise UserError(f"{folder / name} does not match its manifest; run the same `cfbench run` again")
    try:
        return _parsed(folder / json_name, found[json_name]), load(found[tensors_name])
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / tensors_name} is no safetensors file ({one_line(error, 120)}); {REMOVE}") from None


def _check(path: Path, largest: int) -> None:
    """Nothing, where a file can be read.

    Raises:
        UserError: it is missing, no plain file or larger than it may be.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; run the same `cfbench run` again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); remove it") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is no file; remove it and run the same `cfbench run` again")
    if found.st_size > largest:
        raise UserError(f"{path} has {found.st_size:,} bytes, more than the {largest:,} that it may have; remove it")


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_write(path) as draft:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, draft)


def read_tensors(path: Path, largest: int = 2**50) -> dict[str, Any]:
    """Read safetensors onto the CPU.

    Args:
        path: the file.
        largest: bytes that it may have.

    Raises:
        UserError: the file is missing, too large or no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check(path, largest)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise UserError(f"{path} is no safetensors file ({one_line(error, 120)}); {REMOVE}") from None


def records(folder: Path, name: str) -> list[Path]:
    """The stages ``name-1``, ``name-2`` ... in the order of their numbers; whatever else lies there is none."""
    found = [p for p in folder.glob(f"{name}-*") if p.name.removeprefix(f"{name}-").isdecimal()]
    return sorted((p for p in found if is_complete(p)), key=lambda p: int(p.name.rpartition("-")[2]))


def next_numbered(folder: Path, name: str) -> Path:
    """The first free one of ``name-1``, ``name-2`` ... after all that are there."""
    taken = (p.name.removeprefix(f"{name}-") for p in folder.glob(f"{name}-*"))
    return folder / f"{name}-{max((int(n) for n in taken if n.isdecimal()), default=0) + 1}"


def sha256(path: Path) -> str:
    """The digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
