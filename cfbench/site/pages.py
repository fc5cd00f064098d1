"""A page as a folder of files: rendered, written under a temporary name, and put in place of an earlier page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..storage.temporary import temporary_folder
from .libraries import library_files
from .model import DataSet, Page

__all__ = ["check_replaceable", "render_page", "write_page"]

GENERATOR = "cfbench site"
"""By which a page of ours is known again."""
INDEX, ASSETS = "index.html", "assets"
FILTERS = {"dataset": "Data set", "family": "Method family"}
"""What rows can be filtered by, in the order shown."""


def check_replaceable(out: Path) -> None:
    """Raise unless a page can be written to ``out``.

    Raises:
        UserError: something is there that is neither an earlier page nor an empty folder.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out} is no folder; give another --out")
    index = out / INDEX
    is_page = index.is_file() and GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:2000]
    if out.is_dir() and any(out.iterdir()) and not is_page:
        raise UserError(f"{out} holds something else than a page of `cfbench site`; give another --out, or empty it")


def write_page(page: Page, out: Path) -> int:
    """Write a page into a folder, in place of an earlier one; the number of its bytes.

    Raises:
        UserError: the folder holds something else, or a package is missing.
    """
    check_replaceable(out)
    contents = {INDEX: render_page(page).encode(), **_assets(page)}
    with temporary_folder(out) as draft:
        for name, content in contents.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        draft.chmod(0o755)
        _replace(draft, out)
    return sum(map(len, contents.values()))


def _replace(draft: Path, out: Path) -> None:
    """Rename a folder to ``out``; what is there is removed afterwards, and put back where that fails."""
    with temporary_folder(out) as aside:
        earlier = aside / out.name
        if out.exists():
            out.rename(earlier)
        try:
            draft.rename(out)
        except OSError:
            if earlier.exists():
                earlier.rename(out)
            raise


def render_page(page: Page) -> str:
    """The text of ``index.html``, in which whatever runs and tables say is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cfbench.site"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters = {name: (FILTERS[name], words) for name, words in page.filters.items()}
    return environment.get_template("page.html.j2").render(page=page, filters=filters, generator=GENERATOR)


def _assets(page: Page) -> dict[str, bytes]:
    """Scripts, styles, images and tables by the names of their files; each data set has a folder of its own."""
    found = library_files()
    static = files("cfbench.site") / "static"
    found |= {entry.name: entry.read_bytes() for entry in static.iterdir() if entry.name.endswith((".js", ".css"))}
    for d in page.datasets:
        own = {"data.js": _script(d).encode(), **{name: content for name, (_, content) in d.files.items()}}
        own |= d.gallery.images if d.gallery else {}
        found |= {f"{d.stem}/{name}": content for name, content in own.items()}
    return {f"{ASSETS}/{name}": content for name, content in found.items()}


def _script(d: DataSet) -> str:
    """The data of charts and gallery as a script, as a page that is opened from disk can read no other files."""
    charts = {f"{d.stem}-cost-{i}": chart.item for i, chart in enumerate(d.costs)}
    for i, card in enumerate(d.cards):
        charts |= {f"{d.stem}-card-{i}-{j}": chart.item for j, chart in enumerate(card.charts)}
    data: Mapping[str, Any] = {"charts": charts, "gallery": d.gallery.data if d.gallery else None}
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f"(window.cfbench ??= {{}})[{json.dumps(d.stem)}] = {text};\n"
