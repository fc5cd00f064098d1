"""CLD and the distance to the factual against torch.distributions, numpy and values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_metrics import GRAPH, PIXELS, Panel, fresh, make
from torch.distributions import Independent, Normal, kl_divergence

from cfbench.contract import Split
from cfbench.evidence import Evidence
from cfbench.metrics.minimality import CLD, FactualDistance, cld, kl, pools

pytestmark = pytest.mark.portable

IDENTITY, IDENTITY_WEIGHTED = math.log(1 + math.e), math.log(0.8 + 0.2 * math.e)


def codes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=g).double(), torch.rand(n, 5, generator=g).double() + 0.2


class Planted(Panel):
    """Reads a code off the first pixel: mean 10 x[0] in the one dimension, standard deviation 1."""

    def encode(self, x):
        mean = x.double().flatten(1)[:, :1] * 10
        return mean, torch.ones_like(mean)


def planted(factual: float, answer: float, real: list[tuple[float, float]]) -> Evidence:
    """One question, digit 0 -> 1; ``real`` lists (first pixel in grey levels, digit)."""

    def image(values: list[float]) -> torch.Tensor:
        out = torch.zeros(len(values), PIXELS)
        out[:, 0] = torch.tensor(values)
        return out.reshape(-1, *GRAPH.shape)

    real_pa = torch.zeros(len(real), 4)
    real_pa[:, 0] = torch.tensor([digit for _, digit in real])
    split = Split(image([level for level, _ in real]).byte(), real_pa, torch.arange(len(real)))
    pa = torch.zeros(1, 4)
    x, x_cf = image([factual / 255]), image([answer / 255])
    return Evidence(GRAPH, "digit", x, pa, pa + torch.tensor([1.0, 0, 0, 0]), x_cf, split, judges=Planted())


class TestKL:
    def test_equals_the_closed_form_of_torch(self):
        (m1, s1), (m2, s2) = codes(9, 0), codes(9, 1)
        expected = kl_divergence(Independent(Normal(m1, s1), 1), Independent(Normal(m2, s2), 1))
        torch.testing.assert_close(kl((m1, s1), (m2, s2)), expected)

    def test_is_zero_on_equal_codes_and_not_symmetric(self):
        a, b = codes(9, 0), codes(9, 1)
        assert (kl(a, a) == 0).all()
        assert (kl(a, b) > 0).all()
        assert not torch.allclose(kl(a, b), kl(b, a))

    def test_moves_when_only_sigma_moves_and_takes_sigma_for_no_logarithm(self):
        mean = torch.zeros(1, 1)
        value = kl((mean, torch.tensor([[2.0]])), (mean, torch.tensor([[1.0]])))
        assert value.item() == pytest.approx(0.5 * (4 - 1 - math.log(4)))


class TestCLD:
    @pytest.mark.parametrize("do", ["digit", "thickness", "intensity", "slant"])
    def test_a_copy_of_the_factual_scores_what_theory_says(self, do):
        e = make(do)
        scores = CLD()(replace(e, answer=e.x.clone()))
        assert torch.equal(scores["p1"], torch.zeros(len(e)).double())
        assert torch.equal(scores["p2"], torch.ones(len(e)).double())
        torch.testing.assert_close(scores["cld"], torch.full((len(e),), IDENTITY).double())
        torch.testing.assert_close(scores["cld_weighted"], torch.full((len(e),), IDENTITY_WEIGHTED).double())
        assert (round(IDENTITY, 4), round(IDENTITY_WEIGHTED, 4)) == (1.3133, 0.2954)

    @pytest.mark.parametrize("do", ["digit", "thickness"])
    def test_equals_a_plain_loop_over_distributions(self, do):
        e = make(do, n=8)
        scores = CLD()(e)
        k = GRAPH.index(do)
        values = e.real.parents[:, k].double().numpy()
        edges = np.quantile(values, np.arange(1, 10) / 10)

        def number(value):
            return value if do == "digit" else np.digitize(value, edges)

        def posterior(images):
            return Independent(Normal(*e.judges.encode(images)), 1)

        for n in range(len(e)):
            x = posterior(e.x[n : n + 1])
            div = kl_divergence(posterior(e.answer[n : n + 1]), x)
            spread = kl_divergence(posterior(e.real.x), x).numpy()
            wanted = spread[number(values) == number(e.cf_pa[n, k].double().numpy())]
            factual = spread[number(values) == number(e.pa[n, k].double().numpy())]
            p1, p2 = (wanted <= div.item()).mean(), (factual >= div.item()).mean()
            assert scores["p1"][n].item() == pytest.approx(p1)
            assert scores["p2"][n].item() == pytest.approx(p2)
            assert scores["cld"][n].item() == pytest.approx(math.log(math.exp(p1) + math.exp(p2)))
            assert scores["cld_weighted"][n].item() == pytest.approx(math.log(0.8 * math.exp(p1) + 0.2 * math.exp(p2)))

    def test_perfect_order(self):
        scores = CLD()(planted(0, 100, [(10, 0), (20, 0), (150, 1), (200, 1)]))
        assert scores["cld"].item() == pytest.approx(math.log(2))
        assert scores["cld_weighted"].item() == pytest.approx(0)

    def test_half_of_the_wanted_value_nearer(self):
        scores = CLD()(planted(0, 100, [(10, 0), (20, 0), (50, 1), (200, 1)]))
        assert (scores["p1"].item(), scores["p2"].item()) == (0.5, 0)
        assert scores["cld"].item() == pytest.approx(0.9741, abs=1e-4)
        assert scores["cld_weighted"].item() == pytest.approx(math.log(0.8 * math.exp(0.5) + 0.2))

    def test_a_reference_image_as_far_as_the_answer_counts_in_both(self):
        scores = CLD()(planted(0, 100, [(100, 0), (100, 1)]))
        assert (scores["p1"].item(), scores["p2"].item()) == (1, 1)

    def test_reference_images_lie_in_the_first_argument_of_the_divergence(self):
        """KL(narrow ‖ wide) and its reverse put the answer on different sides of the one reference image."""
        e = planted(0, 100, [(50, 0), (50, 1)])

        class Wide(Planted):
            def encode(self, x):
                mean = x.double().flatten(1)[:, :1]
                return mean * 0, 1 + mean * 9  # sd of factual 1, reference 2.76, answer 4.53

        scores = CLD()(replace(e, judges=Wide()))
        assert (scores["p1"].item(), scores["p2"].item()) == (1, 0)
        back = kl((torch.zeros(1), torch.tensor([1.0])), (torch.zeros(1), torch.tensor([4.53])))
        assert kl((torch.zeros(1), torch.tensor([4.53])), (torch.zeros(1), torch.tensor([1.0]))) > 5 * back

    def test_bounds(self):
        p = torch.linspace(0, 1, 11).double()
        p1, p2 = torch.cartesian_prod(p, p).T
        plain, weighted = cld(p1, p2), cld(p1, p2, 0.8, 0.2)
        assert plain.min().item() == pytest.approx(0.6931, abs=1e-4)
        assert plain.max().item() == pytest.approx(1.6931, abs=1e-4)
        assert weighted.min().item() == pytest.approx(0)
        assert weighted.max().item() == pytest.approx(1)

    @pytest.mark.parametrize("do", ["digit", "thickness"])
    def test_other_variables_have_no_part_in_the_pools(self, do):
        e = make(do)
        mixed = e.real.parents.clone()
        g = torch.Generator().manual_seed(9)
        for k in range(4):
            if k != GRAPH.index(do):
                mixed[:, k] = mixed[torch.randperm(len(mixed), generator=g), k]
        other = fresh(e, real=replace(e.real, parents=mixed))
        assert all(torch.equal(v, CLD()(other)[name]) for name, v in CLD()(e).items())
        order = torch.randperm(len(mixed), generator=g)
        shuffled = e.real.parents.clone()
        shuffled[:, GRAPH.index(do)] = shuffled[order, GRAPH.index(do)]
        moved = CLD()(fresh(e, real=replace(e.real, parents=shuffled)))
        assert not torch.equal(CLD()(e)["p1"], moved["p1"])

    def test_an_empty_pool_is_no_score_for_its_rows_only(self):
        e = make("digit")
        kept = e.real.parents[:, 0] != 2
        scores = CLD()(fresh(e, real=e.real[kept]))
        gone_p1, gone_p2 = e.cf_pa[:, 0] == 2, e.pa[:, 0] == 2
        assert torch.equal(scores["p1"].isnan(), gone_p1)
        assert torch.equal(scores["p2"].isnan(), gone_p2)
        assert torch.equal(scores["cld"].isnan(), gone_p1 | gone_p2)
        assert 0 < (gone_p1 | gone_p2).sum() < len(e)

    def test_continuous_values_beyond_the_data_fall_into_the_outer_pools(self):
        e = make("thickness")
        e.cf_pa[0, 1], e.cf_pa[1, 1] = -5, 5
        factual, wanted, real = pools(e)
        assert (wanted[0].item(), wanted[1].item()) == (0, 9)
        assert torch.bincount(real, minlength=10).tolist() == [9] * 10
        assert factual.min() >= 0

    def test_a_value_on_an_edge_belongs_to_the_pool_above(self):
        e = make("thickness", n=2, real=11)
        e.real.parents[:, 1] = torch.arange(11)
        e.pa[:, 1] = torch.tensor([3.0, 2.9])
        factual, _, real = pools(e)
        assert real.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
        assert factual.tolist() == [3, 2]

    def test_the_documented_exception_to_noise_never_improves(self):
        """A slight change of the unchanged factual lowers p2 before it raises p1, and so lowers CLD."""
        e = make("digit", n=60, real=300)
        g = torch.Generator().manual_seed(1)
        noisy = (e.x + 0.12 * torch.randn(e.x.shape, generator=g)).clamp(0, 1)
        assert CLD()(fresh(e, answer=noisy))["cld"].mean() < IDENTITY


def test_distance_to_the_factual():
    e = make()
    expected = np.abs(e.answer.numpy().astype(np.float64) - e.x.numpy().astype(np.float64)).reshape(24, -1).mean(1)
    assert FactualDistance()(e)["l1_factual"].numpy() == pytest.approx(expected * 255)
    assert (FactualDistance()(replace(e, answer=e.x))["l1_factual"] == 0).all()
