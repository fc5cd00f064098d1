"""The table ``parents.csv`` of a folder of images: each file, its values of the variables, and its split."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from cfbench.errors import UserError, did_you_mean

from .graph_file import FILE, IMAGE, SPLIT, Cause, Declaration, normal

__all__ = ["PARTS", "Row", "raise_first", "read_rows"]

PARTS = ("train", "valid", "test")
ALIASES = {"val": "valid", "validation": "valid", "dev": "valid", "training": "train", "testing": "test"}


@dataclass(frozen=True)
class Row:
    """An image's file relative to the folder, its values in the order of the variables, and its split, if given."""

    name: str
    values: tuple[float, ...]
    split: str | None
    line: int


def raise_first(mistakes: Sequence[str]) -> None:
    """Raise unless there are no mistakes.

    Raises:
        UserError: there are; it says the first and how many more there are.
    """
    if mistakes:
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        raise UserError(mistakes[0] + more)


def read_rows(data: bytes, declaration: Declaration, where: str) -> list[Row]:
    """Return the rows of a CSV file with a header, in the order of their file names.

    Args:
        where: the file, as errors name it.

    Raises:
        UserError: it is not CSV, a column is missing, a value is invalid, or a file occurs twice.
    """
    lines, header = _lines(data, where)
    image = _image_column(header, where)
    columns = [_column(header, c.name, where) for c in declaration.variables]
    _check_columns(header, declaration, where)
    part = _column(header, SPLIT, where) if SPLIT in header else None
    rows, mistakes = [], []
    for number, fields in lines:
        at = f"{where}, line {number}"
        if len(fields) != len(header):
            mistakes.append(f"{at}: {len(fields)} fields, but the header has {len(header)}; quote values with commas")
            continue
        try:
            name = _name(fields[image])
            at = f"{at} ({name})"
            causes = zip(declaration.variables, columns, strict=True)
            values = tuple(_value(c, fields[k], hint=not mistakes) for c, k in causes)
            rows.append(Row(name, values, None if part is None else _part(fields[part]), number))
        except ValueError as error:
            mistakes.append(f"{at}: {error}")
    raise_first(mistakes)
    if not rows:
        raise UserError(f"{where} has a header and no rows; write one for each image")
    raise_first(_duplicates(rows, where))
    return sorted(rows, key=lambda row: row.name)


def _lines(data: bytes, where: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Return the numbered lines that are not empty, and the header, all stripped of white space."""
    try:
        text = normal(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{where} is not in UTF-8; save it as CSV in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, [f.strip() for f in fields]) for fields in reader if any(f.strip() for f in fields)]
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num} is not CSV: {error}") from None
    if not lines:
        raise UserError(f"{where} is empty; write a header and one row for each image")
    return lines[1:], lines[0][1]


def _check_columns(header: list[str], declaration: Declaration, where: str) -> None:
    """Raise unless every column is known, declared or ignored: ``Split`` would be lost unnoticed otherwise."""
    known = (*IMAGE, SPLIT, *(c.name for c in declaration.variables), *declaration.ignored)
    for column in (name for name in header if name not in known):
        answer = f"write ignore = [{json.dumps(column, ensure_ascii=False)}] in {FILE}"
        if SPLIT not in header and _close(column, [SPLIT], 0.8):
            raise UserError(f"{where} has a column {column!r}; did you mean {SPLIT!r}? rename it, or {answer}")
        if "*" not in declaration.ignored:
            raise UserError(
                f"{where} has a column {column!r}, which {FILE} does not declare; declare it, or {answer}"
                ' (["*"] for all such columns)'
            )


def _close(name: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """Return the known name that is closest when what is easily mistaken is left out; empty where none is close."""
    bare = {_bare(n): n for n in known}
    return bare[found[0]] if (found := difflib.get_close_matches(_bare(name), bare, n=1, cutoff=cutoff)) else ""


def _bare(name: str) -> str:
    """Return a name without what is easily mistaken in it: case, compatible forms, marks that are not seen, blanks."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M") or name


def _image_column(header: list[str], where: str) -> int:
    found = [name for name in IMAGE if name in header]
    if not found and len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise UserError(f"{where} is not separated by commas; save it as CSV with commas")
    if not found:
        hint = next((f"did you mean {n!r}? rename it 'image'" for n in header if _close(n, IMAGE, 0.8)), "")
        what = f"{where} has no column 'image' or 'file' with the images' names"
        raise UserError(f"{what}; {hint or f'found: {_short(header)}'}")
    return _column(header, found[0], where)


def _column(header: list[str], name: str, where: str) -> int:
    if name not in header:
        close = _close(name, header)
        hint = f"did you mean {close!r}?" if close else f"found: {_short(header)}"
        raise UserError(f"{where} has no column {name!r}; {hint}")
    if header.count(name) > 1:
        raise UserError(f"{where} has {header.count(name)} columns {name!r}; keep one")
    return header.index(name)


def _short(names: list[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 80 else text[:80] + "…"


def _name(text: str) -> str:
    if not text:
        raise ValueError("no file name")
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(text).drive or "\0" in text:
        raise ValueError(f"{text!r} leads out of the folder; give a name relative to the folder, without ..")
    return path.as_posix()


def _value(cause: Cause, text: str, hint: bool) -> float:
    """Return a class's number, or a value as float32.

    Args:
        hint: whether an error names the class that was meant, which takes long where there are many.

    Raises:
        ValueError: the text is neither.
    """
    if cause.classes is not None:
        if text not in cause.classes:
            meant = did_you_mean(text, cause.classes) if hint else ""
            raise ValueError(f"{cause.name} is {text!r}, which is no class of it; {meant}")
        return float(cause.classes.index(text))
    if not text:
        raise ValueError(f"{cause.name} is empty; fill it in or leave the row out")
    try:
        value = float(text)
    except ValueError:
        remedy = '; name its classes in graph.toml, classes = ["one", "other"]' if cause.kind == "categorical" else ""
        raise ValueError(f"{cause.name} is {text!r}, which is not a number{remedy}") from None
    with np.errstate(over="ignore"):
        value = float(np.float32(value))
    if not math.isfinite(value):
        raise ValueError(f"{cause.name} is {text}, which is not finite; correct it or leave the row out")
    return _class_number(cause, value, text) if cause.kind == "categorical" else _bounded(cause, value, text)


def _class_number(cause: Cause, value: float, text: str) -> float:
    if value < 0 or value != int(value):
        raise ValueError(f"{cause.name} is {text}; classes without names are whole numbers from 0")
    if cause.size is not None and value >= cause.size:
        raise ValueError(f"{cause.name} is {text}, which is no class of it; known: 0 to {cause.size - 1}")
    return value


def _bounded(cause: Cause, value: float, text: str) -> float:
    # Bounds are compared as the values are kept: 0.1 as float32 lies above 0.1.
    if cause.low is not None and value < np.float32(cause.low):
        raise ValueError(f"{cause.name} is {text}, below its low = {cause.low:g} in graph.toml")
    if cause.high is not None and value > np.float32(cause.high):
        raise ValueError(f"{cause.name} is {text}, above its high = {cause.high:g} in graph.toml")
    return value


def _part(text: str) -> str:
    if text not in PARTS:
        close = ALIASES.get(text.lower()) or next(iter(difflib.get_close_matches(text.lower(), PARTS, n=1)), None)
        hint = f"did you mean {close!r}?" if close else f"known: {', '.join(PARTS)}"
        raise ValueError(f"{SPLIT} is {text!r}; {hint}")
    return text


def _duplicates(rows: list[Row], where: str) -> list[str]:
    first: dict[str, int] = {}
    mistakes = []
    for row in rows:
        if row.name in first:
            mistakes.append(f"{where}, line {row.line}: {row.name} is in line {first[row.name]} already; keep one")
        first.setdefault(row.name, row.line)
    return mistakes
