"""Answers to a plan: what is asked, of whom, with which random numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import Bars, Holes, Knows, Learns, Wide

from cfbench.contract import Control, Method
from cfbench.errors import InvalidAnswer, UserError
from cfbench.evaluation.answers import answer_plan, image_mechanism
from cfbench.evaluation.plan import Plan, Support, make_plan

BARS, ROOT = Bars(), Path()


@pytest.fixture(scope="module")
def plan():
    return make_plan(BARS, ROOT, name="marginal", split="test", factuals=10)


def answers(method, plan, **options):
    x = BARS.split(ROOT, "test").x[plan.rows]
    defaults = {"seed": 0, "device": torch.device("cpu"), "rounds": 4}
    return answer_plan(image_mechanism(method, BARS, ROOT, "test"), plan, x, **(defaults | options))


def test_the_plan_is_reproducible_and_survives_the_disk(plan, tmp_path):
    plan.save(tmp_path)
    for other in (Plan.load(tmp_path), make_plan(BARS, ROOT, name="marginal", split="test", factuals=10)):
        assert torch.equal(other.rows, plan.rows)
        for v, asked in plan.asked.items():
            for part in ("factual", "value", "cf_pa", "supported"):
                assert torch.equal(getattr(other.asked[v], part), getattr(asked, part))


def test_classes_always_change_and_descendants_respond(plan):
    asked = plan.asked["kind"]
    assert (asked.cf_pa[:, 0] != plan.pa[:, 0]).all()
    assert (asked.cf_pa[:, 1] - plan.pa[:, 1]).abs().sub(0.2).abs().max() < 1e-6
    assert torch.equal(plan.asked["level"].cf_pa[:, 0], plan.pa[:, 0])


def test_values_come_from_the_training_marginal(plan):
    train = BARS.split(ROOT, "train").parents[:, 1]
    assert torch.isin(plan.asked["level"].value, train).all()


def test_values_outside_the_training_range_are_asked_and_marked_as_extrapolation():
    class Far(Bars):
        plans = ("far",)

        def targets(self, plan, pa):
            return {"level": [[0.5, 7.0] for _ in pa]}

    asked = make_plan(Far(), ROOT, name="far", split="test", factuals=20).asked["level"]
    assert torch.equal(asked.value, torch.tensor([0.5, 7.0]).repeat(20))
    assert not asked.supported[asked.value == 7.0].any()
    assert asked.supported[(asked.value == 0.5) & (asked.cf_pa[:, 0] == 0)].all()


def test_force_change_leaves_the_decile():
    plan = make_plan(BARS, ROOT, name="force-change", split="valid", factuals=60)
    train = BARS.split(ROOT, "train").parents[:, 1]
    edges = torch.quantile(train, torch.linspace(0.1, 0.9, 9))
    asked = plan.asked["level"]
    assert (torch.bucketize(asked.value, edges) != torch.bucketize(plan.pa[:, 1], edges)).all()


def test_a_larger_plan_begins_with_the_smaller(plan):
    larger = make_plan(BARS, ROOT, name="marginal", split="test", factuals=20)
    assert torch.equal(larger.rows[:10], plan.rows)


def test_half_of_the_split_stays_for_reference():
    assert len(make_plan(BARS, ROOT, name="marginal", split="test", factuals=10**6)) == 64


def test_an_unknown_plan_is_refused():
    with pytest.raises(UserError, match="no plan 'other'"):
        make_plan(BARS, ROOT, name="other", split="test", factuals=4)


def test_support_tells_parents_that_never_go_together():
    pa = BARS.split(ROOT, "train").parents
    inside = Support(BARS.graph, pa)
    assert inside(pa).float().mean() > 0.95
    assert inside(torch.tensor([[0.0, 0.5], [1.0, 0.7], [0.0, 0.75], [1.0, 0.45]])).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_answers_do_not_depend_on_the_batch_size(plan):
    one, many = (answers(Learns(BARS.graph), plan, batch=b).images for b in (1, 8))
    assert one.keys() == many.keys() == {"null", "cycle", "do/kind", "do/level", "reverse/kind", "reverse/level"}
    for name in one:
        torch.testing.assert_close(one[name], many[name], rtol=0, atol=1e-6)


def test_seeds_and_steps_have_streams_of_their_own(plan):
    first, again, other = (answers(Learns(BARS.graph), plan, seed=s).images for s in (0, 0, 1))
    assert torch.equal(first["null"], again["null"])
    assert not torch.equal(first["null"], other["null"])


def test_rounds_abduct_afresh_every_cycle(plan):
    class Counts(Knows):
        calls = 0

        def abduct(self, x, pa, rng):
            Counts.calls += len(x)
            return super().abduct(x, pa, rng)

    images = answers(Counts(BARS.graph), plan, rounds=3, batch=4).images
    warm_up, factuals, cycles, reversals = 2, 10, 9 * 3, 2 * 3
    assert Counts.calls == warm_up + factuals + cycles + reversals
    assert len(images["cycle"]) == len(images["reverse/kind"]) == 3
    torch.testing.assert_close(images["reverse/kind"], BARS.split(ROOT, "test").x[plan.rows[:3]])


def test_each_step_is_timed_for_each_image_once(plan):
    found = answers(Knows(BARS.graph), plan)
    assert found.calls == {"abduct": 10, "predict": 30}
    assert found.milliseconds("abduct") > 0


def test_images_that_break_the_contract_become_nan_and_are_counted(plan):
    found = answers(Holes(BARS.graph), plan, rounds=0)
    holes = plan.asked["kind"].cf_pa[:, 0] == 0
    assert torch.equal(found.images["do/kind"].flatten(1).isnan().all(1), holes)
    assert found.wrong["do: not finite"] == int(holes.sum() + (plan.pa[:, 0] == 0).sum())


def test_a_wrong_shape_is_refused(plan):
    with pytest.raises(InvalidAnswer, match="found"):
        answers(Wide(BARS.graph), plan)


def test_integers_are_refused(plan):
    class Bytes(Knows):
        def predict(self, u, pa, rng):
            return (super().predict(u, pa, rng) * 255).byte()

    with pytest.raises(InvalidAnswer, match="uint8"):
        answers(Bytes(BARS.graph), plan)


def test_a_gradient_can_be_taken_inside(plan):
    class Guided(Method):
        def abduct(self, x, pa, rng):
            return x

        def predict(self, u, pa, rng):
            with torch.enable_grad():
                x = u.clone().requires_grad_()
                return (x - torch.autograd.grad(x.square().sum() / 2, x)[0]).clamp(0, 1)

    assert answers(Guided(BARS.graph), plan).images["null"].max() == 0


def test_a_control_without_an_answer_leaves_holes(plan):
    class Silent(Control):
        def answer(self, questions):
            return None

    assert answers(Silent(BARS.graph), plan).images["do/kind"].isnan().all()
