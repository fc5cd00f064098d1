"""Judges read what is there, say so again, and leave no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cfbench_datasets.strokes.dataset import Strokes

from cfbench.contract import Dataset, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.judges import JudgeBudget, Judges, card, panel, train_judges
from cfbench.judges.augmentation import blurred, blurred_labels, moved

pytestmark = pytest.mark.portable

SIZES = {"train": 1200, "valid": 300}
BUDGET = JudgeBudget(reader=16_000, vae=3_000, class_encoder=2_500, all_encoder=1_000)
SMALL = JudgeBudget(reader=128, vae=128, class_encoder=64, all_encoder=64, batch=32)


class Bars(Dataset):
    """8x8 bars: ``way`` (0 lying, 1 standing), ``width`` in pixels and ``level`` of grey, which follows the width.

    In judge data ``level`` is drawn independently. The bar's place is the noise.
    """

    graph = CausalGraph(
        (
            Variable("way", "categorical", size=2, truth="exact"),
            Variable("width", "continuous", low=1, high=5, unit="px", truth="exact"),
            Variable("level", "continuous", low=60, high=250, unit="grey level", parents=("width",), truth="exact"),
        ),
        (1, 8, 8),
    )

    def split(self, root, name):
        return self._rows(name, confounded=True)

    def judge_split(self, root, name):
        return self._rows(name, confounded=False)

    def act(self, pa, do, rng):
        new = self.graph.set(pa, do)
        if "width" in do and "level" not in do:
            new[:, 2] = pa[:, 2] + 40 * (new[:, 1] - pa[:, 1])
        return new

    def oracle(self, root, split, index, cf_pa):
        truth = draw(cf_pa, self._place(split)[index]).float() / 255
        truth[index == 0] = torch.nan
        return truth

    def measure(self, images):
        return {"level": 255 * images.flatten(1).amax(1)}

    def _place(self, name):
        return torch.rand(SIZES[name], generator=torch.Generator().manual_seed(5 + len(name)))

    def _rows(self, name, confounded):
        rng = torch.Generator().manual_seed(len(name) + 100 * confounded)
        n = SIZES[name]
        way = torch.randint(2, (n,), generator=rng).float()
        width = 1 + 3 * torch.rand(n, generator=rng)
        other = width if confounded else 1 + 3 * torch.rand(n, generator=rng)
        level = 75 + 40 * (other - 1) + 2 * torch.randn(n, generator=rng)
        pa = torch.stack([way, width, level], dim=1)
        return Split(draw(pa, self._place(name)), pa, torch.arange(n))


def draw(pa, place):
    way, width, level = (column[:, None, None] for column in pa.unbind(1))
    start = (7 - width) * place[:, None, None] + 0.5
    at = torch.arange(8.0)
    along = torch.where(way == 0, at[:, None], at[None, :])
    cover = torch.minimum(along + 1, start + width) - torch.maximum(along, start)
    return (level * cover.clamp(0, 1)).round().clamp(0, 255).to(torch.uint8)[:, None]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(root):
    return train_judges(Bars(), root, Bars.graph, BUDGET)


@pytest.fixture(scope="module")
def table(trained, root):
    return card(trained, Bars(), root)


@pytest.fixture(scope="module")
def x():
    return Bars().split(Path(), "valid").x[:50]


def row(table, judge, variable, data):
    (found,) = [r for r in table if (r["judge"], r["variable"], r["data"]) == (judge, variable, data)]
    return found


def calls(judges, x):
    """Every answer of the panel, as one flat dict."""
    mean, std = judges.encode(x)
    return {
        **judges.read(x),
        "features": judges.features(x),
        "mean": mean,
        "std": std,
        "all": judges.reconstruct(x, "way"),
        "class": judges.reconstruct(x, "way", torch.arange(len(x)) % 2),
        "draw": judges.draw(x),
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_reads_each_variable_of_held_out_images(table):
    for data in ("unconfounded", "real", "oracle"):
        assert row(table, "reader", "way", data)["error"] < 0.03
        assert row(table, "reader", "width", data)["error"] < 0.15
        assert row(table, "reader", "level", data)["error"] < 8
    assert all(row(table, "reader", v, "real")["good"] is True for v in Bars.graph.names)


def test_level_is_not_read_off_the_width(trained):
    width, place = torch.linspace(1.2, 3.8, 40).repeat(9), torch.linspace(0.1, 0.9, 9).repeat_interleave(40)
    pa = torch.stack([torch.zeros(360), width, torch.full((360,), 150.0)], dim=1)
    level = trained.read(draw(pa, place).float() / 255)["level"]
    slope = ((level - level.mean()) * (width - width.mean())).sum() / (width - width.mean()).square().sum()
    assert abs(slope) < 4  # grey levels a pixel, where the confounded data have 40


def test_a_blurred_image_shows_what_is_measured_of_it():
    x = Bars().split(Path(), "valid").x[:40]
    pa = Bars().split(Path(), "valid").parents[:40]
    assert torch.equal(blurred(x, torch.zeros(40)), x)
    soft = blurred(x, torch.ones(40))
    flat = torch.full((1, 1, 8, 8), 0.3)
    assert torch.allclose(blurred(flat, torch.ones(1)), flat)
    labels = blurred_labels(Bars(), Bars.graph, x, pa, soft)
    assert torch.equal(labels[:, 0], pa[:, 0])
    assert labels[:, 1].isnan().all()
    drop = 255 * (x.flatten(1).amax(1) - soft.flatten(1).amax(1))
    assert drop.mean() > 5
    assert torch.allclose(pa[:, 2] - labels[:, 2], drop, atol=1e-3)


def test_the_reader_learns_from_blurred_noisy_and_moved_images(root, monkeypatch):
    class Moving(Bars):
        moves = 1

    images, parents = [], []

    def loss(self, x, pa):
        images.append(x.detach().clone())
        parents.append(pa)
        return self.head.bias.sum()

    monkeypatch.setattr("cfbench.judges.reader.Reader.loss", loss)
    data = Moving().judge_split(root, "train")
    train_judges(Moving(), root, Bars.graph, JudgeBudget(2000, 64, 64, 64, 40))
    x, pa = torch.cat(images), torch.cat(parents)
    soft = pa[:, 1].isnan()
    assert 0.1 < soft.float().mean() < 0.3
    assert not pa[:, ::2].isnan().any()
    whole = ((255 * x) - (255 * x).round()).abs().flatten(1).amax(1) < 1e-3
    assert 0.3 < whole.float().mean() < 0.7  # the others are noisy
    known = {tuple(image.flatten().tolist()) for image in data.images}
    clean = (255 * x[whole & ~soft]).round().to(torch.uint8)
    assert 0.1 < sum(tuple(image.flatten().tolist()) in known for image in clean) / len(clean) < 0.5


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_budget_may_be_as_small_as_one_likes(steps, root):
    judges = train_judges(Bars(), root, Bars.graph, JudgeBudget(*[steps * 8] * 4, batch=8))
    assert all(p.isfinite().all() for p in judges.parameters())


def test_moved_images_keep_their_pixels():
    x = torch.rand(50, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    out = moved(x, 1, torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    found = [
        [torch.equal(out[n], padded[n, :, i : i + 9, j : j + 7]) for i in range(3) for j in range(3)] for n in range(50)
    ]
    assert all(sum(one) == 1 for one in found)
    assert all(any(column) for column in zip(*found, strict=True))


def test_values_that_are_not_known_do_not_count(trained, x):
    pa = Bars().split(Path(), "valid").parents[:50]
    unknown = pa.clone()
    unknown[:, 1] = torch.nan
    only = trained.reader.loss(x, pa) - trained.reader.loss(x, unknown)
    width = (trained.read(x)["width"] - pa[:, 1]) / trained.reader.std[1]
    assert float(only) == pytest.approx(float(width.square().mean()), rel=1e-3)


@pytest.mark.slow
def test_the_reader_holds_on_blurred_images(tmp_path):
    """Without blurred images to learn from, the error on them is twice that on clean ones."""
    data = Strokes(train=3000, valid=300, test=1)
    judges = train_judges(data, tmp_path, data.graph, JudgeBudget(60_000, 64, 64, 64))
    valid = data.split(tmp_path, "valid")
    soft = blurred(valid.x, torch.ones(300))
    clean = (judges.read(valid.x)["intensity"] - valid.parents[:, 2]).abs().mean()
    labels = blurred_labels(data, data.graph, valid.x, valid.parents, soft)
    assert (judges.read(soft)["intensity"] - labels[:, 2]).abs().mean() < 1.5 * clean


def test_class_auto_encoders_draw_their_own_class_better(table):
    own = row(table, "class auto-encoder", "way", "real")["error"]
    assert own < 0.8 * row(table, "class auto-encoder", "way", "real, other class")["error"]


def test_card_has_a_row_for_each_judge_and_kind_of_data(table):
    kinds = ("unconfounded", "real", "oracle")
    want = {("reader", v, data) for v in Bars.graph.names for data in kinds}
    want |= {("measured", "level", data) for data in (*kinds, "noisy")}
    want |= {("reader", v, "noisy") for v in Bars.graph.names}
    want |= {("reader", v, "blurred") for v in ("way", "level")}  # no one knows how wide a blurred bar is
    want |= {("vae", "", "real"), ("auto-encoder", "", "real")}
    want |= {("class auto-encoder", "way", data) for data in ("real", "real, other class")}
    assert {(r["judge"], r["variable"], r["data"]) for r in table} == want
    assert len(table) == len(want)
    for r in table:
        assert list(r) == ["judge", "variable", "data", "error", "unit", "n", "good"]
        assert 0 <= r["error"] < 255
        assert (r["good"] is not None) == (r["judge"] in ("reader", "measured") and r["data"] == "real")
    assert row(table, "reader", "way", "oracle")["n"] == 3 * (SIZES["valid"] - 1)  # one truth of each is NaN
    assert row(table, "reader", "level", "blurred")["n"] == row(table, "measured", "level", "noisy")["n"] == 300
    assert row(table, "reader", "width", "real")["unit"] == "px"
    held_out = Bars().judge_split(Path(), "valid")
    miss = (held_out.images.flatten(1).amax(1).float() - held_out.parents[:, 2]).abs().mean()
    assert row(table, "measured", "level", "unconfounded")["error"] == pytest.approx(float(miss), rel=1e-4)


def test_a_reader_that_cannot_tell_is_not_good(root):
    table = card(train_judges(Bars(), root, Bars.graph, SMALL), Bars(), root, rows=200, truths=20)
    assert row(table, "reader", "width", "real")["good"] is False


def test_answers_have_their_shapes_and_ranges(trained, x):
    out = calls(trained, x)
    assert out["way"].shape == (50, 2)
    assert torch.allclose(out["way"].sum(1), torch.ones(50))
    assert out["width"].shape == out["level"].shape == (50,)
    assert out["features"].shape == (50, 64)
    assert (out["features"] >= 0).all()
    assert out["mean"].shape == out["std"].shape == (50, 16)
    assert (out["std"] > 0).all()
    assert out["all"].shape == out["class"].shape == out["draw"].shape == x.shape


def test_encode_gives_standard_deviations(trained, x):
    mean, std = trained.encode(x)
    _, log_variance = trained.vae.encoder(2 * x - 1).chunk(2, dim=1)
    assert torch.allclose(std.log(), log_variance / 2, atol=1e-5)
    with torch.no_grad():
        trained.vae.encoder[-1].bias[16:] += 1
        moved, wider = trained.encode(x)
        trained.vae.encoder[-1].bias[16:] -= 1
    assert torch.equal(moved, mean)
    assert torch.allclose(wider / std, torch.full_like(std, 0.5).exp(), rtol=1e-4)


@pytest.mark.parametrize("part", ["reader.trunk.1", "vae", "class_encoders.0.1.net", "all_encoder"])
@pytest.mark.parametrize("call", ["read", "features", "encode", "reconstruct"])
def test_training_mode_is_refused_in_every_call(trained, x, part, call):
    module = trained.get_submodule(part)
    module.training = True
    try:
        with pytest.raises(RuntimeError, match="evaluation mode"):
            getattr(trained, call)(x, *["way"] * (call == "reconstruct"))
    finally:
        module.training = False


def test_calls_agree_bit_for_bit_and_change_nothing(trained, x):
    before, seed, given = trained.state(), torch.get_rng_state(), x.clone()
    first = calls(trained, x)
    assert same(first, calls(trained, x))
    assert same(before, trained.state())
    assert torch.equal(seed, torch.get_rng_state())
    assert torch.equal(x, given)
    assert not any(t.requires_grad for t in first.values())


def test_batch_size_order_and_precision_do_not_matter(trained):
    x = Bars().split(Path(), "train").x[:300]  # more than a chunk
    whole = calls(trained, x)
    halves = [calls(trained, part) for part in x.split([46, 254])]
    ones = calls(trained, x[6:7])
    double, backwards = calls(trained, x.double()), calls(trained, x.flip(0))
    for name, value in whole.items():
        near = {"rtol": 1e-4, "atol": 1e-4 * float(value.abs().max())}
        assert torch.allclose(torch.cat([h[name] for h in halves]), value, **near)
        assert torch.allclose(ones[name], value[6:7], **near)
        assert torch.equal(double[name], value)
        if name != "class":
            assert torch.allclose(backwards[name].flip(0), value, **near)


def test_a_broken_image_stays_alone_and_none_is_fine(trained, x):
    broken = x.clone()
    broken[3] = torch.nan
    clean, out = calls(trained, x), calls(trained, broken)
    for name, value in out.items():
        assert value[3].isnan().any(), name
        assert torch.allclose(value[4:], clean[name][4:], rtol=1e-4, atol=1e-3)
    assert all(len(value) == 0 for value in calls(trained, x[:0]).values())


def test_wrong_images_and_classes_are_refused(trained, x):
    for wrong in (x[:, :, :7], x[0], (255 * x).byte()):
        with pytest.raises(ValueError, match="judges take float images"):
            trained.read(wrong)
    for variable, value in (("way", torch.full((50,), 2)), ("way", torch.zeros(3)), ("width", torch.ones(50))):
        with pytest.raises(ValueError, match="classes with an auto-encoder each"):
            trained.reconstruct(x, variable, value)


def test_reconstruct_takes_each_rows_class(trained, x):
    value = torch.arange(50) % 2
    out = trained.reconstruct(x, "way", value.float())
    with torch.no_grad():
        for k in (0, 1):
            assert torch.allclose(out[value == k], trained.coders("way")[k](x[value == k]), atol=1e-5)


def test_save_and_load_bit_for_bit(trained, x, tmp_path):
    trained.save(tmp_path)
    again = Judges.load(tmp_path, Bars.graph, "cpu")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert same(trained.state(), again.state())
    assert same(calls(trained, x), calls(again, x))


@pytest.mark.parametrize("sizes", [{"width": 4096}, {"latents": 10**6}, {"features": 4096}])
def test_judges_of_other_sizes_than_their_weights_are_never_allocated(tmp_path, monkeypatch, sizes):
    """Three letters more in the description would be gigabytes of networks."""
    Judges(Bars.graph).save(tmp_path)
    about = json.loads((tmp_path / "judges.json").read_text())
    (tmp_path / "judges.json").write_text(json.dumps(about | {"sizes": about["sizes"] | sizes}))
    monkeypatch.setattr(panel, "load_file", lambda *args: pytest.fail("allocated"))
    with pytest.raises(UserError, match=r"cannot read the judges in .* is \([\d, ]+\), not \("):
        Judges.load(tmp_path, Bars.graph)


def test_loading_what_is_not_there_or_not_ours_is_one_line(trained, tmp_path):
    trained.save(tmp_path / "good")
    trained.save(tmp_path / "cut")
    weights = tmp_path / "cut" / "judges.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    other = CausalGraph((Variable("way", "categorical", size=3),), (1, 8, 8))
    for folder, graph in (("none", Bars.graph), ("cut", Bars.graph), ("good", other)):
        with pytest.raises(UserError) as error:
            Judges.load(tmp_path / folder, graph)
        assert "\n" not in str(error.value)
        assert "remove the folder" in str(error.value) or "remove its folder" in str(error.value)


def test_same_seed_same_weights_and_no_trace_in_the_global_generator(root):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train_judges(Bars(), root, Bars.graph, SMALL, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two = train_judges(Bars(), root, Bars.graph, SMALL, seed=3)
    other = train_judges(Bars(), root, Bars.graph, SMALL, seed=4)
    assert same(one.state(), two.state())
    assert not same(one.state(), other.state())
    first, second = (c.net[0].weight for c in one.coders("way"))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_budget_counts_images_and_progress_reaches_the_end(root, monkeypatch, scale):
    seen, stages = {}, {}
    from cfbench.judges import autoencoders, reader, vae

    for kind in (reader.Reader, vae.VAE, autoencoders.AutoEncoder):

        def counted(self, x, *rest, kind=kind, loss=kind.loss):
            seen[kind.__name__] = seen.get(kind.__name__, 0) + len(x)
            return loss(self, x, *rest)

        monkeypatch.setattr(kind, "loss", counted)

    def progress(stage, done, total, loss=None):
        stages[stage] = (done, total)

    monkeypatch.setattr(Bars, "reader_scale", scale)
    train_judges(Bars(), root, Bars.graph, SMALL, progress=progress)
    assert seen == {"Reader": 128 * scale, "VAE": 128, "AutoEncoder": 3 * 64}
    assert all(done == total > 0 for done, total in stages.values())
    assert SMALL.scaled(2) == JudgeBudget(256, 256, 128, 128, 32)


def test_a_class_without_images_has_no_reconstruction(root):
    class Standing(Bars):
        def split(self, root, name):
            rows = super().split(root, name)
            return rows[rows.parents[:, 0] == 1]

    judges = train_judges(Standing(), root, Bars.graph, SMALL)
    x = Bars().split(root, "valid").x[:4]
    out = judges.reconstruct(x, "way", torch.tensor([0, 1, 0, 1]))
    assert out.flatten(1).isnan().all(1).tolist() == [True, False, True, False]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28), (2, 30, 32), (3, 64, 64)])
def test_every_image_size_and_channel_count(shape):
    judges = Judges(CausalGraph((Variable("way", "categorical", size=2),), shape))
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    out = calls(judges, x)
    assert all(out[name].shape == x.shape for name in ("all", "class", "draw"))
    assert out["features"].shape == (3, 64)
    assert judges.vae.loss(x, torch.zeros(3, 16)).isfinite()
    assert judges.reader.loss(x, torch.zeros(3, 1)).isfinite()
