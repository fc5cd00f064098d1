"""Bootstrap intervals, paired comparisons and ranks against scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as sp

from cfbench.contract import Column
from cfbench.evaluation.resamples import draw_resamples
from cfbench.report.bootstrap import Sample, estimate, interval, surely_below
from cfbench.report.ranking import compare, holm, ranks, surely_better

pytestmark = pytest.mark.portable

LOWER = Column("", "lower")
HIGHER = Column("", "higher")
TARGET = Column("", "target", target=1.0)


def image(values, factual=None):
    values = np.atleast_2d(np.asarray(values, dtype=float))
    factual = np.arange(values.shape[1]) if factual is None else factual
    points = np.array([np.nan if np.isnan(v).all() else np.nanmean(v) for v in values])
    return Sample("image", points, values, factual, int(np.isfinite(values).sum()), values.size)


def width(e):
    return e.high - e.low


def test_interval_agrees_with_scipy_and_the_standard_error():
    x = np.random.default_rng(0).gamma(2.0, size=150)
    e = estimate(image(x), draw_resamples("plan", 150, 1))
    reference = sp.bootstrap((x,), np.mean, n_resamples=4000, method="percentile", random_state=1)
    low, high = reference.confidence_interval
    error = x.std(ddof=1) / np.sqrt(len(x))
    assert e.value == pytest.approx(x.mean())
    assert abs(e.low - low) < 0.2 * error
    assert abs(e.high - high) < 0.2 * error
    assert np.std(e.replicates) == pytest.approx(error, rel=0.08)
    assert not e.training


def test_interval_covers_the_truth_in_95_of_100_cases():
    rng = np.random.default_rng(1)
    resamples = draw_resamples("plan", 80, 1, replicates=400)
    hits = []
    for _ in range(400):
        e = estimate(image(rng.normal(3, 2, 80)), resamples)
        hits.append(e.low <= 3 <= e.high)
    assert 0.91 <= np.mean(hits) <= 0.98


def test_questions_about_one_factual_count_as_one_unit():
    x = np.random.default_rng(2).normal(size=60)
    resamples = draw_resamples("plan", 60, 1)
    once = estimate(image(x), resamples)
    thrice = estimate(image(np.tile(x, 3), np.tile(np.arange(60), 3)), resamples)
    assert width(thrice) == pytest.approx(width(once))
    apart = estimate(image(np.tile(x, 3)), draw_resamples("plan", 180, 1))
    assert width(apart) < 0.7 * width(once)


def test_resamples_are_the_same_for_all_and_prefixes_of_each_other():
    few, many = draw_resamples("plan", 30, 3, replicates=5), draw_resamples("plan", 30, 3, replicates=9)
    assert (few.counts == many.counts[:5]).all()
    assert (few.seeds == many.seeds[:5]).all()
    assert (few.counts.sum(1) == 30).all()
    assert not (few.counts == draw_resamples("other", 30, 3, replicates=5).counts).all()


def test_set_replicates_are_centred_on_the_score():
    rng = np.random.default_rng(4)
    biased = rng.normal(7, 1, (1, 200))
    e = estimate(Sample("set", np.array([5.0]), biased, None, 50, 50), draw_resamples("plan", 50, 1))
    assert np.mean(e.replicates) == pytest.approx(5.0)
    assert e.low < 5 < e.high


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(5)
    x = rng.normal(size=100)
    shifted = x + np.array([[-0.5], [0.0], [0.5]])
    alike = np.repeat(x[None], 3, axis=0)
    resamples = draw_resamples("plan", 100, 3)
    assert width(estimate(image(shifted), resamples)) > 1.5 * width(estimate(image(alike), resamples))
    assert estimate(image(shifted), resamples).training
    one = estimate(image(x), draw_resamples("plan", 100, 1))
    assert width(estimate(image(alike), resamples)) == pytest.approx(width(one))


def test_pairing_shrinks_the_interval_of_the_difference():
    rng = np.random.default_rng(6)
    hard = rng.normal(0, 3, 200)
    a, b = (image(hard + shift + rng.normal(0, 0.2, 200)) for shift in (0.0, 0.1))
    resamples = draw_resamples("plan", 200, 1)
    (c,) = compare({"a": a, "b": b}, resamples, LOWER)
    paired = sp.ttest_rel(a.values[0], b.values[0])
    interval = paired.confidence_interval(0.95)
    assert c.difference == pytest.approx(a.points[0] - b.points[0])
    assert c.low == pytest.approx(interval.low, abs=0.01)
    assert c.high == pytest.approx(interval.high, abs=0.01)
    assert c.high - c.low < 0.3 * width(estimate(a, resamples))
    assert c.better == "a"
    assert c.p < 0.01
    spread = np.std(a.values - b.values, ddof=1) / np.sqrt(200)
    assert c.detectable == pytest.approx((sp.norm.ppf(0.975) + sp.norm.ppf(0.8)) * spread, rel=0.1)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(7)
    resamples = draw_resamples("plan", 60, 1, replicates=300)
    p = [
        compare({"a": image(rng.normal(size=60)), "b": image(rng.normal(size=60))}, resamples, LOWER)[0].p
        for _ in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.1


def test_holm_agrees_with_the_textbook():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(("about", "better"), [(LOWER, "low"), (HIGHER, "high")])
def test_identical_methods_tie_and_ten_standard_errors_do_not(about, better):
    x = np.random.default_rng(8).normal(size=100)
    error = x.std() / 10
    samples = {"low": image(x), "twin": image(x), "high": image(x + 10 * error)}
    resamples = draw_resamples("plan", 100, 1)
    compared = {(c.first, c.second): c for c in compare(samples, resamples, about)}
    assert compared["low", "twin"].tie
    assert compared["low", "twin"].p == 1
    assert compared["low", "high"].better == better
    rank = ranks(samples, resamples, about)
    assert rank == (
        {"low": (1, 2), "twin": (1, 2), "high": (3, 3)}
        if better == "low"
        else {"low": (2, 3), "twin": (2, 3), "high": (1, 1)}
    )


def test_with_a_target_the_nearer_mean_is_better():
    x = np.random.default_rng(9).normal(0, 0.1, 100)
    samples = {"near": image(x + 0.9), "over": image(x + 1.6), "under": image(x + 0.2)}
    rank = ranks(samples, draw_resamples("plan", 100, 1), TARGET)
    assert rank == {"near": (1, 1), "over": (2, 2), "under": (3, 3)}


def test_order_of_methods_changes_nothing():
    rng = np.random.default_rng(10)
    samples = {name: image(rng.normal(i / 10, 1, 80)) for i, name in enumerate("abcd")}
    backwards = dict(reversed(samples.items()))
    resamples = draw_resamples("plan", 80, 1)
    assert ranks(samples, resamples, LOWER) == ranks(backwards, resamples, LOWER)
    assert surely_better(samples, resamples, LOWER) == surely_better(backwards, resamples, LOWER)
    ahead = {c.better for c in compare(samples, resamples, LOWER)}
    assert ahead == {c.better for c in compare(backwards, resamples, LOWER)}


@pytest.mark.parametrize("about", [LOWER, HIGHER, TARGET])
def test_leaving_out_the_worst_answers_never_helps(about):
    rng = np.random.default_rng(11)
    x = rng.normal(2, 1, 100)
    worst = np.argsort(x if about is HIGHER else -x)[:40]
    cheat = x.copy()
    cheat[worst] = np.nan
    samples = {"honest": image(x), "cheat": image(cheat)}
    resamples = draw_resamples("plan", 100, 1)
    assert samples["cheat"].coverage == pytest.approx(0.6)
    assert ("cheat", "honest") not in surely_better(samples, resamples, about)
    assert ranks(samples, resamples, about)["honest"][0] == 1
    (c,) = compare(samples, resamples, about)
    assert c.difference == pytest.approx(0, abs=1e-12)


def test_a_set_score_on_fewer_answers_is_never_surely_better():
    rng = np.random.default_rng(12)
    full = Sample("set", np.array([5.0]), rng.normal(5, 0.1, (1, 200)), None, 100, 100)
    part = Sample("set", np.array([2.0]), rng.normal(2, 0.1, (1, 200)), None, 60, 100)
    resamples = draw_resamples("plan", 100, 1)
    assert surely_better({"full": full, "part": part}, resamples, LOWER) == set()
    even = Sample("set", part.points, part.values, None, 100, 100)
    assert surely_better({"full": full, "even": even}, resamples, LOWER) == {("even", "full")}


def test_missing_answers_keep_their_position_and_a_missing_seed_counts_against_the_rank():
    x = np.random.default_rng(13).normal(size=(3, 50))
    holes = x.copy()
    holes[1, :10] = np.nan
    e = estimate(image(holes), draw_resamples("plan", 50, 3))
    assert e.value == pytest.approx(np.mean([np.nanmean(row) for row in holes]))
    gone = x.copy()
    gone[2] = np.nan
    samples = {"gone": image(gone), "there": image(x)}
    assert ranks(samples, draw_resamples("plan", 50, 3), LOWER)["there"][0] == 1


def test_costs_have_an_interval_only_over_seeds():
    resamples = draw_resamples("plan", 20, 3)
    assert np.isnan(estimate(Sample("cell", np.array([3.0])), resamples).low)
    e = estimate(Sample("cell", np.array([3.0, 4.0, 5.0])), resamples)
    assert (e.value, e.low, e.high) == (4.0, 3.0, 5.0)
    assert ranks({"a": Sample("cell", np.array([3.0]))}, resamples, LOWER) == {}


def test_nothing_scored_gives_nan_and_no_rank():
    samples = {"none": image(np.full(30, np.nan)), "some": image(np.ones(30))}
    resamples = draw_resamples("plan", 30, 1)
    assert np.isnan(estimate(samples["none"], resamples).value)
    assert ranks(samples, resamples, LOWER) == {"some": (1, 1)}


@pytest.mark.parametrize("noise", [0.05, 0.5, 3.0])
def test_blocks_of_similar_methods_tell_what_each_pair_does(noise):
    rng = np.random.default_rng(14)
    position, common = rng.permutation(150) / 40, rng.normal(size=120)
    losses = position[:, None] * (1 + 0.2 * common) + noise * rng.normal(size=(150, 120))
    losses[7] = losses[8]
    found = surely_below(losses, 1e-6, 0.95)
    ends = np.percentile(losses[:, None] - losses[None], 97.5, axis=2)
    assert (found == (ends < -1e-6)).all()
    assert found.any() == (noise < 3)
    assert interval(losses[0] - losses[1])[1] == pytest.approx(ends[0, 1])


@pytest.mark.parametrize("about", [LOWER, HIGHER, TARGET])
def test_pairs_compared_together_are_as_each_alone(about):
    rng = np.random.default_rng(15)
    samples = {name: image(rng.normal(i / 9, 1, (3, 40))) for i, name in enumerate("abcde")}
    samples["control"] = image(rng.normal(size=40))
    samples["a"].values[0, :7] = np.nan
    samples["b"].values[:, 5] = np.nan
    resamples = draw_resamples("plan", 40, 3)
    together = compare(samples, resamples, about)
    assert len(together) == 15
    for c in together:
        (alone,) = compare({c.first: samples[c.first], c.second: samples[c.second]}, resamples, about)
        compared = [(x.difference, x.low, x.high, x.p, x.detectable) for x in (c, alone)]
        assert compared[0] == pytest.approx(compared[1], rel=1e-9, abs=1e-12)
        assert c.better == alone.better
        assert c.p <= c.holm <= 1
