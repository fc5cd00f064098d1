"""Plugins by name, through entry points or files; listing them imports none of them."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .errors import UserError, did_you_mean
from .spec import Spec

__all__ = ["Kind", "Plugin", "Registry"]

Kind = Literal["method", "dataset", "metric"]
_BASES = {"method": ("Method", "Control"), "dataset": ("Dataset",), "metric": ("Metric",)}


@dataclass(frozen=True)
class Plugin:
    """Where a plugin comes from: a distribution and its entry point, or a file."""

    kind: Kind
    name: str
    origin: str
    target: str
    entry: EntryPoint | None = None
    file: Path | None = None


class Registry:
    """All plugins that are installed, and those in the given files.

    Raises:
        UserError: two origins claim one name, or a file cannot be loaded.
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self.plugins: dict[tuple[str, str], Plugin] = {}
        for kind in get_args(Kind):
            for entry in entry_points(group=f"cfbench.{kind}s"):
                origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
                self._add(Plugin(kind, entry.name, origin, entry.value, entry=entry))
        for file in files:
            for plugin in _in_file(Path(file)):
                self._add(plugin)

    def _add(self, plugin: Plugin) -> None:
        known = self.plugins.get((plugin.kind, plugin.name))
        if known and (known.origin, known.target) != (plugin.origin, plugin.target):
            raise UserError(
                f"two plugins claim the {plugin.kind} {plugin.name!r}: {known.target} of {known.origin} and "
                f"{plugin.target} of {plugin.origin}; rename one or uninstall it"
            )
        self.plugins[plugin.kind, plugin.name] = plugin

    def names(self, kind: Kind) -> list[str]:
        """The names of all plugins of a kind, sorted."""
        return sorted(name for k, name in self.plugins if k == kind)

    def find(self, kind: Kind, name: str) -> Plugin:
        """The plugin of that name.

        Raises:
            UserError: there is none.
        """
        if (kind, name) not in self.plugins:
            raise UserError(f"unknown {kind} {name!r}; {did_you_mean(name, self.names(kind))}")
        return self.plugins[kind, name]

    def load(self, kind: Kind, name: str) -> type[Any]:
        """The plugin's class.

        Raises:
            UserError: it is unknown, cannot be imported, or is not what it claims to be.
        """
        plugin = self.find(kind, name)
        try:
            found = plugin.entry.load() if plugin.entry else getattr(_module(plugin.file), plugin.target)  # type: ignore[arg-type]
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{kind} {name!r} of {plugin.origin} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if not (inspect.isclass(found) and _claims(found, kind)):
            raise UserError(f"{kind} {name!r} of {plugin.origin}: {plugin.target} is not a {' or '.join(_BASES[kind])}")
        return found

    def resolve(self, kind: Kind, spec: Spec) -> tuple[type[Any], dict[str, Any]]:
        """The class and the keywords that a spec asks for, checked against the constructor's signature.

        Raises:
            UserError: the preset or a keyword is unknown, or a value has the wrong type.
        """
        cls = self.load(kind, spec.name)
        presets: Mapping[str, Mapping[str, Any]] = getattr(cls, "presets", {})
        if spec.preset and spec.preset not in presets:
            raise UserError(f"{spec.name} has no preset {spec.preset!r}; {did_you_mean(spec.preset, presets)}")
        hints = keywords(cls)
        own = {k: "none" if v is None and _fits("none", hints.get(k)) else v for k, v in spec.params.items()}
        for key, value in own.items():
            if key not in hints:
                raise UserError(f"{spec.name} has no setting {key!r}; {did_you_mean(key, hints)}")
            if not _fits(value, hints[key]):
                wanted = getattr(hints[key], "__name__", None) or str(hints[key])
                wanted = str(hints[key]).replace("typing.", "") if get_origin(hints[key]) else wanted
                raise UserError(f"{spec.name}.{key} takes {wanted}, found {value!r}")
        params = {**(presets[spec.preset] if spec.preset else {}), **own}
        return cls, {k: float(v) if hints.get(k) is float and type(v) is int else v for k, v in params.items()}


def keywords(cls: type[Any]) -> dict[str, Any]:
    """The constructor's keywords and their types (Any where none is written)."""
    hints = get_type_hints(cls.__init__)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    plain = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "graph"]
    return {p.name: hints.get(p.name, Any) for p in plain}


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any or hint is None:
        return hint is Any
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint) and get_origin(hint) not in (tuple, list):
        return any(_fits(value, h) for h in get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


def _claims(found: type[Any], kind: Kind) -> bool:
    return any(base.__name__ in _BASES[kind] and base.__module__ == "cfbench.contract" for base in found.__mro__[1:])


def _module(file: Path) -> ModuleType:
    name = f"cfbench_plugin_{file.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(file):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"--plugin {file}: not a Python file; give a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"--plugin {file}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _in_file(file: Path) -> list[Plugin]:
    """The plugins that a file defines: each takes its ``name`` attribute, or its class name in lower case."""
    file = file.resolve()
    if not file.is_file():
        raise UserError(f"--plugin {file}: no such file; give the path of a Python file")
    found = []
    for cls in vars(_module(file)).values():
        if inspect.isclass(cls) and cls.__module__ == f"cfbench_plugin_{file.stem}":
            kinds = [k for k in get_args(Kind) if _claims(cls, k)]
            name = cls.__dict__.get("name", cls.__name__.lower())
            found += [Plugin(k, name, str(file.name), cls.__name__, file=file) for k in kinds]
    if not found:
        raise UserError(f"--plugin {file}: defines no Method, Control, Dataset or Metric")
    return found
