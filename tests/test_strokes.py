"""The pen against brute force, the SCM against its equations, and the truth against the factual images."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cfbench_datasets.common import cache
from cfbench_datasets.strokes import dataset, measure, pen
from cfbench_datasets.strokes.dataset import Strokes
from scipy import stats
from scipy.special import expit, logit

from cfbench.errors import UserError

pytestmark = pytest.mark.portable

NAMES = ("digit", "thickness", "intensity", "slant")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(root):
    made = Strokes(train=3000, valid=400, test=400)
    made.prepare(root)
    return made


@pytest.fixture(scope="module")
def factual(data, root):
    return data.split(root, "test")


def brute_force(lines: np.ndarray, width: float, grey: float) -> np.ndarray:
    """An image [28, 28] of a stroke along ``lines`` [S, 2, 2], a pixel and a segment at a time."""
    image = np.zeros((28, 28))
    for row in range(28):
        for column in range(28):
            p = np.array([column - 13.5, row - 13.5])
            nearest = np.inf
            for a, b in lines:
                d = b - a
                along = np.clip(np.dot(p - a, d) / np.dot(d, d), 0, 1)
                nearest = min(nearest, np.linalg.norm(p - a - along * d))
            image[row, column] = grey * np.clip((width / 2 - nearest) / 0.7 + 0.5, 0, 1)
    return image


def test_render_equals_brute_force():
    pa = torch.tensor([[2, 1.0, 90, 10], [4, 2.5, 160, -20], [8, 3.6, 255, 30]])
    style = torch.randn(3, pen.STYLE, generator=torch.Generator().manual_seed(4))
    lines = pen.segments(pa[:, 0], pa[:, 3], style).numpy()
    for k, image in enumerate(pen.render(pa, style)):
        expected = brute_force(lines[k], 0.7 + 0.8 * float(pa[k, 1]), float(pa[k, 2]))
        assert np.abs(image[0].numpy() - expected).max() <= 0.5 + 1e-6


def test_batch_does_not_change_an_image(factual, data, root):
    style = data._table(root, "factual")["style"][factual.index]
    alone = [pen.render(factual.parents[k : k + 1], style[k : k + 1]) for k in range(40)]
    assert torch.equal(torch.cat(alone), factual.images[:40])


def test_slant_shears_the_centre_line():
    style = torch.randn(10, pen.STYLE, generator=torch.Generator().manual_seed(5))
    upright = pen.segments(torch.arange(10), torch.zeros(10), style)
    leaning = pen.segments(torch.arange(10), torch.full((10,), 30.0), style)
    assert torch.allclose(leaning[..., 1], upright[..., 1])
    middle = (0.5 * style[:, 7]).double()[:, None, None]
    expected = upright[..., 0] - np.tan(np.radians(30)) * (upright[..., 1] - middle)
    assert torch.allclose(leaning[..., 0], expected, atol=1e-6)


def test_strokes_stay_inside_the_frame():
    wide = torch.tensor([[d, 6.5, 255.0, s] for d in range(10) for s in (-31.0, 0.0, 43.0)])
    style = 3 * torch.ones(len(wide), pen.STYLE)
    images = pen.render(wide, style)[:, 0].float()
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], dim=1)
    assert border.max() < 255  # the edge of a stroke at most, never its body


def test_parents_follow_the_scm(data, root):
    digit, t, i, slant = data.split(root, "train").parents.double().numpy().T
    assert stats.kstest(t, stats.gamma(10, loc=0.5, scale=1 / 5).cdf).pvalue > 1e-3
    eps = 2 * (logit((i - 64) / 191) - 2 * (t - 2.5))
    assert stats.kstest(eps, "norm").pvalue > 1e-3
    assert stats.kstest((slant - 6 - 2 * (digit - 4.5)) / 7, "norm").pvalue > 1e-3
    assert stats.chisquare(np.bincount(digit.astype(int), minlength=10)).pvalue > 1e-3
    assert np.corrcoef(t, i)[0, 1] == pytest.approx(0.905, abs=0.015)
    assert abs(np.corrcoef(eps, t)[0, 1]) < 0.06


def test_parents_stay_within_their_bounds(data, root):
    for rows in (data.split(root, "train"), data.judge_split(root, "train")):
        for k, variable in enumerate(data.graph.variables):
            low, high = (0, 9) if variable.categorical else (variable.low, variable.high)
            assert rows.parents[:, k].min() >= low
            assert rows.parents[:, k].max() <= high


def test_own_values_change_nothing(data, factual):
    pa = factual.parents
    for k, name in enumerate(NAMES):
        assert torch.equal(data.act(pa, {name: pa[:, k]}), pa)
    assert torch.equal(data.act(pa, {name: pa[:, k] for k, name in enumerate(NAMES)}), pa)


def test_intensity_responds_to_thickness_in_closed_form(data, factual):
    pa = factual.parents
    wanted = pa[:, 1].flip(0)
    new = data.act(pa, {"thickness": wanted})
    t, i, other = (v.double().numpy() for v in (pa[:, 1], pa[:, 2], wanted))
    expected = 64 + 191 * expit(logit((i - 64) / 191) + 2 * (other - t))
    assert np.abs(new[:, 2].numpy() - expected).max() < 1e-3
    assert torch.equal(new[:, 1], wanted)
    assert torch.equal(new[:, [0, 3]], pa[:, [0, 3]])


def test_slant_responds_to_digit(data, factual):
    pa = factual.parents
    wanted = (pa[:, 0] + 3) % 10
    new = data.act(pa, {"digit": wanted})
    assert torch.allclose(new[:, 3] - pa[:, 3], 2 * (wanted - pa[:, 0]), atol=1e-5)
    assert torch.equal(new[:, 1:3], pa[:, 1:3])


@pytest.mark.parametrize("name", ["intensity", "slant"])
def test_leaves_change_nothing_else(data, factual, name):
    column = NAMES.index(name)
    new = data.act(factual.parents, {name: factual.parents[:, column].flip(0)})
    rest = [k for k in range(4) if k != column]
    assert torch.equal(new[:, rest], factual.parents[:, rest])
    assert torch.equal(new[:, column], factual.parents[:, column].flip(0))


def test_joint_interventions_override_responses(data, factual):
    pa = factual.parents
    do = {"digit": (pa[:, 0] + 1) % 10, "thickness": pa[:, 1] + 0.5, "intensity": pa[:, 2].flip(0)}
    new = data.act(pa, do)
    assert torch.equal(new[:, :3], torch.stack(list(do.values()), dim=1))
    assert torch.allclose(new[:, 3] - pa[:, 3], 2 * (do["digit"] - pa[:, 0]), atol=1e-5)
    assert torch.equal(data.act(pa, do | {"slant": pa[:, 3]})[:, 3], pa[:, 3])


def test_action_can_be_undone(data, factual):
    pa = factual.parents
    away = data.act(pa, {"thickness": pa[:, 1].flip(0)})
    back = data.act(away, {"thickness": pa[:, 1]})
    assert (back - pa).abs().max() < 0.05


def test_action_refuses_impossible_intensities(data, factual):
    pa = factual.parents.clone()
    pa[0, 2] = 20
    with pytest.raises(ValueError, match="outside"):
        data.act(pa, {"thickness": pa[:, 1] + 1})


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_truth_under_own_parents_is_the_factual(data, root, name):
    rows = data.split(root, name)[torch.arange(0, 400, 3)]
    assert torch.equal(data.oracle(root, name, rows.index, rows.parents), rows.x)


def test_truth_of_intensity_scales_grey_levels(data, root, factual):
    cf = data.act(factual.parents, {"intensity": torch.full((400,), 200.0)})
    truth = 255 * data.oracle(root, "test", factual.index, cf)
    expected = 255 * factual.x * (200 / factual.parents[:, 2])[:, None, None, None]
    # Half a grey level is lost in each rounding, and the first is scaled.
    slack = 0.5 + 0.5 * (200 / factual.parents[:, 2])[:, None, None, None] + 1e-3
    assert ((truth - expected).abs() <= slack).all()


def test_truth_changes_with_every_parent(data, root, factual):
    for k, name in enumerate(NAMES):
        wanted = (factual.parents[:, k] + 1) % 10 if k == 0 else factual.parents[:, k].flip(0)
        cf = data.act(factual.parents, {name: wanted})
        assert (data.oracle(root, "test", factual.index, cf) - factual.x).abs().mean() > 0.01


def test_splits_are_disjoint_and_numbered(data, root):
    rows = [data.split(root, name) for name in ("train", "valid", "test")]
    assert [len(r) for r in rows] == [3000, 400, 400]
    assert torch.equal(torch.cat([r.index for r in rows]), torch.arange(3800))
    assert len(torch.cat([r.images for r in rows]).flatten(1).unique(dim=0)) == 3800


def test_seed_makes_the_data(data, root, factual, tmp_path):
    again = Strokes(train=3000, valid=400, test=400)
    other = Strokes(train=3000, valid=400, test=400, seed=1)
    assert torch.equal(again.split(tmp_path, "test").images, factual.images)
    assert not torch.equal(other.split(tmp_path, "test").images, factual.images)
    assert again.fingerprint(root) == data.fingerprint(root) != other.fingerprint(root)


def test_judges_see_independent_parents(data, root):
    pa = data.judge_split(root, "train").parents
    correlation = torch.corrcoef(pa.T) - torch.eye(4)
    assert correlation.abs().max() < 0.07
    assert pa[:, 1].quantile(0.9) > 4
    assert not torch.isin(pa[:, 1], data.split(root, "test").parents[:, 1]).any()


def test_measurements_are_within_their_stated_error(data, root, factual):
    for rows, bounds in (
        (factual, {"thickness": 0.07, "intensity": 0.5, "slant": 2.5}),
        (data.judge_split(root, "valid"), {"thickness": 0.13, "intensity": 0.6, "slant": 2.7}),
    ):
        for name, value in data.measure(rows.x).items():
            true = rows.parents[:, NAMES.index(name)]
            assert (value - true).abs().mean() < bounds[name], name
            assert torch.corrcoef(torch.stack([value, true]))[0, 1] > 0.93, name


def test_blank_images_have_no_measurement():
    assert all(v.isnan().all() for v in measure.measure(torch.zeros(2, 1, 28, 28)).values())


def test_stroke_width_of_a_bar():
    bar = torch.zeros(1, 1, 28, 28)
    bar[..., 12:16, 2:26] = 1
    assert measure.stroke_width(bar).item() == pytest.approx(2 * 4 * 24 / (2 * (4 + 24)), rel=0.03)


def small() -> Strokes:
    return Strokes(train=40, valid=10, test=10)


def test_fresh_images_come_after_the_training_rows_and_change_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK", 8)
    plain, some, more = small(), *(Strokes(train=40, valid=10, test=10, fresh=n) for n in (5, 20))
    steps = []
    more.progress = lambda stage, done, total: steps.append((done, total))
    for made in (plain, some, more):
        made.prepare(tmp_path)
    assert steps == [(0, 20), (8, 20), (16, 20)]
    assert [f.name for f in files(tmp_path)] == [
        "factual.safetensors", "fresh-20.safetensors", "fresh-5.safetensors", "judge.safetensors"
    ]  # fmt: skip
    assert len({made.fingerprint(tmp_path) for made in (plain, some, more)}) == 3
    own, few, many = (made.split(tmp_path, "train") for made in (plain, some, more))
    assert (len(own), len(few), len(many)) == (40, 45, 60)
    for a, b, n in ((own, few, 40), (few, many, 45)):
        assert all(torch.equal(x, y[:n]) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    assert many.index.tolist() == [*range(40), *range(60, 80)]
    assert len(many.images.unique(dim=0)) == 60
    for part in ("valid", "test"):
        assert torch.equal(more.split(tmp_path, part).images, plain.split(tmp_path, part).images)
        assert torch.equal(more.split(tmp_path, part).index, plain.split(tmp_path, part).index)
    assert torch.equal(more.judge_split(tmp_path, "train").images, plain.judge_split(tmp_path, "train").images)
    truth = more.oracle(tmp_path, "train", many.index, many.parents)
    assert torch.equal(truth, many.x)
    del more.progress
    again = pickle.loads(pickle.dumps(more))
    monkeypatch.setattr(pen, "render", None)
    assert torch.equal(again.split(tmp_path, "train").images, many.images)
    with pytest.raises(UserError, match="fresh=-1"):
        Strokes(fresh=-1)


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


def test_cache_is_read_again(tmp_path, monkeypatch):
    first = small()
    first.prepare(tmp_path)
    assert [f.name for f in files(tmp_path)] == ["factual.safetensors", "judge.safetensors"]
    monkeypatch.setattr(pen, "render", None)
    second = small()
    second.prepare(tmp_path)
    assert torch.equal(second.split(tmp_path, "train").images, first.split(tmp_path, "train").images)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_corrupt_cache_is_drawn_again(tmp_path, damage):
    first = small()
    first.prepare(tmp_path)
    path = files(tmp_path)[0]
    good = path.read_bytes()
    bad = {"flip": good[:-500] + bytes([good[-500] ^ 255]) + good[-499:], "cut": good[:-99], "empty": b""}[damage]
    path.write_bytes(bad)
    second = small()
    second.prepare(tmp_path)
    assert torch.equal(second.split(tmp_path, "train").images, first.split(tmp_path, "train").images)
    assert path.read_bytes() == good


def test_read_only_root_keeps_data_in_memory(tmp_path):
    tmp_path.chmod(0o555)
    try:
        made = small()
        made.prepare(tmp_path)
        assert len(made.split(tmp_path, "test")) == 10
        assert not list(tmp_path.iterdir())
    finally:
        tmp_path.chmod(0o755)


def test_root_is_created_or_refused(tmp_path):
    small().prepare(tmp_path / "new" / "root")
    assert files(tmp_path / "new" / "root")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        small().prepare(tmp_path / "file" / "root")
    with pytest.raises(UserError, match="valid=0"):
        Strokes(valid=0)


def test_pickle_carries_no_images(data, root):
    copy = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 2000
    assert torch.equal(copy.split(root, "valid").images, data.split(root, "valid").images)


def test_processes_may_prepare_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from cfbench_datasets.strokes.dataset import Strokes\n"
        "d = Strokes(train=40, valid=10, test=10); d.prepare(Path(sys.argv[1]))\n"
        "from cfbench_datasets.common.cache import checksum; print(checksum(d._table(Path(sys.argv[1]), 'factual')))"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=env) for _ in "ab"
    ]
    outputs = {run.communicate()[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(outputs) == 1
    assert [f.name for f in files(tmp_path)] == ["factual.safetensors", "judge.safetensors"]
    assert outputs.pop().decode().strip() == cache.checksum(small()._table(tmp_path, "factual"))
