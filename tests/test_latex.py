"""The LaTeX files as pdfLaTeX reads them, in a paper of two columns."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from test_leaderboard import build
from test_summary import NINE, skilled

from cfbench.report.board import Board
from cfbench.report.latex import latex, latex_appendix
from cfbench.report.markup import TEX_PACKAGES, tex, tex_prose

PAPER = r"""
\documentclass[twocolumn]{article}
PACKAGES
\let\shrink\resizebox
\renewcommand{\resizebox}[3]{\typeout{SHRUNK}\shrink{#1}{#2}{#3}}
\begin{document}
Text.
\input{table}
\clearpage\appendix\typeout{APPENDIX}
\input{table-appendix}
\end{document}
""".replace("PACKAGES", TEX_PACKAGES.replace("% ", ""))

NASTY = (r"a_b&c%d#e$f{g}h~i^j\k", "größe[ø=1,łódź=2]", "数字[λ=1]", "<b>|`x`|</b>", '"q"[path=/a/b,c=:d]', "e\u0301",
         "ŧ" * 30, "数" * 30, "x" * 60, "diffscm[" + ",".join(f"setting_{k}={k}" for k in range(12)) + "]")  # fmt: skip


@pytest.fixture
def compiled(tmp_path):
    """Compiles a paper with a board's tables; the log of its text and of its appendix."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex: apt-get install texlive-latex-recommended")

    def make(board):
        (tmp_path / "paper.tex").write_text(PAPER, encoding="utf-8")
        (tmp_path / "table.tex").write_text(latex(board), encoding="utf-8")
        (tmp_path / "table-appendix.tex").write_text(latex_appendix(board), encoding="utf-8")
        command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-no-shell-escape", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        log = (tmp_path / "paper.log").read_text(encoding="utf-8", errors="replace")
        assert [line for line in log.splitlines() if line.startswith("!")] == []
        assert done.returncode == 0
        text, appendix = log.split("\nAPPENDIX")
        return text, appendix

    return make


@pytest.mark.parametrize("methods", [("diffscm", "deepscm"), NINE])
def test_the_summary_fits_the_text_of_a_paper_in_two_columns(compiled, methods):
    text, appendix = compiled(Board(skilled(methods)))
    assert "Overfull" not in text + appendix
    assert "SHRUNK" not in text, "it fits in letters of its own size"


def test_no_name_breaks_the_paper(compiled):
    results = skilled(NASTY, variables=("größe", "x_1", "字", "a" * 50))
    text, appendix = compiled(Board(replace(results, dataset=f"folder[path={NASTY[0]}/{'long' * 9}]")))
    assert "Overfull" not in text + appendix


def test_a_row_that_failed_and_one_seed_of_several_compile(compiled):
    compiled(Board(build(seeds=(0, 1, 2), failed={("deepscm", 1), ("diffscm", 0)})))


def test_a_table_wider_than_the_page_is_made_smaller(compiled):
    results = skilled(("a",), variables=[f"{'wide' * 8}{k}" for k in range(6)])
    text, _ = compiled(Board(results))
    assert "SHRUNK" in text
    assert "Overfull" not in text


def test_letters_that_pdflatex_lacks_are_numbers_there():
    assert tex("größe") == "größe"
    assert tex("e\u0301") == "é"
    assert tex("数") == r"{\ifx\pdftexversion\undefined 数\else U+6570\fi}"


def test_long_words_may_be_broken_where_that_can_be_read():
    assert tex_prose("a[b=1,c_d=2]") == (r"a{[}b=\allowbreak{}1,\allowbreak{}c\_\allowbreak{}d=\allowbreak{}2{]}")
    assert tex_prose("one, two") == "one, two"
    assert tex_prose("200,000 images; 7") == "200,000 images; 7"
    for text in (*NASTY, "", "a,,b==c", "1,000,000,x", ",", "=" * 9):
        assert tex_prose(text).replace(r"\allowbreak{}", "") == tex(text), "no letter is lost"


def test_ranges_of_ranks_have_a_dash_and_intervals_stand_in_the_appendix():
    board = Board(skilled(NINE))
    summary, appendix = latex(board), latex_appendix(board)
    assert re.search(r"\\#\d--\d", appendix)
    assert "{[}" not in summary.partition("\\begin{tabular}")[2].partition("\\end{tabular}")[0]
    assert not re.search(r"\d-\$-\$", summary + appendix)
