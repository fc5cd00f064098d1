"""Pseudo-values of set scores: their arithmetic, and whether intervals made of them hold what they should."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from columns import column, rows
from test_metrics import make

from cfbench.contract import Column, Metric, Split
from cfbench.evaluation.jackknife import group_count, group_of, pseudo_values
from cfbench.evaluation.scoring import score
from cfbench.evidence import Evidence
from cfbench.graph import CausalGraph, Variable
from cfbench.metrics.density import expected_coverage
from cfbench.metrics.effectiveness import Effectiveness
from cfbench.metrics.minimality import FactualDistance
from cfbench.metrics.realism import Neighbours, Realism, TrueRealism
from cfbench.metrics.soundness import Reversibility
from cfbench.report.statistics.intervals import intervals
from cfbench.runs.stage_reader import raw_scores, score_tensor

pytestmark = pytest.mark.portable

ANSWERS, REAL = 64, 600


@dataclass(frozen=True)
class Factuals:
    """As much of a plan as scores ask for."""

    number: int

    def __len__(self) -> int:
        return self.number


class Mean(Metric):
    columns = {"mean": Column("mean of a parent", "lower")}

    def __call__(self, evidence):
        return {"mean": evidence.cf_pa[:, 1].double().mean()}


class TestPseudoValues:
    def test_of_a_mean_are_the_means_of_the_groups(self):
        x = np.random.default_rng(0).normal(size=60)
        group = group_of(np.arange(60), 60)
        without = np.array([x[group != g].mean() for g in range(60)])
        np.testing.assert_allclose(pseudo_values(x.mean(), without), x)

    def test_remove_the_bias_of_a_variance_over_n(self):
        x = np.random.default_rng(1).normal(size=40)
        without = np.array([np.delete(x, g).var() for g in range(40)])
        assert pseudo_values(x.var(), without).mean() == pytest.approx(x.var(ddof=1))

    def test_groups_without_a_score_are_left_out_of_the_number(self):
        x, holes = np.random.default_rng(2).normal(size=30), np.arange(30) % 3 == 0
        without = np.array([np.nan if holes[g] else np.delete(x, [g, *holes.nonzero()[0]]).mean() for g in range(30)])
        found = pseudo_values(x[~holes].mean(), without)
        np.testing.assert_allclose(found[~holes], x[~holes])
        assert np.isnan(found[holes]).all()

    def test_without_a_score_of_all_there_are_none(self):
        assert np.isnan(pseudo_values(np.nan, np.ones(4))).all()
        assert np.isnan(pseudo_values(1.0, np.array([np.nan, 2.0]))).all()

    @pytest.mark.parametrize(("factuals", "groups"), [(12, 12), (200, 200), (1000, 200)])
    def test_groups_are_of_equal_size(self, factuals, groups):
        assert group_count(factuals) == groups
        assert set(np.bincount(group_of(np.arange(factuals), factuals))) == {factuals // groups}


class TestScores:
    def test_questions_about_a_factual_are_left_out_together(self):
        e = make(n=24)
        factual = np.arange(24) // 2
        (row,) = score(Mean(), e, factual, Factuals(12), 0)
        x = e.cf_pa[:, 1].double().numpy()
        assert (row.kind, row.asked, row.finite) == ("set", 24, 24)
        np.testing.assert_allclose(row.values, x.reshape(12, 2).mean(1))

    def test_factuals_without_an_answer_have_no_pseudo_value(self):
        e = make(n=24)
        e.answer[[3, 8]] = torch.nan
        for metric in (Mean(), Realism(), Neighbours(), TrueRealism()):
            for row in score(metric, e, np.arange(24), Factuals(30), 0):
                assert np.isnan(row.values).nonzero()[0].tolist() == [3, 8, 24, 25, 26, 27, 28, 29]
                assert (row.asked, row.finite) == (24, 22)

    def test_a_row_without_answers_has_the_columns_of_the_others(self):
        for metric in (Effectiveness(), FactualDistance(), Reversibility(), Realism(), TrueRealism(), Neighbours()):
            full, empty = make(n=24), make(n=24)
            empty.answer[:] = torch.nan
            empty.reverse[:] = torch.nan
            there, none = (score(metric, e, np.arange(24), Factuals(24), 9) for e in (full, empty))
            told = [(r.do, r.column, r.variable, r.kind, r.asked, len(r.values)) for r in there]
            assert [(r.do, r.column, r.variable, r.kind, r.asked, len(r.values)) for r in none] == told
            assert all(np.isnan([r.value, *r.values]).all() and r.finite == 0 for r in none)
            assert {r.asked for r in none} == {9 if isinstance(metric, Reversibility) else 24}

    def test_a_metric_without_its_evidence_has_no_columns(self):
        e = Evidence(**{**vars(make(n=24)), "truth": None})
        assert score(TrueRealism(), e, np.arange(24), Factuals(24), 0) == []
        e = make(n=24)
        e.truth[:] = torch.nan
        assert score(TrueRealism(), e, np.arange(24), Factuals(24), 0) == []


class TestStored:
    ROW = {"do": "digit", "column": "fid_real", "variable": "", "kind": "set"}

    def test_pseudo_values_have_a_name_of_their_own(self):
        name = score_tensor(self.ROW)
        assert name == "digit|fid_real||jackknife"
        assert score_tensor({**self.ROW, "kind": "image"}) == "digit|fid_real|"
        assert len(raw_scores(self.ROW, {name: np.ones(12), "digit|fid_real|": np.ones(200)})) == 12

    def test_replicates_of_a_bootstrap_are_not_taken_for_them(self):
        assert len(raw_scores(self.ROW, {"digit|fid_real|": np.ones(200)})) == 0

    def test_a_score_without_a_tensor_is_refused(self):
        with pytest.raises(KeyError):
            raw_scores(self.ROW, {"digit|kid_real||jackknife": np.ones(12)})


GRAPH = CausalGraph((Variable("level", "continuous", low=0, high=1),), (1, 1, 1))


class Nobody:
    """Judges that are never asked: features are given."""

    read = features = encode = reconstruct = None


def gauss(number: int, features: int, seed: int) -> torch.Tensor:
    """Gaussian features [number, features] with correlations that are always the same."""
    mix = 0.35 * torch.randn(features, features, generator=torch.Generator().manual_seed(0))
    return torch.randn(number, features, generator=torch.Generator().manual_seed(seed)) @ mix


def drawn(seed: int, shift: float, features: int, shared: dict[str, object]) -> Evidence:
    """Evidence whose answers have Gaussian features, like real images but for a shift and noise."""
    truth = gauss(ANSWERS, features, 2 * seed)
    answer = truth + 0.3 * gauss(ANSWERS, features, 2 * seed + 1) + shift
    pa, image = torch.zeros(ANSWERS, 1), torch.zeros(ANSWERS, 1, 1, 1)
    real = Split(torch.zeros(REAL, 1, 1, 1, dtype=torch.uint8), torch.zeros(REAL, 1), torch.arange(REAL))
    memo = {"features:answer": answer, "features:truth": truth}
    return Evidence(GRAPH, "level", image, pa, pa, image, real, Nobody(), truth=image, memo=memo, shared=shared)


METRICS = (Realism(), TrueRealism(), Neighbours())


@dataclass(frozen=True)
class Simulated:
    """Scores [D] of a column for answers drawn anew, and pseudo-values [I, G] of the first of them."""

    points: np.ndarray
    pseudo: np.ndarray

    @property
    def error(self) -> float:
        """The standard error by the jackknife over the true one."""
        return float(np.sqrt(np.mean(self.pseudo.var(1, ddof=1) / ANSWERS)) / self.points.std())

    @property
    def held(self) -> float:
        """How often the interval of the report holds the mean score."""
        low, high = intervals(rows(column(self.pseudo, kind="set", points=self.points[: len(self.pseudo)])))
        mean = self.points.mean()
        return float(((low <= mean) & (mean <= high)).mean())


def simulated(shift: float, features: int, draws: int, intervals: int) -> dict[str, Simulated]:
    shared: dict[str, object] = {"features": gauss(REAL, features, 1_000_003)}
    points: dict[str, list[float]] = {}
    pseudo: dict[str, list[np.ndarray]] = {}
    for seed in range(draws):
        e = drawn(seed, shift, features, shared)
        for metric in METRICS:
            for name, value in metric(e).items():
                points.setdefault(name, []).append(float(value))
            for row in score(metric, e, np.arange(ANSWERS), Factuals(ANSWERS), 0) if seed < intervals else ():
                pseudo.setdefault(row.column, []).append(row.values)
    return {name: Simulated(np.array(points[name]), np.array(pseudo[name])) for name in points}


@pytest.mark.parametrize("features", [8, 64])
def test_intervals_hold_the_mean_score_of_answers_that_differ_from_the_reference(features):
    for name, found in simulated(0.8, features, 400, 200).items():
        assert 0.85 < found.error < 1.25, name
        # A share of 95 % of 200 is itself uncertain by 1.5 %.
        assert 0.92 <= found.held <= 0.99, name


@pytest.mark.parametrize("features", [8, 64])
def test_intervals_of_answers_of_the_reference_law_are_too_wide_rather_than_too_narrow(features):
    for name, found in simulated(0.0, features, 300, 100).items():
        # What pairs of images add to a score is counted twice (Efron & Stein 1981).
        assert 0.88 < found.error < 1.1 * np.sqrt(2), name
        assert found.held >= 0.9, name


def test_density_and_coverage_of_real_answers_are_what_theory_says():
    found = simulated_of_real()
    assert found["density"].mean() == pytest.approx(1, abs=4 * found["density"].std() / 10)
    expected = expected_coverage(ANSWERS, REAL)
    assert found["coverage_real"].mean() == pytest.approx(expected, abs=4 * found["coverage_real"].std() / 10)
    assert expected == pytest.approx(0.4, abs=0.01)


def simulated_of_real() -> dict[str, np.ndarray]:
    """Density and coverage [100] of answers and real images that are all drawn anew under one law."""
    found: dict[str, list[float]] = {}
    for seed in range(100):
        e = drawn(seed, 0.0, 8, {"features": gauss(REAL, 8, 10_000 + seed)})
        e.memo["features:answer"] = gauss(ANSWERS, 8, 20_000 + seed)
        for name, value in Neighbours()(e).items():
            found.setdefault(name, []).append(float(value))
    return {name: np.array(values) for name, values in found.items()}
