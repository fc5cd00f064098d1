"""A command prints the rows that it asked for; the files and the numbers are those of all rows of the run."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from small import small_run
from test_leaderboard import CONTROLS, build, terminal

from cfbench.cli.main import _main
from cfbench.report.board import Board
from cfbench.report.columns import Key
from cfbench.report.statistics.ranking import holm

SOME = ("diffscm", "deepscm", *CONTROLS)


@pytest.fixture(scope="module")
def whole():
    """One row has missing answers, and one scores that are neither 0 nor 1 where those of the others are."""
    results, changed = build(), []
    for s in results.scores:
        values = s.values.copy()
        if s.kind == "image" and s.method == "diffscm" and s.metric == "change":
            values[::5] = np.nan
        if (s.method, s.metric, s.column) == ("=cmd()", "effectiveness", "accuracy"):
            values = values * 0.5
        value = float(np.nanmean(values)) if s.kind == "image" else s.value
        changed.append(replace(s, values=values, value=value))
    return Board(replace(results, scores=tuple(changed)))


def test_scores_intervals_and_p_values_do_not_depend_on_the_rows_shown(whole):
    shown = whole.showing(SOME)
    assert set(shown.methods) == set(SOME) < set(whole.methods)
    assert set(shown.columns) == set(whole.columns)
    for (method, key), estimate in shown.estimates.items():
        assert tuple(vars(estimate).values()) == pytest.approx(
            tuple(vars(whole.estimates[method, key]).values()), rel=0, abs=0, nan_ok=True
        )
        assert shown.coverage[method, key] == whole.coverage[method, key]
    keys = ["metric", "variable", "do", "first", "second"]
    some, every = shown.pairs.set_index(keys), whole.pairs.set_index(keys)
    assert len(some) < len(every)
    for column in ("difference", "low", "high", "p", "detectable"):
        pd.testing.assert_series_equal(some[column], every.loc[some.index, column], check_exact=True)
    lone = Board(shown.results)
    accuracy = Key("effectiveness", "accuracy", "digit", "digit")
    assert lone.estimates["diffscm", accuracy] != shown.estimates["diffscm", accuracy], "there is such a dependence"


def test_the_correction_and_the_ranks_are_those_among_the_rows_shown(whole):
    shown = whole.showing(SOME)
    for key in shown.columns:
        family = shown.family(key)
        assert len(family.first) <= 1 + 2 * len(CONTROLS)
        assert family.corrected == pytest.approx(holm(family.p))
        assert all(high <= 2 for _, high in shown.ranks[key].values())
    wide = max(high for ranks in whole.ranks.values() for _, high in ranks.values())
    assert wide == len(whole.methods) - len(CONTROLS)
    assert whole.showing(whole.methods) is whole
    assert whole.showing([*SOME, "=cmd()"]).showing(SOME).ranks == shown.ranks


def test_nothing_is_said_of_other_rows(whole):
    text = terminal(whole.showing(SOME), 160)
    assert "diffscm " in text
    assert "=cmd()" not in text
    assert "contrast" not in text
    assert "=cmd()" in terminal(whole, 160)


def test_a_later_command_prints_its_rows_and_its_files_hold_all(tmp_path, capsys):
    assert small_run(tmp_path, "one", "--methods", "learns,knows", metrics="truth") == 0
    assert "other row" not in capsys.readouterr().out
    assert small_run(tmp_path, "one", "--methods", "draws", metrics="truth") == 0
    out = capsys.readouterr().out
    table = out[out.rindex("tasks to do") :]
    assert re.search(r"^ *draws\b", table, re.M)
    assert "learns" not in table
    assert "\n2 other rows of this run are in the files; --all shows them\n" in table
    files = tmp_path / "one" / "leaderboard"
    for name in ("bars.csv", "bars.md", "bars-wide.csv", "summary.csv"):
        assert {m for m in ("learns", "knows", "draws") if m in (files / name).read_text()} == {
            "learns",
            "knows",
            "draws",
        }
    for command in (
        ["leaderboard", "one", "--no-plots", "--run-root", str(tmp_path)],
        None,
    ):
        code = _main(command) if command else small_run(tmp_path, "one", "--methods", "draws", "--all", metrics="truth")
        out = capsys.readouterr().out
        assert code == 0
        assert all(m in out[max(out.rfind("tasks to do"), 0) :] for m in ("learns", "knows", "draws"))
        assert "other row" not in out
