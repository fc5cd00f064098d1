"""Stage folders: written under a temporary name, renamed when complete, checked when read.

Stages are untrusted input: JSON and safetensors of bounded size are read only, no link out of a stage is followed,
and no path of a manifest leads out of its folder.
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
from .plain import open_plain
from .temporary import atomic_write, remove_tree, temporary_folder

__all__ = [
    "MANIFEST",
    "MAX_JSON",
    "copy_stage",
    "damaged_files",
    "is_complete",
    "is_intact",
    "json_text",
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
MAX_JSON = 32 * 2**20
"""Maximum bytes of a JSON file: a hundred times what ten thousand rows need."""
MAX_DEPTH = 32
"""Maximum depth of lists in lists and folders in folders: what cfbench writes needs six."""


@contextmanager
def write_stage(folder: Path, **about: Any) -> Iterator[Path]:
    """Context manager with a temporary folder that is renamed to ``folder`` on success, with a manifest of its files.

    If another process has completed the same folder meanwhile, that one is kept.
    """
    with temporary_folder(folder) as draft:
        yield draft
        files = {str(p.relative_to(draft)): sha256(p) for p in sorted(draft.rglob("*")) if p.is_file()}
        write_json(draft / MANIFEST, {**about, "files": files})
        _rename_to(draft, folder)


def _rename_to(draft: Path, folder: Path) -> None:
    """Rename a draft to its folder, unless an intact one exists; a damaged one is replaced."""
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
    """Whether a stage exists and is complete.

    Raises:
        UserError: it is a link or contains one, so that files outside of it would be read.
    """
    if not os.path.lexists(folder / MANIFEST):
        return False
    if found := next(_irregular(folder), None):
        raise UserError(
            f"{found} is a link, no plain file or a folder too deep; a stage holds its files themselves: remove it"
        )
    return True


def _irregular(folder: Path) -> Iterator[Path]:
    """Entries of a stage that are neither regular files nor folders, such as links, or folders that lie too deep."""
    if folder.is_symlink():
        yield folder
        return
    pending = [(folder, 1)]
    while pending:
        parent, depth = pending.pop()
        for entry in os.scandir(parent):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                pending.append((path, depth + 1))
            elif not entry.is_file(follow_symlinks=False):
                yield path


def is_intact(folder: Path) -> bool:
    """Whether a stage exists and its files match its manifest."""
    return os.path.lexists(folder / MANIFEST) and not damaged_files(folder)


def damaged_files(folder: Path) -> list[str]:
    """The files of a stage that do not match its manifest or are links."""
    try:
        files: Mapping[str, str] = read_json(folder / MANIFEST)["files"]
        if links := [str(p.relative_to(folder)) for p in _irregular(folder)]:
            return links
        return [n for n, digest in files.items() if not _matches(folder, n, digest)]
    except (UserError, LookupError, TypeError, AttributeError, OSError):
        return [MANIFEST]


def _matches(folder: Path, name: str, digest: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and (folder / path).is_file() and sha256(folder / path) == digest


def remove_damaged(folder: Path) -> list[str]:
    """Remove a stage whose files do not match its manifest; returns the names of those files."""
    broken = damaged_files(folder) if os.path.lexists(folder) else []
    if broken and folder.is_dir() and not folder.is_symlink():
        remove_tree(folder)
    elif broken:
        folder.unlink()
    return broken


def copy_stage(source: Path, folder: Path) -> list[str]:
    """Copy the files that a stage's manifest names to a temporary folder and rename it if they match the manifest.

    Returns:
        the names of files that do not match; nothing is copied then.
    """
    with temporary_folder(folder) as draft:
        if broken := damaged_files(source):
            return broken
        for name in (MANIFEST, *read_json(source / MANIFEST)["files"]):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, draft / name, follow_symlinks=False)
        if broken := damaged_files(draft):
            return broken
        _rename_to(draft, folder)
        return []


def json_text(value: Any) -> str:
    """A value as `write_json` writes it."""
    return json.dumps(value, indent=1, allow_nan=True) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as draft:
        draft.write_text(json_text(value))


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        UserError: the file is missing, too large or no JSON.
    """
    _check(path, MAX_JSON)
    return _parsed(path, path.read_bytes())


def _parsed(path: Path, text: bytes) -> Any:
    try:
        value = json.loads(text)
        if _is_deep(value):
            raise ValueError(f"lists and objects are nested more than {MAX_DEPTH} deep")
        return value
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is no JSON ({one_line(error, 120)}); remove it and run the same `cfbench run` again"
        ) from None


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than `MAX_DEPTH` deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        values = (v for x in level for v in (x.values() if isinstance(x, dict) else x if isinstance(x, list) else ()))
        level = [v for v in values if isinstance(v, dict | list)]
    return bool(level)


def read_verified(folder: Path, json_name: str, tensors_name: str, largest: int) -> tuple[Any, dict[str, Any]]:
    """JSON and arrays of a stage, each file read once and its bytes compared with the manifest.

    Args:
        folder: the stage.
        json_name: name of the JSON file.
        tensors_name: name of the safetensors file.
        largest: its maximum number of bytes.

    Raises:
        UserError: a file is missing, too large, differs from the manifest, or is no JSON or safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    digests = read_json(folder / MANIFEST)["files"]
    found = {}
    for name, most in ((json_name, MAX_JSON), (tensors_name, largest)):
        _check(folder / name, most)
        found[name] = (folder / name).read_bytes()
        if hashlib.sha256(found[name]).hexdigest() != digests.get(name):
            raise UserError(f"{folder / name} does not match its manifest; run the same `cfbench run` again")
    try:
        return _parsed(folder / json_name, found[json_name]), load(found[tensors_name])
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / tensors_name} is no safetensors file ({one_line(error, 120)}); {REMOVE}") from None


def _check(path: Path, largest: int) -> None:
    """Raise unless a path is a regular file of bounded size.

    Raises:
        UserError: it is missing, no regular file or too large.
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
        largest: its maximum number of bytes.

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
    """The complete stages ``name-1``, ``name-2`` ... in the order of their numbers."""
    found = [p for p in folder.glob(f"{name}-*") if p.name.removeprefix(f"{name}-").isdecimal()]
    return sorted((p for p in found if is_complete(p)), key=lambda p: int(p.name.rpartition("-")[2]))


def next_numbered(folder: Path, name: str) -> Path:
    """The path ``name-N`` with the number after the largest that exists."""
    taken = (p.name.removeprefix(f"{name}-") for p in folder.glob(f"{name}-*"))
    return folder / f"{name}-{max((int(n) for n in taken if n.isdecimal()), default=0) + 1}"


def sha256(path: Path) -> str:
    """The digest of a file's bytes.

    Raises:
        OSError: it cannot be read, or is a pipe or a device.
    """
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
