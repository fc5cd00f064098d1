"""Weights that were made elsewhere: read without executing anything, and compared with those that a module has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import UserError, one_line
from .plain import open_plain
from .stage import read_tensors

__all__ = ["TORCH", "mismatch", "read_weights"]


TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""Names of files that ``torch.save`` wrote end like this; all others are safetensors."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Where a checkpoint commonly has its state dict."""
SHOWN = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, on the CPU: from safetensors, or from a file that ``torch.save`` wrote.

    The latter is read with ``weights_only=True``, which makes tensors, numbers, texts and containers of them, and
    refuses all else that a pickle may ask for.

    Raises:
        UserError: the file cannot be read, or holds no state dict.
    """
    if path.suffix.lower() not in TORCH:
        return read_tensors(path)
    import torch

    try:
        with open_plain(path) as file:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch and pickle raise exceptions of every kind
        what = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        raise UserError(
            f"{path} cannot be read as weights ({what}); write the state dict alone: "
            "torch.save(model.state_dict(), FILE), or safetensors"
        ) from error
    return _state_dict(path, found)


def _state_dict(path: Path, found: Any) -> dict[str, Tensor]:
    """The state dict that was saved, alone or in a checkpoint.

    Raises:
        UserError: there is none.
    """
    inner = [found[name] for name in NESTED if isinstance(found, Mapping) and name in found]
    for each in (found, *inner):
        if isinstance(each, Mapping) and each and all(isinstance(v, Tensor) for v in each.values()):
            return {str(name): value for name, value in each.items()}
    what = f"a dict of {_some(sorted(map(str, found)))}" if isinstance(found, Mapping) else f"a {type(found).__name__}"
    raise UserError(f"{path} holds no state dict but {what}; write torch.save(model.state_dict(), FILE)")


def mismatch(module: nn.Module, given: Mapping[str, Tensor]) -> str:
    """How weights differ from those that a module has, and what to do, in one line."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    parts = [
        f"{len(names)} of {len(among)} keys {what}: {_some(names)}"
        for names, among, what in ((missing, own, "are missing"), (unexpected, given, "are unexpected"))
        if names
    ]
    shapes = [k for k in own.keys() & given.keys() if own[k].shape != given[k].shape]
    if shapes:
        first = min(shapes)
        parts.append(
            f"{len(shapes)} of {len(own)} have another shape: {first} is {list(given[first].shape)}, "
            f"the row's {list(own[first].shape)}"
        )
    remedy = _prefix(own, given) or "give the settings that they were made with"
    return one_line(f"{'; '.join(parts)}; {remedy}")


def _prefix(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The prefix that keys have too much or too little, in words; empty where none would make them fit better."""
    for keys, others, remedy in ((given, own, "take {!r} off its keys"), (own, given, "put {!r} before its keys")):
        found = Counter(k.removesuffix(o) for o in others for k in keys if k != o and k.endswith(f".{o}"))
        for prefix, _ in found.most_common(1):
            if len({f"{prefix}{o}" for o in others} & keys.keys()) > len(own.keys() & given.keys()):
                return remedy.format(prefix)
    return ""


def _some(names: list[str]) -> str:
    """The first of many names."""
    shown = ", ".join(one_line(name, 60) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ..."
