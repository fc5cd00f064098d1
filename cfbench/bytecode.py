"""What identifies code that no file holds: a class of a notebook, by its compiled functions and all that they use."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .private import named

__all__ = ["at_home", "compiled"]

NO_CODE = frozenset(
    {
        *("__doc__", "__dict__", "__weakref__", "__module__", "__annotations__", "__annotate__", "__annotate_func__"),
        *("__annotations_cache__", "__firstlineno__", "__static_attributes__"),
    }
)


def at_home(thing: Any) -> bool:
    """Whether a class or function is what its module holds under its name, and that module is a file to import."""
    found: Any = None if thing.__module__ == "__main__" else sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing


def compiled(thing: type[Any] | Callable[..., Any], base: Callable[[type[Any]], str]) -> Any:
    """JSON-able parts that tell two definitions of a class or function apart, however alike their names.

    Followed are functions, classes and plain values of the same module, wherever the code names them; line numbers
    and docstrings count for nothing.

    Args:
        base: a digest of a base class that another module defines.
    """
    return _Walk(thing.__module__, base).part(thing)


class _Walk:
    def __init__(self, module: str, base: Callable[[type[Any]], str]) -> None:
        self.module, self.base = module, base
        self.seen: dict[int, int] = {}

    def part(self, value: Any) -> Any:
        """JSON-able parts of any value; of what is no code and no plain value only its type."""
        if isinstance(value, type):
            return self._once(value, self._class) if value.__module__ == self.module else _name(value)
        if isinstance(value, FunctionType):
            return self._once(value, self._function) if value.__module__ == self.module else _name(value)
        if isinstance(value, (staticmethod, classmethod)):
            return self.part(value.__func__)
        if isinstance(value, property):
            return [self.part(f) for f in (value.fget, value.fset, value.fdel)]
        if isinstance(value, ModuleType):
            return named(value.__name__)
        return self._data(value)

    def _data(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return sorted([repr(k), self.part(v)] for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return [self.part(v) for v in value]
        if isinstance(value, (set, frozenset)):
            return sorted(map(repr, value))
        if isinstance(value, CodeType):
            return self._code(value, {})
        if is_dataclass(value):
            return [_name(type(value)), *(self.part(getattr(value, f.name)) for f in fields(value))]
        if hasattr(value, "detach") and hasattr(value, "numpy"):
            return [list(value.shape), hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()]
        plain = isinstance(value, (int, float, complex, str, bytes, type(None), type(...)))
        return repr(value) if plain else _name(type(value))

    def _once(self, thing: Any, parts: Callable[[Any], Any]) -> Any:
        if id(thing) in self.seen:
            return f"seen {self.seen[id(thing)]}"
        self.seen[id(thing)] = len(self.seen)
        return parts(thing)

    def _class(self, cls: type[Any]) -> Any:
        bases = [self.part(b) if b.__module__ == self.module else self.base(b) for b in cls.__bases__]
        return [cls.__qualname__, bases, [[k, self.part(v)] for k, v in sorted(vars(cls).items()) if k not in NO_CODE]]

    def _function(self, function: FunctionType) -> Any:
        given = [function.__defaults__, function.__kwdefaults__]
        closed = [_content(cell) for cell in function.__closure__ or ()]
        code = self._code(function.__code__, function.__globals__, function.__doc__)
        return [function.__qualname__, code, self.part([*given, *closed])]

    def _code(self, code: CodeType, known: Mapping[str, Any], doc: str | None = None) -> Any:
        consts = ["" if i == 0 and doc is not None and c == doc else c for i, c in enumerate(code.co_consts)]
        inner = [self._code(c, known) if isinstance(c, CodeType) else self.part(c) for c in consts]
        used = [[n, self.part(known[n])] for n in code.co_names if n in known]
        names = [code.co_name, code.co_names, code.co_varnames, code.co_freevars]
        return [code.co_code.hex(), code.co_exceptiontable.hex(), names, inner, used]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _name(thing: Any) -> str:
    return f"{named(thing.__module__)}.{thing.__qualname__}"
