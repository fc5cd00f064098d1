"""Commands that only look change nothing, and what else lies in a run's folders stops none of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small import TOYS, small_run

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.runs import reader
from cfbench.runs.chain import cell_tasks, last_failure
from cfbench.runs.manifest import read_manifest

CELL = "cells/bars/raises/seed-0"


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder, with its time and content."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in found}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of a method that works and one that fails."""
    root = tmp_path_factory.mktemp("made")
    assert small_run(root, "one", "--methods", "learns,raises") == 2
    return root


@pytest.fixture
def root(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "runs"))


def asked(root: Path, command: str) -> list[str]:
    """The arguments of a command about the run."""
    where = ["--run-root", str(root)]
    base = ["--plugin", TOYS, "--data-root", str(root)]
    return {
        "status": ["status", "one", *where],
        "check": ["leaderboard", "one", "--check", *where],
        "verify": ["verify", "one", "--cells", "1", *base, *where],
        "list": ["list", "--plugin", TOYS],
        "missing": ["status", "two", *where],
    }[command]


def damage(run: Path, pattern: str) -> None:
    (file,) = run.glob(pattern)
    file.write_bytes(file.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize("command", ["status", "check", "verify", "list", "missing"])
def test_commands_that_look_write_nothing(root, command, capsys):
    damage(root / "one", "judges/*/card.json")
    damage(root / "one", "cells/bars/learns/seed-0/score-truth-*/scores.safetensors")
    before = everything(root)
    _main(asked(root, command))
    assert everything(root) == before


def test_a_dry_run_tells_of_damaged_stages_and_leaves_them(root, capsys):
    damage(root / "one", "judges/*/card.json")
    damage(root / "one", "cells/bars/learns/seed-0/images-*/answers.safetensors")
    before = everything(root)
    capsys.readouterr()
    assert small_run(root, "one", "--methods", "learns,raises", "--dry-run") == 0
    assert everything(root) == before
    out, err = capsys.readouterr()
    assert "5 of 10 tasks to do" in out
    assert err.count("card.json does not match its manifest\n") == 1
    assert err.count("answers.safetensors does not match its manifest\n") == 1
    assert small_run(root, "one", "--methods", "learns,raises") == 2
    assert capsys.readouterr().err.count("does not match its manifest; removed") == 2
    assert everything(root).keys() == before.keys()
    assert all(storage.is_intact(p.parent) for p in (root / "one").rglob(storage.MANIFEST))


def test_a_dry_run_of_a_new_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    assert small_run(tmp_path, "new", "--methods", "learns,tunes", "--seeds", "0,1", "--dry-run") == 0
    assert everything(tmp_path) == {}
    out, err = capsys.readouterr()
    assert out.startswith(f"run {tmp_path / 'new'}\n  preset tiny: 2,048 training images a method")
    todo = [line for line in out.splitlines() if line.startswith("  to do")]
    rows = [
        "bars: prepare, judges",
        *(f"bars {m} seed {s}: train, tune, images, scores" for m in ("learns", "tunes") for s in (0, 1)),
    ]
    assert todo == [f"  to do  {row} (never done)" for row in rows]
    assert out.endswith("  18 of 18 tasks to do, time unknown yet\n")
    assert err == ""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--methods", "learn"], "unknown method 'learn'; did you mean 'learns'?"),
        (["--methods", "learns", "--datasets", "bar"], "unknown dataset 'bar'; did you mean 'bars'?"),
        (["--methods", "learns", "--metrics", "truh"], "unknown metric 'truh'; did you mean 'truth'?"),
        (["--methods", "knows[dmi=1]"], "knows has no setting 'dmi'; did you mean 'dim'?"),
    ],
)
def test_a_dry_run_of_what_does_not_exist_is_a_mistake_as_in_a_run(tmp_path, capsys, args, says):
    assert small_run(tmp_path, "new", *args, "--dry-run") == 1
    assert says in capsys.readouterr().err
    assert everything(tmp_path) == {}


def test_whether_a_stage_is_intact_is_found_out_without_a_change(root):
    (folder,) = (root / "one").glob("judges/*")
    assert storage.is_intact(folder)
    damage(root / "one", "judges/*/card.json")
    before = everything(root)
    assert not storage.is_intact(folder)
    assert everything(root) == before


def test_a_stage_is_written_in_place_of_a_damaged_one(tmp_path):
    for text in ("one", "two"):
        with storage.write_stage(tmp_path / "s") as draft:
            (draft / "text").write_text(text)
        assert (tmp_path / "s" / "text").read_text() == text
        (tmp_path / "s" / "text").write_text("!")
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


STRAYS = [
    *(f"one/{CELL}/failed-train-{name}/note" for name in ("x", "", "-3", "1.5", "²", "9999", "2-old")),
    *(f"one/{CELL}/{name}/note" for name in ("failed-", "failed-train", "train-", "score-", "notes")),
    *(f"one/{place}/x/note" for place in ("cells", "cells/bars", "plans", "judges", "env", "failed", "failed/bars")),
    *(f"one/{place}/x-1" for place in ("cells", "cells/bars", "plans", "judges", "env", "failed", "failed/bars")),
    *(f"one/{CELL}/{name}" for name in ("failed-train-5", "failed-train-y", "seed-1")),
    *("one/cells/bars/raises/seed-x/note", "one/note", "note", "x/note", "y/run.json/note"),
]
"""Foreign files, each in the folders that its path names."""


def stray(root: Path) -> None:
    for name in STRAYS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")


@pytest.mark.parametrize("command", ["status", "check", "verify", "list", "missing"])
def test_foreign_files_change_no_output(root, command, capsys):
    code, output = _main(asked(root, command)), capsys.readouterr()
    stray(root)
    assert _main(asked(root, command)) == code
    assert capsys.readouterr() == output


def test_runs_and_merges_go_on_among_strays(root, capsys):
    stray(root)
    assert small_run(root, "one", "--methods", "learns,raises", "--dry-run") == 0
    assert "3 of 10 tasks to do" in capsys.readouterr().out
    assert small_run(root, "one", "--methods", "learns,raises", "--only", "failed") == 2
    assert (root / "one" / CELL / "failed-train-10000" / "log.txt").is_file(), "the number after all that are taken"
    assert _main(["merge", "one", "--name", "both", "--run-root", str(root)]) in (0, 2)
    assert {p.name for p in (root / "both" / CELL).glob("failed-*")} == {"failed-train-1"}
    for name in STRAYS:
        assert (root / name).read_text() == "mine"


def test_the_last_failure_is_that_of_the_highest_number(tmp_path, root):
    (cell,) = [c for c in read_manifest(root / "one").cells if c.method.label == "raises"]
    task = cell_tasks(cell)[0]
    first = root / "one" / CELL / "failed-train-1"
    for number in (10, 9):
        shutil.copytree(first, first.with_name(f"failed-train-{number}"))
    assert last_failure(root / "one", task).folder.name == "failed-train-10"


def test_the_tables_of_a_run_read_its_manifest_and_each_cell_once(root, monkeypatch):
    read: list[str] = []

    def counted(name):
        original = getattr(reader, name)
        monkeypatch.setattr(reader, name, lambda *args: read.append(name) or original(*args))

    counted("read_manifest")
    counted("_state")
    assert _main(["leaderboard", "one", "--run-root", str(root)]) == 0
    cells = len(read_manifest(root / "one").cells)
    assert read == ["read_manifest", *["_state"] * cells]
