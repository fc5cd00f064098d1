"""Text as it stands in Markdown and LaTeX: escaped, in tables."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .format import CAVEAT, FLAG, WEAK

__all__ = ["TEX_PACKAGES", "md", "md_table", "tex", "tex_environment", "tex_number", "tex_prose"]


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
    "¶": r"\P{}",
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


TEX_PACKAGES = "% \\usepackage{booktabs,graphicx}\n% \\usepackage[T1]{fontenc}\n"
"""What the tables need in the preamble, as a comment at their head."""
_UNKNOWN = frozenset(map(chr, (0x126, 0x127, 0x138, 0x13F, 0x140, 0x149, 0x166, 0x167, 0x17F)))
"""Letters of Latin Extended-A that the encoding T1 lacks."""


def tex(text: object) -> str:
    """Text for LaTeX, in which nothing is a command.

    pdfLaTeX, whose fonts have Latin letters only, shows the number of any other character.
    """
    return "".join(map(_tex_letter, unicodedata.normalize("NFC", " ".join(str(text).split()))))


def _tex_letter(c: str) -> str:
    if c in _TEX or c.isascii() or ("\xa0" < c <= "\u017f" and c not in _UNKNOWN):
        return _TEX.get(c, c)
    return rf"{{\ifx\pdftexversion\undefined {c}\else U+{ord(c):04X}\fi}}"


_PIECES = re.compile(
    rf"\d{{1,3}}(?:,\d{{3}})+\S?|[^\0-\u017f\s]|[{''.join(_UNKNOWN)}]"
    r"|[^,=/:;_\]\s]{0,24}[,=/:;_\]]|[^,=/:;_\]\s]{1,24}"
)
"""What a line may end with: a comma or another sign, so many letters of a longer word, or any letter of scripts that
pdfLaTeX lacks."""


def tex_prose(text: object) -> str:
    """Text for LaTeX whose long words, as specs are, may be broken."""
    words = unicodedata.normalize("NFC", str(text)).split()
    return " ".join("\\allowbreak{}".join(map(tex, _PIECES.findall(word))) for word in words)


def tex_environment(name: str, size: str, caption: str, label: str, tabular: str) -> str:
    """A float with a tabular, which is made smaller only where it is wider than the text.

    Args:
        name: of the environment: table, or table* for the width of both columns.
        size: the command for the size of letters, without its backslash.
        caption: LaTeX already.
        label: plain ASCII.
        tabular: the whole environment.
    """
    return (
        f"\\begin{{{name}}}\n\\centering\\sloppy\\{size}\\setlength{{\\tabcolsep}}{{3pt}}\n"
        f"\\caption{{{caption}}}\\label{{tab:{label}}}\n"
        f"\\sbox0{{{tabular}}}\n"
        "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi\n"
        f"\\end{{{name}}}\n"
    )


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
