"""What the page of published figures says of ours is what the published tables say."""

from __future__ import annotations

import re

import pytest
from quoted import PAGE, ROOT, quoted

TEXT = PAGE.read_text()
FIGURE = re.compile(r"(?<=\| )[\d.e-]+ \[[\d.e-]+, [\d.e-]+\](?= \|)")


def test_figures_of_ours_are_those_of_the_tables():
    assert quoted(TEXT) == TEXT, "docs/published.md is not up to date: python tests/quoted.py"


def test_every_figure_of_ours_is_looked_up():
    assert len(FIGURE.findall(TEXT)) > 100
    wrong = FIGURE.sub("9.99 [9.98, 10.00]", TEXT)
    assert quoted(wrong) == TEXT


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("| `hvae` |", "| `hvea` |", "quotes {'method': 'hvea'"),
        ("`composition.composition_1`", "`composition.composition_2`", "which has 0 rows"),
        ("| residual |", "| residue |", "heading 'residue' names no column"),
    ],
)
def test_a_row_or_column_that_does_not_exist_is_found(right, wrong, says):
    assert right in TEXT
    with pytest.raises(ValueError, match=re.escape(says)):
        quoted(TEXT.replace(right, wrong))


@pytest.mark.parametrize("dataset", ["morphomnist", "mnist"])
def test_revision_and_budget_are_those_of_the_tables(dataset):
    folders = (ROOT / "leaderboard" / "README.md").read_text()
    (row,) = re.findall(rf"^\| `quick-cpu/{dataset}\*`.*$", folders, re.M)
    revisions = re.findall(r"\b[0-9a-f]{7}\b", row)
    assert revisions
    assert [r for r in revisions if r not in TEXT] == []
    notes = (ROOT / "leaderboard" / "quick-cpu" / f"{dataset}.md").read_text()
    images, factuals = re.findall(r"budget: images ([\d,]+), factuals (\d+)", notes)[0]
    assert f"{images} training images" in TEXT
    assert f"{factuals} test factuals" in TEXT
