"""Safetensors files of nested states of modules and optimisers, and of image arrays by rows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError, one_line

__all__ = ["ImageFile", "StoredArray", "load_state", "open_arrays", "restore_state", "save_state"]


def save_state(state: Mapping[str, Any], file: Path) -> None:
    """Write nested dicts and lists of tensors, numbers and texts into a safetensors file.

    Raises:
        TypeError: a value has another type.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(state, tensors)
    save_file(tensors, file, metadata={"skeleton": json.dumps(skeleton)})


def load_state(file: Path) -> dict[str, Any]:
    """Read a state that `save_state` wrote."""
    with safe_open(file, framework="pt") as found:
        skeleton = json.loads(found.metadata()["skeleton"])
        return _unflatten(skeleton, {name: found.get_tensor(name) for name in found.keys()})  # noqa: SIM118


def restore_state(thing: Any, state: Any) -> None:
    """Load a state into a module, an optimiser, a schedule, or a list of tensors.

    The moments of an optimiser get the memory layout of their parameters, which fused kernels assume.
    """
    if not hasattr(thing, "load_state_dict"):
        with torch.no_grad():
            for tensor, value in zip(thing, state, strict=True):
                tensor.copy_(value)
        return
    thing.load_state_dict(state)
    if isinstance(thing, torch.optim.Optimizer):
        for parameter, moments in thing.state.items():
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, Mapping):
        return {"dict": [[key, _flatten(v, tensors)] for key, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint holds tensors, numbers and texts, found {type(value).__name__}")


def _unflatten(skeleton: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _unflatten(v, tensors) for key, v in value}
    return [_unflatten(v, tensors) for v in value] if kind == "list" else value


DENSE = 4
"""A contiguous range is read if it has at most so many times as many rows as are wanted."""


class ImageFile:
    """A safetensors file of float32 arrays that is written by rows, with the bytes that safetensors itself would write.

    Args:
        path: the file to create.
        shapes: shapes of the arrays, by name.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes, self.start = dict(sorted(shapes.items())), dict[str, int]()
        header, end = dict[str, Any](), 0
        for name, shape in self.shapes.items():
            self.start[name], end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [self.start[name], end]}
        head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        head += b" " * (-len(head) % 8)
        self.base = 8 + len(head)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._write(len(head).to_bytes(8, "little") + head, 0)
        os.truncate(self.file, self.base + end)

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.file)

    def put(self, name: str, rows: Tensor, images: Tensor) -> None:
        """Write images [B, ...] to rows [B] of an array; consecutive rows in one call."""
        images = images.detach().float().cpu().contiguous()
        for first, part in zip(*_runs(rows, images), strict=True):
            self._write(part.numpy().tobytes(), self._at(name, first))

    def get(self, name: str, rows: Tensor) -> Tensor:
        """Read the images of rows [B]."""
        shape = self.shapes[name][1:]
        size, images = 4 * math.prod(shape), []
        for first, part in zip(*_runs(rows, rows), strict=True):
            text = bytearray(os.pread(self.file, size * len(part), self._at(name, first)))
            images.append(torch.frombuffer(text, dtype=torch.float32).reshape(len(part), *shape))
        return torch.cat(images) if images else torch.empty(0, *shape)

    def _at(self, name: str, row: int) -> int:
        return self.base + self.start[name] + 4 * row * math.prod(self.shapes[name][1:])

    def _write(self, text: bytes, at: int) -> None:
        view = memoryview(text)
        while view:
            done = os.pwrite(self.file, view, at)
            view, at = view[done:], at + done


def _runs(rows: Tensor, values: Tensor) -> tuple[list[int], list[Tensor]]:
    """The first row of each run of consecutive rows [B], and its values."""
    if not len(rows):
        return [], []
    breaks = (rows.diff() != 1).nonzero()[:, 0] + 1
    parts = list(torch.tensor_split(values, breaks))
    return rows[torch.cat([torch.zeros(1, dtype=torch.long), breaks])].tolist(), parts


@dataclass(frozen=True)
class StoredArray:
    """An array of a safetensors file whose rows are read when it is indexed."""

    path: Path
    name: str
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        rows = torch.arange(len(self))[rows]
        with _opened(self.path) as file:
            array = file.get_slice(self.name)
            if not len(rows):
                return array[0:0].clone()
            first, last = int(rows.min()), int(rows.max()) + 1
            if last - first <= DENSE * len(rows):
                return array[first:last][rows - first]
            order = rows.argsort()
            runs = zip(*_runs(rows[order].unique(), rows[order].unique()), strict=True)
            some = torch.cat([array[start : start + len(part)] for start, part in runs])
            return some[rows.unique(return_inverse=True)[1]]


def open_arrays(path: Path) -> dict[str, StoredArray]:
    """The arrays of a safetensors file by name, without reading them.

    Raises:
        UserError: the file is missing or no safetensors.
    """
    with _opened(path) as file:
        return {name: StoredArray(path, name, tuple(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Context manager with an open, memory-mapped safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is missing; run the same `cfbench run` again")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, MemoryError) as error:
        what = f"{path} is no safetensors file ({one_line(error, 120)})"
        raise UserError(f"{what}; remove its folder and run the same `cfbench run` again") from None
