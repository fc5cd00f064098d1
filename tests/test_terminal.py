"""What leaves for a terminal, and runs whose end meets a terminal, a disk or drawing settings that fail."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import doctor, small_run

from cfbench.cli.main import _main
from cfbench.report import publish
from cfbench.runs import terminal
from cfbench.runs.terminal import FilteredStream, open_console

TITLE = "\x1b]0;owned\x07"
"""Sets the title of a terminal's window."""
TABLES = {
    "bars.csv",
    "bars-wide.csv",
    "bars-pairs.csv",
    "bars.md",
    "bars.tex",
    "bars-appendix.tex",
    "summary.csv",
    "summary.md",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = tmp_path_factory.mktemp("made")
    assert small_run(made, "r", "--methods", "learns", metrics="truth") == 0
    return made


def cfbench(folder: Path, *args: str, **options):
    """The command line in a process of its own, started in a folder."""
    command = [sys.executable, "-m", "cfbench", *args]
    return subprocess.run(command, cwd=folder, timeout=300, **{"text": True, **options})


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe\tx\n", "größe\tx\n"),
        (TITLE, "\ufffd]0;owned\ufffd"),
        ("a\rb\x9b2Jc\x00", "a\ufffdb\ufffd2Jc\ufffd"),
        ("a\u202eb\u2028c\ud800", "a\ufffdb\ufffdc\ufffd"),
        ("a\u00a0b", "a b"),
        ("\x1b[2J\x1b[1A\x1b[8mx", "\ufffd[2J\ufffd[1A\ufffd[8mx"),
    ],
)
@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_what_controls_a_terminal_is_replaced(text, shown, kind):
    out = kind()
    assert FilteredStream(out).write(text) == len(text)
    assert out.getvalue() == shown


def test_styles_reach_a_terminal_only():
    for kind, shown in ((Terminal, "\x1b[1m\x1b[31mhead\x1b[0m"), (io.StringIO, "head")):
        out = kind()
        print("\x1b[1m\x1b[31mhead\x1b[0m", end="", file=FilteredStream(out))
        assert out.getvalue() == shown


def test_a_console_filters_all_but_its_own_sequences(monkeypatch):
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", FilteredStream(out))
    monkeypatch.setenv("TERM", "xterm")
    table = Table(f"head {TITLE}")
    table.add_row(Text(f"row {TITLE}", style="bold"))
    with Live(table, console=open_console(width=80), auto_refresh=False) as live:
        live.update(table, refresh=True)
    shown = out.getvalue()
    assert "row" in shown
    assert "\x1b[2K" in shown, "what was drawn before is drawn over"
    assert "\x1b]" not in shown
    assert "\x07" not in shown


def test_names_in_files_and_reasons_of_failures_do_not_control_the_terminal(root, tmp_path, capsys):
    for number, arrays in enumerate([{"plan": np.array(TITLE)}, {f"x{TITLE}": np.zeros(1)}]):
        np.savez(tmp_path / f"{number}.npz", **arrays)
        assert _main(["score", str(tmp_path / f"{number}.npz"), "--name", "mine", "--run", str(root / "r"),
                      "--plugin", str(Path(__file__).with_name("toys.py")), "--data-root", str(root)]) == 1  # fmt: skip
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from cfbench.contract import Method\n\n\nclass Mine(Method):\n"
        f"    def fit(self, run):\n        raise ValueError({TITLE!r})\n\n"
        "    def abduct(self, x, pa, rng):\n        return x\n\n"
        "    def predict(self, u, pa, rng):\n        return u\n"
    )
    shutil.copytree(root / "r", tmp_path / "r")
    assert small_run(tmp_path, "r", "--methods", "mine", "--plugin", str(plugin), metrics="truth") == 2
    out, err = capsys.readouterr()
    assert "ValueError: \ufffd]0;owned\ufffd" in err
    assert err.count("owned") >= 3
    assert {c for c in out + err if not c.isprintable()} <= {"\n"}


def test_every_command_prints_through_the_filter(monkeypatch):
    seen = []
    monkeypatch.setattr("cfbench.cli.main.cli.main", lambda *args, **how: seen.extend([sys.stdout, sys.stderr]))
    _main(["list"])
    assert [type(stream) for stream in seen] == [FilteredStream, FilteredStream]
    assert not isinstance(sys.stdout, FilteredStream)


def test_a_run_ends_well_whatever_the_environment_says_of_drawing_and_encoding(root, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "latex").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    (tools / "latex").chmod(0o755)
    preamble = "text.usetex: True\ntext.latex.preamble: \\input{untrusted}\nbackend: module://untrusted\n"
    (tmp_path / "matplotlibrc").write_text(preamble)
    (tmp_path / "untrusted.py").write_text(f"open({str(tmp_path / 'started')!r}, 'w')\n")
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONIOENCODING": "cp1252",
           "PATH": f"{tools}:{os.environ['PATH']}"}  # fmt: skip
    done = cfbench(tmp_path, "leaderboard", str(root / "r"), "--out", "out", "--details", env=env, capture_output=True,
                   encoding="cp1252")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "abs error ?" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*TABLES, "bars-truth.png", "bars-counterfactuals.png"}
    assert not (tmp_path / "started").exists()


def test_files_are_there_when_output_cannot_be_written(root, tmp_path):
    with open("/dev/full", "w") as full:
        done = cfbench(tmp_path, "leaderboard", str(root / "r"), "--out", "out", "--no-plots", stdout=full,
                       stderr=subprocess.PIPE)  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == TABLES


def test_what_cannot_be_drawn_is_left_out_with_a_note(root, tmp_path, monkeypatch, capsys):
    def broken(*args, **how):
        raise RuntimeError("no glyph")

    monkeypatch.setattr("cfbench.report.charts.scores._panel", broken)
    monkeypatch.setattr("cfbench.report.sheet.contact_sheet", broken)
    monkeypatch.setattr(publish, "_show", broken)
    assert _main(["leaderboard", str(root / "r"), "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    for what in ("the chart truth", "the contact sheet", "the printed tables of bars"):
        assert f"cfbench: {what} left out, as it could not be drawn: RuntimeError: no glyph" in err
    assert "damaged" not in err
    assert {p.name for p in tmp_path.iterdir()} == TABLES
    assert "bars.csv" in out


COMMANDS = {
    "leaderboard": ["leaderboard", "r", "--no-plots", "--out", "file"],
    "bundle": ["bundle", "r", "--out", "file/out"],
    "export": ["plan", "export", "file/out.npz", "--plugin", "TOYS", "--datasets", "bars", "--preset", "tiny"],
    "new": ["new", "method", "mine", "--out", "file"],
    "merge": ["merge", "r", "--name", "file"],
    "run": ["run", "--plugin", "TOYS", "--datasets", "bars", "--preset", "tiny", "--name", "file"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_file_in_the_place_of_a_folder_is_one_line(root, monkeypatch, capsys, command):
    monkeypatch.chdir(root)
    (root / "file").write_text("")
    words = [str(Path(__file__).with_name("toys.py")) if word == "TOYS" else word for word in command]
    roots = [] if command[0] == "new" else ["--run-root", "."]
    code = _main([*words, *roots])
    *before, last = capsys.readouterr().err.splitlines()
    assert (root / "file").read_text() == ""
    assert code == 1
    assert last.startswith("cfbench: error: ")
    assert "file" in last
    assert before == [] or command[0] == "plan"  # which says how long the plan took


@pytest.mark.parametrize("command", ["status", "leaderboard", "verify", "merge", "bundle"])
def test_a_file_that_may_not_be_read_is_one_line(root, tmp_path, monkeypatch, capsys, command):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    more = {"merge": ["--name", "m"], "bundle": ["--out", str(tmp_path / "b")]}.get(command, [])
    assert _main([command, "r", "--run-root", str(root), *more]) == 1
    err = capsys.readouterr().err
    remedy = "change its permissions, or give another path"
    assert err == f"cfbench: error: {root}/r/run.json: Permission denied; {remedy}\n"


def test_debug_shows_where_an_error_of_the_system_came_from(root, monkeypatch):
    monkeypatch.setattr(terminal, "flush_output", lambda: None)
    (root / "file").write_text("")
    with pytest.raises(FileExistsError):
        _main(["--debug", "leaderboard", "r", "--no-plots", "--run-root", str(root), "--out", str(root / "file")])


def many_cells(root: Path, run: Path, count: int) -> None:
    """Copy a run with as many cells, none of which has a folder."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(root / "r", run, ignore=shutil.ignore_patterns("cells", "leaderboard"))

    def change(about):
        (cell,) = about["cells"]
        specs = [{**cell["method"], "params": {"knob": k}} for k in range(count)]
        about["cells"] = [{**cell, "method": spec, "fit": spec} for spec in specs]

    doctor(run, change)


def calls_of(command: list[str]) -> int:
    """The number of function calls that a command takes."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        assert _main(command) == 0
    finally:
        profile.disable()
    return sum(calls for _, calls, *_ in pstats.Stats(profile).stats.values())


@pytest.mark.parametrize(("command", "most"), [("status", 2000), ("leaderboard", 2500)])
def test_a_run_of_many_cells_takes_little_for_each(root, tmp_path, capsys, command, most):
    words = [command, "r", "--run-root", str(tmp_path), *(["--no-plots"] if command == "leaderboard" else [])]
    many_cells(root, tmp_path / "r", 10)
    calls_of(words)  # imports
    taken = []
    for count in (250, 500):
        many_cells(root, tmp_path / "r", count)
        taken.append(calls_of(words))
    assert (taken[1] - taken[0]) / 250 < most
    assert taken[1] < 2.5 * taken[0]
    if command == "leaderboard":
        assert "bars has 500 rows; up to 200 are printed here" in capsys.readouterr().out
        assert len((tmp_path / "r" / "leaderboard" / "bars.csv").read_text().splitlines()) > 500
