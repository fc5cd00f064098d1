"""Plugins by name, from entry points, files or objects of a session; listing imports none of them."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from ..errors import PluginError, UserError, did_you_mean, is_of_harness, reason_of
from .discovery import (
    BrokenPlugin,
    Plugin,
    installed_plugins,
    is_instance,
    plugin_name_error,
    plugins_in_file,
    session_plugin,
)
from .signatures import BASES, Kind, claims, contract_errors, derived, is_fitted, keywords, required
from .spec import Spec, TakesText, parse_specs

if TYPE_CHECKING:
    from ..contract import Dataset

__all__ = ["Registry", "SessionPlugins"]


class Registry:
    """All plugins that are installed, those in the given files, and those given by name.

    Plugins that cannot be loaded are kept, and raise an error when they are used: `names` has every name, ``rivals``
    the plugins that share a name, ``broken`` the files whose plugins cannot be listed.

    Args:
        files: Python files that define plugins.
        classes: classes of plugins, or instances of methods, by name.

    Raises:
        UserError: a file does not exist, or an object is no plugin.
    """

    def __init__(self, files: Iterable[Path] = (), classes: Mapping[str, Any] | None = None) -> None:
        files = tuple(map(Path, files))
        self.plugins: dict[tuple[str, str], Plugin] = {}
        self.rivals: dict[tuple[str, str], tuple[Plugin, ...]] = {}
        self.broken: list[BrokenPlugin] = []
        self._loaded: dict[tuple[str, str], type[Any] | PluginError] = {}
        self._resolved: dict[tuple[str, str], tuple[type[Any], dict[str, Any]]] = {}
        self.files = tuple(Path(file).resolve() for file in files)
        found = [installed_plugins(), *(plugins_in_file(file) for file in files)]
        for thing in itertools.chain(*found, (session_plugin(n, c) for n, c in (classes or {}).items())):
            if not isinstance(thing, BrokenPlugin):
                self._add(thing)
            elif thing not in self.broken:
                self.broken.append(thing)

    def _add(self, plugin: Plugin) -> None:
        key = plugin.kind, plugin.name
        known = self.rivals.get(key) or ((self.plugins[key],) if key in self.plugins else ())
        if not known:
            self.plugins[key] = plugin
        elif not any(plugin.same(other) for other in known):
            self.rivals[key] = (*known, plugin)

    def names(self, kind: Kind) -> list[str]:
        """The names of all plugins of a kind, sorted."""
        return sorted(name for k, name in self.plugins if k == kind)

    @property
    def controls(self) -> list[str]:
        """The names of the methods that run alongside whatever is asked for, sorted."""
        return sorted(p.name for p in self.plugins.values() if p.control)

    @property
    def loaded(self) -> list[Plugin]:
        """The plugins whose code has been imported, or was imported before: those of files and of a session."""
        return [p for at, p in self.plugins.items() if p.entry is None or at in self._loaded]

    def find(self, kind: Kind, name: str) -> Plugin:
        """The plugin of that name.

        Raises:
            PluginError: several claim the name, or none does and a file that may is broken.
            UserError: there is none.
        """
        if rivals := self.rivals.get((kind, name)):
            who = " and ".join(sorted(map(str, rivals)))
            many = {2: "two", 3: "three"}.get(len(rivals), str(len(rivals)))
            raise PluginError(f"{many} plugins claim the {kind} {name!r}: {who}; rename one or uninstall it")
        if (kind, name) in self.plugins:
            return self.plugins[kind, name]
        if self.broken:
            suspects = [b for b in self.broken if b.mentions(name)] or self.broken
            reasons = "; ".join(f"{b.origin} cannot be loaded: {b.reason}" for b in suspects)
            raise PluginError(f"unknown {kind} {name!r}, and {reasons}")
        raise UserError(f"unknown {kind} {name!r}; {self.suggest(name, self.names(kind))}")

    def suggest(self, name: str, known: Iterable[str]) -> str:
        """The tail of an error message about an unknown plugin: a file of its name, or the closest known name."""
        for file in dict.fromkeys(Path(f"{stem}.py") for stem in (name, name.replace("-", "_"))):
            if file.is_file() and file.resolve() not in self.files:
                return f"{file} is in this folder: add --plugin {file}"
        return did_you_mean(name, known)

    def load(self, kind: Kind, name: str) -> type[Any]:
        """The class of a plugin, also of one that is an instance.

        Raises:
            PluginError: it cannot be imported, breaks the contract, or shares its name.
            UserError: it is unknown.
        """
        plugin = self.find(kind, name)
        if (kind, name) not in self._loaded:
            try:
                self._loaded[kind, name] = _load(plugin)
            except PluginError as error:
                self._loaded[kind, name] = error
        found = self._loaded[kind, name]
        if isinstance(found, PluginError):
            raise PluginError(str(found)) from found.__cause__
        return found

    def parse(self, kind: Kind, text: str) -> list[Spec]:
        """The specs in a list of plugins of a kind, with the texts of settings that take texts, as ``path=2024``.

        Methods may have aliases, and several values for a setting.

        Raises:
            UserError: an item is no spec.
        """
        return parse_specs(text, self.takes_text(kind), rows=kind == "method")

    def takes_text(self, kind: Kind) -> TakesText:
        """Whether a setting takes a text and not the value that it looks like, for plugins of a kind."""
        return partial(self._takes_text, kind)

    def _takes_text(self, kind: Kind, name: str, key: str, text: str, value: Any) -> bool:
        try:
            hint = keywords(self.load(kind, name)).get(key)
        except UserError:  # of whoever uses the plugin
            return False
        return not _fits(value, hint) and _fits(text, hint)

    def dataset(self, spec: Spec) -> Dataset:
        """The data set of a spec, not opened yet: a new one, or a copy of the instance of that name.

        Raises:
            PluginError: see `load`.
            UserError: see `resolve`; or its constructor raises an exception.
        """
        cls, params = self.resolve("dataset", spec)
        given = self.plugins["dataset", spec.name].cls
        try:
            dataset: Dataset = copy.deepcopy(given) if is_instance(given) else cls(**params)
            return dataset
        except UserError:
            raise
        except BaseException as error:
            if is_of_harness(error):
                raise
            raise UserError(
                f"{spec.label} cannot be made: {reason_of(error, self.find('dataset', spec.name).file)}; "
                f"`cfbench show {spec.name}` says what its settings take"
            ) from error

    def resolve(self, kind: Kind, spec: Spec) -> tuple[type[Any], dict[str, Any]]:
        """The class and the keywords of a spec, checked once against the constructor's signature.

        The keyword ``of`` of derived rows is left out.

        Raises:
            PluginError: see `load`.
            UserError: the preset or a keyword is unknown or missing, or a value has the wrong type.
        """
        at = kind, repr(spec)
        if at not in self._resolved:
            self._resolved[at] = self._resolve(kind, spec)
        cls, params = self._resolved[at]
        return cls, dict(params)

    def _resolve(self, kind: Kind, spec: Spec) -> tuple[type[Any], dict[str, Any]]:
        cls = self.load(kind, spec.name)
        if spec.images is not None and (error := _budget_error(cls, spec)):
            raise UserError(error)
        if is_instance(self.plugins[kind, spec.name].cls) and (spec.preset or spec.params):
            raise UserError(
                f"{spec.label}: {spec.name} is an instance, whose settings are made; give its class instead"
            )
        presets: Mapping[str, Mapping[str, Any]] = getattr(cls, "presets", {})
        if spec.preset and spec.preset not in presets:
            raise UserError(f"{spec.name} has no preset {spec.preset!r}; {did_you_mean(spec.preset, presets)}")
        hints = keywords(cls)
        asked = {k: v for k, v in spec.params.items() if not (k == "of" and derived(cls))}
        own = {k: "none" if v is None and _fits("none", hints.get(k)) else v for k, v in asked.items()}
        for key, value in own.items():
            if key not in hints:
                raise UserError(f"{spec.name} has no setting {key!r}; {did_you_mean(key, hints)}")
            if not _fits(value, hints[key]):
                raise UserError(f"{spec.name}.{key} takes {_hint_name(hints[key])}, found {value!r}")
        params = {**(presets[spec.preset] if spec.preset else {}), **own}
        if open_ := [
            k for k in required(cls) if k not in params and not is_instance(self.plugins[kind, spec.name].cls)
        ]:
            raise UserError(f"{spec.name} needs a value for {', '.join(open_)}; write {spec.name}[{open_[0]}=...]")
        return cls, {k: float(v) if hints.get(k) is float and type(v) is int else v for k, v in params.items()}


def _budget_error(cls: type[Any], spec: Spec) -> str:
    """Why a plugin has no budget of its own; empty where it is a method, which is fitted."""
    plain = spec.label.removesuffix(spec.mark)
    if derived(cls):
        return f"{spec.label}: {spec.name} answers by the fit of another row; write {spec.name}[of=method{spec.mark}]"
    return "" if is_fitted(cls) else f"{spec.label}: {spec.name} is not fitted and has no budget; write {plain}"


def _hint_name(hint: Any) -> str:
    """A type as users write it: ``int``, ``Sequence[int]``."""
    name: str | None = None if get_origin(hint) else getattr(hint, "__name__", None)
    return name or str(hint).replace("typing.", "").replace("collections.abc.", "")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any or hint is None:
        return hint is Any
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, h) for h in get_args(hint))
    if inspect.isclass(get_origin(hint)) and issubclass(get_origin(hint), Sequence):
        return isinstance(value, (list, tuple))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


def _load(plugin: Plugin) -> type[Any]:
    about = f"{plugin.kind} {plugin.name!r} of {plugin.origin}"
    found = type(plugin.cls) if is_instance(plugin.cls) else plugin.cls
    if plugin.entry:
        try:
            found = plugin.entry.load()
        except BaseException as error:
            if is_of_harness(error):
                raise
            raise PluginError(f"{about} cannot be imported: {reason_of(error)}") from error
    if not (inspect.isclass(found) and claims(found, plugin.kind)):
        raise PluginError(f"{about}: {plugin.target} is not a {' or '.join(BASES[plugin.kind])}")
    if errors := contract_errors(found, plugin.kind):
        raise PluginError(f"{about}: {'; '.join(errors)}")
    return found


class SessionPlugins:
    """Plugins that a session uses in addition to the registered ones, by name.

    Args:
        plugins: files that define plugins, classes or instances of plugins, or a mapping of names to those.
        classes: classes and instances that have a name already.
        files: files that define plugins, in addition.

    Raises:
        UserError: something is no plugin, or its name is taken.
    """

    def __init__(
        self, plugins: Any = (), classes: Mapping[str, Any] | None = None, files: Iterable[Path] = ()
    ) -> None:  # fmt: skip
        named = plugins.items() if isinstance(plugins, Mapping) else [("", thing) for thing in _listed(plugins)]
        given = (Path(thing) for _, thing in named if isinstance(thing, (str, Path)))
        self.files = tuple(dict.fromkeys((*files, *given)))
        self.registry = Registry(self.files)
        self.classes: dict[str, Any] = dict(classes or {})
        for name, thing in named:
            if not isinstance(thing, (str, Path)):
                self._add(_kind_of(thing), thing, name)

    def specs(self, kind: Kind, given: Any) -> str:
        """The specs of rows given as specs, classes, instances, a list of these or a mapping by name.

        Raises:
            UserError: something is no plugin of this kind, or its name is taken.
        """
        if isinstance(given, str):
            return given
        if isinstance(given, Mapping):
            return ",".join(self._named(kind, name, thing) for name, thing in given.items())
        if isinstance(given, (list, tuple)):
            return ",".join(self.specs(kind, one) for one in given)
        return self._add(kind, given)

    def _named(self, kind: Kind, label: str, thing: Any) -> str:
        """A row of a mapping: ``mine`` or ``mine[width=8]``."""
        specs = parse_specs(label, rows=kind == "method")
        if len(specs) != 1:
            raise UserError(f"{label!r} names {len(specs)} rows; give each its own class or instance")
        self._add(kind, thing, specs[0].name)
        return label.strip()

    def _add(self, kind: Kind, thing: Any, name: str = "") -> str:
        cls = thing if inspect.isclass(thing) else type(thing)
        if not claims(cls, kind):
            raise UserError(f"{cls.__name__} is no {' or '.join(BASES[kind])}; give a name, a class or an instance")
        name = name or self._registered(kind, thing) or _plugin_name(cls)
        if error := plugin_name_error(name):
            raise UserError(f"{cls.__name__} is named {name!r}, which {error}")
        known = self.registry.plugins.get((kind, name))
        if known is not None and self._registered(kind, thing) == name:
            return name
        if known is not None or self.classes.get(name, thing) is not thing:
            taken = str(known) if known else "another one of this session"
            raise UserError(f"{kind} {name!r} is {taken}; give {cls.__name__} another name: {{'my-{name}': ...}}")
        self.classes[name] = thing
        return name

    def _registered(self, kind: Kind, thing: Any) -> str:
        """The name under which a class is registered; empty if it is not."""
        if not inspect.isclass(thing):
            return ""
        target = f"{thing.__module__}:{thing.__qualname__}"
        for (k, name), p in self.registry.plugins.items():
            if k == kind and (p.cls is thing or (p.entry is not None and p.target == target)):
                return name
        return ""


def _listed(things: Any) -> list[Any]:
    return list(things) if isinstance(things, (list, tuple, set)) else [things]


def _kind_of(thing: Any) -> Kind:
    cls = thing if inspect.isclass(thing) else type(thing)
    kinds: list[Kind] = [k for k in get_args(Kind) if claims(cls, k)]
    if not kinds:
        raise UserError(f"{cls.__name__} is no plugin; give a Python file, or a Method, Control, Dataset or Metric")
    return kinds[0]


def _plugin_name(cls: type[Any]) -> str:
    name = cls.__dict__.get("name")
    return name if isinstance(name, str) else cls.__name__.lower()
