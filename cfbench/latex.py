"""The leaderboard's printed tables as LaTeX."""

from __future__ import annotations

import re

from .leaderboard import Board, Section
from .wording import FLAG, WEAK, Cell, footnotes, headings, policy, title

__all__ = ["latex"]

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
    "±": r"$\pm$",
    "µ": r"$\mu$",
    "×": r"$\times$",
    "–": "--",
}


def _tex(text: object) -> str:
    return "".join(_TEX.get(c, c) for c in " ".join(str(text).split()))


def _tex_number(text: str) -> str:
    return re.sub(r"-(?=\d)", "$-$", _tex(text))


def _tex_rows(board: Board, s: Section, method: str) -> str:
    """A line of values and a smaller one of intervals."""
    cells = [Cell.of(board, method, k) for k in s.keys]
    name = rf"\textit{{{_tex(method)}}}" if board.is_control(method) else _tex(method)
    values = [rf"\textbf{{{_tex_number(c.value)}}}" if c.best else _tex_number(c.value) for c in cells]
    below = [" ".join(filter(None, (c.interval, c.coverage))) for c in cells]
    extra = list(map(_tex, policy(board, s, method)))
    lines = [" & ".join([name, *values, *extra])]
    if any(below):
        small = [rf"{{\tiny {_tex_number(b)}}}" if b else "" for b in below]
        lines.append(" & ".join(["", *small, *[""] * len(extra)]))
    return " \\\\\n".join(lines) + " \\\\\n"


def _tex_table(board: Board, s: Section) -> str:
    extra = [] if s.do else ["residual", "status"]
    heads = headings(board, s)
    names = ["method", *(_tex(n) for n, _ in heads), *extra]
    units = ["", *(rf"{{\tiny {_tex(u)}}}" if u else "" for _, u in heads), *[""] * len(extra)]
    rows = [_tex_rows(board, s, m) for m in board.methods]
    own = sum(not board.is_control(m) for m in board.methods)
    body = "".join(rows[:own]) + ("\\midrule\n" if 0 < own < len(rows) else "") + "".join(rows[own:])
    label = re.sub(r"[^a-z0-9]+", "-", f"{board.results.dataset}-{s.do or 'cost'}".lower())
    return (
        "\\begin{table}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
        f"\\caption{{{_tex(board.results.dataset)}: {_tex(title(board, s))}.}}\\label{{tab:{label}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(heads)}{'l' * len(extra)}}}\n\\toprule\n"
        f"{' & '.join(names)} \\\\\n{' & '.join(units)} \\\\\n\\midrule\n{body}\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def latex(board: Board) -> str:
    """The printed tables as LaTeX for ``\\input``; it needs the package booktabs and nothing else."""
    notes = "\n\n".join(_tex(n) for n in footnotes(board))
    head = "% \\usepackage{booktabs}\n% \\usepackage[T1]{fontenc}\n"
    tables = "\n".join(_tex_table(board, s) for s in board.sections)
    return f"{head}{tables}\n{{\\footnotesize\\noindent\n{notes}\n\\par}}\n"
