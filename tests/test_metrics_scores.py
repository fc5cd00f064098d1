"""Effectiveness, drift, IM, soundness, truth and cost against values worked out by hand or in numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_metrics import GRAPH, fresh, make

from cfbench.contract import Split
from cfbench.evidence import Evidence
from cfbench.graph import CausalGraph, Variable
from cfbench.metrics.drift import Drift, MeasuredDrift
from cfbench.metrics.effectiveness import Effectiveness, MeasuredEffectiveness
from cfbench.metrics.interpretability import IM, IMOfMeans
from cfbench.metrics.pixels import l1
from cfbench.metrics.runtime import Runtime
from cfbench.metrics.soundness import Composition, Reversibility
from cfbench.metrics.truth import TEA, Skill, TrueError

pytestmark = pytest.mark.portable


class TestPixels:
    def test_bytes_do_not_wrap_around(self):
        black, white = torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
        assert l1(black, white).tolist() == l1(white, black).tolist() == [255]
        assert l1(black.float() / 255, white.float() / 255).tolist() == [255]
        assert l1(black + 3, black + 4).tolist() == [1]

    def test_nothing_is_rounded_to_whole_levels(self):
        x = torch.zeros(2, 3, 4, 4)
        assert l1(x, x + 0.1 / 255).tolist() == pytest.approx([0.1, 0.1])


class Told:
    """Judges that return given readings."""

    def __init__(self, x, answer):
        self.readings = {0.0: x, 1.0: answer}

    def read(self, images):
        return self.readings[images.flatten()[0].item()]


def evidence_of(do, pa, cf_pa, x, answer, measure=None) -> Evidence:
    """Evidence whose factual images are black and answers white, so that `Told` can tell them apart."""
    n = len(pa)
    black = torch.zeros(n, *GRAPH.shape)
    real = Split(black.byte(), torch.zeros(n, 4), torch.arange(n))
    return Evidence(GRAPH, do, black, pa, cf_pa, black + 1, real, judges=Told(x, answer), measure=measure)


class TestEffectivenessAndDrift:
    pa = torch.tensor([[0.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.5], [2.0, 0.5, 0.5, 0.5]])
    cf_pa = torch.tensor([[1.0, 0.5, 0.5, 0.7], [2.0, 0.5, 0.5, 0.7], [0.0, 0.25, 0.5, 0.7]])
    before = {
        "digit": torch.tensor([[0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0.1, 0.9]]),
        "thickness": torch.tensor([0.5, 0.625, 0.5]),
        "slant": torch.tensor([0.5, 0.5, 0.5]),
    }
    after = {
        "digit": torch.tensor([[0.4, 0.6, 0], [0.5, 0.3, 0.2], [math.nan, 0.5, 0.5]]),
        "thickness": torch.tensor([0.75, 0.5, 0.5]),
        "slant": torch.tensor([0.7, 0.2, math.nan]),
    }

    def evidence(self, do="digit", measure=None):
        return evidence_of(do, self.pa, self.cf_pa, self.before, self.after, measure)

    def test_effectiveness_by_hand(self):
        scores = Effectiveness()(self.evidence())
        assert scores.keys() == {"accuracy/digit", "error/thickness", "error/slant"}
        assert scores["accuracy/digit"].tolist() == pytest.approx([1, 0, math.nan], nan_ok=True)
        assert scores["error/thickness"].tolist() == pytest.approx([0.25, 0, 0.25])
        assert scores["error/slant"].tolist() == pytest.approx([0, 0.5, math.nan], nan_ok=True, abs=1e-7)

    def test_drift_by_hand_leaves_out_the_target_its_descendants_and_changed_rows(self):
        scores = Drift()(self.evidence())
        assert scores.keys() == {"drift/thickness"}
        assert scores["drift/thickness"].tolist() == pytest.approx([0.25, 0.125, math.nan], nan_ok=True)

    def test_drift_of_a_class(self):
        pa = self.pa
        scores = Drift()(evidence_of("thickness", pa, pa.clone(), self.before, self.after))
        assert scores.keys() == {"flip/digit", "drift/slant"}
        assert scores["flip/digit"].tolist() == pytest.approx([1, 1, math.nan], nan_ok=True)
        assert scores["drift/slant"].tolist() == pytest.approx([0.2, 0.3, math.nan], nan_ok=True)

    def test_measured_forms_by_hand(self):
        def measure(images):
            return self.after if images.flatten()[0] else self.before

        error = MeasuredEffectiveness()(self.evidence(measure=measure))
        assert error.keys() == {"measured_error/thickness", "measured_error/slant"}
        assert error["measured_error/thickness"].tolist() == pytest.approx([0.25, 0, 0.25])
        drift = MeasuredDrift()(self.evidence(measure=measure))
        assert drift.keys() == {"measured_drift/thickness"}
        assert drift["measured_drift/thickness"].tolist() == pytest.approx([0.25, 0.125, math.nan], nan_ok=True)

    def test_a_data_set_that_measures_nothing_gets_no_score(self):
        evidence = self.evidence(measure=lambda images: None)
        assert MeasuredEffectiveness()(evidence) == MeasuredDrift()(evidence) == {}

    def test_identity_has_no_drift(self):
        e = make("thickness")
        for scores in (Drift()(fresh(e, answer=e.x)), MeasuredDrift()(fresh(e, answer=e.x))):
            assert scores
            assert all((v == 0).all() for v in scores.values())


class Linear:
    """Auto-encoders that multiply: by .5 for class 0, .75 for class 1, 1 for all classes together."""

    def __init__(self):
        self.sizes = []

    def reconstruct(self, x, variable, value=None):
        assert variable == "digit"
        self.sizes.append(len(x))
        return x if value is None else x * (0.5 + 0.25 * value[:, None, None, None])


class TestIM:
    def evidence(self, images=None) -> Evidence:
        graph = CausalGraph((Variable("digit", "categorical", size=2), Variable("t", "continuous")), (1, 2, 2))
        x = torch.tensor([[[[0.2, 0.4], [0.0, 1.0]]], [[[1.0, 1.0], [1.0, 1.0]]]]) if images is None else images
        pa = torch.zeros(len(x), 2)
        cf_pa = torch.tensor([1.0, 0.0]).expand(len(x), 2)
        real = Split(x.byte(), pa, torch.arange(len(x)))
        return Evidence(graph, "digit", torch.zeros_like(x), pa, cf_pa, x, real, judges=Linear())

    def test_by_hand(self):
        scores = IM()(self.evidence())
        # Σx² = 1.2 and 4: errors Σ(x/4)², Σ(x/2)², and Σ(x/4)² again between AE_1 and AE; Σx = 1.6 and 4.
        assert scores["im1"].tolist() == pytest.approx([0.075 / 0.3, 0.25 / 1], rel=1e-6)
        assert scores["im2"].tolist() == pytest.approx([0.075 / 1.6, 0.25 / 4], rel=1e-6)

    def test_epsilon_stands_in_the_denominators(self):
        scores = IM()(self.evidence(torch.tensor([[[[1e-4, 0.0], [0.0, 0.0]]]])))
        assert scores["im1"].item() == pytest.approx((1e-4 / 4) ** 2 / ((1e-4 / 2) ** 2 + 1e-7), rel=1e-5)
        assert scores["im2"].item() == pytest.approx((1e-4 / 4) ** 2 / (1e-4 + 1e-7), rel=1e-5)

    def test_ratio_of_means_by_hand(self):
        scores = IMOfMeans()(self.evidence())
        assert scores["im1_of_means"].item() == pytest.approx((0.075 + 0.25) / (0.3 + 1), rel=1e-6)
        assert scores["im2_of_means"].item() == pytest.approx((0.075 + 0.25) / (1.6 + 4), rel=1e-6)

    @pytest.mark.parametrize("value", [-0.5, 1.5])
    def test_pixels_outside_the_range_are_refused(self, value):
        images = torch.full((2, 1, 2, 2), 0.5)
        images[1, 0, 0, 0] = value
        with pytest.raises(ValueError, match=r"pixels in \[0, 1\], found"):
            IM()(self.evidence(images))

    def test_classes_only(self):
        assert IM()(replace(self.evidence(), do="t")) == IMOfMeans()(replace(self.evidence(), do="t")) == {}

    def test_auto_encoders_run_once_for_both(self):
        e = self.evidence()
        IM()(e), IMOfMeans()(e)
        assert len(e.judges.sizes) == 3


def rounds(x, step, count=10):
    """x after 1 and ``count`` applications of ``step``."""
    kept = {}
    for k in range(1, count + 1):
        x = step(x)
        if k in (1, count):
            kept[k] = x
    return kept


class TestSoundness:
    def composition(self, step) -> dict[str, torch.Tensor]:
        e = make()
        return Composition()(replace(e, cycles=rounds(e.x, step)))

    def test_by_numpy(self):
        e = make()
        for k in (1, 10):
            expected = np.abs(e.cycles[k].numpy().astype(np.float64) - e.x.numpy()).reshape(24, -1).mean(1) * 255
            assert Composition()(e)[f"composition_{k}"].numpy() == pytest.approx(expected)

    def test_identity_is_zero(self):
        assert all((v == 0).all() for v in self.composition(lambda x: x.clone()).values())

    def test_untrained_network_is_free_with_its_residual_and_not_without(self):
        def mean(x):
            return torch.full_like(x, 0.25)

        with_residual = self.composition(lambda x: mean(x) + (x - mean(x)))
        assert all(v.max() < 1e-4 for v in with_residual.values())
        assert all(v.min() > 1 for v in self.composition(mean).values())

    def test_fresh_noise_in_every_cycle_shows(self):
        g = torch.Generator().manual_seed(0)
        scores = self.composition(lambda x: (x + 0.05 * torch.randn(x.shape, generator=g)).clamp(0, 1))
        assert scores["composition_10"].mean() > 2 * scores["composition_1"].mean() > 0

    def test_rows_left_out_of_the_long_round_are_no_score(self):
        e = make()
        long = e.cycles[10].clone()
        long[4:] = math.nan
        scores = Composition()(replace(e, cycles={1: e.cycles[1], 10: long}))
        assert scores["composition_10"].isnan().tolist() == [False] * 4 + [True] * 20
        assert Composition.columns["composition_10"].subset
        assert Composition()(replace(e, cycles={1: e.cycles[1]})).keys() == {"composition_1"}

    def test_reversal_of_identity_and_oracle_is_zero(self):
        e = make()
        assert (Reversibility()(replace(e, reverse=e.x.clone()))["reversibility"] == 0).all()
        shifted = Reversibility()(replace(e, reverse=e.x + 2 / 255))["reversibility"]
        assert shifted.tolist() == pytest.approx([2] * 24, rel=1e-5)


class TestTruth:
    def test_oracle_and_identity(self):
        e = make()
        oracle, identity = replace(e, answer=e.truth), replace(e, answer=e.x)
        assert all((v == 0).all() for v in TrueError()(oracle).values())
        assert torch.allclose(TEA()(oracle)["tea_effectiveness"], torch.ones(24).double())
        assert TEA()(oracle)["tea_amplification"].max() < 1e-9
        assert all((v == 0).all() for v in TEA()(identity).values())
        assert (TrueError()(identity)["abs_error"] > TrueError()(oracle)["abs_error"]).all()

    def test_skill_by_numpy(self):
        e = make()
        x, truth, answer = (t.numpy().astype(np.float64) for t in (e.x, e.truth, e.answer))
        expected = 1 - np.abs(answer - truth).sum() / np.abs(x - truth).sum()
        assert Skill()(e)["skill"].item() == pytest.approx(expected)
        skill = {name: Skill()(replace(e, memo={}, answer=image))["skill"].item() for name, image in
                 {"oracle": e.truth, "identity": e.x, "worse": 2 * e.x - e.truth}.items()}  # fmt: skip
        assert (skill["oracle"], skill["identity"]) == (1, 0)
        assert skill["worse"] == pytest.approx(-1, abs=1e-6), "twice as far, on the other side"
        black = Skill()(replace(e, memo={}, answer=torch.zeros_like(e.x)))["skill"].item()
        assert black < 0, "worse than leaving the factual as it is"
        assert Skill()(replace(e, memo={}, truth=e.x))["skill"].isnan()

    def test_errors_by_numpy(self):
        e = make()
        gap = 255 * (e.answer.numpy().astype(np.float64) - e.truth.numpy()).reshape(24, -1)
        scores = TrueError()(e)
        assert scores["abs_error"].numpy() == pytest.approx(np.abs(gap).mean(1))
        assert scores["squared_error"].numpy() == pytest.approx((gap**2).mean(1))

    def test_tea_equals_the_published_form(self):
        e = make()
        x, truth, answer = (255 * t.numpy().astype(np.float64).reshape(24, -1) for t in (e.x, e.truth, e.answer))
        true, made = truth - x, answer - x
        inner, norm = (true * made).sum(1), (true**2).sum(1)
        scores = TEA()(e)
        assert scores["tea_effectiveness"].numpy() == pytest.approx(inner / norm)
        amplification = np.sqrt(((made**2).sum(1) - inner**2 / norm) / true.shape[1])
        assert scores["tea_amplification"].numpy() == pytest.approx(amplification)

    def test_tea_splits_the_squared_error(self):
        g = torch.Generator().manual_seed(0)
        e = make()
        e = replace(e, **{name: torch.rand(24, 1, 6, 6, generator=g).double() for name in ("x", "answer", "truth")})
        tea = TEA()(e)
        norm = (255 * (e.truth - e.x)).square().flatten(1).mean(1)
        split = (1 - tea["tea_effectiveness"]).square() * norm + tea["tea_amplification"].square()
        torch.testing.assert_close(split, TrueError()(e)["squared_error"])

    def test_tea_by_hand(self):
        e = make(n=1)
        x = torch.zeros(1, 1, 6, 6)
        truth, answer = x.clone(), x.clone()
        truth[0, 0, 0, 0] = 1
        answer[0, 0, 0, 0], answer[0, 0, 5, 5] = 0.5, 1
        scores = TEA()(replace(e, x=x, truth=truth, answer=answer))
        assert scores["tea_effectiveness"].item() == pytest.approx(0.5)
        assert scores["tea_amplification"].item() == pytest.approx(255 / 6)

    def test_questions_that_change_nothing_have_no_tea(self):
        e = make()
        truth = e.truth.clone()
        truth[3] = e.x[3]
        truth[4] = e.x[4] + 0.3 / 255
        for value in TEA()(replace(e, truth=truth)).values():
            assert value.isnan().nonzero()[:, 0].tolist() == [3, 4]


def test_costs_are_passed_on_and_gaps_are_no_score():
    scores = Runtime()(make())
    assert scores.keys() == Runtime.columns.keys()
    assert (scores["fit_s"].item(), scores["parameters"].item()) == (3.5, 1000)
    assert scores["abduct_ms"].isnan()
