"""The table over all folders of published tables, in the README around them and as CSV."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from test_summary import skilled

from cfbench.report.board import Board
from cfbench.report.render import write_tables
from cfbench.report.summary.overview import BEGIN, END, overview_texts
from cfbench.report.summary.write import write_summary

ROOT = Path(__file__).parents[1]
README = f"# Tables\n\nBefore.\n\n{BEGIN}\n{END}\n\nAfter.\n"


@pytest.fixture
def published(tmp_path):
    """Two folders of tables, one of which has a method more."""
    for folder, methods in (("one", ("b|c", "a")), ("two", ("a", "b|c", "<i>"))):
        write_tables(Board(skilled(methods, variables=("digit", "slant"))), tmp_path / folder)
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_the_published_table_is_what_the_folders_say():
    found = overview_texts(ROOT / "leaderboard")
    assert found.keys() == {"README.md", "summary.csv", "metrics.md", "metrics.csv"}
    for name, text in found.items():
        assert text == (ROOT / "leaderboard" / name).read_text(), f"leaderboard/{name} is not up to date"


@pytest.mark.parametrize("dataset", ["strokes", "morphomnist"])
def test_the_readme_shows_the_published_summaries(dataset):
    parts = (ROOT / "leaderboard/quick-cpu/summary.md").read_text().split("\n## ")
    (table,) = [part for part in parts if part.startswith(f"[{dataset}]")]
    readme = set((ROOT / "README.md").read_text().splitlines())
    assert len(rows(table)) > 10
    assert not [line for line in rows(table) if line not in readme]


def test_each_method_has_one_row_and_each_table_a_column(published):
    written = write_summary(published / "one")
    assert {p.relative_to(published).as_posix() for p in written} == {
        *("one/summary.csv", "one/summary.md", "README.md", "summary.csv"),
    }
    text = (published / "README.md").read_text()
    assert text.startswith("# Tables\n\nBefore.\n")
    assert text.endswith(f"{END}\n\nAfter.\n")
    head, _, *body = rows(text)
    assert head.count("skill ↑ mean") == 2
    assert head.index("](two/strokes.md)") < head.index("](one/strokes.md)"), "the table of most methods first"
    assert [line.split(" | ")[0] for line in body] == ["| a", "| b\\|c", "| \\<i\\>"], "no controls"
    assert body[2].endswith("|  |"), "a table that has no such row leaves the entry empty"
    assert "[all metrics](one/strokes.md)" in text
    table = pd.read_csv(io.StringIO((published / "summary.csv").read_text()))
    assert set(table.folder) == {"one", "two"}
    assert len(table) == 2 * 4 + 2 + 3
    before = text
    write_summary(published / "one")
    assert (published / "README.md").read_text() == before


@pytest.mark.parametrize("text", ["# Mine\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_a_readme_without_both_lines_is_left_alone(published, text):
    (published / "README.md").write_text(text)
    written = write_summary(published / "one")
    assert {p.parent for p in written} == {published / "one"}
    assert (published / "README.md").read_text() == text
    assert not (published / "summary.csv").exists()


def test_no_readme_and_no_tables_give_no_table(published, tmp_path):
    (published / "README.md").unlink()
    assert overview_texts(published) == {}
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "empty" / "README.md").write_text(README)
    assert overview_texts(tmp_path / "empty") == {}
