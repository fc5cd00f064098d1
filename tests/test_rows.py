"""Rows with a name of their own, sweeps, and runs whose options stand in a file."""

from __future__ import annotations

import json
import re
import tomllib

import pandas as pd
import pytest
from small import small_run, toy_run

import cfbench
from cfbench.cli.main import _main
from cfbench.errors import UserError
from cfbench.plugins.spec import parse_settings, parse_specs
from cfbench.report.board import Board
from cfbench.report.render import html, latex, markdown
from cfbench.runs.manifest import read_manifest
from cfbench.runs.reader import read_results, read_run

ROWS = "half dim=knows[dim=0.5],draws[shade=0.1|0.2]"


def parsed(text):
    return [(s.alias, s.label) for s in parse_specs(text, rows=True)]


def test_a_sweep_is_a_row_for_each_combination_the_last_setting_fastest():
    assert parsed("m[a=1|2,b=x|y,c=3]") == [("", f"m[a={a},b={b},c=3]") for a in (1, 2) for b in "xy"]
    assert parsed("m[a=1|1|2]") == [("", "m[a=1]"), ("", "m[a=2]")]


def test_rows_of_a_named_sweep_are_named_by_what_differs():
    assert parsed("fast=m:p[a=1|2,b=3]") == [("fast[a=1]", "m:p[a=1,b=3]"), ("fast[a=2]", "m:p[a=2,b=3]")]
    assert parsed("fast one = m[a=1],m") == [("fast one", "m[a=1]"), ("", "m")]


def test_a_setting_for_all_rows_may_be_a_sweep():
    specs = parse_settings(["m.k=1|2"], parse_specs("a=m,n", rows=True))
    assert [(s.alias, s.label) for s in specs] == [("a[k=1]", "m[k=1]"), ("a[k=2]", "m[k=2]"), ("", "n")]


@pytest.mark.parametrize(
    "text", ["m[a=1|]", "m[a=|2]", "=m", "a=", "nan=m", "3=m", f"{'a' * 41}=m", "a=m,b=m", "a=b=m", "m[a=" + "1|2," * 9]
)  # fmt: skip
def test_names_and_sweeps_that_mean_nothing_are_refused_in_one_line(text):
    with pytest.raises(UserError) as error:
        parse_specs(text, rows=True)
    assert "\n" not in str(error.value)


def test_a_sweep_of_too_many_rows_is_refused():
    values = "|".join(map(str, range(101)))
    with pytest.raises(UserError, match=r"stands for 10,201 rows, more than 1,000"):
        parse_specs(f"m[a={values},b={values}]", rows=True)


def test_only_rows_of_the_table_have_names_and_sweeps(tmp_path):
    for option in ("--datasets", "--metrics"):
        assert small_run(tmp_path, "r", option, "mine=bars") == 1


@pytest.mark.parametrize("rows", ["learns=knows", "a=knows,a=learns", "identity=knows"])
def test_two_rows_never_share_a_name(rows, tmp_path, capsys):
    assert small_run(tmp_path, "r", "--methods", rows) == 1
    assert "another name" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A run with controls of a row that has a name and of a sweep."""
    root = tmp_path_factory.mktemp("named")
    args = toy_run(root, "--jobs", "1", "--methods", ROWS, "--name", "r", "--data-root", str(root))
    assert _main([*args, "--metrics", "truth,composition", "--save-config", str(root / "study.toml")]) == 0
    return root


def test_a_row_is_called_by_its_name_everywhere_and_its_spec_is_in_a_note(named):
    run = read_run(named / "r")
    board = Board(read_results(run, "bars"))
    for table in (board.tidy, board.wide):
        assert {"half dim", "draws[shade=0.1]", "draws[shade=0.2]"} < set(table["method"])
        assert "knows[dim=0.5]" not in set(table["method"])
    assert "half dim" in {*board.pairs["first"], *board.pairs["second"]}
    assert dict(zip(board.wide.method, board.wide.spec, strict=True))["half dim"] == "knows[dim=0.5]"
    for text in (markdown(board), latex(board), html(board)):
        plain = re.sub(r"\\(allowbreak|hspace\{0pt\}|-)|[{}\\]", "", text)
        assert "half dim is knows[dim=0.5]" in plain
    assert "half dim" in (named / "r/leaderboard/summary.md").read_text()


def test_a_sweep_shares_one_fit(named):
    draws = [c for c in read_manifest(named / "r").cells if c.method.name == "draws"]
    assert len(draws) == 2
    assert len({c.stage("train") for c in draws}) == 1
    assert len({c.stage("images") for c in draws}) == 2


def test_python_knows_a_row_by_its_name_and_by_its_spec(named):
    result = cfbench.load(named / "r")
    assert "half dim" in result.methods
    assert set(result.scores.method) >= set(result.methods)
    for row in ("half dim", "knows[dim=0.5]"):
        method = cfbench.load_method(named / "r", row, plugins=toy_run(named)[2])
        assert method.dim == 0.5


def test_status_has_the_names_and_the_options(named, capsys):
    assert _main(["status", "r", "--run-root", str(named)]) == 0
    out = capsys.readouterr().out
    assert "bars half dim seed 0" in out
    options = tomllib.loads(out.partition("options:\n")[2])
    assert options == tomllib.loads((named / "study.toml").read_text())
    assert options["methods"] == ROWS


def test_a_name_may_be_changed_and_taken_away_without_computing_anything(named, capsys):
    before = {p: p.stat().st_mtime_ns for p in (named / "r/cells").rglob("*") if p.is_file()}
    config = ["run", "--config", str(named / "study.toml"), "--methods"]
    for rows, expected in (("other=knows[dim=0.5]", "other"), ("knows[dim=0.5]", "knows[dim=0.5]")):
        assert _main([*config, rows, "--no-plots"]) == 0
        assert expected in set(pd.read_csv(named / "r/leaderboard/bars.csv").method)
        assert "half dim" not in set(pd.read_csv(named / "r/leaderboard/bars.csv").method)
    assert before == {p: p.stat().st_mtime_ns for p in (named / "r/cells").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert _main([*config, "draws[shade=0.1]=learns"]) == 1
    assert _main([*config, "same=knows[dim=0.5]", "--no-plots"]) == 0
    capsys.readouterr()
    assert _main([*config, "same=learns"]) == 1
    assert "two rows are named 'same': knows[dim=0.5] and learns" in capsys.readouterr().err


def test_a_run_json_with_two_rows_of_one_name_is_refused(named, tmp_path, capsys):
    about = json.loads((named / "r/run.json").read_text())
    for cell in about["cells"][:2]:
        cell["method"]["alias"] = "one"
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="two rows are named 'one'"):
        read_manifest(tmp_path)


def test_a_file_holds_what_the_command_line_takes(tmp_path, capsys):
    file = tmp_path / "study.toml"
    file.write_text('methods = ["knows", "learns"]\nseeds = [0, 1]\ncontrols = false\nplots = false\njobs = 1\n')
    args = toy_run(tmp_path, "--config", str(file), "--metrics", "truth", "--data-root", str(tmp_path))
    assert _main([*args, "--seeds", "1"]) == 0
    assert [(c.method.label, c.seed) for c in read_manifest(tmp_path / "tiny").cells] == [("knows", 1), ("learns", 1)]
    (command,) = read_manifest(tmp_path / "tiny").commands
    assert "--config" not in command, "the file may change or vanish"
    assert [*command[command.index("--methods") :]][:2] == ["--methods", "knows,learns"]
    assert "--no-controls" in command
    capsys.readouterr()
    assert _main(list(command)) == 0
    assert "0 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method = 'knows'", "did you mean 'methods'"),
        ("dry-run = true", "no option"),
        ("config = 'x'", "no option"),
        ("controls = 'no'", "true or false"),
        ("seeds = []", "a text, a number or a list"),
        ("methods = {a = 1}", "a text, a number or a list"),
        ("jobs = 'many'", "jobs"),
        ("seeds = ", "no TOML"),
    ],
)
def test_a_file_that_says_anything_else_is_refused_in_one_line(text, says, tmp_path, capsys):
    (tmp_path / "bad.toml").write_text(text)
    assert _main(toy_run(tmp_path, "--config", str(tmp_path / "bad.toml"))) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "tiny").exists()


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert _main(toy_run(tmp_path, "--config", str(tmp_path / "none.toml"))) == 1
    assert "none.toml cannot be read" in capsys.readouterr().err
