"""Rows are constructed before a run begins: what a constructor refuses is one line, and what is broken a row."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import toys

import cfbench
from cfbench.cli.main import _main
from cfbench.engine.construct import _WithoutInitialisation
from cfbench.engine.request import Request
from cfbench.runs.environment import ProcessState

PLUGIN = """
import sys

import torch
from toys import Bars, Draws, Learns
from cfbench.contract import Control, Metric, Column

class Picky(Draws):
    answer_params = frozenset({"shade", "dim"})
    presets = {"dark": {"shade": 0.0}, "wide": {"size": 9}}

    def __init__(self, graph, size: int = 1, kind=None, dim: float = 1.0, shade: float = 0.1):
        super().__init__(graph, shade)
        if size == 3:
            sys.exit("goodbye")
        if size == 4:
            raise RuntimeError("four is too much")
        if size > 5:
            raise ValueError(f"size is {size}, at most 5")
        if dim < 0:
            raise ValueError(f"dim is {dim}, at least 0")
        self.kind = "" if kind is None else kind + "!"

class Broken(Learns):
    def __init__(self, graph, size: int = 1):
        raise ValueError("this cannot be constructed")

class Bent(Learns):
    def __init__(self, graph, size: int = 1):
        raise ValueError(f"this cannot be constructed with size {size}")

class Needs(Learns):
    def __init__(self, graph, size: int):
        super().__init__(graph)
        if size > 5:
            raise ValueError(f"size is {size}, at most 5")

class Weighs(Learns):
    '''Computes with its own weights.'''
    def __init__(self, graph, size: int = 1):
        super().__init__(graph)
        self.net = torch.nn.Linear(8, 8)
        torch.nn.init.constant_(self.net.weight, 2.0)
        if not (self.net.weight == 2).all():
            raise ValueError("these are no weights")


class Shares(Learns):
    '''Keeps what it computes for all its objects.'''
    def __init__(self, graph, size: int = 8):
        super().__init__(graph)
        self.basis = torch.linspace(0, 1, size)

    def predict(self, u, pa, rng):
        return super().predict(u, pa, rng) * self.basis

class Watches(Control):
    def __init__(self, graph, size: int = 1):
        if size > 5:
            raise TypeError("no such size")

    def answer(self, questions):
        return questions.x

class Rows(Bars):
    def __init__(self, rows: int = 1):
        if rows < 1:
            raise ValueError(f"rows is {rows}, at least 1")

class Closed(Bars):
    def open(self, root):
        raise OSError("the door is shut")

class Unmade(Metric):
    columns = {"x": Column("nothing", "lower")}
    def __init__(self):
        raise ValueError("no such metric")
    def __call__(self, evidence):
        return {}
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "picky.py").write_text(PLUGIN)
    (tmp_path / "work").mkdir()
    return tmp_path / "code" / "picky.py"


def run(plugin, *args, metrics="truth"):
    work = plugin.parents[1] / "work"
    base = [
        "run",
        "--plugin",
        str(plugin),
        "--plugin",
        toys.__file__,
        "--preset",
        "tiny",
        "--jobs",
        "1",
        "--no-plots",
        "--metrics",
        metrics,
    ]
    base += [] if "--datasets" in args else ["--datasets", "bars"]
    return _main([*base, "--run-root", str(work / "runs"), "--data-root", str(work), *args])


REFUSED = {
    "bracket": (["--methods", "learns,picky[size=9]"], "picky[size=9] cannot be made for bars: ValueError: size is 9"),
    "set": (["--methods", "learns,picky", "--set", "picky.size=9"], "picky[size=9] cannot be made for bars"),
    "preset": (["--methods", "picky:wide"], "picky:wide cannot be made for bars: ValueError: size is 9, at most 5"),
    "place": (["--methods", "picky[size=9]"], "(picky.py line 19); `cfbench show picky` says what its settings take"),
    "type": (["--methods", "picky[kind=7]"], "picky[kind=7] cannot be made for bars: TypeError: unsupported operand"),
    "answers": (["--methods", "picky[dim=-1]"], "picky[dim=-1] cannot be made for bars: ValueError: dim is -1.0"),
    "other": (["--methods", "picky[size=4]"], "picky[size=4] cannot be made for bars: RuntimeError: four is too much"),
    "exit": (["--methods", "picky[size=3]"], "picky[size=3] cannot be made for bars: SystemExit: calls sys.exit"),
    "derived": (["--methods", "resample[of=picky[size=9]]"], "resample[of=picky[size=9]] cannot be made for bars"),
    "needed": (["--methods", "needs[size=9]"], "needs[size=9] cannot be made for bars: ValueError: size is 9"),
    "control": (["--methods", "watches[size=9]"], "watches[size=9] cannot be made for bars: TypeError: no such size"),
    "bent": (
        ["--methods", "bent[size=2]"],
        "bent[size=2] cannot be made for bars: ValueError: this cannot be constructed",
    ),
    "second data": (["--datasets", "bars,rows", "--methods", "picky[size=9]"], "picky[size=9] cannot be made for bars"),
    "built-in": (["--methods", "diffscm", "--set", "diffscm.scale=red"], "diffscm: scale is 'red'; give one number"),
    "sequence": (["--methods", "diffscm[mult=2]"], "diffscm.mult takes Sequence[int], found 2"),
    "data": (["--datasets", "rows[rows=0]", "--methods", "learns"], "rows[rows=0] cannot be made: ValueError: rows is"),
    "opened": (["--datasets", "closed", "--methods", "learns"], "closed cannot be made: OSError: the door is shut"),
    "metric": (["--methods", "learns", "--metrics", "truth[size=1]"], "unknown metric 'truth[size=1]'"),
}


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_setting_that_a_constructor_refuses_is_one_line_and_writes_nothing(plugin, capfd, case, dry):
    args, says = REFUSED[case]
    assert run(plugin, *args, *(["--dry-run"] if dry else [])) == 1
    out, err = capfd.readouterr()
    assert says in err
    assert err.startswith("cfbench: error: ")
    assert (out, err.count("\n")) == ("", 1), err
    assert list((plugin.parents[1] / "work").iterdir()) == []


def test_prepare_and_python_refuse_alike(plugin, capfd, tmp_path):
    where = ["--plugin", str(plugin), "--data-root", str(tmp_path / "work")]
    assert _main(["prepare", "rows[rows=0]", *where]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    with pytest.raises(cfbench.UserError, match="rows is 0, at least 1"):
        cfbench.load_dataset("rows[rows=0]", plugins=plugin)

    class Small(toys.Learns):
        def __init__(self, graph, size: int = 1):
            super().__init__(graph)
            if size > 5:
                raise ValueError(f"size is {size}, at most 5")

    options = {"preset": "tiny", "metrics": "truth", "run_root": tmp_path / "work", "data_root": tmp_path / "work"}
    for rows, settings in (({"small[size=9]": Small}, {}), ({"small": Small}, {"small.size": 9})):
        with pytest.raises(cfbench.UserError, match=r"small\[size=9\] cannot be made for bars: ValueError: size is 9"):
            cfbench.run(rows, toys.Bars, settings=settings, progress=False, **options)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("row", ["broken", "broken[size=2]", "bent"])
def test_what_cannot_be_constructed_with_its_defaults_either_is_a_row_that_fails(plugin, capfd, row):
    assert run(plugin, "--methods", f"{row},learns", "--no-controls") == 2
    errors = capfd.readouterr().err
    assert f"cfbench: {row} will fail: {row} cannot be made for bars: ValueError: this cannot be constructed" in errors
    table = pd.read_csv(plugin.parents[1] / "work/runs/tiny/leaderboard/bars.csv")
    status = {method: set(rows.status) for method, rows in table.groupby("method")}
    assert status["learns"] == {"ok"}
    assert all("failed: train: ValueError: this cannot be constructed" in text for text in status[row])


def test_a_metric_that_cannot_be_constructed_costs_no_other_its_scores(plugin, capfd):
    assert run(plugin, "--methods", "learns", "--no-controls", metrics="truth,unmade") == 2
    assert "the metric unmade will fail: unmade cannot be made: ValueError: no such metric" in capfd.readouterr().err
    table = pd.read_csv(plugin.parents[1] / "work/runs/tiny/leaderboard/bars.csv")
    assert table[table.metric == "truth.abs_error"].value.notna().any()


def test_what_is_constructed_to_be_checked_changes_nothing_later(plugin):
    assert run(plugin, "--methods", "weighs[size=2],shares[size=8],needs[size=1],picky:dark", "--no-controls") == 0


def test_checking_leaves_the_state_of_the_process_as_it_was(plugin):
    before = ProcessState()
    work = plugin.parents[1] / "work"
    asked = {
        "methods": "weighs[size=2],deepscm",
        "datasets": "bars",
        "preset": "tiny",
        "plugins": (plugin, Path(toys.__file__)),
    }
    Request(**asked, run_root=work, data_root=work).run()
    assert before.changes() == {}
    assert list(work.iterdir()) == []


def test_weights_are_left_as_they_were_allocated():
    before = torch.get_rng_state()
    with _WithoutInitialisation():
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 8), torch.nn.Embedding(4, 8))
        basis = torch.linspace(0, 1, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert [tuple(p.shape) for p in net.parameters()] == [(8, 3, 3, 3), (8,), (8, 8), (8,), (4, 8)]
    assert torch.equal(basis, torch.tensor([0, 0.25, 0.5, 0.75, 1]))
