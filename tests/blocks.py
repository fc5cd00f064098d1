"""Code blocks of Markdown documents, and a reader who types them in as they stand."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.M | re.S)
FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
LANGUAGES = {"sh", "python", "toml", "json", "csv", "text", "tex", "mermaid", ""}
"""What a block may be in; the last five are only looked at."""
PYTHON = """
import ast, json, os, sys, traceback
reply = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
space = sys.modules["__main__"].__dict__
for line in sys.stdin:
    name, text = json.loads(line)
    try:
        tree = ast.parse(text, name)
        shown = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), space)
        if shown:
            value = eval(compile(ast.Expression(shown.value), name, "eval"), space)
            for display in ("__repr__", "_repr_html_", "_repr_png_"):
                getattr(value, display, str)()
        told = ""
    except BaseException:
        told = traceback.format_exc()
    print(json.dumps(told), file=reply, flush=True)
"""
"""Runs blocks one after another in one namespace, and displays the last expression of each as a notebook would."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language and text.

    Why it is not executed; how its command exits; or whether it stands among what the last command printed.
    """

    document: str
    line: int
    language: str
    text: str
    unexecuted: str = ""
    exits: int = 0
    among: bool = False

    def __str__(self) -> str:
        return f"{self.document} line {self.line}"

    @property
    def file(self) -> str:
        """The file that this block is the content of, which its first line names."""
        match = FILE.match(self.text)
        return match[1] if match and self.language != "sh" else ""


def blocks(path: Path) -> list[Block]:
    """The blocks of a document, in order.

    A comment ``<!-- not executed: why -->`` in the line before a block keeps it from being executed,
    ``<!-- exits 1 -->`` says how it ends, ``<!-- among the output -->`` that its lines are among those before.
    """
    text, found = path.read_text(), []
    for match in FENCE.finditer(text):
        why = re.fullmatch(r"not executed: (.+)", match["note"] or "")
        exits = re.fullmatch(r"exits (\d+)", match["note"] or "")
        line = text[: match.start("language")].count("\n") + 1
        ends = why[1] if why else "", int(exits[1]) if exits else 0, match["note"] == "among the output"
        found.append(Block(path.name, line, match["language"], match["text"], *ends))
    return found


def lines_of_code(text: str) -> int:
    """Lines with code in them, without imports, docstrings, comments and blank lines."""
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    kept: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            kept |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            kept -= set(range(node.lineno, (node.end_lineno or 0) + 1))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            kept -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(kept)


def hurried(text: str) -> str:
    """The same commands at the smallest budget, in runs of the names that they would have had."""

    def command(match: re.Match[str]) -> str:
        line = match[0]
        name = "" if "--name" in line else " --name quick" + ("-valid" if "--split valid" in line else "")
        return line.replace("--preset quick", f"--preset tiny{name}")

    text = re.sub(r'preset="quick"', 'preset="tiny"', text)
    return re.sub(r"^cfbench (?:run|plan export) .*$", command, text, flags=re.M)


class Reader:
    """Someone who goes through a document in a folder, on a machine with one core."""

    def __init__(self, folder: Path, data_root: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "CFBENCH_DATA_ROOT": str(data_root), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        self.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.said = ""
        self.python: subprocess.Popen[str] | None = None
        self.log = tempfile.TemporaryFile("a+")  # noqa: SIM115

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        if self.python and self.python.stdin:
            self.python.stdin.close()
            self.python.wait(60)
        self.log.close()

    def follow(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: it does not end as it should.
        """
        if block.unexecuted:
            return
        if block.among:
            missing = [line for line in block.text.splitlines() if line not in self.said]
            assert not missing, f"{block} is not among the output: {missing}\n{self.said}"
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language == "json":
            json.loads(block.text)
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "sh":
            self._type(block)
        elif block.language == "python":
            self._evaluate(block)

    def _type(self, block: Block) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", hurried(block.text)], cwd=self.folder, env=self.env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_one_core,
        )  # fmt: skip
        self.said = done.stdout
        assert done.returncode == block.exits, f"{block} exits {done.returncode}:\n{block.text}\n{self.said[-4000:]}"

    def _evaluate(self, block: Block) -> None:
        if self.python is None:
            self.python = subprocess.Popen(
                [sys.executable, "-c", PYTHON], cwd=self.folder, env=self.env, text=True, preexec_fn=_one_core,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            )  # fmt: skip
        assert self.python.stdin
        assert self.python.stdout
        self.python.stdin.write(json.dumps([str(block), hurried(block.text)]) + "\n")
        self.python.stdin.flush()
        answer = self.python.stdout.readline()
        self.log.seek(0)
        told = json.loads(answer) if answer else f"the process ended: {self.log.read()[-4000:]}"
        assert not told, f"{block}:\n{block.text}\n{told}"


def _one_core() -> None:
    """One task at a time, so that documents cost the same everywhere and start no workers."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
