"""Tuples and lists of tables and pictures, which display as what they hold where IPython runs."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["show_tuples"]


def show_tuples() -> None:
    """Let IPython, if it runs, display tuples and lists of this package's tables and pictures as what they hold."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    html = shell.display_formatter.formatters["text/html"]
    for sequence in (tuple, list):
        if sequence not in html.type_printers:
            html.for_type(sequence, _html)


def _html(parts: Sequence[Any]) -> str | None:
    """The parts below each other as HTML; None where one is of another kind, so that IPython displays the text."""
    found = [_part(part) for part in parts]
    return "\n".join(filter(None, found)) if found and all(found) else None


def _part(part: Any) -> str:
    if type(part).__module__.partition(".")[0] != __name__.partition(".")[0]:
        return ""
    if hasattr(part, "_repr_html_"):
        return str(part._repr_html_())
    if hasattr(part, "_repr_png_"):
        return f'<img src="data:image/png;base64,{base64.b64encode(part._repr_png_()).decode()}">'
    return ""
