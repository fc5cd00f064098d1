"""The libraries that a page needs in the browser, taken from their Python packages, with their licences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ..errors import UserError

__all__ = ["check_installed", "library_files"]

PACKAGES = ("jinja2", "bokeh", "itables")
_EXPORT = re.compile(r"export\s*\{([^{}]*)\}\s*;?")


def check_installed() -> None:
    """Raise unless all packages that make a page can be found.

    Raises:
        UserError: one is missing.
    """
    for package in PACKAGES:
        try:
            distribution(package)
        except PackageNotFoundError:
            raise UserError(
                f"a page needs the package {package}, which is missing; pip install 'cfbench-scm[site]'"
            ) from None


def library_files() -> dict[str, bytes]:
    """Scripts, styles and licences by the names of their files.

    Raises:
        UserError: a package does not hold what it is known for.
    """
    import bokeh
    import itables

    charts = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
    tables = Path(itables.__file__).parent / "html"
    found = {
        "bokeh.min.js": _read("bokeh", charts),
        "datatables.js": _classic_script(_read("itables", tables / "dt_bundle.js").decode()).encode(),
        "datatables.css": _read("itables", tables / "dt_bundle.css"),
    }
    for package in ("bokeh", "itables"):
        found |= {f"{package}-LICENSE.txt": text for text in _licences(package)}
    return found


def _read(package: str, file: Path) -> bytes:
    if not file.is_file():
        raise UserError(f"the package {package} holds no {file.name}; pip install -U 'cfbench-scm[site]'")
    return file.read_bytes()


def _licences(package: str) -> Iterator[bytes]:
    files = distribution(package).files or []
    yield from (Path(str(f.locate())).read_bytes() for f in files if f.name.startswith("LICENSE"))


def _classic_script(module: str) -> str:
    """An ES module as a script that browsers load from disk: what it exports are the fields of ``itables``.

    Raises:
        UserError: the text exports nothing.
    """
    exports = list(_EXPORT.finditer(module))
    if not exports:
        raise UserError("the package itables has another layout than is known; pip install -U 'cfbench-scm[site]'")
    last = exports[-1]
    names = (part.split(" as ") for part in last[1].split(",") if part.strip())
    fields = ", ".join(f"{name[-1].strip()}: {name[0].strip()}" for name in names)
    body = f"{module[: last.start()]}globalThis.itables = {{{fields}}};{module[last.end() :]}"
    return f'"use strict";(() => {{\n{body}\n}})();\n'
