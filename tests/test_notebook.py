"""What a notebook shows: README's example as it stands, each result once, and tuples of pictures as pictures."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

README = Path(__file__).parents[1] / "README.md"


def example():
    """The cells of README's example in Python, which blank lines separate."""
    (block,) = re.findall(r"```python\n(import cfbench.*?|from pathlib.*?)```", README.read_text(), re.DOTALL)
    return block.strip().split("\n\n")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """README's example and some more cells, executed."""
    pictures = ["result.plot('cld')", "[result.plot('cld'), result.gallery()]", "(1, result.plot('cld'))"]
    sources = [*example(), "result", "result.table()", *pictures]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return {cell.source: [o for o in cell.outputs if o.output_type != "stream"] for cell in notebook.cells}


def test_the_example_of_the_readme_runs_as_it_stands_and_shows_table_chart_and_images(cells):
    shown = [cells[source] for source in example()]
    assert [len(outputs) for outputs in shown] == [0, 0, 1, 1]
    html = shown[2][0]["data"]["text/html"]
    assert html.count("<table>") >= 1
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 2
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert shown[3][0]["data"]["image/png"]


@pytest.mark.parametrize(
    ("source", "kind"), [("result", "text/html"), ("result.table()", "text/html"), ("result.plot('cld')", "image/png")]
)
def test_a_result_is_displayed_once(cells, source, kind):
    (output,) = cells[source]
    assert output.output_type == "execute_result"
    assert output["data"][kind]
    assert "text/plain" in output["data"]


def test_the_text_of_a_table_is_text_in_a_notebook_too(cells):
    (output,) = cells["result.table()"]
    assert output["data"]["text/plain"].startswith("digits: summary")


def test_other_tuples_are_displayed_as_ever(cells):
    (output,) = cells["(1, result.plot('cld'))"]
    assert "text/html" not in output["data"]
    assert output["data"]["text/plain"].startswith("(1,\n Picture(")
    (output,) = cells["[result.plot('cld'), result.gallery()]"]
    assert output["data"]["text/html"].count("<img") == 2
