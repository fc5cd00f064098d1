"""Discovery of plugins: entry points of distributions, Python files, and objects of a session."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from ..errors import PluginError, UserError, is_of_harness, one_line, reason_of
from ..names import name_error
from .files import is_current, load_file, sibling_modules, with_own_names
from .signatures import Kind, claims

__all__ = [
    "SESSION",
    "BrokenPlugin",
    "Plugin",
    "installed_plugins",
    "is_instance",
    "plugin_name_error",
    "plugins_in_file",
    "session_plugin",
]


SESSION = "this session"
NAME = re.compile(r"[A-Za-z_][\w-]*")
DISTRIBUTION = "cfbench-scm"
"""The distribution whose plugins are built in."""
CONTROLS = "cfbench.controls"
"""The entry points of methods that run alongside whatever is asked for."""


@dataclass(frozen=True)
class Plugin:
    """Where a plugin comes from: a distribution and its entry point, a file, or an object of this session.

    ``cls`` is the class of a file's plugin, or the class or instance of a session; ``control`` marks a method that is
    run in addition to the requested ones.
    """

    kind: Kind
    name: str
    origin: str
    target: str
    entry: EntryPoint | None = None
    file: Path | None = None
    cls: Any = field(default=None, compare=False)
    control: bool = False

    @property
    def built_in(self) -> bool:
        """Whether it comes with cfbench itself."""
        return self.entry is not None and self.origin.partition(" ")[0] == DISTRIBUTION

    def same(self, other: Plugin) -> bool:
        """Whether both are the same object."""
        if self.cls is not None and other.cls is not None:
            return self.cls is other.cls
        return self.target == other.target and (self.file, is_instance(self.cls)) == (
            other.file,
            is_instance(other.cls),
        )

    def __str__(self) -> str:
        return f"{self.target} of {self.origin}"


@dataclass(frozen=True)
class BrokenPlugin:
    """A file or distribution whose plugins cannot be listed, and the reason in one line."""

    origin: str
    reason: str
    text: str = field(default="", repr=False)

    def mentions(self, name: str) -> bool:
        """Whether the file contains a name, as a class or otherwise."""
        return name.lower() in self.text.lower()


def plugin_name_error(name: str) -> str:
    """Why a plugin cannot have a name, in words that follow on it; empty where it can."""
    return name_error(name) or ("" if NAME.fullmatch(name) else "is no plain name; use letters, digits, - and _")


def is_instance(thing: Any) -> bool:
    """Whether an object is given and is not a class."""
    return thing is not None and not inspect.isclass(thing)


def installed_plugins() -> Iterator[Plugin | BrokenPlugin]:
    """The plugins of all entry points, without importing them; unreadable distributions are `BrokenPlugin`."""
    origins: dict[int, str] = {}
    groups: list[tuple[str, Kind]] = [*((f"cfbench.{kind}s", kind) for kind in get_args(Kind)), (CONTROLS, "method")]
    for group, kind in groups:
        for entry in _entries(group):
            if isinstance(entry, BrokenPlugin):
                yield entry
                continue
            origin = origins.setdefault(id(entry.dist), "") or _origin(entry)
            origins[id(entry.dist)] = origin
            if error := plugin_name_error(entry.name.replace(".", "") if kind == "metric" else entry.name):
                yield BrokenPlugin(origin, f"the name of its {kind} {entry.name!r} {error}", entry.name)
                continue
            yield Plugin(kind, entry.name, origin, entry.value, entry=entry, control=group == CONTROLS)


def _entries(group: str) -> list[EntryPoint | BrokenPlugin]:
    try:
        return [*entry_points(group=group)]
    except Exception:  # one unreadable file makes this fail: read each distribution separately
        return [e for each in distributions() for e in _of_distribution(each, group)]


def _of_distribution(each: Distribution, group: str) -> list[EntryPoint | BrokenPlugin]:
    try:
        return [*each.entry_points.select(group=group)]
    except Exception as error:
        folder = Path(str(getattr(each, "_path", "a distribution"))).name
        return [BrokenPlugin(folder, f"its entry_points.txt cannot be read: {one_line(error)}")]


def _origin(entry: EntryPoint) -> str:
    try:
        assert entry.dist is not None
        return f"{entry.dist.name} {entry.dist.version}"
    except Exception:  # its metadata is missing or damaged
        return "unknown"


def plugins_in_file(file: Path) -> list[Plugin | BrokenPlugin]:
    """The plugins that a file defines, or why it cannot be loaded.

    Raises:
        UserError: there is no such file.
    """
    file = file.resolve()
    if not file.is_file():
        raise UserError(f"--plugin {file}: no such file; give the path of a Python file")
    try:
        return [*_plugins_of(_module(file), file)]
    except PluginError as error:
        return [BrokenPlugin(str(file), str(error), file.read_text(errors="replace"))]


def session_plugin(name: str, thing: Any) -> Plugin:
    """The plugin for a class or an instance of this session.

    Raises:
        UserError: it is no plugin.
    """
    cls = thing if inspect.isclass(thing) else type(thing)
    kinds = [k for k in get_args(Kind) if claims(cls, k)]
    if not kinds:
        raise UserError(f"{name!r} is a {cls.__name__}; give a Method, Control, Dataset or Metric")
    if error := plugin_name_error(name):
        raise UserError(f"{cls.__name__} is named {name!r}, which {error}")
    return Plugin(kinds[0], name, SESSION, f"{cls.__module__}:{cls.__qualname__}", cls=thing)


def _module(file: Path) -> ModuleType:
    """A file as a module, executed once for each state of the file and of what it imports from its folder."""
    if file.suffix != ".py":
        raise PluginError("not a Python file; give a file that ends in .py")
    name = _module_name(f"cfbench_plugin_{file.stem}", file)
    if is_current(name):
        return sys.modules[name]
    try:
        return load_file(name, file)
    except BaseException as error:
        if is_of_harness(error):
            raise
        raise PluginError(with_own_names(name, reason_of(error, _innermost(error, file)))) from error


def _module_name(name: str, file: Path) -> str:
    """The name of a file's module; with a number if a file of another folder has that name."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(n for n in names if n not in sys.modules or sys.modules[n].__file__ == str(file))


def _innermost(error: BaseException, file: Path) -> Path:
    """The plugin's file, or its sibling module, in which an exception was raised."""
    own = {file, *sibling_modules(file).values()}
    frames = [Path(f.filename) for f in traceback.extract_tb(error.__traceback__)]
    return next((f for f in reversed(frames) if f in own), file)


def _plugins_of(module: ModuleType, file: Path) -> list[Plugin]:
    """The public classes of a file that are plugins, by ``name`` or else by class name in lower case."""
    found = []
    for attribute, cls in vars(module).items():
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and not attribute.startswith("_"):
            name = cls.__dict__.get("name")
            name = name if isinstance(name, str) else cls.__name__.lower()
            if kinds := [k for k in get_args(Kind) if claims(cls, k)]:
                if error := plugin_name_error(name):
                    raise PluginError(f"{cls.__name__} is named {name!r}, which {error}")
                found += [Plugin(k, name, file.name, cls.__name__, file=file, cls=cls) for k in kinds]
    if not found:
        raise PluginError("defines no Method, Control, Dataset or Metric")
    return found
