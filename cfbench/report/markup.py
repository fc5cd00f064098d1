"""Text as it stands in Markdown and LaTeX: escaped, in tables."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .format import CAVEAT, FLAG, WEAK

__all__ = ["md", "md_table", "tex", "tex_number"]


_TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\rightarrow$",
    "²": r"\textsuperscript{2}",
    "°": r"\textsuperscript{$\circ$}",
    "*": r"\textsuperscript{*}",
    FLAG: r"\textsuperscript{$\ddagger$}",
    WEAK: r"\textsuperscript{\S}",
    CAVEAT: r"\textsuperscript{$\dagger$}",
    "±": r"$\pm$",
    "µ": r"$\mu$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\dots{}",
}


def tex(text: object) -> str:
    """Text for LaTeX, in which nothing is a command."""
    return "".join(_TEX.get(c, c) for c in " ".join(str(text).split()))


def tex_number(text: str) -> str:
    """A number for LaTeX, whose minus is one and whose range of ranks has a dash."""
    return re.sub(r"(?<![-\d])-(?=[\d.])", "$-$", tex(text))


def md(text: object) -> str:
    """Text for Markdown, in which nothing is markup."""
    return re.sub(r"([|*_<>`\\]|(?<=\])\()", r"\\\1", " ".join(str(text).split()))


def md_table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table of texts that are Markdown already."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
