"""Intervals of mean scores: coverage in simulations, and agreement with scipy's closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from columns import LOWER, SHARE, column, costs, each, rows
from scipy import stats as sp

from cfbench.contract import Column
from cfbench.report.statistics.intervals import critical, intervals, quantile, studentised, tail
from cfbench.report.statistics.samples import is_binary, pooled

pytestmark = pytest.mark.portable

DRAWS = {
    "normal": (lambda rng, size: rng.normal(size=size), 0.0),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0),
    "lognormal": (lambda rng, size: rng.lognormal(size=size), np.exp(0.5)),
    "heavy tails": (lambda rng, size: rng.standard_t(4, size=size), 0.0),
}


def covered(scores, truth, seeds=1, binary=False):
    low, high = intervals(rows(scores, seeds), binary=binary)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("n", [32, 128])
@pytest.mark.parametrize("name", DRAWS)
def test_intervals_cover_95_of_100_means_of_skewed_and_heavy_tailed_scores(name, n):
    """Percentile bootstraps of 32 lognormal scores cover 89 %, of exponential ones 91 %; Student's t 89 and 93 %."""
    draw, truth = DRAWS[name]
    share = covered(column(draw(np.random.default_rng(0), (6000, n))), truth)
    assert 0.94 - 0.006 <= share <= 0.96 + 0.006


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_intervals_of_shares_cover_at_least_95_of_100(p):
    """A bootstrap covers 74 % at p = .99."""
    scores = column(np.random.default_rng(1).random((4000, 128)) < p)
    assert covered(scores, p, binary=True) >= 0.945


@pytest.mark.parametrize(("right", "n"), [(128, 128), (124, 128), (0, 32), (1, 2)])
def test_a_share_has_the_interval_of_clopper_and_pearson(right, n):
    scores = column(np.arange(n) < right)
    assert is_binary(scores, SHARE)
    low, high = intervals(rows(scores), SHARE, binary=True)
    expected = sp.binomtest(right, n).proportion_ci(0.95, "exact")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))
    assert low[0] < high[0]


def test_a_share_of_questions_about_the_same_factuals_counts_the_factuals():
    right = np.arange(40) < 30
    once = intervals(rows(column(right)), SHARE, binary=True)
    thrice = column(np.tile(right, 3), factual=np.tile(np.arange(40), 3))
    assert intervals(rows(thrice), SHARE, binary=True) == pytest.approx(once)


def test_only_columns_of_zeros_and_ones_are_shares():
    assert not is_binary(column([0.0, 0.5, 1.0]), SHARE)
    assert not is_binary(column([0.0, 1.0]), LOWER)
    assert is_binary(column([0.0, np.nan, 1.0]), SHARE)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("training", [0.0, 1.0, 3.0])
def test_intervals_over_seeds_cover_the_variance_between_trainings_too(seeds, training):
    """``training`` is its standard deviation in units of the factuals' error; with one seed 82 and 45 % are covered."""
    rng, n, tables = np.random.default_rng(2), 64, 1500
    hard = rng.normal(size=(tables, 1, n))
    own = 0.5 * rng.normal(size=(tables, seeds, n)) + training / n**0.5 * rng.normal(size=(tables, seeds, 1))
    share = covered(column((hard + own).reshape(-1, n)), 0.0, seeds)
    assert share >= 0.94
    if training and seeds > 2:
        assert share <= 0.99
    if training:
        alone = column((hard + own)[:, 0])
        assert covered(alone, 0.0) < 0.87


def test_an_interval_without_skewness_is_student_s():
    x = np.random.default_rng(3).normal(size=(1, 50))
    x = np.concatenate([x, -x], axis=1)
    expected = sp.ttest_1samp(x[0], 0).confidence_interval(0.95)
    assert intervals(rows(column(x)))[:, 0] == pytest.approx([expected.low, expected.high])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_critical_value_is_the_inverse_of_the_corrected_statistic(share):
    rng = np.random.default_rng(4)
    g, n = rng.normal(0, 2, 200), rng.integers(5, 400, 200)
    q = quantile(rng.uniform(1e-6, 0.2, 200), n - 1)
    t = critical(q, g, n, share)
    scaled, root = g * (1 + 6 / n), np.sqrt(n)
    whole = t + scaled * t**2 / (3 * root) + scaled**2 * t**3 / (27 * n) + scaled / (6 * root)
    assert np.where(whole < t, whole, t + share * (whole - t)) == pytest.approx(q, rel=1e-6)
    if not share:
        assert studentised(t, g, n) == pytest.approx(q, rel=1e-6)
        assert studentised(-t, -g, n) == pytest.approx(-q, rel=1e-6)


def test_tails_are_scipy_s():
    t = np.array([-3.0, 0.0, 2.5])
    assert tail(t, np.array([4, 9, 30])) == pytest.approx(2 * sp.t.sf(np.abs(t), [4, 9, 30]))
    assert quantile(0.05, np.array([4, 30])) == pytest.approx(sp.t.isf(0.025, [4, 30]))


def test_questions_about_one_factual_count_as_one_unit():
    x = np.random.default_rng(5).normal(size=60)
    once = intervals(rows(column(x)))
    thrice = intervals(rows(column(np.tile(x, 3), factual=np.tile(np.arange(60), 3))))
    assert thrice == pytest.approx(once)
    apart = intervals(rows(column(np.tile(x, 3))))
    assert np.diff(apart, axis=0) < 0.7 * np.diff(once, axis=0)


def test_missing_scores_leave_the_ratio_of_the_rest():
    x = np.random.default_rng(6).normal(size=(1, 40))
    factual = np.repeat(np.arange(20), 2)
    x[0, [1, 7, 8, 9]] = np.nan
    found = rows(column(x, factual=factual))
    assert found.value[0] == pytest.approx(np.nanmean(x))
    assert found.units[0] == 19, "one factual has no score left"
    ok = np.isfinite(x[0])
    residual = np.bincount(factual[ok], x[0, ok] - np.nanmean(x), minlength=20) / ok.sum()
    assert found.variance[0] == pytest.approx(19 / 18 * (residual**2).sum())


def test_pseudo_values_give_the_interval_around_the_score():
    pseudo = np.random.default_rng(7).normal(4.2, 1, (1, 100))
    scores = column(pseudo, "set", points=[5.0])
    low, high = intervals(rows(scores))[:, 0]
    error = pseudo.std(ddof=1) / 10
    assert (low + high) / 2 == pytest.approx(5.0, abs=0.2 * error)
    assert high - low == pytest.approx(2 * sp.t.isf(0.025, 99) * error, rel=0.02)


def test_one_question_has_no_interval_and_a_constant_score_one_of_no_width():
    assert np.isnan(intervals(rows(column([[3.0]])))).all()
    assert np.isnan(intervals(rows(column([[1.0]])), SHARE, binary=True)).all()
    assert intervals(rows(column(np.full((1, 20), 3.0)))) == pytest.approx(np.array([[3.0], [3.0]]))


def test_a_share_of_a_set_without_spread_at_the_end_of_its_range_has_that_of_clopper_and_pearson():
    groups, score = 40, np.array([0.0, 1.0, 0.5])
    scores = column(np.repeat(score[:, None], groups, 1), kind="set", points=score)
    low, high = intervals(rows(scores), SHARE)
    unseen = 1 - 0.025 ** (1 / groups)
    assert low == pytest.approx([0, 1 - unseen, 0.5])
    assert high == pytest.approx([unseen, 1, 0.5])
    assert intervals(rows(scores), LOWER) == pytest.approx(np.stack([score, score]))
    assert np.isnan(intervals(rows(column([[0.0]], kind="set", points=[0.0])), SHARE)).all()


def test_a_score_of_a_set_without_spread_has_an_interval_only_where_it_is_the_best_possible():
    score = np.array([0.0, 2.0])
    scores = column(np.repeat(score[:, None], 40, 1), kind="set", points=score)
    density = Column("density", "none", low=0.0)
    assert np.isnan(intervals(rows(scores), density, of_set=True)).all()
    assert intervals(rows(scores), density) == pytest.approx(np.stack([score, score])), "scores of questions may"
    distance = intervals(rows(scores), Column("distance", "lower", low=0.0), of_set=True)
    assert distance[:, 0] == pytest.approx([0.0, 0.0])
    assert np.isnan(distance[:, 1]).all()


def test_costs_have_an_interval_only_over_seeds():
    assert np.isnan(intervals(rows(costs([3.0])))).all()
    three = intervals(rows(costs([3.0, 4.0, 5.0]), 3))[:, 0]
    expected = sp.t.interval(0.95, 2, 4.0, 1 / 3**0.5)
    assert three == pytest.approx(expected)


def test_intervals_keep_within_the_range_of_the_column():
    near = column(np.abs(np.random.default_rng(8).normal(0, 1, (1, 6))) ** 4)
    low, _ = intervals(rows(near), Column("", "lower", low=0.0))
    assert low[0] >= 0


def test_a_seed_without_a_score_is_left_out_of_the_mean():
    x = np.random.default_rng(9).normal(size=(3, 50))
    x[1] = np.nan
    found = pooled(column(x), each(column(x), 3))
    assert found.value[0] == pytest.approx(np.mean([x[0].mean(), x[2].mean()]))
    assert found.seeds[0] == 2
    gone = pooled(column(np.full((3, 50), np.nan)), [slice(0, 3)])
    assert np.isnan(gone.value[0])
    assert np.isnan(intervals(gone)).all()
