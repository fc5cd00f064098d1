"""Lists of plugins and all about one, with many distributions installed and some of them broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from cfbench.cli.main import _main
from cfbench.runs.budget import presets

TOYS = str(Path(__file__).with_name("toys.py"))
CODE = "import sys; from cfbench.cli.main import _main; code = _main(sys.argv[1:]);"
PLUGIN = """
from cfbench.contract import Column, Dataset, Method, Metric

class Mine(Method):
    '''Answers with the factual.'''
    def abduct(self, x, pa, rng): return x
    def predict(self, u, pa, rng): return u
"""


def install(folder: Path, name: str, entry_points: str, source: str = "", version: str = "1.0") -> None:
    """A distribution of one module as an installer would leave it."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    if source:
        (folder / f"{name}.py").write_text(source)


def cfbench(folder: Path, *args: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a process that has the folder's distributions installed."""
    env = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-c", CODE + (code or "sys.exit(code)"), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    """Thirty distributions with a method each; one cannot be imported, and two more claim one name."""
    folder = tmp_path_factory.mktemp("site")
    for i in range(30):
        source = "raise RuntimeError('never import me')" if i == 13 else PLUGIN
        install(folder, f"plugin{i:02}", f"[cfbench.methods]\nmethod{i:02} = plugin{i:02}:Mine\n", source, f"1.{i}")
    for name in ("rival_a", "rival_b"):
        install(folder, name, f"[cfbench.methods]\nclaimed = {name}:Mine\n")
    return folder


def test_all_are_listed_and_none_is_imported(thirty):
    bad = (
        "bad = [m for m in sys.modules if m.startswith(('plugin', 'rival', 'torch', 'numpy', 'cfbench_'))];"
        "sys.exit(f'{code} {bad}' if code or bad else 0)"
    )
    done = cfbench(thirty, "list", code=bad)
    assert done.returncode == 0, done.stderr
    for i in range(30):
        assert re.search(rf"^  method{i:02} +plugin{i:02} 1.{i}  plugin{i:02}:Mine$", done.stdout, re.M)
    assert "deepscm" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("  claimed"))
    assert "CLAIMED BY 2" in line
    assert "rival_a 1.0  rival_a:Mine" in line
    assert "rival_b 1.0  rival_b:Mine" in line


def test_those_that_are_broken_are_marked_when_they_are_imported(thirty):
    done = cfbench(thirty, "list", "-v", "methods")
    assert done.returncode == 0, done.stderr
    broken = [line for line in done.stdout.splitlines() if "BROKEN" in line]
    assert [line.split()[0] for line in broken] == ["claimed", "method13"]
    assert "RuntimeError: never import me (plugin13.py line 1)" in broken[1]
    assert "two plugins claim the method 'claimed': rival_a:Mine of rival_a 1.0 and rival_b:Mine" in broken[0]
    assert re.search(r"^  method29 +Answers with the factual\.\n +plugin29 1\.29 \(plugin29:Mine\)$", done.stdout, re.M)


def test_a_distribution_whose_files_are_damaged_hides_no_other(tmp_path):
    install(tmp_path, "damaged", "[cfbench.methods]\nthis is no entry point\n")
    install(tmp_path, "whole", "[cfbench.methods]\nmine = whole:Mine\n", PLUGIN)
    install(tmp_path, "nameless", "[cfbench.methods]\nyours = nameless:Mine\n", PLUGIN)
    (tmp_path / "nameless-1.0.dist-info/METADATA").unlink()
    done = cfbench(tmp_path, "list")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  mine +whole 1.0  whole:Mine$", done.stdout, re.M)
    assert re.search(r"^  yours +.*nameless:Mine$", done.stdout, re.M)
    assert re.search(r"^  deepscm ", done.stdout, re.M)
    assert re.search(r"^broken\n  damaged-1.0.dist-info: its entry_points.txt cannot be read", done.stdout, re.M)


def test_a_file_that_cannot_be_loaded_is_listed_as_such(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("class Mine(:\n")
    assert _main(["list", "--plugin", str(file), "--plugin", TOYS]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  knows +toys.py  Knows$", out, re.M)
    assert f"broken\n  {file}: SyntaxError: invalid syntax (mine.py line 1)" in out


def shown(capsys, *args):
    assert _main(["show", "--plugin", TOYS, *args]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out, "no colours where there is no terminal"
    return out


def test_show_tells_settings_presets_and_origin(capsys):
    out = shown(capsys, "draws:left")
    assert out.startswith(f"draws:left  method, {TOYS} (Draws)\n\nCan draw a fresh image: bars at a place")
    assert "fits; draws fresh samples; residual none" in out
    assert re.search(r"^ \* shade +0\.1 +float$", out, re.M)
    assert re.search(r"^   places +1 +int  set by draws:left$", out, re.M)
    assert re.search(r"^   draws:dark  shade=0\.0$", out, re.M)


def test_show_tells_of_data_sets_what_they_know(capsys):
    out = shown(capsys, "bars")
    assert "images 1×8×8, variables kind, kind → level" in out
    assert "true counterfactuals; knows how parents respond" in out
    assert "cfbench prepare may download it" in shown(capsys, "mnist")


def test_show_tells_of_metrics_where_better_lies(capsys):
    out = shown(capsys, "tea")
    assert "tea_effectiveness (nearer to 1 is better): share of the true change that is made" in out
    assert "of each intervention; needs truth" in out


def test_every_built_in_is_shown_whole(capsys):
    from cfbench.plugins.describe import KINDS
    from cfbench.plugins.registry import Registry

    registry = Registry()
    for kind in KINDS:
        for name in registry.names(kind):
            out = shown(capsys, name, "--kind", kind)
            assert "(no docstring)" not in out, name
            assert "<class" not in out, name
            assert "<function" not in out, name


@pytest.mark.parametrize("method", ["deepscm", "deepscm:paper", "diffscm-cfg", "flowmatching:carried", "hvae"])
def test_the_residual_is_the_one_that_a_run_records(capsys, method):
    """The constructor's, for these settings, and not the default of the class."""
    from cfbench.conformance.subjects.toy import BARS
    from cfbench.plugins.registry import Registry

    registry = Registry()
    cls, params = registry.resolve("method", registry.parse("method", method)[0])
    found = cls(BARS.graph, **params).residual
    assert found != cls.residual, "a case that shows the difference"
    assert re.search(rf"; residual {found}\b", shown(capsys, method))


def test_presets_with_another_residual_are_named_with_it(capsys):
    assert _main(["list", "-v", "methods"]) == 0
    assert "residual faded (full in :paper)" in capsys.readouterr().out


def test_presets_are_listed_and_shown_with_their_numbers(capsys):
    assert _main(["list", "presets"]) == 0
    out = capsys.readouterr().out
    for name, about in presets().items():
        assert re.search(rf"^  {name} +{about['text']}\n +{about['images']:,} training images", out, re.M)
        assert f"{about['factuals']:,} factuals ({about['rounds']:,} in" in out
        page = shown(capsys, name)
        assert page.startswith(f"{name}  preset, for --preset\n")
        for number in ("images", "factuals", "rounds"):
            assert re.search(rf"^  {number} +{about[number]:,}  ", page, re.M)


@pytest.fixture
def faces(tmp_path):
    """A folder of images with twice as many of one class, and its table."""
    folder = tmp_path / "faces"
    folder.mkdir()
    table = pd.DataFrame({"image": [f"{i}.png" for i in range(400)], "kind": [i % 3 % 2 for i in range(400)]})
    table["width"] = [1 + i % 7 / 2 for i in range(400)]
    table["split"] = ["train"] * 300 + ["valid"] * 60 + ["test"] * 40
    for i, name in enumerate(table.image):
        image = Image.new("L", (9, 12), i % 256)
        image.putpixel((i // 256, 0), 99)
        image.save(folder / name)
    table.to_csv(folder / "parents.csv", index=False)
    (folder / "graph.toml").write_text(
        '[variables.kind]\nkind = "categorical"\n[variables.width]\nkind = "continuous"\nunit = "mm"\n'
    )
    return table


@pytest.mark.parametrize("command", ["prepare", "show"])
def test_what_a_data_set_holds_is_what_its_table_says(faces, tmp_path, capsys, command):
    assert _main([command, "folder[path=faces]", "--data-root", str(tmp_path)]) == 0
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    train = faces[faces.split == "train"]
    share = 100 * train.kind.value_counts(normalize=True)
    assert "images 1×12×9: train 300, valid 60, test 40" in out
    assert f"kind 2 classes, of the training images: 0: {share[0]:.3g} %, 1: {share[1]:.3g} % fewest" in out
    fewest = {name: part.kind.value_counts().min() for name, part in faces.groupby("split")}
    assert f"{fewest['train']} of 1 in train, {fewest['valid']} of 1 in valid, {fewest['test']} of 1 in test" in out
    assert f"width 1 to 4 mm in training images, mean {train.width.mean():.4g}, standard deviation" in out
    assert f"deviation {train.width.std(ddof=0):.3g}; declared 1 to 4 mm" in out


def test_a_data_set_whose_data_cannot_be_read_is_shown_without_unless_it_is_named(tmp_path, capsys):
    assert _main(["show", "folder", "--data-root", str(tmp_path)]) == 0
    assert _main(["show", "folder[path=faces]", "--data-root", str(tmp_path)]) == 1
    assert "no folder" in capsys.readouterr().err


def test_values_outside_of_the_declared_range_and_rare_ones_of_many_classes_are_counted(tmp_path):
    from cfbench.contract import Dataset, Split
    from cfbench.graph import CausalGraph, Variable
    from cfbench.runs.data_summary import summarise_data

    class Many(Dataset):
        graph = CausalGraph((Variable("who", "categorical", size=50), Variable("level", "continuous")), (1, 2, 2))

        def split(self, root, name):
            who = torch.arange(50).repeat_interleave(torch.arange(50) + 1).float()
            level = torch.linspace(0, 1, len(who))
            level[:3] = 2
            return Split(torch.zeros(len(who), 1, 2, 2).byte(), torch.stack([who, level], 1), torch.arange(len(who)))

    out = re.sub(r"\s+", " ", " ".join(summarise_data(Many(), tmp_path)))
    assert "who 50 classes, rarest and most frequent, of the training images: 0: 0.0784 %, 1: 0.157 %," in out
    assert "9: 0.784 %, 40: 3.22 %," in out
    assert "fewest images: 1 of 0 in train" in out
    assert "declared 0 to 1, 3 outside" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["know"], "no plugin 'know'; did you mean 'knows'?"),
        (["draws:lift"], "draws has no preset 'lift'; did you mean 'left'?"),
        (["draws", "--kind", "metric"], "unknown metric 'draws'"),
        (["quik"], "no plugin 'quik'; did you mean 'quick'?"),
    ],
)
def test_a_name_that_is_nearly_right_is_told(capsys, args, says):
    assert _main(["show", "--plugin", TOYS, *args]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name", "file"),
    [
        (["run", "--methods"], "mine", "mine.py"),
        (["run", "--datasets"], "my-own", "my_own.py"),
        (["show"], "mine", "mine.py"),
        (["check"], "mine", "mine.py"),
        (["prepare"], "mine", "mine.py"),
    ],
)
def test_a_file_of_the_name_in_this_folder_is_pointed_at(tmp_path, monkeypatch, capsys, command, name, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(PLUGIN.replace("class Mine", "class Other"))
    assert _main([*command, name]) == 1
    assert f"{name!r}; {file} is in this folder: add --plugin {file}\n" in capsys.readouterr().err
    assert _main([*command, name, "--plugin", file]) == 1
    assert "is in this folder" not in capsys.readouterr().err, "it was given, and holds something else"


def test_a_name_of_two_kinds_asks_which(tmp_path, capsys):
    file = tmp_path / "twice.py"
    file.write_text(
        f"{PLUGIN}\nclass Other(Metric):\n    '''A score.'''\n    name = 'mine'\n"
        "    columns = {'a': Column('b', 'lower')}\n    def __call__(self, evidence): ...\n"
    )
    assert _main(["show", "mine", "--plugin", str(file)]) == 1
    assert "'mine' is a method and a metric; say which with --kind" in capsys.readouterr().err
    assert _main(["show", "mine", "--plugin", str(file), "--kind", "metric"]) == 0
    assert "a (lower is better): b" in capsys.readouterr().out
