"""Plugins with one error each are reported with the check that fails and the reason."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from cfbench.cli.main import _main
from cfbench.conformance.command import check_command
from cfbench.runs.terminal import filtered_output

BROKEN = Path(__file__).with_name("broken")
NOWHERE = Path("no-such-folder")
TOLD = {
    "missing_method": ("signatures", r"MissingMethod defines no predict; write def predict\(self, u, pa, rng\)"),
    "wrong_signature": ("signatures", r"predict takes \(u\), the contract calls predict\(u, pa, rng\)"),
    "ignores_parents": ("reacts", "answers stay the same"),
    "batch_norm": ("batch-size", r"image 0 is answered differently than among eight .*BatchNorm"),
    "global_random": ("streams", "answers follow the global random state"),
    "mutates_input": ("inputs", "abduct changes its argument x in place"),
    "bytes_out": ("type", r"answers are torch.uint8; give float32 in \[0, 1\]"),
    "nan_once": ("finite", r"answers hold NaN or infinite pixels.*\b7\b"),
    "leaks_test": ("test-data", r"fit calls _Own.split\('test'\)"),
    "exits": ("answers", r"abduct .* calls sys.exit\(3\) \(together.py line \d+\)"),
    "unpicklable_error": ("answers", r"predict raised Strange: the lock is stuck \(together.py line \d+\)"),
    "changes_dtype": ("state", r"abduct changes the default dtype \(torch.float32 became torch.float64\)"),
    "takes_threads": ("fit-state", r"fit changes the thread count \(1 became 2\)"),
    "noise_is_a_function": ("noise", "the noise holds a function, from which rows cannot be taken"),
    "spoils_data": ("fit-data", "fit changes run.train.images in place"),
    "order_matters": ("order", "distance changes with the order of the images"),
    "wrong_direction": ("direction", "distance under do.* declared 'higher': noise would win"),
    "overlapping": ("disjoint", "40 row numbers occur twice over the splits"),
}
"""The failing check and its message for each plugin that neither hangs nor crashes."""
HARMLESS = ("good", "holds_a_lock")
LINE = re.compile(r"  (ok|FAILED|skipped|not run) +(\S+) +(.*)")


def report(target, *, timeout=60.0):
    """Exit code, and (status, text) of each check of each plugin."""
    with contextlib.redirect_stdout(io.StringIO()) as out, filtered_output():
        code = check_command(str(target), data_root=NOWHERE, plugins=(), timeout=timeout)
    results, label = {}, ""
    for line in out.getvalue().splitlines():
        if match := LINE.fullmatch(line):
            results[label, match[2]] = match[1], match[3]
        elif ": " not in line:
            label = line.split("  ")[0]
    return code, results


def label(name):
    return name.replace("_", "")


def together(folder, *names):
    """One file with the classes of several, so that they are checked in one process."""
    file, head = folder / "together.py", "from __future__ import annotations\n"
    sources = [(BROKEN / f"{name}.py").read_text().replace(head, "") for name in names]
    file.write_text(head + "\n\n".join(sources))
    return file


@pytest.fixture(scope="module")
def all_together(tmp_path_factory):
    """The report on all that neither hang nor die."""
    return report(together(tmp_path_factory.mktemp("together"), *TOLD, *HARMLESS))


@pytest.mark.parametrize("name", TOLD)
def test_what_is_wrong_is_told_by_name(all_together, name):
    code, results = all_together
    check, says = TOLD[name]
    status, text = results[label(name), check]
    assert code == 1
    assert status == "FAILED"
    assert re.search(says, text), text


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_right_passes_beside_it(all_together, name):
    mine = {check: verdict for (who, check), verdict in all_together[1].items() if who == label(name)}
    assert len(mine) > 20
    assert {status for status, _ in mine.values()} == {"ok"}, mine


def test_processes_that_die_are_told_how_and_the_others_go_on(tmp_path):
    code, results = report(together(tmp_path, "kills_itself", "ends_itself", "good"))
    assert code == 1
    assert results["killsitself", "fit"] == ("FAILED", "killed its process with SIGKILL (out of memory?)")
    assert results["killsitself", "answers"][0] == "skipped"
    assert results["endsitself", "fit"][0] == "ok"
    assert results["endsitself", "answers"] == ("FAILED", "ended its process with exit status 5")
    assert {status for (who, _), (status, _) in results.items() if who == "good"} == {"ok"}


def test_what_hangs_is_told_where(tmp_path):
    code, results = report(BROKEN / "waits_forever.py", timeout=10.0)
    assert code == 1
    assert results["waitsforever", "answers"] == (
        "FAILED",
        "hangs: gave no answer within 10 s (waits_forever.py line 15)",
    )
    assert results["waitsforever", "reacts"][0] == "skipped"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("import_error", "ModuleNotFoundError: No module named 'a_package_that_nobody_has' (import_error.py line 5)"),
        ("exits_at_import", "SystemExit: calls sys.exit(4) (exits_at_import.py line 9)"),
    ],
)
def test_files_that_cannot_be_loaded_are_told_why(name, says):
    code, results = report(BROKEN / f"{name}.py")
    assert code == 1
    assert results == {(f"{name}.py", "load"): ("FAILED", f"cannot be loaded: {says}")}


@pytest.mark.parametrize(
    ("source", "timeout", "says"),
    [
        ("from cfbench.contract import Method\n\nclass Mine(Method:\n", 60, r"SyntaxError: .*\(mine.py line 3\)"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 60, r"killed its process with SIGKILL"),
        ("import time\n\ntime.sleep(1000)", 10, r"hangs: gave no answer within 10 s \(mine.py line 3\)"),
    ],
)
def test_so_are_those_that_are_no_python_or_never_end(tmp_path, source, timeout, says):
    file = tmp_path / "mine.py"
    file.write_text(source)
    code, results = report(file, timeout=timeout)
    assert code == 1
    (status, text) = results["mine.py", "load"]
    assert status == "FAILED"
    assert re.search(says, text), text


def distribution(folder, name, target="collides:Mine", plugin="mine", group="cfbench.methods"):
    """An installed distribution, as far as entry points go."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{plugin} = {target}\n")


def test_two_distributions_that_claim_a_name_are_both_named(tmp_path, monkeypatch):
    distribution(tmp_path, "first", "first_plugin:Mine")
    distribution(tmp_path, "second", "second_plugin:Mine")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    code, results = report("mine")
    assert code == 1
    status, text = results["mine", "load"]
    assert status == "FAILED"
    assert text == (
        "two plugins claim the method 'mine': first_plugin:Mine of first 1.0 and second_plugin:Mine of second 1.0; "
        "rename one or uninstall it"
    )


def run(tmp_path, methods, *plugins, data="bars", jobs="1", more=()):
    """Exit code of a run of methods on toy data, the status of each one's rows, and the table."""
    files = [str(BROKEN.with_name("toys.py")), *map(str, plugins)]
    options = ["--datasets", data, "--preset", "tiny", "--metrics", "truth,composition", "--no-controls", *more]
    options += [part for file in files for part in ("--plugin", file)]
    options += ["--run-root", str(tmp_path / "runs"), "--data-root", str(tmp_path), "--no-plots", "--jobs", jobs]
    code = _main(["run", "--methods", ",".join(methods), *options])
    table = pd.read_csv(tmp_path / f"runs/tiny/leaderboard/{data}.csv")
    return code, {name: set(rows.status.fillna("")) for name, rows in table.groupby("method")}, table


ROWS = {
    "missingmethod": "failed: .*MissingMethod defines no predict",
    "wrongsignature": r"failed: .*predict takes \(u\), the contract calls predict\(u, pa, rng\)",
    "needsmore": r"failed: .*import_error.py cannot be loaded: ModuleNotFoundError: .* \(import_error.py line 5\)",
    "exitsatimport": r"failed: .*exits_at_import.py cannot be loaded: .*sys.exit\(4\) \(exits_at_import.py line 9\)",
    "bytesout": "invalid: .*floating-point tensor, found torch.uint8",
    "exits": "failed: images: SystemExit: .*3",
    "unpicklableerror": "failed: images: Strange: the lock is stuck",
    "noiseisafunction": "(failed|invalid): images: ",
    "deepscm": "failed: .*two plugins claim the method 'deepscm'",
    "mine": r"failed: .*mine.py cannot be loaded: SyntaxError: .* \(mine.py line 3\)",
}
"""What the table says of those that give no answers."""
SCORED = ("takesthreads", "globalrandom", "mutatesinput", "holdsalock", "good")
"""Those that are wrong or harmless in ways that a run survives, before and after one that is right."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """One run of all that do not end their process."""
    tmp_path = tmp_path_factory.mktemp("run")
    (tmp_path / "mine.py").write_text("from cfbench.contract import Method\n\nclass Mine(Method:\n")
    rival = (BROKEN / "good.py").read_text().replace("class Good", "class DeepSCM")
    (tmp_path / "rival.py").write_text(rival)
    files = [*sorted(BROKEN.glob("*.py")), tmp_path / "mine.py", tmp_path / "rival.py"]
    return run(tmp_path, [*SCORED, *ROWS], *files)


@pytest.mark.parametrize("name", ROWS)
def test_the_row_of_a_broken_plugin_says_why(table, name):
    code, status, _ = table
    assert code == 2
    (text,) = status[name]
    assert re.search(ROWS[name], text), text


def test_rows_beside_broken_ones_are_complete(table):
    _, status, scores = table
    assert status["good"] == {"ok"}
    good = scores[(scores.method == "good") & (scores.seed.astype(str) == "all") & (scores.questions == "all")]
    assert {"truth.abs_error", "composition.composition_1"} <= set(good.metric)
    assert good.value.notna().all()
    assert {name for name in SCORED if status[name] == {"ok"}} == set(SCORED)


def numbers(table, method):
    """All scores of a method that are no times."""
    keys = ["metric", "variable", "do", "questions", "seed"]
    found = table[table.method == method].set_index(keys).value.sort_index()
    assert found.notna().sum() > 5
    return found


def test_good_numbers_do_not_depend_on_what_stood_before_them(table, tmp_path):
    _, _, alone = run(tmp_path, ["good"], BROKEN / "good.py")
    pd.testing.assert_series_equal(numbers(table[2], "good"), numbers(alone, "good"), check_exact=True)


@pytest.fixture
def plain_numbers():
    """Puts back what the test changes for all tests after it, if cfbench does not."""
    yield
    torch.set_default_dtype(torch.float32)


def test_a_method_that_changes_the_default_dtype_costs_no_other_its_row(tmp_path, plain_numbers):
    code, status, _ = run(tmp_path, ["changesdtype", "good"], BROKEN / "changes_dtype.py", BROKEN / "good.py")
    assert status["good"] == {"ok"}
    assert code == 0
    assert torch.get_default_dtype() == torch.float32


KEPT = """
from functools import cache
from cfbench.conformance.subjects.toy import Bars

class Kept(Bars):
    '''Keeps its tensors, as large data sets do.'''
    @cache
    def split(self, root, name):
        return super().split(root, name)
"""


def test_a_method_that_spoils_the_training_data_changes_no_other_row(tmp_path):
    file = tmp_path / "kept.py"
    file.write_text(KEPT)
    tables = []
    for methods in (["spoilsdata", "learns"], ["learns"]):
        (folder := tmp_path / methods[0]).mkdir()
        code, _, table = run(folder, methods, BROKEN / "spoils_data.py", file, data="kept")
        assert code == 0
        tables.append(table)
    pd.testing.assert_series_equal(*(numbers(t, "learns") for t in tables), check_exact=True)


def test_workers_that_die_or_hang_lose_their_own_rows_only(tmp_path):
    names = ("kills_itself", "ends_itself", "waits_forever", "good")
    files = [BROKEN / f"{name}.py" for name in names]
    code, status, _ = run(tmp_path, map(label, names), *files, jobs="2", more=["--timeout", "20"])
    assert code == 2
    assert re.search("crashed: train: ", *status["killsitself"])
    assert re.search("crashed: images: ", *status["endsitself"])
    assert re.search("timeout: images: took longer than 20 s", *status["waitsforever"])
    assert status["good"] == {"ok"}
