"""What docs/architecture.md says of the layout is what lies on disk and what the layer test holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_imports import LAYERS

from cfbench.runs.chain import STAGES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PATHS = sorted(set(re.findall(r"`((?:[\w.-]+/)+(?:[\w.-]+\.\w+)?)`", PAGE)))
"""Files and folders in code marks."""


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_the_page_names_exists(path):
    inside = re.sub(r"^(failed-|methods/|datasets/|tests/|docs/|cfbench/)", "", path) == path
    if "-N" not in path:
        assert (ROOT / ("cfbench" if inside else "") / path).exists(), path


def test_the_page_names_files_at_all():
    assert len([p for p in PATHS if p.endswith(".py")]) > 20


def test_the_layers_of_the_page_are_those_that_are_held():
    rows = dict(re.findall(r"^\| (\d) \| ([^|]+) \|", PAGE, re.M))
    told = {int(number): set(re.findall(r"`([\w]+)/?`", names)) for number, names in rows.items()}
    assert told == {number: set(names) - {"__main__"} for number, names in enumerate(LAYERS, 1)}


def test_the_page_names_every_stage():
    chain = PAGE[PAGE.index("The stages and what each reads") : PAGE.index("## Layers")]
    assert all(re.search(rf"\b{stage}\b", chain) for stage in STAGES)


@pytest.mark.parametrize("text", ["CONTRIBUTING.md", "CHANGELOG.md", ".pre-commit-config.yaml"])
def test_pages_for_developers_name_what_is_there(text):
    page = (ROOT / text).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", page):
        assert (ROOT / target).exists(), target
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", page, re.M)) <= targets
