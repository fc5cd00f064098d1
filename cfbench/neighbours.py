"""The modules that lie beside a plugin file, and which of them it imports."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["beside", "file_of", "files_of", "imported", "neighbours", "package_of", "shared"]


def shared(name: str) -> bool:
    """Whether a module is none that a plugin brings along: of Python itself, of cfbench or of PyTorch."""
    return name.split(".")[0] in (*sys.stdlib_module_names, "cfbench", "torch")


def beside(name: str, home: Path) -> bool:
    """Whether a module lies in a plugin file's folder; a folder without ``__init__.py`` yields to what is installed."""
    top = name.split(".")[0]
    if not top or shared(top) or top.startswith("cfbench_"):
        return False
    if (home / f"{top}.py").is_file() or (home / top / "__init__.py").is_file():
        return True
    return (home / top).is_dir() and not _installed(top)


def _installed(top: str) -> bool:
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def files_of(name: str, members: Iterable[str], home: Path) -> Iterator[tuple[str, Path]]:
    """The modules that are executed when one beside a plugin file is imported, with the files that hold them.

    Args:
        name: of the module.
        members: what is taken from it, which may be modules too.
        home: the plugin file's folder.
    """
    parts = name.split(".")
    names = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    for each in (*names, *(f"{name}.{member}" for member in members)):
        if file := file_of(each, home):
            yield each, file


def file_of(name: str, home: Path) -> Path | None:
    """The file that holds a module in a folder, if there is one."""
    path = home.joinpath(*name.split("."))
    found = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in found if file.is_file()), None)


def imported(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[str, list[str]]]:
    """The modules that import statements of a package's module name, and what they take from each."""
    parents = package.split(".") if package else []
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(parents) + 1:
            base = parents[: len(parents) - node.level + 1] if node.level else []
            members = [alias.name for alias in node.names]
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from [(name, members)] if name else ((member, []) for member in members)


def neighbours(file: Path) -> dict[str, Path]:
    """The modules beside a plugin file that it imports, and those that they import in turn, with their files."""
    home, found = file.parent, dict[str, Path]()
    queue = [("", file)]
    for package, path in queue:
        for name, members in imported(_nodes(path), package):
            own = dict(files_of(name, members, home)) if beside(name, home) else {}
            queue += [(package_of(n, f), f) for n, f in own.items() if n not in found]
            found |= own
    return found


def _nodes(file: Path) -> Iterable[ast.AST]:
    """All nodes of a file's syntax tree; none of one that cannot be parsed, which importing it will tell."""
    try:
        return ast.walk(ast.parse(file.read_bytes(), str(file)))
    except (SyntaxError, ValueError):
        return ()


def package_of(name: str, file: Path) -> str:
    """The package that a module's relative imports start from."""
    return name if file.name == "__init__.py" else name.rpartition(".")[0]
