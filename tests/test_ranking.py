"""Comparisons of all pairs of a column: errors of the family in simulations, exact tests, ranks and missing answers."""

from __future__ import annotations

import numpy as np
import pytest
from columns import HIGHER, LOWER, SHARE, TARGET, column, costs, family, only, ranks
from scipy import stats as sp

from cfbench.contract import Column
from cfbench.report.statistics.ranking import holm, negligible

pytestmark = pytest.mark.portable


def named(tables, about=LOWER, seeds=1):
    """The share of tables in which any row is called better."""
    return np.mean([bool((family(column(t), about, seeds).better >= 0).any()) for t in tables])


SCORES = {
    "normal": lambda rng, k, n: 2 * rng.normal(size=(1, n)) + rng.normal(size=(k, n)),
    "lognormal": lambda rng, k, n: rng.lognormal(size=(k, n)),
    "some skewed": lambda rng, k, n: np.where(
        np.arange(k)[:, None] % 2, rng.exponential(size=(k, n)), rng.normal(1, 1, (k, n))
    ),
    "some noisier": lambda rng, k, n: rng.normal(size=(1, n)) + rng.normal(size=(k, n)) * (1 + np.arange(k))[:, None],
}  # fmt: skip


@pytest.mark.parametrize("methods", [6, 9])
@pytest.mark.parametrize("n", [32, 128])
@pytest.mark.parametrize("name", SCORES)
def test_a_table_of_equal_methods_names_a_winner_in_at_most_6_of_100(name, n, methods):
    """Without a correction for the number of pairs it does in 37 % of tables of 6 methods and in 59 % of 9."""
    rng = np.random.default_rng(0)
    assert named(SCORES[name](rng, methods, n) for _ in range(300)) <= 0.06


@pytest.mark.parametrize(("about", "p"), [(SHARE, 0.9), (SHARE, 0.5)])
def test_equal_shares_name_a_winner_in_at_most_6_of_100(about, p):
    rng = np.random.default_rng(1)
    assert named(((rng.random((9, 128)) < p) * 1.0 for _ in range(300)), about) <= 0.06


@pytest.mark.parametrize("mean", [1.0, 1.3])
def test_equal_distances_from_a_target_name_a_winner_in_at_most_6_of_100(mean):
    rng = np.random.default_rng(2)
    assert named((rng.normal(mean, 1, (6, 64)) for _ in range(300)), TARGET) <= 0.06


@pytest.mark.parametrize("training", [0.0, 3.0])
def test_several_seeds_do_not_raise_the_error_of_the_family(training):
    rng = np.random.default_rng(3)
    tables = (
        rng.normal(size=(1, 64)) + rng.normal(size=(18, 64)) + training / 8 * rng.normal(size=(18, 1))
        for _ in range(200)
    )
    assert named(tables, seeds=3) <= 0.06


def test_a_method_that_is_one_error_of_the_difference_times_five_better_is_found():
    rng = np.random.default_rng(4)
    shift = np.array([-5 * 2**0.5 / 128**0.5, *[0] * 8])[:, None]
    found = [family(column(rng.normal(size=(9, 128)) + shift)).better for _ in range(100)]
    assert np.mean([(b == 0).sum() >= 6 for b in found]) > 0.9, "of 8 rivals"


@pytest.mark.parametrize(("first", "second"), [(128, 124), (128, 120), (100, 90)])
def test_shares_are_compared_by_mcnemar_s_exact_test(first, second):
    a, b = np.arange(128) < first, np.arange(128) < second
    c = only(family(column([a, b]), SHARE))
    assert c.p == pytest.approx(sp.binomtest(0, first - second, 0.5).pvalue)
    assert c.better == ("a" if c.p <= 0.05 else "")
    assert (c.low > 0) == (c.p <= 0.05)


def test_four_right_answers_more_are_no_proof():
    assert only(family(column([np.ones(128), np.arange(128) < 124]), SHARE)).p == pytest.approx(0.125)


def test_the_interval_of_equal_shares_has_a_width():
    c = only(family(column([np.ones(64), np.ones(64)]), SHARE))
    assert c.low < 0 < c.high
    assert c.p == 1


def test_shares_of_questions_about_the_same_factuals_count_the_factuals():
    a, b = np.arange(8) < 8, np.arange(8) < 2
    factual = np.tile(np.arange(8), 4)
    c = only(family(column([np.tile(a, 4), np.tile(b, 4)], factual=factual), SHARE))
    assert c.p == pytest.approx(2 * 0.5**6)


def test_p_values_are_those_of_the_paired_t_test_where_differences_are_symmetric():
    rng = np.random.default_rng(5)
    apart = rng.normal(size=30)
    apart = np.concatenate([apart, -apart]) + 0.2
    base = rng.normal(size=60)
    c = only(family(column([base + apart, base])))
    paired = sp.ttest_1samp(apart, 0)
    assert c.p == pytest.approx(paired.pvalue, rel=1e-4)
    assert (c.low, c.high) == pytest.approx(tuple(paired.confidence_interval(0.95)))
    assert c.detectable == pytest.approx(
        (sp.norm.ppf(0.975) + sp.norm.ppf(0.8)) * apart.std(ddof=1) / 60**0.5, rel=1e-4
    )


def test_p_values_have_no_floor_so_that_holm_can_reach_5_of_100():
    rng = np.random.default_rng(6)
    table = column(rng.normal(size=(40, 128)) + np.arange(40)[:, None])
    f = family(table)
    assert len(f.p) == 780
    assert np.isfinite(f.p).all()
    assert f.p.min() < 1e-30
    assert (f.corrected <= 0.05).mean() > 0.95


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(7)
    p = [only(family(column(rng.normal(size=(2, 60))))).p for _ in range(1000)]
    assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.06
    assert 0.4 <= np.mean(np.array(p) < 0.5) <= 0.56


def test_holm_agrees_with_the_textbook():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.01, np.nan, 0.03]))[[0, 2]] == pytest.approx([0.02, 0.03])


def test_pairs_of_trainings_are_compared_by_welch_s_test_where_only_trainings_differ():
    rng = np.random.default_rng(8)
    means = np.array([0.0, 0.3, 0.6, 2.0, 2.2, 2.6])
    c = only(family(column(np.repeat(means[:, None], 40, axis=1) + 1e-9 * rng.normal(size=(1, 40))), seeds=3))
    welch = sp.ttest_ind(means[:3], means[3:], equal_var=False)
    assert c.p == pytest.approx(welch.pvalue, rel=1e-4)
    assert (c.low, c.high) == pytest.approx(tuple(welch.confidence_interval(0.95)), rel=1e-4)
    assert c.holds_for == "any training"


def test_with_one_seed_a_claim_is_about_these_trainings():
    c = only(family(column(np.random.default_rng(9).normal(size=(2, 40)) + np.array([[0], [3]]))))
    assert (c.better, c.holds_for) == ("a", "these trainings")


@pytest.mark.parametrize(("about", "better"), [(LOWER, "a"), (HIGHER, "c")])
def test_identical_methods_tie_and_ten_standard_errors_do_not(about, better):
    x = np.random.default_rng(10).normal(size=100)
    scores = column([x, x, x + np.random.default_rng(11).normal(x.std(), 0.1, 100)])
    compared = {(c.first, c.second): c for c in family(scores, about).comparisons()}
    assert compared["a", "b"].p == 1
    assert compared["a", "b"].better == ""
    assert compared["a", "c"].better == better
    assert ranks(scores, about) == (
        {"a": (1, 2), "b": (1, 2), "c": (3, 3)} if better == "a" else {"a": (2, 3), "b": (2, 3), "c": (1, 1)}
    )


def test_with_a_target_the_nearer_mean_is_better_on_whichever_side():
    x = np.random.default_rng(12).normal(0, 0.1, (3, 100))
    scores = column(x + np.array([[0.9], [1.6], [0.2]]))
    assert ranks(scores, TARGET, names=["near", "over", "under"]) == {"near": (1, 1), "over": (2, 2), "under": (3, 3)}
    for c in family(scores, TARGET).comparisons():
        assert c.low <= c.difference <= c.high
        assert (c.low > 0 or c.high < 0) == (c.p <= 0.05)


def test_ranks_bold_and_pairs_follow_one_rule():
    rng = np.random.default_rng(13)
    f = family(column(rng.normal(size=(8, 60)) + np.arange(8)[:, None] / 8))
    ahead = {(c.better, c.second if c.better == c.first else c.first) for c in f.comparisons() if c.better}
    assert ahead == f.surely_better
    for name, (low, high) in f.ranks(np.arange(8)).items():
        assert low == 1 + sum(worse == name for _, worse in ahead)
        assert high == 8 - sum(better == name for better, _ in ahead)
    for c in f.comparisons():
        assert bool(c.better) == (c.holm <= 0.05)


def test_order_of_methods_changes_nothing():
    x = np.random.default_rng(14).normal(size=(5, 80)) + np.arange(5)[:, None] / 4
    forwards = family(column(x), names=list("abcde")).surely_better
    assert forwards == family(column(x[::-1]), names=list("edcba")).surely_better
    assert forwards


@pytest.mark.parametrize("about", [LOWER, HIGHER, TARGET])
def test_leaving_out_the_worst_answers_never_helps_in_ranks_or_pairs(about):
    rng = np.random.default_rng(15)
    x = rng.normal(2, 1, 100)
    cheat = x.copy()
    cheat[np.argsort(x if about is HIGHER else -x)[:40]] = np.nan
    scores = column([x, cheat])
    c = only(family(scores, about))
    assert c.better == "a", "the others count as the worst score seen"
    assert ranks(scores, about)["a"] == (1, 1)


def test_questions_that_nobody_has_a_score_for_cost_nothing():
    x = np.random.default_rng(16).normal(size=(2, 50))
    x[:, :20] = np.nan
    assert only(family(column(x))).p == pytest.approx(only(family(column(x[:, 20:]))).p)


def test_a_set_score_on_fewer_answers_is_never_better():
    rng = np.random.default_rng(17)
    pseudo = np.array([[5.0], [2.0]]) + rng.normal(0, 0.1, (2, 100))
    scores = column(pseudo, "set", points=[5.0, 2.0])
    assert only(family(scores)).better == "b"
    fewer = type(scores)("set", scores.points, [128, 115], [128, 128], pseudo)
    assert only(family(fewer)).better == ""
    assert ranks(fewer) == {"a": (1, 2), "b": (1, 2)}


def test_differences_below_a_millionth_of_the_scale_are_none():
    x = np.random.default_rng(18).normal(0, 1e-9, (2, 60))
    tiny = column(x + np.array([[1.0], [1 + 5e-7]]))
    assert only(family(tiny)).better == ""
    assert only(family(tiny)).p == 1
    assert only(family(column(x + np.array([[1.0], [1 + 5e-6]])))).better == "a"
    ranged = Column("", "lower", low=0.0, high=255.0)
    assert negligible(np.array([2.0]), np.array([-3.0]), ranged) == pytest.approx([2.55e-4])
    assert negligible(np.array([2.0]), np.array([-3.0]), LOWER) == pytest.approx([3e-6])


def test_one_absurd_row_does_not_hide_the_differences_of_the_others():
    x = np.random.default_rng(21).normal(0, 0.01, (3, 60)) + np.array([[0.1], [0.2], [1e9]])
    assert family(column(x)).surely_better == {("a", "b"), ("a", "c"), ("b", "c")}


def test_costs_are_compared_over_seeds_only():
    assert family(costs([3.0, 4.0])).comparisons() == []
    c = only(family(costs([1.0, 1.1, 1.2, 5.0, 5.1, 5.3]), seeds=3))
    assert c.p == pytest.approx(sp.ttest_ind([1.0, 1.1, 1.2], [5.0, 5.1, 5.3], equal_var=False).pvalue, rel=1e-4)
    assert only(family(costs([1.0, 1.0, 2.0, 2.0]), seeds=2)).better == "a", "what never varies is known"


def test_a_row_without_a_score_or_with_one_question_is_not_ranked():
    x = np.random.default_rng(19).normal(size=(3, 30))
    x[1] = np.nan
    assert set(ranks(column(x))) == {"a", "c"}
    assert ranks(column(x[:, :1])) == {}
    assert ranks(column(x), Column("", "none")) == {}


def test_nearly_equal_rows_are_compared_by_their_differences():
    rng = np.random.default_rng(20)
    x, apart = 1e4 + rng.normal(size=60), 1e-7 * (2 + rng.normal(size=60))
    f = family(column([x + apart, x]), Column("", "lower"))
    (error,) = f._differences(*(np.array([k]) for k in (0, 1)), *(np.ones(1),) * 2).error
    assert error == pytest.approx(np.std((x + apart) - x, ddof=1) / 60**0.5, rel=1e-3)
