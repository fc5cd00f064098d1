"""Digests for keys: of values, of source code without its layout, and of compiled code that is in no file."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

from .files import files_of, home_of, imported_modules, is_shared, is_sibling, own_name, package_of

__all__ = ["code_parts", "is_importable", "key_of", "module_digest", "object_digest", "source_digest", "source_parts"]


NO_CODE = frozenset(
    {
        *("__doc__", "__dict__", "__weakref__", "__module__", "__annotations__", "__annotate__", "__annotate_func__"),
        *("__annotations_cache__", "__firstlineno__", "__static_attributes__"),
    }
)


PARTS = ("cfbench.nn",)
"""Modules of the core that hold parts of methods."""


def is_importable(thing: Any) -> bool:
    """Whether a class or function can be imported from its module by its name."""
    found: Any = None if thing.__module__ == "__main__" else sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing


def code_parts(thing: type[Any] | Callable[..., Any], base: Callable[[type[Any]], str]) -> Any:
    """JSON-able parts that identify the definition of a class or function by its compiled code.

    Functions, classes and plain values of the same module that the code names are included; line numbers and
    docstrings are not.

    Args:
        thing: the class or function.
        base: gives the digest of a base class from another module.
    """
    return _CodeWalk(thing.__module__, base).part(thing)


class _CodeWalk:
    def __init__(self, module: str, base: Callable[[type[Any]], str]) -> None:
        self.module, self.base = module, base
        self.seen: dict[int, int] = {}

    def part(self, value: Any) -> Any:
        """JSON-able parts of any value; of values that are neither code nor plain data only the type."""
        if isinstance(value, type):
            return self._once(value, self._class) if value.__module__ == self.module else _qualified_name(value)
        if isinstance(value, FunctionType):
            return self._once(value, self._function) if value.__module__ == self.module else _qualified_name(value)
        if isinstance(value, (staticmethod, classmethod)):
            return self.part(value.__func__)
        if isinstance(value, property):
            return [self.part(f) for f in (value.fget, value.fset, value.fdel)]
        if isinstance(value, ModuleType):
            return own_name(value.__name__)
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
            return [_qualified_name(type(value)), *(self.part(getattr(value, f.name)) for f in fields(value))]
        if hasattr(value, "detach") and hasattr(value, "numpy"):
            return [list(value.shape), hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()]
        plain = isinstance(value, (int, float, complex, str, bytes, type(None), type(...)))
        return repr(value) if plain else _qualified_name(type(value))

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


def _qualified_name(thing: Any) -> str:
    return f"{own_name(thing.__module__)}.{thing.__qualname__}"


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

    Included are siblings in a package, the sibling modules of a plugin file, imported built-in methods and data sets,
    and the base classes. Syntax trees without docstrings are hashed: an edit of a comment, a docstring or white space
    changes nothing, nor does the path by which a name of the same
    distribution is imported. The digest of an importable class or function is computed once per process, so that
    later edits of its file have no effect. Definitions of a session, of a script or inside a function are identified
    by their current compiled code.
    """
    if is_importable(thing):
        return _loaded(cast(Hashable, thing))
    return key_of(_sources(thing), code_parts(thing, _base))


def source_parts(thing: type[Any] | Callable[..., Any]) -> dict[str, str]:
    """The digests that `source_digest` is made of, shortened, by the name of the file; code in no file has no name.

    They say which file was edited where the digest of the whole has changed.
    """
    if not is_importable(thing) or not _file(thing):
        return {"": source_digest(thing)}
    found: dict[str, str] = {}
    for file, digest in sorted(_source_files(thing).items()):
        path = Path(file)
        name = path.name if path.stem != "__init__" else f"{path.parent.name}/{path.name}"
        found[name] = key_of(found[name], digest) if name in found else digest[:12]
    return found


@cache
def _loaded(thing: Any) -> str:
    return key_of(_sources(thing)) if _file(thing) else key_of(code_parts(thing, _base))


def _sources(thing: Any) -> list[str]:
    """Digests of the file that defines a class or function, and of those that it imports."""
    return sorted(_source_files(thing).values())


def _source_files(thing: Any) -> dict[str, str]:
    """The file that defines a class or function and those that it imports, with their digests."""
    seen: dict[str, str] = {}
    for each in (thing, *(getattr(thing, "__mro__", ())[1:] if is_importable(thing) else ())):
        file = None if each is not thing and _plain_base(each) else _file(each)
        if file:
            package = getattr(sys.modules.get(each.__module__), "__package__", None) or ""
            _walk(file, *(home_of(package) or (package, None if package else file.resolve().parent)), seen)
    return seen


def _file(thing: Any) -> Path | None:
    """The file that defines a class or function; None for those of a session or of ``__main__``."""
    try:
        file = None if thing.__module__ == "__main__" else inspect.getsourcefile(inspect.unwrap(thing))
    except (TypeError, OSError):
        return None
    return Path(file) if file else None


def _base(cls: type[Any]) -> str:
    """A digest of a base class; its name if it belongs to Python, cfbench or PyTorch."""
    return f"{cls.__module__}.{cls.__qualname__}" if _plain_base(cls) else source_digest(cls)


def _plain_base(cls: type[Any]) -> bool:
    return is_shared(cls.__module__)


@cache
def module_digest(name: str, *tops: str) -> str:
    """The digest of a module, as `source_digest` gives it for what the module defines, without importing it.

    Args:
        name: of the module.
        tops: its functions and classes; only they count then, and what they name in the module.
    """
    spec, seen = importlib.util.find_spec(name), dict[str, str]()
    if spec is None or spec.origin is None:
        return "unknown"
    if tops:
        return key_of(_reached(_without_paths(_tree(Path(spec.origin)), name)[0], tops))
    _walk(Path(spec.origin), name.rpartition(".")[0], None, seen)
    return key_of(sorted(seen.values()))


def _reached(tree: ast.Module, tops: Iterable[str]) -> list[str]:
    """Digests of the statements that define the given names, and of those that define the names used in these."""
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        stores = (n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        defined |= dict.fromkeys([str(vars(node)["name"])] if named else stores, node)
    found = list(tops)
    for name in found:
        inner = ast.walk(defined[name]) if name in defined else ()
        found += {n.id for n in inner if isinstance(n, ast.Name) and n.id in defined} - set(found)
    return sorted(_hashed(defined[name]) for name in found)


def _walk(file: Path, package: str, home: Path | None, seen: dict[str, str]) -> None:
    """Add the digest of a file and of the files that it imports to ``seen``; ``home`` is a plugin file's folder."""
    if str(file) in seen or not file.is_file():
        return
    seen[str(file)], imports = _bare(file, file.stat().st_mtime_ns, package)
    for name, members in imported_modules(imports, package):
        if home and is_sibling(name, home):
            for module, path in files_of(name, members, home):
                _walk(path, package_of(module, path), home, seen)
        else:
            parts = [p for p in PARTS if p in (f"{name}.{member}" for member in members)]  # from cfbench import nn
            for each in [*parts, *([name] if _belongs(name, package) else [])]:
                for path, inside in _installed(each, members):
                    _walk(path, inside, home, seen)


def _installed(name: str, members: list[str]) -> Iterator[tuple[Path, str]]:
    """The files that hold a module and those of its members that are modules, with the packages that they are of."""
    spec = _spec(name)
    inside = spec is not None and spec.submodule_search_locations is not None
    for each in (spec, *(_spec(f"{name}.{member}") for member in (members if inside else ()))):
        if each and each.origin and each.origin.endswith(".py"):
            yield Path(each.origin), each.parent or ""


def _belongs(name: str, package: str) -> bool:
    """Whether a module's code is a plugin's own: of its distribution, and for those of cfbench of their folder.

    Built-in methods and data sets, and what `PARTS` names, count as the code of every plugin that imports them.
    """
    root = package.split(".")[0]
    own = package if root == "cfbench" else root
    return (
        name.startswith("cfbench_")
        or name in PARTS
        or (own not in ("", "cfbench") and f"{name}.".startswith(f"{own}."))
    )


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


@cache
def _bare(file: Path, mtime: int, package: str) -> tuple[str, list[ast.Import | ast.ImportFrom]]:
    """The digest of a file without comments, docstrings and paths of imports, and its imports."""
    tree = _tree(file)
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    bare, names = _without_paths(tree, package)
    return key_of(_hashed(bare), names), imports


def _without_paths(tree: ast.Module, package: str) -> tuple[ast.Module, list[list[str | None]]]:
    """A syntax tree without ``from`` imports of its own distribution, and the names that these bind, sorted.

    The digests of the imported files identify where a name comes from.
    """
    remover = _ImportRemover(package.split(".")[0])
    bare = remover.visit(tree)
    return bare, sorted(remover.names, key=repr)


class _ImportRemover(ast.NodeTransformer):
    """Removes ``from`` imports of one distribution from a syntax tree and collects the names that they bind."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.names: list[list[str | None]] = []

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        if not node.level and not self._own((node.module or "").split(".")[0]):
            return node
        self.names += [[alias.name, alias.asname] for alias in node.names]
        return None

    def _own(self, root: str) -> bool:
        return root == self.root or (_of_cfbench(root) and _of_cfbench(self.root))


def _of_cfbench(root: str) -> bool:
    """Whether a package is part of cfbench: the core or built-in plugins."""
    return root == "cfbench" or root.startswith("cfbench_")


def _tree(file: Path) -> ast.Module:
    """The syntax tree of a file without docstrings."""
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
    return tree


def _hashed(tree: ast.AST) -> str:
    return hashlib.sha256(_dumped(tree).encode()).hexdigest()


def _dumped(node: Any) -> str:
    """A text of a syntax tree that is the same in each version of Python, unlike that of `ast.dump`."""
    if isinstance(node, list):
        return f"[{', '.join(map(_dumped, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    given = [(name, getattr(node, name, None)) for name in node._fields]
    shown = [f"{n}={_dumped(v)}" for n, v in given if not _absent(type(node), n, v)]
    return f"{type(node).__name__}({', '.join(shown)})"


def _absent(cls: type[ast.AST], name: str, value: Any) -> bool:
    """Whether a field is left out: one with its default, or one that older versions do not have."""
    return (value is None and getattr(cls, name, ...) is None) or (name == "type_params" and not value)
