"""The documentation as a site: every page is in its navigation, and a dead link fails the build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAVIGATION = re.findall(r"([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2], re.M)


def test_the_navigation_holds_every_page_once():
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "leaderboard").rglob("*.md")]
    pages += [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    named = [name for name in NAVIGATION if not name.startswith(("reference/", "examples/"))]
    assert sorted(named) == sorted(p.relative_to(ROOT).as_posix() for p in pages)
    index = (ROOT / "docs" / "README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and f"]({p.name})" not in index] == []


def build(root: Path, out: Path) -> subprocess.CompletedProcess:
    pytest.importorskip("mkdocs", reason="no mkdocs: make docs installs it")
    pytest.importorskip("mkdocstrings")
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)


def test_the_site_has_the_pages_the_reference_and_the_published_tables(tmp_path):
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    contract = unescape((tmp_path / "reference/contract/index.html").read_text())
    assert "An image mechanism that abducts exogenous noise" in contract
    assert "cfbench.contract.Method.abduct" in contract
    assert '<pre class="mermaid">' in (tmp_path / "docs/architecture/index.html").read_text()
    assert 'class="arithmatex"' in (tmp_path / "docs/methods/index.html").read_text()
    assert "<table>" in (tmp_path / "leaderboard/quick-cpu/strokes/index.html").read_text()
    assert (tmp_path / "leaderboard/quick-cpu/strokes-quality-cost.png").is_file()
    page = (tmp_path / "leaderboard/page/index.html").read_text()
    assert all(name in page for name in ("strokes", "morphomnist", "diffscm-cfg", "assets/tables.js"))
    assert (tmp_path / "leaderboard/page/assets/tables.js").is_file()
    assert 'href="leaderboard/page/"' in (tmp_path / "index.html").read_text()


def test_dead_links_and_pages_that_the_navigation_lacks_fail_the_build(tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "docs", root / "docs")
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "cfbench/contract.py"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "leaderboard", root / "leaderboard")
    with (root / "docs/data.md").open("a") as file:
        file.write("\n[one](nowhere.md), [two](metrics.md#nowhere)\n")
    (root / "docs/lost.md").write_text("# Lost\n")
    done = build(root, tmp_path / "site")
    assert done.returncode == 1
    assert "contains a link 'nowhere.md'" in done.stderr
    assert "contains a link 'metrics.md#nowhere'" in done.stderr
    assert "docs/lost.md" in done.stderr
