"""A folder of images, read: checked as a whole, divided into splits, and identified by a digest of every byte."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from cfbench.contract import Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph
from cfbench.plugins.digest import key_of, source_digest
from cfbench.storage.plain import read_plain

from ..common import cache
from .decode import TYPES, Decoded, read_images, warn_of_range
from .graph_file import FILE, Cause, Declaration, normal, read_declaration
from .parents_table import PARTS, Row, raise_first, read_rows

__all__ = ["MIN_IMAGES", "ImageFolder", "on_disk", "open_folder", "split_of"]

MIN_IMAGES = {"train": 64, "valid": 12, "test": 12}
"""Half of a split is asked about, and metrics look at the five nearest of an image."""
MAX_COPIES = 0.05
"""Share of the validation or test images that may be copies of training images."""
SLOW = 2.0
"""Seconds of decoding from which on the images are kept on disk."""
MAX_GRAPH, MAX_TABLE, MAX_IMAGE = 2**20, 2**26, 2**28
"""Bytes that graph.toml, the table and an image file may have: a million images, and more than Pillow decodes."""


@dataclass(frozen=True)
class ImageFolder:
    """A folder when it was read: graph, splits, and a digest of every byte that they depend on."""

    graph: CausalGraph
    splits: dict[str, Split]
    digest: str


_OPENED: dict[Path, ImageFolder] = {}


def split_of(name: str) -> str:
    """Return the split of a file by its name alone: eight in ten train, one validates, one tests."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return PARTS[(share >= 0.8) + (share >= 0.9)]


def open_folder(folder: Path, root: Path) -> ImageFolder:
    """Return what is in a folder; what this process has read before where no byte has changed.

    Args:
        root: the data root, where images that are slow to decode are kept.

    Raises:
        UserError: anything in the folder is invalid.
    """
    graph = _read(folder, FILE, MAX_GRAPH, "write one with a table [variables.NAME] for each cause (see docs/data.md)")
    declaration = read_declaration(graph, f"{folder}/{FILE}")
    where = f"{folder}/{declaration.csv}"
    table_file = on_disk(folder, [declaration.csv])[declaration.csv]
    table = _read(folder, table_file, MAX_TABLE, "write it with a column image and one for each variable")
    rows = read_rows(table, declaration, where)
    files = on_disk(folder, [row.name for row in rows])
    checksums = _checksums(folder, where, rows, files)
    digest = _digest([graph, table, *(row.name.encode() for row in rows), *checksums])
    known = _OPENED.get(folder)
    if known is None or known.digest != digest:
        parts = [row.split or split_of(row.name) for row in rows]
        parents = torch.tensor([row.values for row in rows], dtype=torch.float32)
        _check_splits(parts, where)
        _check_copies(rows, checksums, parts, where)
        _check_values(declaration, parents, parts, where)
        images = _images(root, folder, declaration, files, digest)
        _OPENED[folder] = known = _divide(declaration, images, parents, parts, digest)
    return known


def _read(folder: Path, name: str, largest: int, remedy: str) -> bytes:
    try:
        return read_plain(folder / name, largest)
    except FileNotFoundError:
        raise UserError(f"{folder} has no {name}; {remedy}") from None
    except OSError as error:
        raise UserError(f"{folder}/{name} cannot be read ({error.strerror})") from None


def on_disk(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the name on disk of each name: the same in another Unicode form where there is none of this form."""
    found, listings = {}, dict[str, dict[str, str]]()
    for name in names:
        at = ""
        for part in PurePosixPath(name).parts if not os.path.exists(folder / name) else ():
            if at not in listings:
                listings[at] = _listing(folder / at)
            at = str(PurePosixPath(at, listings[at].get(part, part)))
        found[name] = at or name
    return found


def _listing(folder: Path) -> dict[str, str]:
    """Return the names in a folder by their normal form."""
    try:
        return {normal(name): name for name in os.listdir(folder)}
    except OSError:
        return {}


def _checksums(folder: Path, where: str, rows: list[Row], files: Mapping[str, str]) -> list[bytes]:
    """Return a digest of each image file.

    Raises:
        UserError: one is of an unknown type, absent or unreadable.
    """
    checksums, mistakes = [], []
    for row in rows:
        at, suffix = f"{where}, line {row.line}", PurePosixPath(row.name).suffix
        if suffix.lower() not in TYPES:
            mistakes.append(f"{at}: {row.name} has the unknown image type {suffix!r}; known: {', '.join(TYPES)}")
            continue
        try:
            checksums.append(hashlib.sha256(read_plain(folder / files[row.name], MAX_IMAGE)).digest())
        except FileNotFoundError:
            mistakes.append(f"{at}: no image {row.name} in {folder}; put it there or leave the row out")
        except OSError as error:
            mistakes.append(f"{at}: {row.name} cannot be read ({error.strerror})")
    raise_first(mistakes)
    return checksums


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _check_splits(parts: list[str], where: str) -> None:
    count = Counter(parts)
    if any(count[part] < least for part, least in MIN_IMAGES.items()):
        found, least = (", ".join(f"{n[p]} to {w}" for p, w in _VERBS.items()) for n in (count, MIN_IMAGES))
        raise UserError(
            f"{where}: {len(parts)} images give {found}; at least {least} are needed, as half of the test images are"
            " asked about and metrics look at five neighbours; add images, or divide them by a column split"
        )


def _check_copies(rows: list[Row], checksums: list[bytes], parts: list[str], where: str) -> None:
    """Raise unless at most a share of `MAX_COPIES` of the validation and test images are copies of training images."""
    files = list(zip(checksums, rows, parts, strict=True))
    train = {checksum: row for checksum, row, part in files if part == "train"}
    for asked in ("valid", "test"):
        images = [(row, train.get(checksum)) for checksum, row, part in files if part == asked]
        copies = [(row, other) for row, other in images if other]
        if len(copies) > MAX_COPIES * len(images):
            row, other = copies[0]
            raise UserError(
                f"{where}: {len(copies)} of {len(images)} images to {_VERBS[asked]} are copies of training images"
                f" ({row.name} of {other.name}); leave copies out, or keep them together by a column split"
            )


_VERBS = {"train": "train", "valid": "validate", "test": "test"}


def _check_values(declaration: Declaration, parents: Tensor, parts: list[str], where: str) -> None:
    """Raise unless every variable varies among the training images and every class occurs there."""
    train = parents[torch.tensor([p == "train" for p in parts])]
    for cause, values, everywhere in zip(declaration.variables, train.T, parents.T, strict=True):
        if values.min() == values.max():
            raise UserError(
                f"{where}: {cause.name} is {_shown(cause, float(values[0]))} in all {len(values)} training images;"
                f" nothing can be learned of a cause that does not vary: leave it out of {FILE}"
            )
        found, size = set(values.tolist()), cause.size or int(everywhere.max()) + 1
        absent = next((k for k in range(size) if k not in found), None) if cause.kind == "categorical" else None
        if absent is not None:
            raise UserError(
                f"{where}: no training image has {cause.name} {_shown(cause, absent)}, one of {size} classes; add some,"
                " put some into the training split by a column split, or number or name the classes without it"
            )


def _shown(cause: Cause, value: float) -> str:
    """Return a value as the table has it."""
    return repr(cause.classes[int(value)]) if cause.classes else f"{value:g}"


def _images(
    root: Path, folder: Path, declaration: Declaration, files: Mapping[str, str], digest: str
) -> Tensor:  # fmt: skip
    """Return the decoded images, kept on disk where decoding is slow."""

    def decode() -> dict[str, Tensor]:
        decoded = _decode(folder, declaration, files)
        return {"images": decoded.images, "used": torch.tensor(decoded.used or (), dtype=torch.float64)}

    file = f"folder-cache/{key_of(digest, source_digest(read_images))}.safetensors"
    start = time.perf_counter()
    found = cache.load(root, file, decode) if (root / file).is_file() else decode()
    if not (root / file).is_file() and time.perf_counter() - start >= SLOW:
        found = cache.load(root, file, partial(dict, found))
    used = found["used"].tolist()
    warn_of_range((used[0], used[1]) if used else None, str(folder))
    return found["images"]


def _decode(folder: Path, declaration: Declaration, files: Mapping[str, str]) -> Decoded:
    """Return the images of ``files``, the names in the table with those on disk.

    Raises:
        UserError: there is no memory for all of them, or one cannot be read.
    """
    mode, size = declaration.mode, declaration.size
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size is not None and (needed := 3 * len(files) * math.prod(size)) > memory:
        raise UserError(
            f"{folder}/{FILE}: {len(files)} images of {size[0]} x {size[1]} pixels need {needed / 2**30:.1f} GiB of"
            f" memory, this machine has {memory / 2**30:.1f}; write a smaller size"
        )
    return read_images(list(files), lambda name: read_plain(folder / files[name], MAX_IMAGE), mode, size, str(folder))


def _divide(declaration: Declaration, images: Tensor, parents: Tensor, parts: list[str], digest: str) -> ImageFolder:
    """Return the graph and the splits of decoded images."""
    ranges = zip(parents.amin(0).tolist(), parents.amax(0).tolist(), strict=True)
    variables = tuple(c.variable(r) for c, r in zip(declaration.variables, ranges, strict=True))
    _, channels, height, width = images.shape
    splits = {}
    for part in PARTS:
        rows = torch.tensor([k for k, p in enumerate(parts) if p == part])
        splits[part] = Split(images[rows], parents[rows], rows)
    return ImageFolder(CausalGraph(variables, (channels, height, width)), splits, digest)
