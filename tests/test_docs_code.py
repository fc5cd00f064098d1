"""What the documents tell a reader to type works, in their order; what they name exists."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest
from blocks import LANGUAGES, Block, Reader, blocks, lines_of_code

from cfbench.cli.main import cli
from cfbench.conformance import checks
from cfbench.contract import Control, Dataset, Method, Metric
from cfbench.plugins.registry import Registry

ROOT = Path(__file__).parents[1]
DOCS = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCKS = {name: blocks(path) for name, path in DOCS.items()}
TEXTS = {name: path.read_text() for name, path in DOCS.items()}
SHARED = ("answers", "notebooks", "page", "questions", "runs")
"""Documents about runs that are the same in all of them."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The data root that a reader has."""
    return Path(os.environ.get("CFBENCH_DATA_ROOT") or tmp_path_factory.mktemp("data"))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name in DOCS if any(b.language in ("sh", "python") for b in BLOCKS[name])])
def test_what_a_document_says_can_be_done(name, shared, root, tmp_path):
    if name in SHARED:
        (shared / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs").symlink_to(shared / "runs")
    with Reader(tmp_path, root) as reader:
        for block in BLOCKS[name]:
            reader.follow(block)


def test_every_file_of_a_run_is_described(shared):
    run = shared / "runs" / "digits"
    if not run.is_dir():
        pytest.skip("needs the run that docs/runs.md makes")
    names = {re.sub(r"^digits", "DATASET", p.name) for p in run.rglob("*") if p.is_file()}
    names = {re.sub(r"^[0-9a-f]{12}(?=\.)", "KEY", n) for n in names if not n.endswith(".png") and n[0] != "."}
    assert len(names) > 15
    assert not [n for n in names if f"`{n}`" not in TEXTS["runs"]]


@pytest.mark.parametrize("block", [b for found in BLOCKS.values() for b in found], ids=str)
def test_blocks_are_in_languages_that_are_executed_or_looked_at(block: Block):
    assert block.language in LANGUAGES


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", [*DOCS.values(), ROOT / "README.md"], ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), f"{path.name}: {target} does not exist"
        assert not anchor or anchor in anchors(found.read_text()), f"{path.name}: {target} has no such heading"


def test_the_index_names_every_document():
    assert not [name for name in DOCS if name != "README" and f"({name}.md)" not in TEXTS["README"]]


def options(command: click.Command) -> set[str]:
    own = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
    return own | {"--version"} if command is cli else own


def asked(text: str) -> list[list[str]]:
    """The words of every cfbench command in a document."""
    lines = re.findall(r"^ *(cfbench [a-z].*)$", text, re.M) + re.findall(r"`(cfbench [a-z][^`]*)`", text)
    return [line.split("#")[0].split() for line in lines]


@pytest.mark.parametrize("name", DOCS)
def test_commands_and_options_exist(name):
    every = {flag for c in [*cli.commands.values(), *cli.commands["plan"].commands.values()] for flag in options(c)}
    for flag in re.findall(r"`(--[a-z][\w-]*)", TEXTS[name]):
        assert flag in every, f"no command has the option {flag}"
    for words in asked(TEXTS[name]):
        command: click.Command = cli
        while isinstance(command, click.Group) and len(words) > 1:
            words = words[1:]
            assert words[0] in command.commands, f"there is no command cfbench {words[0]}"
            command = command.commands[words[0]]
        for flag in (w.partition("=")[0] for w in words if w.startswith("-")):
            assert flag in options(command), f"cfbench {command.name} has no option {flag}"


def test_numbers_of_lines_are_those_of_the_files():
    files = {b.file: lines_of_code(b.text) for b in BLOCKS["tutorial"] if b.file.endswith(".py")}
    told = {name: int(n) for name, n in re.findall(r"`(\w+\.py)` has (\d+) lines of code", TEXTS["tutorial"])}
    assert told
    assert told == {name: files[name] for name in told}


@pytest.mark.parametrize("name", Registry().names("metric"))
def test_every_metric_and_each_of_its_columns_is_described(name):
    metric = Registry().load("metric", name)
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", TEXTS["metrics"], re.M | re.S)
    assert section, f"docs/metrics.md has no section {name}"
    for column, about in metric.columns.items():
        row = re.search(rf"^\| `{column}` \|.*$", section[1], re.M)
        assert row, f"docs/metrics.md has no line for {name}.{column}"
        wanted = "→" if about.direction == "target" else {"lower": "↓", "higher": "↑", "none": "–"}[about.direction]
        assert wanted in row[0].split("|")[2], f"{name}.{column} is better {about.direction}"


def test_every_check_is_described():
    class AnyMethod(Method):
        def sample(self, pa, rng): ...

    class AnyMetric(Metric): ...

    names = {c.name for cls in (AnyMethod, Control, AnyMetric, Dataset) for c in checks(cls)}
    assert len(names) > 40
    assert not [n for n in names if f"`{n}`" not in TEXTS["plugins"]]


def test_a_block_that_fails_is_told(tmp_path):
    with Reader(tmp_path, tmp_path) as reader:
        reader.follow(Block("a.md", 1, "text", "# data/a.txt\nhello\n"))
        reader.follow(Block("a.md", 2, "sh", "cfbench --version; cat data/a.txt\n"))
        reader.follow(Block("a.md", 2, "text", "hello\n", among=True))
        reader.follow(Block("a.md", 3, "python", "x = open('data/a.txt').read()\nx\n"))
        reader.follow(Block("a.md", 4, "python", "assert x.endswith('hello\\n')\n"))
        reader.follow(Block("a.md", 5, "sh", "exit 3\n", exits=3))
        reader.follow(Block("a.md", 6, "sh", "false\n", unexecuted="it would fail"))
        for block, says in (
            (Block("a.md", 7, "sh", "false | true\n"), "a.md line 7 exits 1"),
            (Block("a.md", 7, "text", "bye\n", among=True), "a.md line 7 is not among"),
            (Block("a.md", 8, "python", "y = x + missing\n"), "NameError: name 'missing' is not defined"),
            (Block("a.md", 9, "python", "import os\nos._exit(1)\n"), "the process ended"),
        ):
            with pytest.raises(AssertionError, match=says):
                reader.follow(block)


def test_lines_of_code_are_counted_without_imports_comments_and_docstrings():
    head = '"""Doc."""\nfrom a import (\n    b,\n)\n\n# why\nclass C:\n    """Doc\n    two."""\n\n'
    text = head + "    x = (1,\n         2)\n"
    assert lines_of_code(text) == 3
