"""Hooks of mkdocs: the site has the files of the repository where they are, so that links need no change.

Besides ``docs/`` it holds the README, the changelog, the published tables with their charts, their interactive page,
and a page of reference made from the docstrings of each public module.
"""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.structure.files import File, Files

from cfbench.site.command import site_command

ROOT = Path(__file__).parents[1]
HELD = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "cfbench/contract.py"),
    *("docs/*.md", "docs/*.js", "docs/*.css", "leaderboard/**/*", "examples/cfbench-example-plugin/README.md"),
)
"""What the site holds of the repository."""
PAGE = "leaderboard/page"
_page = TemporaryDirectory(prefix="cfbench-docs-")
METRICS = ("effectiveness", "drift", "minimality", "realism", "interpretability", "soundness", "truth", "runtime")
REFERENCE = {
    "cfbench": ("cfbench.api.run", "cfbench.api.result", "cfbench.api.counterfactual"),
    **{name: (f"cfbench.{name}",) for name in ("contract", "graph", "evidence", "rng", "errors", "nn", "conformance")},
    "metrics": tuple(f"cfbench.metrics.{name}" for name in METRICS),
}
"""The modules of each page of the reference."""


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading as GitHub makes it, so that links lead to the same place there and on the site."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def on_files(files: Files, config: Any) -> Files:
    """The files of the site, in the folders in which they lie in the repository."""
    for file in [f for f in files if f.src_dir == config.docs_dir]:
        files.remove(file)
    for path in sorted(path for pattern in HELD for path in ROOT.glob(pattern) if path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    _page.cleanup()
    tables = tuple(str(f) for f in sorted((ROOT / "leaderboard").iterdir()) if f.is_dir())
    with redirect_stdout(StringIO()):
        site_command(tables, Path(_page.name) / PAGE, ROOT)
    for path in sorted(p for p in (Path(_page.name) / PAGE).rglob("*") if p.is_file()):
        name = path.relative_to(_page.name).as_posix()
        files.append(File(name, _page.name, config.site_dir, config.use_directory_urls))
    for page, modules in REFERENCE.items():
        text = f"# {page}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
        files.append(File.generated(config, f"reference/{page}.md", content=text))
    return files
