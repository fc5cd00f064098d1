"""What metrics are worth: rank correlations with the skill against pandas, cases with known answers, and coverage."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cfbench.report.agreement import agreements
from cfbench.report.charts.agreement import write_agreements

METHODS = ("a", "b", "c[x=1]", "d:p", "e", "identity")
COLUMNS = ("dataset", "method", "seed", "questions", "metric", "variable", "do", "value", "direction", "keys")


def tables(scores, *, dataset="one", seed="all", methods=METHODS):
    """The tidy and the wide table of scores {(metric, variable, do, direction): value of each method}."""
    rows = [
        (dataset, m, seed, "all", metric, variable, do, float(v), direction, f"images={dataset}{m}{seed} score=x")
        for (metric, variable, do, direction), values in scores.items()
        for m, v in zip(methods, values, strict=True)
    ]
    roles = ["control" if m == "identity" else "method" for m in methods]
    return pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame({"method": methods, "role": roles})


SKILL = [0.9, 0.7, 0.5, 0.3, 0.1, 0.0]
TRUTH = ("skill.skill", "", "slant", "higher")


def test_columns_with_known_orders():
    scores = {
        TRUTH: SKILL,
        ("right.r", "", "slant", "lower"): [1, 2, 3, 4, 5, 0],
        ("wrong.w", "", "slant", "higher"): [1, 2, 3, 4, 5, 0],
        ("same.s", "", "slant", "lower"): [2, 2, 2, 2, 2, 2],
        ("near.n", "", "slant", "target 1"): [1.0, 0.9, 1.2, 0.7, 1.4, 1.0],
        ("truth.abs_error", "", "slant", "lower"): [1, 2, 3, 4, 5, 6],
        ("density.d", "", "slant", "none"): [1, 2, 3, 4, 5, 6],
        ("runtime.fit_s", "", "", "lower"): [1, 2, 3, 4, 5, 6],
        ("effectiveness.error", "slant", "slant", "lower"): [2, 1, 3, 4, 5, 6],
        ("effectiveness.error", "digit", "slant", "lower"): [6, 5, 4, 3, 2, 1],
    }
    found = {a.metric: a for a in agreements([tables(scores)])}
    assert set(found) == {"right.r", "wrong.w", "same.s", "near.n", "effectiveness.error"}
    rho = {"right.r": 1, "wrong.w": -1, "same.s": 0, "near.n": 1, "effectiveness.error": 0.9}
    assert {m: pytest.approx(a.rho) for m, a in found.items()} == rho, "of the variable that was set alone"
    assert (found["near.n"].rows, found["near.n"].orders) == (5, 1), "a control is no row"
    lost = {"right.r": 0, "wrong.w": 0.8, "same.s": 0.4, "near.n": 0, "effectiveness.error": 0.2}
    assert {m: pytest.approx(a.lost) for m, a in found.items()} == lost


def test_rank_correlations_are_those_of_pandas_and_their_mean():
    rng = np.random.default_rng(0)
    scores = {}
    for do in ("slant", "digit"):
        scores |= {("skill.skill", "", do, "higher"): rng.random(6), ("m.m", "", do, "lower"): rng.integers(0, 3, 6)}
    (found,) = agreements([tables(scores)])
    expected = [
        pd.Series(-np.asarray(scores["m.m", "", do, "lower"][:5], float)).corr(
            pd.Series(scores["skill.skill", "", do, "higher"][:5]), method="spearman"
        )
        for do in ("slant", "digit")
    ]
    assert found.rho == pytest.approx(np.mean(expected))
    assert (found.orders, found.rows) == (2, 10)


def test_null_interventions_and_the_likelihood_are_compared_with_the_mean_skill():
    scores = {
        ("skill.skill", "", "mean of do()", "higher"): SKILL,
        TRUTH: SKILL[::-1],
        ("composition.composition_1", "", "none", "lower"): [1, 2, 3, 4, 5, 6],
        ("runtime.bits_per_dim", "", "", "lower"): [5, 4, 3, 2, 1, 0],
    }
    found = {a.metric: pytest.approx(a.rho) for a in agreements([tables(scores)])}
    assert found == {"composition.composition_1": 1, "runtime.bits_per_dim": -1}


def test_seeds_are_rows_of_their_own_and_the_same_answers_count_once():
    scores = {TRUTH: SKILL, ("m.m", "", "slant", "lower"): [1, 2, 3, 4, 5, 6]}
    one, two = tables(scores, seed="0"), tables(scores, seed="1")
    pooled = tables({k: [9.0, *v[1:]] for k, v in scores.items()})[0].assign(seed="all", keys="images=p score=x")
    several = pd.concat([pooled, one[0], two[0]]), one[1]
    (found,) = agreements([several])
    assert (round(found.rho, 9), found.rows) == (1, 10), "the pooled rows are left out"
    assert agreements([several, one]) == agreements([several])
    assert agreements([tables({k: v[:3] for k, v in scores.items()}, methods=METHODS[:3])]) == [], (
        "too few for an order"
    )


def test_the_interval_is_over_plugins_and_absent_for_two():
    scores = {TRUTH: SKILL, ("m.m", "", "slant", "lower"): [2, 1, 3, 5, 4, 6]}
    (found,) = agreements([tables(scores)])
    assert -1 <= found.low < found.rho < found.high <= 1
    few = "a", "a[x=1]", "a[x=2]", "b", "b:p", "identity"
    budgets = "a", "a@1k", "a[x=2]@2M", "b", "b:p@1k", "identity"
    for methods in (few, budgets):
        (found,) = agreements([tables(scores, methods=methods)])
        assert math.isnan(found.low), methods
        assert math.isnan(found.high), methods
    tidy, wide = tables(scores, methods=("a", "A@1k", "other", "b", "mine", "identity"))
    named = tidy, wide.assign(spec=["a", "a@1k", "a[x=1]", "b", "b@2M", "identity"])
    assert math.isnan(agreements([named])[0].low), "rows that users named are rows of their plugin"


def test_intervals_cover():
    rng = np.random.default_rng(0)
    dos = [f"v{k}" for k in range(4)]
    methods = [f"m{i}{s}" for i in "abcdef" for s in ("", "[x=1]")]

    def drawn():
        skill, noise = rng.normal(size=6).repeat(2), rng.normal(size=6).repeat(2)
        scores = {}
        for do in dos:
            own = skill + 0.5 * rng.normal(size=6).repeat(2) + 0.2 * rng.normal(size=12)
            scores["skill.skill", "", do, "higher"] = own
            scores["m.m", "", do, "higher"] = 0.5 * own + 0.5 * noise + 0.2 * rng.normal(size=12)
        (found,) = agreements([tables(scores, methods=methods)])
        return found

    found = [drawn() for _ in range(120)]
    mean = float(np.mean([a.rho for a in found]))
    assert 0.4 < mean < 0.9
    assert np.mean([a.low <= mean <= a.high for a in found]) > 0.85


def test_the_chart_has_a_line_for_each_metric(tmp_path):
    scores = {TRUTH: SKILL, ("m.m", "", "slant", "lower"): [2, 1, 3, 5, 4, 6]}
    (found,) = agreements([tables(scores)])
    path = write_agreements([found, replace(found, metric="other", low=math.nan, high=math.nan)], tmp_path / "m.png")
    assert path.read_bytes().startswith(b"\x89PNG")
