"""Plugin files with sibling modules: found, isolated, reloaded after an edit, copied to a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from cfbench.engine.workers import transfer
from cfbench.errors import PluginError
from cfbench.plugins import files
from cfbench.plugins.digest import source_digest
from cfbench.plugins.registry import Registry

pytestmark = pytest.mark.portable

MINE = """
    from cfbench.contract import Method

    {imports}

    class {name}(Method):
        def abduct(self, x, pa, rng):
            return {value}

        def predict(self, u, pa, rng):
            {lazily}
            return u
"""


def plugin(folder, imports="import helpers", value="helpers.VALUE", name="Mine", lazily="pass", **files):
    """A plugin file whose ``abduct`` gives what modules beside it say."""
    folder.mkdir(exist_ok=True)
    text = textwrap.dedent(MINE).format(imports=imports, value=value, name=name, lazily=lazily)
    for path, content in {"mine": text, **files}.items():
        file = folder / f"{path.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder / "mine.py"


def value(*files, name="mine"):
    """What the class of the last file answers."""
    return Registry(files).load("method", name).abduct(None, None, None, None)


@pytest.mark.parametrize(
    ("imports", "said"),
    [
        ("import helpers", "helpers.VALUE"),
        ("import helpers as h", "h.VALUE"),
        ("from helpers import VALUE", "VALUE"),
        ("from helpers import *", "VALUE"),
        ("import kit.tools", "kit.tools.VALUE"),
        ("import kit.tools as t", "t.VALUE"),
        ("import os, kit.tools, helpers", "(os.sep and kit.tools.VALUE) or helpers.VALUE"),
        ("from kit import tools", "tools.VALUE"),
        ("from kit.tools import VALUE", "VALUE"),
        ("import open.tools", "open.tools.VALUE"),
        ("from open import tools", "tools.VALUE"),
        ("try:\n    import none_such\nexcept ImportError:\n    import helpers", "helpers.VALUE"),
        ("def helper(): return 1\nfrom helper import VALUE", "VALUE if helper() == 1 else 0"),
        ("import statistics", "7 if statistics.mean([7]) == 7 else 0"),
    ],
)
def test_a_module_beside_a_plugin_file_is_found_however_it_is_imported(tmp_path, imports, said):
    files = {"helpers": "from kit.tools import VALUE\n", "kit__tools": "from .deep import VALUE\n"}
    files |= {"kit__deep": "import kit2\nVALUE = kit2.VALUE\n"}
    files |= {"kit2": "VALUE = 7\n", "open__tools": "VALUE = 7\n", "helper": "VALUE = 7\n"}
    file = plugin(tmp_path / "a", imports, said, statistics="mean = None\n", **files)
    (file.parent / "kit" / "__init__.py").write_text("")
    path, before = list(sys.path), set(sys.modules)
    assert value(file) == 7
    assert sys.path == path
    new = {m.split(".")[0] for m in set(sys.modules) - before}
    assert not new & {"helpers", "kit", "kit2", "open", "helper"}, "its modules have names of their own"


def test_a_function_that_imports_when_it_is_called_finds_it_too(tmp_path):
    file = plugin(tmp_path / "a", "", "1", lazily="from helpers import VALUE as u", helpers="VALUE = 3\n")
    assert Registry([file]).load("method", "mine").predict(None, 0, None, None) == 3


def test_files_in_different_folders_have_modules_of_one_name(tmp_path):
    one = plugin(tmp_path / "a", name="One", helpers="import net\nVALUE = net.SIZE\n", net="SIZE = 1\n")
    two = plugin(tmp_path / "b", name="Two", helpers="import net\nVALUE = net.SIZE\n", net="SIZE = 2\n")
    assert value(one, two, name="one") == 1
    assert value(one, two, name="two") == 2
    assert value(two, one, name="one") == 1


def test_a_module_that_python_finds_elsewhere_under_that_name_is_left_alone(tmp_path, monkeypatch):
    for folder, number in (("path", 1), ("a", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbourly.py").write_text(f"VALUE = {number}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    import neighbourly

    assert value(plugin(tmp_path / "a", "import neighbourly", "neighbourly.VALUE")) == 2
    assert neighbourly.VALUE == 1
    assert sys.modules["neighbourly"] is neighbourly


def test_a_folder_that_is_no_package_yields_to_what_is_installed(tmp_path):
    (tmp_path / "a" / "numpy").mkdir(parents=True)
    assert value(plugin(tmp_path / "a", "import numpy", "numpy.array([5]).sum()")) == 5


@pytest.mark.parametrize("edited", ["helpers", "net"])
def test_an_edit_of_a_module_that_it_uses_loads_it_anew(tmp_path, edited):
    texts = {"helpers": "from net import SIZE\nVALUE = SIZE\n", "net": "SIZE = 1\n", "unused": "SIZE = 1\n"}
    file = plugin(tmp_path / "a", **texts)
    first = Registry([file]).load("method", "mine")
    digest = source_digest(first)
    (file.parent / "unused.py").write_text("SIZE = 5\n")
    assert Registry([file]).load("method", "mine") is first, "a file that it does without changes nothing"
    (file.parent / f"{edited}.py").write_text(texts[edited] + ("SIZE" if edited == "net" else "VALUE") + " = 22\n")
    second = Registry([file]).load("method", "mine")
    assert second.abduct(None, None, None, None) == 22
    assert source_digest(second) != digest


def test_keys_do_not_depend_on_where_files_lie_nor_on_who_else_is_loaded(tmp_path):
    made = "def make():\n    class Made(helpers.Base):\n        width = helpers.Width\n    return Made\nMade = make()\n"
    base = "from cfbench_methods.identity import Identity as Base\nVALUE = 1\nclass Width: ...\n"
    files = [plugin(tmp_path / n, f"import helpers\n{made}", helpers=base) for n in "ab"]
    one, two = ([source_digest(Registry([f]).load("method", n)) for n in ("mine", "made")] for f in files)
    assert one == two


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("VALUE = 1\nraise ValueError('no')\n", r"ValueError: no \(helpers.py line 2\)"),
        ("VALUE = (\n", r"SyntaxError: .* \(helpers.py line 1\)"),
        ("import kit.nothing\n", r"No module named 'kit.nothing' \(helpers.py line 1\)"),
        ("from kit import nothing\n", r"cannot import name 'nothing' from 'kit' .*\(helpers.py line 1\)"),
    ],
)
def test_what_is_wrong_with_a_module_beside_is_told_by_its_own_name_and_line(tmp_path, text, says):
    file = plugin(tmp_path / "a", helpers=text, kit__tools="")
    (file.parent / "kit" / "__init__.py").write_text("")
    for _ in range(2):
        with pytest.raises(PluginError, match=says):
            value(file)
    (file.parent / "helpers.py").write_text("VALUE = 4\n")
    assert value(file) == 4


def test_only_what_it_imports_travels(tmp_path):
    file = plugin(
        tmp_path / "a", "import helpers", lazily="import late", helpers="from kit import tools\nVALUE = 8\n",
        kit__tools="", kit__unused="", late="(", unused="", open__deep="", open__unused="", other="import open.deep\n",
    )  # fmt: skip
    (file.parent / "kit" / "__init__.py").write_text("import other\n")
    (file.parent / "weights.bin").write_bytes(b"0")
    bag = transfer.pack_code(tmp_path / "bag", [file])
    (place,) = (bag / transfer.PLUGINS).iterdir()
    found = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    own = {"helpers.py", "kit/__init__.py", "kit/tools.py", "late.py", "other.py", "open/deep.py"}
    assert found == {"mine.py", *own}
    assert {p.relative_to(file.parent).as_posix() for p in files.sibling_modules(file).values()} == own
    probe = (
        "from cfbench.plugins.registry import Registry; "
        f"mine = Registry(['cfbench-plugins/{place.name}/mine.py']).load('method', 'mine'); "
        "print(mine.abduct(None, None, None, None))"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(bag)}
    said = subprocess.run([sys.executable, "-c", probe], cwd=bag, env=env, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "8"
