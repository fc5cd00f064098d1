"""Digests that keys are made of: of values, and of source code without its comments and layout."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from .bytecode import at_home, compiled

__all__ = ["key_of", "module_digest", "object_digest", "source_digest"]


def key_of(*parts: Any) -> str:
    """A key of 12 hexadecimal digits of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, default=str, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def object_digest(thing: object) -> str:
    """A digest of an object's public attributes (numbers, texts, tensors, and lists and dicts of those) and weights."""
    state: Mapping[str, Any] = getattr(thing, "state_dict", dict)()
    public = {k: v for k, v in vars(thing).items() if not k.startswith("_") and k != "training"}
    return key_of(_plain(state), _plain(public))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "numpy") and hasattr(value, "detach"):
        array = value.detach().cpu().contiguous()
        return [str(array.dtype), list(array.shape), hashlib.sha256(bytes(array.numpy().tobytes())).hexdigest()]
    return value if isinstance(value, (int, float, str, bool, type(None))) else type(value).__name__


def source_digest(thing: type[Any] | Callable[..., Any]) -> str:
    """A digest of the module that defines a class or function and of what it imports from its own distribution.

    Syntax trees without docstrings are hashed: an edit of a comment, a docstring or of white space changes nothing.
    What is loaded keeps the digest that it was first asked for, whatever happens to its file. What is defined in a
    session, in a script or inside a function is told by its compiled code, as that is now.
    """
    if at_home(thing):
        return _loaded(cast(Hashable, thing))
    return key_of(_sources(thing), compiled(thing, _base))


@cache
def _loaded(thing: Any) -> str:
    return key_of(_sources(thing)) if _file(thing) else key_of(compiled(thing, _base))


def _sources(thing: Any) -> list[str]:
    """Digests of the file that defines a class or function, and of those that it imports."""
    file = _file(thing)
    package = getattr(sys.modules.get(thing.__module__), "__package__", None) or ""
    seen: dict[str, str] = {}
    if file:
        _walk(file, package, seen)
    return sorted(seen.values())


def _file(thing: Any) -> Path | None:
    """The file that defines a class or function; none for what a session, or a script about to change, defines."""
    try:
        file = None if thing.__module__ == "__main__" else inspect.getsourcefile(thing)
    except (TypeError, OSError):
        return None
    return Path(file) if file else None


def _base(cls: type[Any]) -> str:
    """A digest of a base class: of those that every plugin of a kind has, the name."""
    plain = cls.__module__.split(".")[0] in ("builtins", "cfbench", "torch")
    return f"{cls.__module__}.{cls.__qualname__}" if plain else source_digest(cls)


@cache
def module_digest(name: str) -> str:
    """The digest of a module, as `source_digest` gives it for what the module defines, without importing it."""
    spec, seen = importlib.util.find_spec(name), dict[str, str]()
    if spec is None or spec.origin is None:
        return "unknown"
    _walk(Path(spec.origin), name.rpartition(".")[0], seen)
    return key_of(sorted(seen.values()))


def _walk(file: Path, package: str, seen: dict[str, str]) -> None:
    """Add the digest of a file and of its siblings' files to ``seen``."""
    if str(file) in seen or not file.is_file():
        return
    seen[str(file)], imports = _bare(file, file.stat().st_mtime_ns)
    for node in imports if package else ():
        base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
        names = [f"{base}.{node.module}"] if node.module else [f"{base}.{a.name}" for a in node.names]
        for name in names:
            spec = _spec(name) if _belongs(name, package) else None
            if spec and spec.origin:
                _walk(Path(spec.origin), name.rpartition(".")[0], seen)


def _belongs(name: str, package: str) -> bool:
    """Whether a module's code is a plugin's own: of its distribution, and for the built-in ones of their folder."""
    own = package if package.split(".")[0] == "cfbench" else package.split(".")[0]
    return own != "cfbench" and name.startswith(f"{own}.")


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


@cache
def _bare(file: Path, mtime: int) -> tuple[str, list[ast.ImportFrom]]:
    """The digest of a file without comments and docstrings, and its relative imports."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports
