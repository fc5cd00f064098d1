"""Plans of any size: images pass through memory some at a time, and the numbers stay the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from crowd import Crowd, Nearly
from safetensors.torch import load_file, save_file

from cfbench import images as rows_module
from cfbench.conformance.subjects.metric import evidence
from cfbench.contract import Column, Metric
from cfbench.errors import UserError
from cfbench.evaluation import jackknife, scoring
from cfbench.evaluation.answers import answer_plan, image_mechanism
from cfbench.evaluation.plan import make_plan
from cfbench.images import ImageRows
from cfbench.metrics import kernel, minimality
from cfbench.metrics.interpretability import IM
from cfbench.metrics.realism import Neighbours, Realism
from cfbench.metrics.truth import TEA, TrueError
from cfbench.storage.tensors import ImageFile, open_arrays

HERE = Path(__file__).parent


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 rows, whatever the images."""
    monkeypatch.setattr(rows_module, "BLOCK", 1)
    monkeypatch.setattr(rows_module, "MULTIPLE", 16)
    monkeypatch.setattr(rows_module, "CACHED", 0)


class Counted:
    """Images that count how many of them were read at once, and in all."""

    def __init__(self, images):
        self.images, self.shape = images, images.shape
        self.most = self.total = 0

    def __getitem__(self, rows):
        found = self.images[rows]
        self.most, self.total = max(self.most, len(found)), self.total + len(found)
        return found


def lazily(do="kind"):
    given = evidence(do)
    sources = {name: Counted(getattr(given, name)) for name in ("x", "answer", "truth", "reverse")}
    return type(given)(**{**vars(given), **{name: ImageRows(s) for name, s in sources.items()}}), sources


def test_a_file_filled_by_rows_has_the_bytes_that_safetensors_writes(tmp_path):
    rng = torch.Generator().manual_seed(0)
    arrays = {name: torch.rand(n, 1, 3, 5, generator=rng) for name, n in (("null", 7), ("do/ä", 11), ("cycle", 2))}
    save_file(arrays, tmp_path / "whole")
    with ImageFile(tmp_path / "rows", {k: tuple(v.shape) for k, v in arrays.items()}) as file:
        for name, images in arrays.items():
            for some in torch.randperm(len(images), generator=rng).split(3):
                file.put(name, some, images[some])
        assert torch.equal(file.get("do/ä", torch.tensor([5, 6, 1])), arrays["do/ä"][[5, 6, 1]])
    assert (tmp_path / "rows").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("rows", [[3, 4, 5], [90, 2, 2, 51], [], [7]])
def test_rows_of_a_file_are_those_of_the_array(tmp_path, rows):
    x = torch.rand(100, 1, 2, 2)
    save_file({"x": x}, tmp_path / "file")
    found = open_arrays(tmp_path / "file")["x"]
    assert torch.equal(found[torch.tensor(rows, dtype=torch.long)], x[rows])
    assert torch.equal(found[:4], x[:4])
    mask = torch.zeros(100, dtype=torch.bool)
    mask[rows] = True
    assert torch.equal(ImageRows(found, mask.nonzero()[:, 0]).load(), x[mask])


def test_a_file_that_is_none_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff" * 40)
    for name, said in (("file", "is no safetensors file"), ("nothing", "is missing")):
        with pytest.raises(UserError, match=said):
            open_arrays(tmp_path / name)


def test_answers_written_as_they_come_are_those_in_memory(tmp_path):
    data = Crowd(60)
    plan = make_plan(data, tmp_path, name="marginal", split="test", factuals=30)
    x = data.split(tmp_path, "test").x[plan.rows]
    asked = {"seed": 0, "device": torch.device("cpu"), "batch": 8, "rounds": 11}
    mech = image_mechanism(Nearly(data.graph), data, tmp_path, "test")
    held = answer_plan(mech, plan, x, **asked).images
    assert answer_plan(mech, plan, x, into=tmp_path / "answers", **asked).images == {}
    found = load_file(tmp_path / "answers")
    assert found.keys() == held.keys()
    assert all(torch.equal(found[name], held[name]) for name in held)


@pytest.mark.parametrize("metric", [TrueError, TEA, IM])
def test_scores_of_images_do_not_depend_on_the_blocks(small_blocks, metric):
    whole = metric()(evidence("kind"))
    given, sources = lazily()
    found = scoring._scores(metric(), given)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], value.double()) for name, value in whole.items())
    assert max(s.most for s in sources.values()) == 16


def test_set_scores_read_each_image_once_and_the_jackknife_none(small_blocks):
    given, sources = lazily()
    whole = Realism()(evidence("kind"))
    found = scoring._scores(Realism(), given)
    assert all(found[name].item() == pytest.approx(value.item(), rel=1e-9) for name, value in whole.items())
    read = sources["answer"].total
    assert read == len(given)
    for r in range(5):
        Realism()(given.take(torch.arange(48) % 5 != r))
    assert sources["answer"].total == read
    assert sources["x"].total == 0


def test_image_rows_scale_integers_and_leave_missing_rows_open():
    grey = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2)
    some = ImageRows(grey, torch.tensor([5, -1, 0, 0]))
    assert torch.equal(some[torch.tensor([0, 2, 3])], grey[[5, 0, 0]].float() / 255)
    assert some.shape == (4, 1, 2, 2)
    assert some.take(torch.tensor([1, 0])).load()[:, 0, 0, 0].isnan().tolist() == [True, False]
    mask = torch.tensor([False, True, False, True])
    full = ImageRows.scattered(grey.float()[:2], mask).load()
    assert torch.equal(full[mask], grey.float()[:2])
    assert full[~mask].isnan().all()


def test_taking_rows_of_rows_reads_nothing():
    given, sources = lazily()
    some = given.take(torch.arange(10, 30)).take(torch.arange(20) % 2 == 0)
    assert sources["x"].total == 0
    assert torch.equal(some.x, evidence("kind").x[10:30:2])
    assert sources["x"].total == 10


def test_kernels_from_third_moments_equal_those_of_pairs(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.rand(900, 6, generator=rng), torch.rand(700, 6, generator=rng)
    pairs = kernel.within(a), kernel.Pairs.of(a[:700], b).mean(), kernel.mean_kernel(a, b)
    monkeypatch.setattr(kernel, "MANY", 10)
    assert kernel._by_moments(b)
    moments = kernel.within(a), kernel.Pairs.of(a[:700], b).mean(), kernel.mean_kernel(a, b)
    for one, other in zip(pairs, moments, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert kernel.Pairs.of(b, b).mean() == 0


def test_divergences_from_products_equal_those_of_pairs():
    rng = torch.Generator().manual_seed(0)
    p, q = ((5 * torch.randn(n, 16, generator=rng), torch.rand(n, 16, generator=rng) + 0.01) for n in (40, 30))
    pairs = minimality.kl(p, (q[0][:, None], q[1][:, None]))
    torch.testing.assert_close(minimality._product(p, q), pairs, rtol=1e-9, atol=1e-9)


def test_many_real_images_are_thinned_out(monkeypatch):
    monkeypatch.setattr("cfbench.metrics.density.spaced.__defaults__", (16,))
    given = evidence("kind")
    Neighbours()(given)
    assert (given.memo["balls"][2] == 16).all()


class Mean(Metric):
    columns = {"mean": Column("mean of a number", "lower")}

    def __call__(self, evidence):
        return {"mean": evidence.once("z", lambda: evidence.cf_pa[:, 1].double()).mean()}


@pytest.mark.parametrize("groups", [20, 200, 400])
def test_groups_of_factuals_tell_the_standard_error(monkeypatch, groups):
    data = Crowd(800)
    plan = make_plan(data, Path(), name="marginal", split="test", factuals=400)
    asked, given = plan.asked["level"], evidence("kind")
    images = torch.zeros(len(asked), 1, 8, 8)
    changed = {"pa": asked.cf_pa, "cf_pa": asked.cf_pa, "x": images, "answer": images}
    changed |= {"truth": None, "reverse": None, "cycles": {}}
    many = type(given)(**{**vars(given), **changed})
    monkeypatch.setattr(jackknife, "GROUPS", groups)
    (row,) = scoring.score(Mean(), many, asked.factual.numpy(), plan, 8)
    assert len(row.values) == groups
    expected = float(asked.cf_pa[:, 1].double().std()) / 20
    assert row.values.std(ddof=1) / groups**0.5 == pytest.approx(expected, rel=0.4 if groups == 20 else 0.15)
    assert row.values.mean() == pytest.approx(row.value)


SCORE = """
import sys
from pathlib import Path
import torch
from crowd import Crowd, Nearly
from cfbench import images
from cfbench.engine import prepare
from cfbench.evaluation import jackknife, scoring
from cfbench.evaluation.answers import answer_plan, image_mechanism
from cfbench.judges import Judges
from cfbench.metrics.minimality import FactualDistance
from cfbench.metrics.realism import TrueRealism
from cfbench.metrics.truth import TEA, TrueError
from cfbench.evaluation.plan import make_plan
from cfbench.storage.tensors import open_arrays

torch.set_num_threads(1)
images.BLOCK = images.CACHED = 2**19
jackknife.GROUPS = 2
prepare.ROWS = 500
number, place = int(sys.argv[1]), Path(sys.argv[2])
data = Crowd(2 * number)
pool = data.split(place, "test")
plan = make_plan(data, place, name="marginal", split="test", factuals=number)
memory = lambda: next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
open("/proc/self/clear_refs", "w").write("5")
before = memory()
prepare._write_truth(place / "truth", plan, lambda *of: data.oracle(place, "test", *of))
x = images.ImageRows(pool.images, plan.rows)
mech = image_mechanism(Nearly(data.graph), data, place, "test")
answer_plan(mech, plan, x, into=place / "answers", seed=0, device=torch.device("cpu"), rounds=4)
found = open_arrays(place / "answers"), open_arrays(place / "truth")
for given in scoring.evidences(data, plan, pool, *found, Judges(data.graph, width=2), 4, {}):
    for metric in (TrueError(), TEA(), FactualDistance(), TrueRealism()) if given.do == "kind" else ():
        scoring.score(metric, given, plan.asked[given.do].factual.numpy(), plan, 4)
print(memory() - before)
"""


def peak(number: int, place: Path) -> float:
    """MiB that answering and scoring so many questions about each variable take beyond the data, in a fresh process."""
    place.mkdir()
    command = [sys.executable, "-c", SCORE, str(number), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_plan(tmp_path):
    few, many = peak(2000, tmp_path / "few"), peak(8000, tmp_path / "many")
    # The added answers and truths themselves; all at once took three times as much.
    assert many - few < 5 * 6000 * 28 * 28 * 4 / 2**20, f"{few:.0f} MiB for 2,000 questions, {many:.0f} MiB for 8,000"


ALL = """
import sys
from pathlib import Path
from cfbench.runs import budget

number, place = 50_000, Path(sys.argv[1])
tiny = budget.presets()["tiny"]
budget.presets = lambda: {"tiny": {**tiny, "factuals": number, "rounds": 32}}
from cfbench.engine.launch import declare
from cfbench.engine.request import Request
from cfbench.engine.tasks import run_task
from cfbench.runs.chain import Task

asked = {"datasets": f"crowd[n={2 * number}]", "methods": "nearly", "controls": False, "preset": "tiny", "name": "many"}
run = Request(**asked, run_root=place, data_root=place, plugins=(Path("crowd.py"),)).run()
declare(run, ["many"])
(cell,) = run.cells
for stage in sys.argv[2].split(","):
    done = run_task(run.job, Task(stage, cell.dataset, None if stage in ("prepare", "judges") else cell), run.loaded)
    assert done.status == "done", done
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_a_hundred_thousand_counterfactuals_are_scored_within_four_gibibytes(tmp_path):
    for stages in ("prepare,judges,train,tune,images", "scores"):
        command = [sys.executable, "-c", ALL, str(tmp_path), stages]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
        assert done.returncode == 0, done.stderr
        peak = float(done.stdout.split()[-1])
        print(f"{stages}: {peak:.0f} MiB")
        assert peak < 4096
