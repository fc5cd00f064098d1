"""The exactly invertible flow: inverses, densities, stability, and its switches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cfbench_methods.flowscm import FlowSCM
from cfbench_methods.nn.coupling import Affine, DenseNet, grids
from cfbench_methods.nn.flow_glow import SqueezeFlow
from cfbench_methods.nn.flow_wavelet import CoarseFlow, DetailFlow, PyramidFlow, haar, unhaar
from cfbench_methods.nn.smoothed import Observation, entropy
from scipy.special import xlogy
from scipy.stats import norm
from toys import Bars

from cfbench.contract import Fit, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.rng import Streams

pytestmark = pytest.mark.portable

BARS = Bars()
SMALL = {"width": (24, 8), "depth": (2, 1), "couplings": (4, 2)}
WAVELET = {"kind": "wavelet", "width": (32, 32, 8), "depth": (2, 2, 2), "couplings": (4, 2, 2)}
KINDS = pytest.mark.parametrize("kind", [SMALL, WAVELET], ids=["squeeze", "wavelet"])
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 9, 13), (2, 5, 3), (1, 1, 1)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_weights(module, gain: float = 1.0, seed: int = 0):
    """Every parameter drawn anew, so that nothing is 0 as at the start."""
    rng = generator(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(gain * torch.randn(p.shape, generator=rng) / max(1, p[0].numel()) ** 0.5)
    return module


def precise(flow):
    """The flow in double precision, its rotations orthogonal to that precision, scaled to random images."""
    flow = random_weights(flow).double()
    with torch.no_grad():
        for name, buffer in flow.named_buffers():
            if "turn" in name or "rotations" in name:
                buffer.copy_(torch.linalg.qr(buffer)[0])
    flow.observe(torch.rand(256, *flow.padded, generator=generator(), dtype=torch.float64))
    return flow


def log_det(f, x):
    """log |det df/dx| of one flat input, from the full Jacobian."""
    return torch.linalg.slogdet(torch.autograd.functional.jacobian(f, x)).logabsdet


def pyramid(shape):
    return PyramidFlow(shape, 3, (16, 16, 8), (2, 2, 1), (3, 2, 2), 2.0)


def squeeze(shape):
    return SqueezeFlow(shape, 3, (8, 6), (2, 1), (3, 2), 2.0)


def bars_fit(images=1024, seed=0, rows=None, **params):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = FlowSCM(BARS.graph, **params)
        log, tables = [], {}
        train, valid = (BARS.split(Path(), name) for name in ("train", "valid"))
        run = Fit(rows or train, valid, images, torch.device("cpu"), generator(seed), log.append, tables.__setitem__)
        method.fit(run)
    return method.eval(), log, tables


def test_haar_takes_sums_and_differences_of_two_by_two_pixels():
    low, detail = haar(torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]]))
    assert low.flatten().tolist() == [5.5]
    assert detail.flatten().tolist() == [-1.5, -2.5, 0.5]


def test_haar_keeps_lengths_and_is_undone():
    x = torch.randn(4, 3, 6, 10, generator=generator())
    low, detail = haar(x)
    torch.testing.assert_close(low.square().sum() + detail.square().sum(), x.square().sum())
    torch.testing.assert_close(unhaar(low, detail), x)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((28, 28), [(7, 7), (14, 14)]), ((8, 8), [(4, 4)]), ((29, 9), [(8, 3), (16, 6)]), ((1, 1), [(1, 1)])],
)
def test_grids_halve_until_they_are_small(shape, expected):
    assert grids(*shape) == expected


def test_an_affine_layer_shifts_and_scales_within_its_limit():
    layer = random_weights(Affine(DenseNet(2, 1, 2, 8, 1), limit=0.5), 50.0)
    z, seen, e = torch.zeros(6, 2), torch.randn(6, 2, generator=generator()), torch.ones(6, 1)
    zero, logs = layer(z, seen, e)
    one, _ = layer(z + 1, seen, e)
    scale = one - zero
    assert scale.log().abs().max() <= 0.5 + 1e-3
    torch.testing.assert_close(scale.log().sum(1), logs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("build", [pyramid, squeeze])
def test_the_flow_is_undone_by_its_inverse(build, shape):
    flow = precise(build(shape))
    y, e = torch.rand(5, *flow.padded).double(), torch.randn(5, 3).double()
    noise, _ = flow(y, e)
    assert [tuple(u.shape[1:]) for u in noise] == flow.noise_shapes
    torch.testing.assert_close(flow.inverse(noise, e), y, rtol=0, atol=1e-7)
    assert not torch.allclose(flow.inverse(noise, e + 1), y)


@pytest.mark.parametrize("shape", [(1, 6, 6), (2, 3, 4), (1, 9, 5)])
@pytest.mark.parametrize("build", [pyramid, squeeze])
def test_the_density_follows_the_jacobian(build, shape):
    flow = precise(build(shape))
    y, e = torch.rand(1, *flow.padded).double(), torch.randn(1, 3).double()

    def flat(v):
        return torch.cat([u.flatten() for u in flow(v.reshape(y.shape), e)[0]])

    u = flat(y)
    expected = -0.5 * u.square().sum() - 0.5 * len(u) * math.log(2 * math.pi) + log_det(flat, y.flatten())
    torch.testing.assert_close(torch.stack(flow(y, e)[1]).sum(), expected)


def test_whitening_leaves_data_uncorrelated_with_unit_variance():
    z = torch.randn(500, 6, generator=generator()) @ torch.randn(6, 6, generator=generator(1)) + 3
    flow = CoarseFlow(6, 2, 8, 1, 0, 2.0)
    flow.observe(z)
    u, _ = flow(z, torch.zeros(500, 2))
    torch.testing.assert_close(torch.cov(u.T, correction=0), torch.eye(6), rtol=0, atol=1e-3)
    torch.testing.assert_close(u.mean(0), torch.zeros(6), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dense", [True, False])
def test_details_take_turns_and_depend_on_sums_and_parents(dense):
    flow = random_weights(DetailFlow(1, (4, 4), 2, 8, 1, 2, 2.0, dense))
    d, low, e = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4), torch.randn(2, 2)
    u, _ = flow(d, low, e)
    torch.testing.assert_close(flow.inverse(u, low, e), d, rtol=0, atol=1e-4)
    assert not torch.allclose(flow(d, low + 1, e)[0], u)
    assert not torch.allclose(flow(d, low, e + 1)[0], u)
    changed = d.clone()
    changed[:, 2] += 1
    assert (flow(changed, low, e)[0] - u)[:, :1].abs().min() > 0


@KINDS
def test_bits_per_dimension_of_uniform_noise_are_eight(kind):
    rng = generator()
    images = torch.randint(256, (640, 1, 8, 8), generator=rng).byte()
    noise = Split(images, BARS.split(Path(), "train").parents[:1].expand(640, -1).clone(), torch.arange(640))
    method = FlowSCM(BARS.graph, noise=0.0, **kind)
    tables = {}
    method.fit(Fit(noise, noise, 640, torch.device("cpu"), rng, record=tables.__setitem__))
    # white noise under a Gaussian of the same variance: log2 of sqrt(2 pi e / 12) above its entropy of 8 bits
    assert tables["likelihood"]["bits_per_dim"] == pytest.approx(
        8 + 0.5 * math.log2(2 * math.pi * math.e / 12), abs=0.05
    )
    assert tables["likelihood"]["bound"] is True


def reported(method, images):
    """What a method records of its likelihood, on images [N, 1, 8, 8] that it trains on and is asked about."""
    rows = Split(images, BARS.split(Path(), "train").parents[:1].expand(len(images), -1), torch.arange(len(images)))
    tables = {}
    method._report(Fit(rows, rows, 0, torch.device("cpu"), generator(2), record=tables.__setitem__))
    return tables["likelihood"]


def noise_images(count=640):
    return torch.randint(256, (count, 1, 8, 8), generator=generator()).byte()


class Flat(torch.nn.Module):
    """A density that is 1 everywhere."""

    padded = (1, 8, 8)

    def forward(self, y, e):
        return [y], [0 * y.sum((1, 2, 3))]

    def pad(self, x):
        return x

    crop = pad


def test_a_uniform_density_has_eight_bits():
    method = FlowSCM(BARS.graph, noise=0.0, **SMALL)
    method.flow = Flat()
    assert reported(method, noise_images())["bits_per_dim"] == 8


def test_the_bound_is_one_on_a_law_of_grey_levels_known_by_quadrature():
    method = FlowSCM(BARS.graph, noise=0.05, **SMALL)  # before a fit its couplings are the identity: a Gaussian
    images = noise_images()
    method.flow.observe(FlowSCM._dequantised(images.float() / 255))
    mean, scale = (part.double().numpy() for part in (method.flow.mean.flatten(), method.flow.scale))
    x = images[:200].float() / 255
    y = x + 0.05 * torch.randn(x.shape, generator=generator(1))
    observation = Observation(x, FlowSCM._image(method, method._denoised(y, torch.zeros(len(x), 2))[0]))
    grid, levels = np.linspace(-1, 2, 6001), torch.arange(256) / 255
    exact = []
    for pixel in (0, 27, 63):
        density = norm(mean[pixel], scale).pdf(grid)
        guess = (256 * (grid + 0.05**2 * (mean[pixel] - grid) / scale**2) - 0.5) / 255
        guess = torch.tensor(guess, dtype=torch.float32).clamp(0, 1)
        law = observation.log_prob(levels[:, None].expand(-1, len(grid)), guess.expand(256, -1)).double().exp()
        probability = np.trapezoid(law.numpy() * density, grid, axis=1)
        assert probability.sum() == pytest.approx(1, abs=1e-4)
        exact.append(-np.log2(probability).mean())
    assert 8 < np.mean(exact) < reported(method, images)["bits_per_dim"] < np.mean(exact) + 0.15


@pytest.mark.parametrize("noise", [1e-3, 0.3, 1.0, 12.8])
def test_the_entropy_of_noise_is_that_of_its_density(noise):
    k = np.linspace(-0.5 - 9 * noise, 0.5 + 9 * noise, 400001)
    density = norm.cdf((k + 0.5) / noise) - norm.cdf((k - 0.5) / noise)
    assert entropy(noise) == pytest.approx(np.trapezoid(xlogy(density, density), k) / -math.log(2), abs=1e-3)
    assert entropy(0) == 0
    assert entropy(noise) < 0.5 * math.log2(2 * math.pi * math.e * (noise**2 + 1 / 12)) + 1e-6


@KINDS
def test_the_parts_of_the_bound_add_up(kind):
    _, _, tables = bars_fit(noise=0.05, **kind)
    table = tables["likelihood"]
    parts = table["noised_bits"] - table["noise_bits"] + table["observation_bits"]
    assert table["bits_per_dim"] == pytest.approx(parts)
    assert 0 < table["bits_per_dim"] < table["noised_bits"]


@KINDS
def test_odd_images_are_padded_and_cropped(kind):
    graph = CausalGraph(BARS.graph.variables, (1, 7, 7))
    method = FlowSCM(graph, **kind)
    x = torch.rand(2, 1, 7, 7)
    assert method.flow.pad(x).shape == (2, 1, 8, 8)
    assert torch.equal(method.flow.crop(method.flow.pad(x)), x)
    pa = BARS.split(Path(), "test").parents[:2]
    u = method.abduct(x, pa, Streams(range(2)))
    torch.testing.assert_close(method.predict(u, pa, Streams(range(2))), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dither", [False, True])
@KINDS
def test_ten_cycles_change_nothing(kind, dither):
    method, _, _ = bars_fit(dither=dither, **kind)
    split = BARS.split(Path(), "test")
    x, pa = split.x, split.parents
    image = x
    with torch.no_grad():
        for k in range(10):
            rng = Streams(range(k, k + len(x)))
            image = method.predict(method.abduct(image, pa, rng), pa, rng)
    assert (image - x).abs().max() < 1e-4


def test_dither_is_drawn_from_the_images_own_streams_and_taken_off():
    method, _, _ = bars_fit(dither=True, noise=0.1, **SMALL)
    split = BARS.split(Path(), "test")
    x, pa = split.x[:64], split.parents[:64]
    first, again, other = (method.abduct(x, pa, Streams(range(s, s + 64)))[-1] for s in (0, 0, 100))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.1, rel=0.05)
    assert method.abduct(x, pa, Streams(range(64)))[0].square().mean() < 4


@pytest.mark.parametrize("seed", range(10))
def test_training_is_stable_at_ten_times_the_learning_rate(seed):
    method, log, tables = bars_fit(512, seed, lr=2e-2, noise=0.0, **(SMALL if seed % 2 else WAVELET))
    assert all(math.isfinite(row["loss"]) for row in log)
    assert math.isfinite(tables["likelihood"]["bits_per_dim"])
    assert all(p.isfinite().all() for p in method.parameters())


@KINDS
def test_extreme_images_and_parents_are_answered(kind):
    method, _, _ = bars_fit(**kind)
    x = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8), torch.eye(8)[None]])
    pa = torch.tensor([[0.0, 0.2], [1.0, 1.0], [1.0, 0.5]])
    far = torch.tensor([[1.0, -40.0], [0.0, 60.0], [0.0, 1e3]])
    with torch.no_grad():
        u = method.abduct(x, pa, Streams(range(3)))
        torch.testing.assert_close(method.predict(u, pa, Streams(range(3))), x, rtol=0, atol=1e-4)
        assert method.predict(u, far, Streams(range(3))).isfinite().all()


def test_images_without_contrast_can_be_learned():
    train = BARS.split(Path(), "train")
    black = Split(torch.zeros_like(train.images), train.parents, train.index)
    _, log, tables = bars_fit(512, rows=black, noise=0.0, **SMALL)
    assert all(math.isfinite(row["loss"]) for row in log)
    assert math.isfinite(tables["likelihood"]["bits_per_dim"])


def blobs(rows: int, seed: int) -> Split:
    """Upright or lying blobs (kind) of some brightness (level), off the centre by a little on either side."""
    rng = generator(seed)
    kind, level = torch.randint(2, (rows,), generator=rng), 0.4 + 0.6 * torch.rand(rows, generator=rng)
    centre = 3.5 + 0.5 * torch.randn(rows, 2, generator=rng)
    return Split(blob(kind, level, centre), torch.stack([kind.float(), level], 1), torch.arange(rows))


def blob(kind, level, centre):
    long, short = 2.5, 1.0
    spread = torch.where(kind[:, None].bool(), torch.tensor([short, long]), torch.tensor([long, short]))
    away = (torch.arange(8) - centre[:, :, None]) / spread[:, :, None]
    image = level[:, None, None] * torch.exp(-0.5 * (away[:, 0, :, None] ** 2 + away[:, 1, None, :] ** 2))
    return (255 * image).byte()[:, None]


@KINDS
def test_the_class_leaves_the_latent_and_enters_the_answer(kind):
    method, _, _ = bars_fit(6400, rows=blobs(4096, 0), **kind)
    test = blobs(256, 1)
    cf_pa = torch.stack([1 - test.parents[:, 0], test.parents[:, 1]], 1)
    x, streams = test.x, Streams(range(256))
    with torch.no_grad():
        answer = method.predict(method.abduct(x, test.parents, streams), cf_pa, streams)
    # the same centre, moved by the same hand
    rng = generator(1)
    torch.randint(2, (256,), generator=rng), torch.rand(256, generator=rng)
    centre = 3.5 + 0.5 * torch.randn(256, 2, generator=rng)
    truth = blob(cf_pa[:, 0], cf_pa[:, 1], centre).float() / 255
    lying = answer.mean(2).var(2) < answer.mean(3).var(2)
    assert (lying[:, 0] == cf_pa[:, 0].bool()).float().mean() > 0.97
    assert (answer - truth).abs().mean() < 0.5 * (x - truth).abs().mean()


def test_without_templates_parents_only_scale_and_shift_channels():
    """What makes the flow answer: a bias for each position, which parents can learn and else stays 0."""
    for template in (True, False):
        method, _, _ = bars_fit(512, template=template, **SMALL)
        weights = [layer.net.template.weight for layer in method.flow.couplings]
        assert all((w.abs().max() > 0) == template for w in weights)


def test_samples_follow_the_parents_and_their_streams():
    method, _, _ = bars_fit(6400, rows=blobs(4096, 0), **SMALL)
    pa = torch.tensor([[0.0, 0.9], [0.0, 0.4]]).repeat_interleave(64, 0)
    bright, dark = method.sample(pa, Streams(range(128))).split(64)
    assert bright.amax((1, 2, 3)).mean().item() == pytest.approx(0.87, abs=0.1)
    assert dark.amax((1, 2, 3)).mean().item() == pytest.approx(0.39, abs=0.1)
    assert not torch.equal(bright[0], bright[1])
    torch.testing.assert_close(method.sample(pa[64:66], Streams([64, 65])), dark[:2], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "params", [{"noise": -0.1}, {"limit": 0.0}, {"width": (8,)}, {"kind": "glow"}, {"kind": "wavelet"}]
)
def test_what_cannot_be_is_refused(params):
    with pytest.raises(UserError, match="flowscm"):
        FlowSCM(BARS.graph, **params)


@KINDS
def test_any_graph_and_shape_has_a_flow(kind):
    graph = CausalGraph((Variable("kind", "categorical", size=3),), (3, 9, 13))
    method = FlowSCM(graph, **kind)
    x, pa = torch.rand(2, 3, 9, 13), torch.tensor([[0.0], [2.0]])
    u = method.abduct(x, pa, Streams(range(2)))
    torch.testing.assert_close(method.predict(u, pa, Streams(range(2))), x, rtol=0, atol=1e-5)
