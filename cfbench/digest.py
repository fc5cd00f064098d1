"""Digests that keys are made of: of values, and of source code without its comments and layout."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from .bytecode import at_home, compiled
from .neighbours import beside, files_of, imported, package_of, shared
from .private import home_of

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

    Followed are siblings in a package, the modules in a plugin file's own folder, the built-in methods and data sets
    wherever they are imported, and the classes that a class extends. Syntax trees without docstrings are hashed: an
    edit of a comment, a docstring or of white space changes nothing, nor does the path by which something of the same
    distribution is imported. What is loaded keeps the digest that it was first
    asked for, whatever happens to its file. What is defined in a session, in a script or inside a function is told by
    its compiled code, as that is now.
    """
    if at_home(thing):
        return _loaded(cast(Hashable, thing))
    return key_of(_sources(thing), compiled(thing, _base))


@cache
def _loaded(thing: Any) -> str:
    return key_of(_sources(thing)) if _file(thing) else key_of(compiled(thing, _base))


def _sources(thing: Any) -> list[str]:
    """Digests of the file that defines a class or function, and of those that it imports."""
    seen: dict[str, str] = {}
    for each in (thing, *(getattr(thing, "__mro__", ())[1:] if at_home(thing) else ())):
        file = None if each is not thing and _plain_base(each) else _file(each)
        if file:
            package = getattr(sys.modules.get(each.__module__), "__package__", None) or ""
            _walk(file, *(home_of(package) or (package, None if package else file.resolve().parent)), seen)
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
    return f"{cls.__module__}.{cls.__qualname__}" if _plain_base(cls) else source_digest(cls)


def _plain_base(cls: type[Any]) -> bool:
    return shared(cls.__module__)


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
    """Digests of the statements of a module that define names, and of those that define what they name."""
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
    for name, members in imported(imports, package):
        if home and beside(name, home):
            for module, path in files_of(name, members, home):
                _walk(path, package_of(module, path), home, seen)
        elif _belongs(name, package):
            for path, inside in _installed(name, members):
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

    What comes with cfbench beside its core is everybody's own.
    """
    root = package.split(".")[0]
    own = package if root == "cfbench" else root
    return name.startswith("cfbench_") or (own not in ("", "cfbench") and f"{name}.".startswith(f"{own}."))


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

    Where a name comes from is told by the digests of the files that are imported.
    """
    remover = _ImportRemover(package.split(".")[0])
    bare = remover.visit(tree)
    return bare, sorted(remover.names, key=repr)


class _ImportRemover(ast.NodeTransformer):
    """Takes ``from`` imports of one distribution out of a syntax tree, and keeps the names that they bind."""

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
    """Whether a package comes with cfbench, as core or as built-in plugins."""
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
    """A syntax tree in words that are the same in each version of Python, as those of `ast.dump` are not."""
    if isinstance(node, list):
        return f"[{', '.join(map(_dumped, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    given = [(name, getattr(node, name, None)) for name in node._fields]
    shown = [f"{n}={_dumped(v)}" for n, v in given if not _absent(type(node), n, v)]
    return f"{type(node).__name__}({', '.join(shown)})"


def _absent(cls: type[ast.AST], name: str, value: Any) -> bool:
    """Whether a field says nothing: an option that is not taken, or one that older versions do not have."""
    return (value is None and getattr(cls, name, ...) is None) or (name == "type_params" and not value)
