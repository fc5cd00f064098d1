"""FID, KID, density and coverage against scipy, torchmetrics, scikit-learn and brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel
from test_metrics import fresh, make
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from cfbench.metrics.density import coverage, density, expected_coverage, pack, radii, spaced
from cfbench.metrics.frechet import frechet, moments, reference
from cfbench.metrics.kernel import Pairs, kernel, within
from cfbench.metrics.realism import Neighbours, Realism, TrueRealism

pytestmark = pytest.mark.portable


def draw(n: int, f: int = 6, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(f, f, generator=torch.Generator().manual_seed(99)).double()
    return scale * torch.randn(n, f, generator=g).double() @ mix + shift


def exact(n: int, mean: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """n points whose sample mean and covariance are those given."""
    z = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(n)).double()
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(z.T)), z.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


class TestFrechet:
    def test_equals_the_textbook_form_with_a_matrix_root(self):
        a, b = draw(60, seed=1), draw(90, seed=2, shift=0.5, scale=1.4)
        (ma, ca), (mb, cb) = ((x.numpy().mean(0), np.cov(x.numpy().T)) for x in (a, b))
        expected = ((ma - mb) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
        assert frechet(a, reference(b)).item() == pytest.approx(expected, rel=1e-9)

    def test_of_two_gaussians_with_known_distance(self):
        a = exact(50, torch.zeros(2).double(), torch.diag(torch.tensor([4.0, 9.0]).double()))
        b = exact(70, torch.tensor([1.0, 2.0]).double(), torch.eye(2).double())
        assert frechet(a, reference(b)).item() == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 1) ** 2)

    def test_of_a_set_with_itself_is_nothing_even_when_features_are_dead(self):
        a = draw(80)
        a[:, 2] = 0
        assert frechet(a, reference(a)).item() == pytest.approx(0, abs=1e-6)

    def test_fewer_images_than_features(self):
        a, b = draw(5, f=8), draw(6, f=8, seed=3)
        ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
        root = np.sqrt(np.clip(np.linalg.eigvals(ca @ cb).real, 0, None)).sum()
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb) - 2 * root
        assert frechet(a, reference(b)).item() == pytest.approx(expected, abs=1e-5)

    def test_equals_torchmetrics_through_the_whole_metric(self):
        e = make(n=60, real=120)

        class Net(nn.Module):
            num_features = 12

            def forward(self, x):
                return e.judges.features(x)

        theirs = FrechetInceptionDistance(feature=Net(), normalize=True, input_img_size=(1, 6, 6)).double()
        theirs.update(e.real.x, real=True)
        theirs.update(e.answer, real=False)
        assert Realism()(e)["fid_real"].item() == pytest.approx(theirs.compute().item(), rel=1e-6)

    def test_refuses_a_single_image(self):
        with pytest.raises(ValueError, match="at least 2 images on each side, found 1"):
            moments(draw(1))


class TestKernel:
    def test_kernel_equals_scikit_learn(self):
        a, b = draw(7), draw(9, seed=1)
        np.testing.assert_allclose(kernel(a, b).numpy(), polynomial_kernel(a.numpy(), b.numpy(), degree=3))

    def test_whole_metric_equals_torchmetrics(self):
        e = make(n=60, real=60)
        made, real = e.judges.features(e.answer), e.judges.features(e.real.x)
        theirs = poly_mmd(real, made, degree=3, gamma=None, coef=1.0)
        assert Realism()(e)["kid_real"].item() == pytest.approx(theirs.item(), rel=1e-9, abs=1e-12)

    def test_is_unbiased_over_splits_of_one_set(self):
        values = []
        for seed in range(200):
            a, b = draw(40, f=3, seed=seed), draw(40, f=3, seed=seed + 1000)
            values.append((within(a) + within(b) - 2 * kernel(a, b).mean()).item())
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
        assert min(values) < 0 < max(values)

    def test_chunks_change_nothing(self, monkeypatch):
        a, b = draw(50), draw(50, seed=1)
        whole = Pairs.of(a, b).mean()
        monkeypatch.setattr("cfbench.metrics.kernel.PAIRS", 350)
        torch.testing.assert_close(Pairs.of(a, b).mean(), whole)

    def test_paired_form_equals_a_plain_double_loop(self):
        a, b = draw(8), draw(8, seed=1, shift=0.2)
        (aa, bb, ab) = (polynomial_kernel(p, q, degree=3) for p, q in ((a, a), (b, b), (a, b)))
        h = [aa[i, j] + bb[i, j] - ab[i, j] - ab[j, i] for i in range(8) for j in range(8) if i != j]
        assert Pairs.of(a, b).mean().item() == pytest.approx(np.mean(h))
        assert Pairs.of(a, a.clone()).mean().item() == 0

    @pytest.mark.parametrize("missing", [0, 1, 4, 25, 28])
    def test_what_some_rows_have_in_common_follows_from_all(self, missing):
        a, b = draw(30), draw(30, seed=1, shift=0.3)
        rows = torch.randperm(30, generator=torch.Generator().manual_seed(missing))[missing:]
        torch.testing.assert_close(Pairs.of(a).mean(rows), within(a[rows]))
        torch.testing.assert_close(Pairs.of(a, b).mean(rows), Pairs.of(a[rows], b[rows]).mean())
        assert Pairs.of(a, a.clone()).mean(rows) == 0

    def test_copies_are_pairs_like_other_images(self):
        a, rows = draw(30), torch.randint(30, (30,), generator=torch.Generator().manual_seed(4))
        torch.testing.assert_close(Pairs.of(a).mean(rows), within(a[rows]))

    def test_refuses_a_single_image(self):
        with pytest.raises(ValueError, match="at least 2 images on each side, found 1"):
            within(draw(1))
        with pytest.raises(ValueError, match="at least 2 images on each side, found 1"):
            Pairs.of(draw(1), draw(1)).mean()
        for rows in ([0], [29]):
            with pytest.raises(ValueError, match="at least 2 images on each side, found 1"):
                Pairs.of(draw(30)).mean(torch.tensor(rows))


class TestNeighbours:
    def test_equal_a_plain_loop(self):
        made, real = draw(30, seed=1, scale=0.8).numpy(), draw(40, seed=2).numpy()
        hits = np.zeros((30, 40), dtype=bool)
        for j in range(40):
            radius = sorted(np.linalg.norm(real - real[j], axis=1))[5]  # the first is the point itself
            hits[:, j] = np.linalg.norm(made - real[j], axis=1) < radius
        balls = pack(torch.from_numpy(made), torch.from_numpy(real), radii(torch.from_numpy(real)))
        assert density(balls).item() == pytest.approx(hits.sum() / (5 * 30))
        assert coverage(balls).item() == pytest.approx(hits.any(0).mean())
        assert 0 < hits.any(0).mean() < 1

    def test_by_hand_on_a_line(self):
        real = torch.arange(4.0)[:, None]
        radius = radii(real, k=1)
        assert radius.tolist() == [1, 1, 1, 1]
        balls = pack(torch.tensor([[0.5], [0.4], [9.0]]), real, radius)
        assert density(balls, k=1).item() == pytest.approx(4 / 3)
        assert coverage(balls).item() == pytest.approx(0.5)

    @pytest.mark.parametrize(("answers", "real"), [(200, 200), (40, 600), (150, 90)])
    def test_expectations_for_points_of_the_same_law(self, answers, real):
        pairs = [(draw(answers, f=3, seed=s), draw(real, f=3, seed=s + 500)) for s in range(40)]
        balls = [pack(a, b, radii(b)) for a, b in pairs]
        for score, expected in ((density, 1), (coverage, expected_coverage(answers, real))):
            found = np.array([score(b).item() for b in balls])
            assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(len(found))
            assert found.std() < 0.2

    def test_expected_coverage_in_numbers(self):
        assert expected_coverage(10_000, 10_000) == pytest.approx(1 - 2**-5, abs=1e-3)
        assert expected_coverage(128, 1872) == pytest.approx(0.2823, abs=1e-3)

    def test_all_real_images_are_the_reference(self):
        assert spaced(torch.arange(90)[:, None], 30)[:, 0].tolist() == list(range(0, 90, 3))
        assert len(spaced(torch.arange(9)[:, None])) == 9
        e = make(n=30, real=90)
        Neighbours()(e)
        assert (e.memo["balls"][2] == 90).all()

    def test_one_image_for_all_answers_gains_nothing(self):
        real = draw(400, f=3)
        centre = real[radii(real).argmin()].expand(50, -1)
        far = torch.full((50, 3), 99.0)
        crowded, off, honest = (pack(a.double(), real, radii(real)) for a in (centre, far, draw(50, f=3, seed=9)))
        assert density(crowded) > 1.5 * density(honest)
        assert density(off) == 0
        assert Neighbours.columns["density"].direction == "none"
        assert coverage(crowded) < 0.15 * coverage(honest)

    def test_too_few_images(self):
        assert all(v.isnan() for v in Neighbours()(make(real=5)).values())
        assert all(v.isfinite() for v in Neighbours()(make(n=3)).values())
        with pytest.raises(ValueError, match="at least 2 answers, found 1"):
            Neighbours()(make(n=1))


@pytest.mark.parametrize("metric", [Realism, TrueRealism])
def test_metrics_refuse_a_single_answer(metric):
    with pytest.raises(ValueError, match="at least 2"):
        metric()(make(n=1))


def test_the_oracle_is_the_truth_without_any_rows():
    e = make(n=50)
    e = replace(e, answer=e.truth)
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for some in (e, e.take(rows[3:]), e.take(rows[40:])):
        scores = TrueRealism()(some)
        assert scores["kid_truth"].item() == 0
        assert scores["fid_truth"].item() == pytest.approx(0, abs=1e-6)
    assert TrueRealism()(make(n=50))["fid_truth"].item() > 1e-4


def test_a_subset_scores_the_same_with_and_without_what_is_kept():
    e = make(n=50)
    for metric in (Realism, TrueRealism, Neighbours):
        metric()(e)
        for rows in (torch.arange(0, 50, 2), torch.arange(47)):
            kept, new = metric()(e.take(rows)), metric()(fresh(e.take(rows)))
            for name in kept:
                torch.testing.assert_close(kept[name], new[name], rtol=1e-6, atol=1e-6)
