"""Nested states of modules and optimisers as one safetensors file, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["pack", "restore", "unpack"]


def pack(state: Mapping[str, Any], file: Path) -> None:
    """Write nested dicts and lists of tensors, numbers and texts into a safetensors file.

    Raises:
        TypeError: something else is among them.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _split(state, tensors)
    save_file(tensors, file, metadata={"skeleton": json.dumps(skeleton)})


def unpack(file: Path) -> dict[str, Any]:
    """What `pack` wrote."""
    with safe_open(file, framework="pt") as found:
        skeleton = json.loads(found.metadata()["skeleton"])
        return _join(skeleton, {name: found.get_tensor(name) for name in found.keys()})  # noqa: SIM118


def restore(thing: Any, state: Any) -> None:
    """Put a state back into a module, an optimiser, a schedule, or a list of tensors.

    An optimiser's moments get the memory layout of their parameters again, which fused kernels take for granted.
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


def _split(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, Mapping):
        return {"dict": [[key, _split(v, tensors)] for key, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_split(v, tensors) for v in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint holds tensors, numbers and texts, found {type(value).__name__}")


def _join(skeleton: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _join(v, tensors) for key, v in value}
    return [_join(v, tensors) for v in value] if kind == "list" else value
