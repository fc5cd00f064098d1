"""Plugin files as isolated modules, with private copies of the sibling modules that they import."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = [
    "file_of",
    "files_of",
    "home_of",
    "imported_modules",
    "is_current",
    "is_shared",
    "is_sibling",
    "load_file",
    "own_name",
    "package_of",
    "sibling_modules",
    "with_own_names",
]


def is_shared(name: str) -> bool:
    """Whether a module belongs to Python itself, cfbench or PyTorch and not to a plugin."""
    return name.split(".")[0] in (*sys.stdlib_module_names, "cfbench", "torch")


def is_sibling(name: str, home: Path) -> bool:
    """Whether a module is in a plugin file's folder; installed packages precede folders without ``__init__.py``."""
    top = name.split(".")[0]
    if not top or is_shared(top) or top.startswith("cfbench_"):
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
    """The modules that are executed when a sibling module is imported, with their files.

    Args:
        name: name of the module.
        members: names imported from it, which may be modules too.
        home: the plugin file's folder.
    """
    parts = name.split(".")
    names = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    for each in (*names, *(f"{name}.{member}" for member in members)):
        if file := file_of(each, home):
            yield each, file


def file_of(name: str, home: Path) -> Path | None:
    """The file of a module in a folder, if there is one."""
    path = home.joinpath(*name.split("."))
    found = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in found if file.is_file()), None)


def imported_modules(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[str, list[str]]]:
    """The modules that the import statements of a package's module name, and the names imported from each."""
    parents = package.split(".") if package else []
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(parents) + 1:
            base = parents[: len(parents) - node.level + 1] if node.level else []
            members = [alias.name for alias in node.names]
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield from [(name, members)] if name else ((member, []) for member in members)


def sibling_modules(file: Path) -> dict[str, Path]:
    """The sibling modules that a plugin file imports, directly or indirectly, with their files."""
    home, found = file.parent, dict[str, Path]()
    queue = [("", file)]
    for package, path in queue:
        for name, members in imported_modules(_nodes(path), package):
            own = dict(files_of(name, members, home)) if is_sibling(name, home) else {}
            queue += [(package_of(n, f), f) for n, f in own.items() if n not in found]
            found |= own
    return found


def _nodes(file: Path) -> Iterable[ast.AST]:
    """All nodes of a file's syntax tree; none if it cannot be parsed, as importing it will fail."""
    try:
        return ast.walk(ast.parse(file.read_bytes(), str(file)))
    except (SyntaxError, ValueError):
        return ()


def package_of(name: str, file: Path) -> str:
    """The package that relative imports of a module start from."""
    return name if file.name == "__init__.py" else name.rpartition(".")[0]


MODULE_PREFIX = "cfbench_sibling_"


def load_file(name: str, file: Path) -> ModuleType:
    """Execute a plugin file as a module, with private copies of the sibling modules that it imports.

    Exceptions of the file pass through, and its modules are removed then.
    """
    _forget(name)
    root = MODULE_PREFIX + name
    sys.modules[root] = folder = ModuleType(root)
    vars(folder).update(__path__=[], __home__=file.parent)
    spec = importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file), root))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        _forget(name)
        raise
    return module


def with_own_names(name: str, text: str) -> str:
    """A text with the private names of sibling modules replaced by the names in the plugin file."""
    return text.replace(f"{MODULE_PREFIX}{name}.", "")


def _forget(name: str) -> None:
    """Remove the modules of a plugin file, so that they are executed again at the next import."""
    for each in _own_modules(name):
        del sys.modules[each]


def _own_modules(name: str) -> list[str]:
    root = MODULE_PREFIX + name
    return [m for m in sys.modules if m in (name, root) or m.startswith(f"{root}.")]


def is_current(name: str) -> bool:
    """Whether a plugin file was executed and neither it nor its sibling modules have changed since."""
    states = [vars(sys.modules[each]).get("__state__") for each in _own_modules(name)]
    return name in sys.modules and all(_state(file) == state for file, state in filter(None, states))


def home_of(module: str) -> tuple[str, Path] | None:
    """The name that a plugin file uses for a sibling module's package, and the folder; None for other modules."""
    root, _, inner = module.partition(".")
    home = vars(sys.modules[root]).get("__home__") if root in sys.modules and root.startswith(MODULE_PREFIX) else None
    return (inner, home) if home else None


def own_name(module: str) -> str:
    """A module's name; for a sibling module the name that the plugin file uses."""
    found = home_of(module)
    return found[0] if found else module


def _state(file: str) -> tuple[int, int] | None:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class _Loader(SourceFileLoader):
    """Loader that redirects imports of sibling modules to the plugin's private copies."""

    def __init__(self, name: str, path: str, root: str) -> None:
        super().__init__(name, path)
        self.root = root

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__state__"] = self.path, _state(self.path)
        super().exec_module(module)

    def get_code(self, fullname: str) -> Any:
        """The code, never from the bytecode cache, which holds the file without redirected imports."""
        tree = ast.parse(self.get_data(self.path), self.path)
        home: Path = vars(sys.modules[self.root])["__home__"]
        renamed = ast.fix_missing_locations(_Renamed(self.root, home).visit(tree))
        return compile(renamed, self.path, "exec", dont_inherit=True)


class _Renamed(ast.NodeTransformer):
    """Turns ``import helpers`` into ``from ROOT import helpers`` anywhere in a file."""

    def __init__(self, root: str, home: Path) -> None:
        self.root, self.home = root, home

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and is_sibling(node.module, self.home):
            node.module = f"{self.root}.{node.module}"
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        return [ast.copy_location(new, node) for alias in node.names for new in self._one(alias)]

    def _one(self, alias: ast.alias) -> list[ast.stmt]:
        if not is_sibling(alias.name, self.home):
            return [ast.Import([alias])]
        top = alias.name.split(".")[0]
        whole: ast.stmt = ast.Import([ast.alias(f"{self.root}.{alias.name}", alias.asname or top)])
        # import a.b binds a, once a.b is there
        return [whole] if alias.asname else [whole, ast.ImportFrom(self.root, [ast.alias(top)], 0)]


class _Finder:
    """Meta path finder of sibling modules under their private names."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        found = home_of(name)
        if found is None or not found[0]:
            return None
        (inner, home), root = found, name.partition(".")[0]
        folder = home.joinpath(*inner.split("."))
        if file := file_of(inner, home):
            inside = [str(folder)] if file.name == "__init__.py" else None
            loader = _Loader(name, str(file), root)
            return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=inside)
        if not folder.is_dir():
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


sys.meta_path.insert(0, _Finder)
