"""Descriptions of plugins for ``cfbench list`` and ``cfbench show``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any, Literal, Union, get_args, get_origin

import click

from ..errors import PluginError, UserError, is_of_harness
from .discovery import Plugin
from .registry import Registry
from .signatures import Kind, keywords
from .spec import Spec, parse_specs

__all__ = ["KINDS", "kind_of", "list_plugins", "show_plugin"]


KINDS: tuple[Kind, ...] = ("method", "dataset", "metric")
WIDTH = 100
HEADINGS = {"method": "methods", "dataset": "datasets", "metric": "metrics"}


def list_plugins(
    registry: Registry, headings: Iterable[str], *, verbose: bool, presets: Mapping[str, Sequence[str]] | None = None
) -> Iterator[str]:
    """The lines of ``cfbench list``: names and origins, with unusable plugins marked.

    Args:
        registry: the plugins.
        headings: ``methods``, ``datasets``, ``metrics`` or ``presets``.
        verbose: import each plugin and describe it.
        presets: lines about each budget, by name.
    """
    for heading in headings:
        yield click.style(heading, bold=True)
        if heading == "presets":
            rows = (
                (name, number, text) for name, texts in (presets or {}).items() for number, text in enumerate(texts)
            )
            yield from (_row("" if number else name, text) for name, number, text in rows)
        for kind in (k for k in KINDS if HEADINGS[k] == heading):
            for name in registry.names(kind):
                yield from (
                    _described(registry, kind, name) if verbose else [_row(name, _origins(registry, kind, name))]
                )
    if registry.broken:
        yield click.style("broken", bold=True, fg="red")
        yield from (f"  {each.origin}: {each.reason}" for each in registry.broken)


def _row(name: str, about: str) -> str:
    return f"  {name:<16} {about}".rstrip()


def _origins(registry: Registry, kind: Kind, name: str) -> str:
    plugins = registry.rivals.get((kind, name)) or (registry.plugins[kind, name],)
    each = [f"{p.origin}  {p.target}" for p in plugins]
    return each[0] if len(each) == 1 else f"CLAIMED BY {len(each)}: {'; '.join(each)}"


def _described(registry: Registry, kind: Kind, name: str) -> Iterator[str]:
    """A plugin's summary, origin and abilities; or why it cannot be used."""
    try:
        cls = registry.load(kind, name)
    except PluginError as error:
        yield _row(name, f"{click.style('BROKEN', fg='red')}: {error}")
        return
    plugin = registry.find(kind, name)
    yield _row(name, _first_line(cls))
    for line in (_source(plugin), *_abilities(cls, kind)):
        yield from wrap(line, WIDTH, initial_indent=" " * 19, subsequent_indent=" " * 21, break_on_hyphens=False)


def _first_line(cls: type[Any]) -> str:
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    return lines[0] if lines else "(no docstring)"


def _source(plugin: Plugin) -> str:
    where = str(plugin.file) if plugin.file else plugin.origin
    return f"{where} ({plugin.target})"


def _abilities(cls: type[Any], kind: Kind, params: Mapping[str, Any] | None = None) -> list[str]:
    """What the class declares and defines in addition to the required methods; with the keywords of a spec, if given.

    The lines of a whole plugin say too what its presets change.
    """
    if kind == "metric":
        return _of_metric(cls)
    lines = _of_dataset(cls) if kind == "dataset" else _of_method(cls, params)
    paper = getattr(cls, "paper", "")
    return [line for line in lines if line] + ([f"paper: {paper}"] if paper and isinstance(paper, str) else [])


def _of_method(cls: type[Any], params: Mapping[str, Any] | None) -> list[str]:
    able = ["fits"] if _own(cls, "fit") else []
    able += ["tunes what is left open"] if _own(cls, "tune") else []
    able += ["draws fresh samples"] if callable(getattr(cls, "sample", None)) else []
    able += [_residuals(cls, params)]
    answer, named = sorted(getattr(cls, "answer_params", ())), list(getattr(cls, "presets", {}))
    return [
        "; ".join(able),
        *([f"answer settings: {', '.join(answer)}"] if answer else []),
        *([f"presets: {', '.join(named)}"] if named else []),
    ]


def _residuals(cls: type[Any], params: Mapping[str, Any] | None) -> str:
    """How the residual is carried with these keywords; by default as the constructor has it, and as its presets do."""
    usual = _residual(cls, params or {})
    presets = {} if params else {name: _residual(cls, settings) for name, settings in cls.presets.items()}
    other = ", ".join(f"{residual} in :{name}" for name, residual in presets.items() if residual != usual)
    return f"residual {usual}" + (f" ({other})" if other else "")


def _residual(cls: type[Any], params: Mapping[str, Any]) -> str:
    """What the constructor makes of ``residual`` for small images; what the class says where it raises an exception."""
    from ..graph import CausalGraph, Variable

    variables = (Variable("a", "categorical", size=2), Variable("b", "continuous", parents=("a",)))
    try:
        return str(cls(CausalGraph(variables, (1, 8, 8)), **params).residual)
    except BaseException as error:  # a row that answers through another one, or suits other images
        if is_of_harness(error):
            raise
        return cls.residual if isinstance(cls.residual, str) else "as its settings say"


def _of_dataset(cls: type[Any]) -> list[str]:
    able = ["true counterfactuals"] if _own(cls, "oracle") else ["no true counterfactuals"]
    roots = getattr(inspect.getattr_static(cls, "graph", None), "roots", False) is True
    able += ["knows how parents respond"] if roots or _own(cls, "act") else []
    able += ["measures variables"] if _own(cls, "measure") else []
    able += ["cfbench prepare may download it"] if getattr(cls, "network", False) else []
    return [*_graph(cls), "; ".join(able), f"plans: {', '.join(dict.fromkeys(('marginal', *cls.plans)))}"]


def _graph(cls: type[Any]) -> list[str]:
    """The variables with their causes, if the graph is a class attribute."""
    graph = inspect.getattr_static(cls, "graph", None)
    if not hasattr(graph, "variables"):
        return []
    edges = [f"{' + '.join(v.parents)} → {v.name}" if v.parents else v.name for v in graph.variables]
    return [f"images {'×'.join(map(str, graph.shape))}, variables {', '.join(edges)}"]


def _of_metric(cls: type[Any]) -> list[str]:
    scope = {"do": "of each intervention", "null": "of the null intervention", "cell": "of a whole cell"}
    needs = f"; needs {', '.join(sorted(cls.needs))}" if cls.needs else ""
    columns = [f"{name} ({_better(c)}): {c.text}" for name, c in cls.columns.items()]
    return [*columns, f"{scope.get(cls.scope, cls.scope)}{needs}"]


def _better(column: Any) -> str:
    word = {"lower": "lower is better", "higher": "higher is better", "none": "describes"}
    text = word.get(column.direction) or f"nearer to {column.target:g} is better"
    return f"{text}, {column.unit}" if column.unit else text


def _own(cls: type[Any], name: str) -> bool:
    """Whether a class overrides a method of the contract."""
    return getattr(getattr(cls, name, None), "__module__", "cfbench.contract") != "cfbench.contract"


def show_plugin(registry: Registry, text: str, kind: Kind) -> Iterator[str]:
    """The lines of ``cfbench show``: a plugin's docstring, settings with types and defaults, presets, and origin.

    Raises:
        UserError: there is none of that name.
    """
    spec = registry.parse(kind, text)[0]
    cls, params = registry.resolve(kind, spec)
    plugin = registry.find(kind, spec.name)
    yield f"{click.style(spec.label, bold=True)}  {kind}, {_source(plugin)}"
    yield ""
    yield from inspect.cleandoc(cls.__doc__ or "(no docstring)").splitlines()
    yield ""
    yield from (line for line in _abilities(cls, kind, params) if not line.startswith(("presets:", "answer settings")))
    yield from _settings(cls, params, spec)
    yield from _presets(cls, spec)


def kind_of(registry: Registry, text: str, presets: Iterable[str] = ()) -> Kind | Literal["preset"]:
    """The kind of plugin that a spec names, or that it is one of the presets of runs.

    Raises:
        UserError: there is none of that name, or several of different kinds.
    """
    name = parse_specs(text)[0].name
    found: list[Kind | Literal["preset"]] = [k for k in KINDS if name in registry.names(k)]
    found += ["preset"] if name in presets else []
    if len(found) > 1:
        raise UserError(f"{name!r} is a {' and a '.join(found)}; say which with --kind")
    if not found and registry.broken:
        registry.find("method", name)
    if not found:
        known = [*(n for k in KINDS for n in registry.names(k)), *presets]
        raise UserError(f"no plugin {name!r}; {registry.suggest(name, known)}")
    return found[0]


def _settings(cls: type[Any], params: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    """A table of the constructor's keywords; those that a spec sets have its values."""
    hints = keywords(cls)
    answer: Collection[str] = getattr(cls, "answer_params", ())
    if not hints:
        return
    defaults = {n: p.default for n, p in inspect.signature(cls.__init__).parameters.items()}
    rows = [(n, _default(params.get(n, defaults[n])), _type(h), n in params, n in answer) for n, h in hints.items()]
    names, values = max(len(r[0]) for r in rows) + 2, max(len(r[1]) for r in rows) + 2
    starred = any(r[4] for r in rows)
    yield ""
    note = " (* changes answers only, not the fit)" if starred else ""
    yield click.style("settings", bold=True) + note
    for name, value, kind, given, star in rows:
        mark = f"  set by {spec.label}" if given else ""
        yield f" {'*' if star else ' '} {name:<{names}}{value:<{values}}{kind}{mark}".rstrip()


def _presets(cls: type[Any], spec: Spec) -> Iterator[str]:
    named: Mapping[str, Mapping[str, Any]] = getattr(cls, "presets", {})
    if not named:
        return
    yield ""
    yield click.style("presets", bold=True)
    for name, settings in named.items():
        text = ", ".join(f"{k}={_default(v)}" for k, v in settings.items())
        head = f"   {spec.name}:{name}  "
        yield from wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * 5, break_on_hyphens=False)


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    if isinstance(value, (tuple, list)):
        return "/".join(map(_default, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _type(hint: Any) -> str:
    """A type in words: ``float or none``, ``linear or cosine``."""
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type(h) for h in get_args(hint))
    if get_args(hint) and inspect.isclass(get_origin(hint)) and issubclass(get_origin(hint), Sequence):
        return f"{_type(get_args(hint)[0])}s"
    if hint is type(None):
        return "none"
    return "any" if hint is Any else getattr(hint, "__name__", str(hint))
