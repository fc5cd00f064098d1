"""Helpers for authors of methods, against scikit-learn, PyTorch and the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cfbench.graph import CausalGraph, Variable
from cfbench.nn import ParentEncoder, WeightAverage, crop, pad_to_multiple
from cfbench.plugins.digest import source_digest
from cfbench.plugins.files import load_file

GRAPH = CausalGraph(
    (Variable("size", "continuous", high=9), Variable("kind", "categorical", 3), Variable("hue", "continuous")),
    (1, 5, 7),
)


@pytest.fixture
def pa():
    rng = np.random.default_rng(0)
    return torch.tensor(
        np.stack([rng.normal(4, 2, 50), rng.permutation(np.arange(50) % 3), rng.random(50)], 1), dtype=torch.float32
    )


def test_parents_are_encoded_as_scikit_learn_does(pa):
    steps = [StandardScaler(), OneHotEncoder(sparse_output=False), StandardScaler()]
    reference = ColumnTransformer([(str(k), step, [k]) for k, step in enumerate(steps)])
    expected = torch.tensor(reference.fit_transform(pa.double().numpy()), dtype=torch.float32)
    encoder = ParentEncoder(GRAPH).fit(pa)
    assert encoder.dim == expected.shape[1] == 5
    torch.testing.assert_close(encoder(pa), expected, rtol=1e-5, atol=1e-5)
    again = ParentEncoder(GRAPH)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(pa), encoder(pa))


def test_a_constant_value_is_only_centred(pa):
    pa[:, 0] = 4
    encoded = ParentEncoder(GRAPH).fit(pa)(pa)
    assert encoded.isfinite().all()
    assert torch.equal(encoded[:, 0], torch.zeros(50))


@pytest.mark.parametrize(("multiple", "padded"), [(1, (5, 7)), (4, (8, 8)), (5, (5, 10))])
def test_padded_images_come_back_as_they_were(multiple, padded):
    x = torch.rand(2, 3, 5, 7)
    for mode in ("constant", "replicate"):
        y = pad_to_multiple(x, multiple, mode)
        assert y.shape == (2, 3, *padded)
        assert torch.equal(crop(y, like=x), x)
        assert torch.equal(crop(y, x.shape[1:]), x)
    edge = x[:, :, :, -1:] if padded[1] > 7 else x[:, :, :, :0]
    assert torch.equal(y[:, :, :5, 7:], edge.expand(-1, -1, -1, padded[1] - 7))
    assert not pad_to_multiple(x, multiple)[:, :, 5:].any()


def test_the_average_of_weights_is_that_of_pytorch_with_the_decay_of_the_formula():
    def decay(n):
        return min(0.9, (1 + n) / (10 + n))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    # Its first update copies the weights, as the average begins with them: its count is one ahead.
    reference = AveragedModel(net, avg_fn=lambda mean, new, n: mean + (1 - decay(int(n) - 1)) * (new - mean))
    reference.update_parameters(net)
    average = WeightAverage(net, 0.9)
    for _ in range(200):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        average.update()
        reference.update_parameters(net)
    last = [p.clone() for p in net.parameters()]
    average.apply()
    for p, q, r in zip(net.parameters(), reference.module.parameters(), last, strict=True):
        torch.testing.assert_close(p, q)
        assert not torch.allclose(p, r)


def test_without_decay_the_last_weights_are_kept():
    net = nn.Linear(2, 2)
    average = WeightAverage(net, 0)
    with torch.no_grad():
        net.weight.fill_(3)
    average.update()
    with torch.no_grad():
        net.weight.fill_(5)
    average.apply()
    assert (net.weight == 3).all()


def test_an_average_continues_from_its_state():
    torch.manual_seed(0)
    nets = [nn.Linear(3, 3)]
    nets.append(nn.Linear(3, 3))
    nets[1].load_state_dict(nets[0].state_dict())
    averages = [WeightAverage(net, 0.99) for net in nets]
    for step in range(20):
        if step == 7:
            state = {k: [t.clone() for t in v] if k == "mean" else v for k, v in averages[1].state_dict().items()}
            averages[1] = WeightAverage(nets[1], 0.99)
            averages[1].load_state_dict(state)
        move = torch.randn(3, 3)
        for net, average in zip(nets, averages, strict=True):
            with torch.no_grad():
                net.weight.add_(move)
            average.update()
    for average in averages:
        average.apply()
    assert torch.equal(nets[0].weight, nets[1].weight)


@pytest.mark.parametrize("line", ["from cfbench.nn import crop", "import cfbench.nn", "from cfbench import Method, nn"])
def test_its_code_counts_in_the_keys_of_whoever_imports_it(tmp_path, monkeypatch, line):
    def digest(name: str) -> str:
        (tmp_path / f"{name}.py").write_text(f"{line}\n\n\nclass Mine:\n    pass\n")
        return source_digest(load_file(name, tmp_path / f"{name}.py").Mine)

    with_it = digest("one")
    assert with_it == digest("two")
    monkeypatch.setattr("cfbench.plugins.digest.PARTS", ())
    assert with_it != digest("three")
