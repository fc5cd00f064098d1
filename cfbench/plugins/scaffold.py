"""Templates of new plugins: one commented file that works as it is, or a distribution with it."""

from __future__ import annotations

import ast
import keyword
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from string import Template

from ..errors import UserError, did_you_mean
from .discovery import plugin_name_error

__all__ = ["new_command"]


_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_WHAT = {"method": "method", "dataset": "data set", "metric": "metric"}
_SUMMARY = {
    "method": "a small conditional VAE",
    "dataset": "a toy with two variables",
    "metric": "an L2 distance",
}
_RUN = {
    "method": "cfbench run --methods {},deepscm",
    "dataset": "cfbench run --datasets {} --methods deepscm",
    "metric": "cfbench run --methods deepscm",
}


@dataclass(frozen=True)
class New:
    """A plugin to be written: the texts of its files, with its name filled in."""

    kind: str
    name: str

    @property
    def module(self) -> str:
        """The name as a Python identifier."""
        name = self.name.replace("-", "_")
        return f"{name}_" if keyword.iskeyword(name) else name

    @property
    def cls(self) -> str:
        """The name in CamelCase, followed by the kind where that alone means something in Python or in the template."""
        name = "".join(part[0].upper() + part[1:] for part in re.split("[-_]", self.name))
        nodes = ast.walk(ast.parse(_template(f"{self.kind}.py")))
        taken = {getattr(node, field, None) for node in nodes for field in ("id", "name", "asname")} - {"Mine"}
        return name + self.kind.capitalize() if keyword.iskeyword(name) or name in taken else name

    @property
    def distribution(self) -> str:
        return f"cfbench-{self.kind}-{self.name.replace('_', '-').lower()}"

    @property
    def package(self) -> str:
        return self.distribution.replace("-", "_")

    def file(self) -> str:
        """The plugin as a single file."""
        return self._named(_template(f"{self.kind}.py"))

    def files(self) -> Mapping[str, str]:
        """The files of a distribution by their paths."""
        plugin = _template(f"{self.kind}.py").replace(" --plugin mine.py", "").replace("mine.py", "mine")
        imported = f"\nfrom {self.package}.{self.module} import"
        test = _template("conformance.py").replace("pytest\n\n", "pytest\n")
        test = test.replace("from cfbench.templates.method import", imported)
        return {
            "pyproject.toml": self._filled(_template("pyproject.toml")),
            "README.md": self._filled(_template("README.md")),
            f"src/{self.package}/__init__.py": "",
            f"src/{self.package}/{self.module}.py": self._named(plugin),
            "tests/test_conformance.py": self._named(test),
        }

    def command(self, *options: str) -> str:
        """A command that runs the plugin."""
        return " ".join([_RUN[self.kind].format(self.name), *options, "--preset tiny"])

    def _named(self, text: str) -> str:
        """A template's code with the names ``Mine`` and ``mine`` replaced."""
        names = {"Mine": self.cls, "mine": self.name}
        return re.sub(r"\b(Mine|mine)\b", lambda match: names[match[0]], text)

    def _filled(self, text: str) -> str:
        parts = ("kind", "name", "module", "cls", "distribution", "package")
        return Template(text).substitute(
            {p: getattr(self, p) for p in parts}, what=_WHAT[self.kind], run=self.command()
        )


def _template(name: str) -> str:
    return (files("cfbench") / "templates" / name).read_text(encoding="utf-8")


def new_command(kind: str, name: str, *, package: bool, out: Path) -> int:
    """Write ``out/NAME.py``, or a distribution into a folder of ``out``, and print the next steps.

    Raises:
        UserError: the kind is unknown, the name is invalid or taken, or a file would be overwritten.
    """
    if kind not in _WHAT:
        raise UserError(f"unknown kind {kind!r}; {did_you_mean(kind, _WHAT)}")
    if error := _name_error(name):
        raise UserError(f"{name!r} is no name for a {_WHAT[kind]}: it {error}")
    _check_free(kind, name)
    new = New(kind, name)
    if package:
        folder = out / new.distribution
        _write(folder, new.files())
        say = (f"cd {_quoted(folder)}", "pip install -e '.[test]'", f"cfbench check {name}", "python -m pytest")
        _next(f"{folder}/: {_SUMMARY[kind]}, with its test and entry point", [*say, new.command()])
    else:
        _check_hides_nothing(name)
        _write(out, {f"{name}.py": new.file()})
        path = out / f"{name}.py"
        _next(f"{path}: {_SUMMARY[kind]}", [f"cfbench check {_quoted(path)}", new.command("--plugin", _quoted(path))])
    return 0


def _name_error(name: str) -> str:
    """Why a new plugin cannot have a name, in words that follow on "it", and what to write; empty where it can."""
    if name != name.lower():
        return (
            f"has capitals, and files that differ in these alone overwrite each other somewhere; write {name.lower()}"
        )
    if not _NAME.fullmatch(name):
        return "may have letters, digits, - and _; write my-vae"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return f"is a word of Python, so that nothing could import {name}.py; write my-{name}"
    return plugin_name_error(name)


def _check_free(kind: str, name: str) -> None:
    for entry in entry_points(group=f"cfbench.{kind}s"):
        if entry.name == name:
            origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"
            raise UserError(f"there is a {_WHAT[kind]} {name!r} already, of {origin}; choose another name")


def _check_hides_nothing(name: str) -> None:
    """Raise unless the file would hide no Python module from programs started in its folder."""
    elsewhere = [p for p in sys.path if p and Path(p).resolve() != Path.cwd()]
    found = PathFinder.find_spec(name, elsewhere)
    if name in sys.stdlib_module_names or (found and found.origin):
        raise UserError(f"{name}.py would hide the Python module {name!r} from other files; choose another name")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write new files.

    Raises:
        UserError: one exists, or the folder cannot be written.
    """
    for path in (folder / name for name in texts):
        if path.exists():
            raise UserError(f"{path} exists and is left as it is; choose another name or another --out")
    try:
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another --out") from error


def _next(wrote: str, commands: Iterable[str]) -> None:
    print(f"wrote {wrote}. It works as it is; next:")
    for command in commands:
        print(f"  {command}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
