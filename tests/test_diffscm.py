"""Diff-SCM: guidance, contrast, purity of its answers, networks of the published sizes, and tuning."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from cfbench_methods.diffscm import DiffSCM
from cfbench_methods.diffusion import cld, guidance_tuning, samplers
from cfbench_methods.diffusion.denoiser import Denoiser
from cfbench_methods.diffusion.schedule import alpha_bars, clip, dynamic_threshold
from cfbench_methods.nn.predictor import ParentPredictor
from cfbench_methods.nn.unet import Encoder, UNet
from fits import DIGIT, WIDTH, random_session, random_split

from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.nn import ParentEncoder
from cfbench.rng import Streams

pytestmark = pytest.mark.portable

GREY = Variable("grey", "continuous", parents=("width",))
GRAPHS = {
    "both": CausalGraph((DIGIT, WIDTH, GREY), (1, 8, 8)),
    "classes": CausalGraph((DIGIT,), (1, 8, 8)),
    "values": CausalGraph((WIDTH,), (3, 7, 9)),
}
SMALL = {
    "width": 8,
    "mult": (1, 2),
    "predictor_width": 8,
    "predictor_mult": (1, 2),
    "steps": 4,
    "start": 0.75,
    "rho": 1.0,
}


def fitted(graph, **params):
    method = DiffSCM(graph, **{**SMALL, **params})
    with torch.no_grad():
        method.fit(random_session(graph))
    return method


@pytest.fixture(scope="module", params=GRAPHS)
def method(request):
    return fitted(GRAPHS[request.param], scale=2.0, contrast=0.5)


@pytest.fixture(scope="module")
def both():
    return fitted(GRAPHS["both"], scale=2.0, contrast=0.5)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def test_networks_have_the_published_sizes():
    paper, repo = DiffSCM.presets["paper"], DiffSCM.presets["repo"]
    unet = lambda p: UNet(1, p["width"], p["mult"], patch=p["patch"], attention=p["attention"])  # noqa: E731
    assert parameters(unet(paper)) == 10_601_473
    unused = 1_178_177 - parameters(unet(repo))  # layers of the official code for classes and contexts
    assert unused == 37_248
    classifier = ParentPredictor(
        CausalGraph((Variable("d", "categorical", 10),), (1, 28, 28)), 32, (1, 2, 4, 4), 1, "attention"
    )
    assert parameters(classifier) == 1_936_330


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 13, 17), (1, 64, 64)])
@pytest.mark.parametrize(("patch", "attention"), [(1, True), (2, False)])
def test_networks_take_any_size(shape, patch, attention):
    x, t = torch.randn(2, *shape), torch.tensor([0, 999])
    with torch.no_grad():
        assert UNet(shape[0], 8, (1, 2, 2), patch=patch, attention=attention)(x, t).shape == x.shape
        pool = "attention" if attention else "flatten"
        assert Encoder(shape, 5, 8, (1, 2, 2, 2), patch, pool)(x, t).shape == (2, 5)


def test_the_unet_tells_levels_apart_once_trained(both):
    x = torch.randn(2, 1, 8, 8)
    assert not torch.allclose(both.denoiser(x, torch.tensor([10, 10])), both.denoiser(x, torch.tensor([700, 700])))


@pytest.mark.parametrize("output", ["eps", "v", "residual"])
def test_every_output_stands_for_the_same_noise(output):
    levels = alpha_bars("linear")
    x0 = torch.full((2, 1, 4, 4), 0.3)
    t = torch.tensor([100, 600])
    a = levels[t].float()[:, None, None, None]
    eps = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, var = 0.1, 0.2
    total = a * var + 1 - a
    target = {
        "eps": eps,
        "v": a.sqrt() * eps - (1 - a).sqrt() * x0,
        "residual": (eps * a.sqrt() * var**0.5 - (1 - a).sqrt() * (x0 - mean) / var**0.5) / total.sqrt(),
    }[output]
    denoiser = Denoiser(UNet(1, 8, (1,)), (1, 4, 4), levels, output)
    denoiser.unet.forward = lambda x, t: target
    denoiser.mean.fill_(mean)
    denoiser.var.fill_(var)
    torch.testing.assert_close(denoiser(denoiser.noised(x0, eps, t), t), eps, atol=1e-5, rtol=1e-4)


def test_log_probabilities_agree_with_torch_distributions():
    graph = GRAPHS["both"]
    predictor = ParentPredictor(graph, 8, (1,))
    out = torch.randn(5, 3 + 2 + 2)
    z = torch.tensor([[0, 0.1, 2], [1, -1, 0], [2, 0, 0], [0, 1, 1], [1, 3, -2]])
    expected = [torch.distributions.Categorical(logits=out[:, :3]).log_prob(z[:, 0].long())]
    for k in (1, 2):
        mean, raw = out[:, 2 * k + 1], out[:, 2 * k + 2]
        floor = 2 * math.log(0.1)
        std = torch.exp(0.5 * (floor + torch.nn.functional.softplus(raw - floor)))
        expected.append(torch.distributions.Normal(mean, std).log_prob(z[:, k]))
    torch.testing.assert_close(predictor.log_probs(out, z), torch.stack(expected, dim=1))


@torch.no_grad()
def test_guidance_is_the_gradient_of_the_contrast(both):
    predictor, encoder = both.predictor, both.encoder
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    wanted, factual = (encoder.standardise(random_split(both.graph, seed=s).parents[:3]) for s in (3, 4))
    classes = torch.tensor([1.0, 0.0, 0.0])

    def score(y):
        out = predictor.double()(y, torch.full((3,), 200))
        terms = predictor.log_probs(out, wanted.double()) - 0.5 * classes * predictor.log_probs(out, factual.double())
        return terms.sum(1)

    g = predictor.gradient(x, 200, wanted, factual, 0.5)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    slope = (score(x.double() + 1e-4 * direction) - score(x.double() - 1e-4 * direction)) / 2e-4
    predictor.float()
    torch.testing.assert_close((g * direction).sum((1, 2, 3)), slope, rtol=1e-3, atol=1e-3)


def test_values_are_steered_relative_to_what_was_read_off_the_factual():
    predictor = ParentPredictor(GRAPHS["both"], 8, (1,))
    out = torch.randn(5, 7)
    moments = predictor.moments(out)
    mean, share = moments.unbind(2)
    torch.testing.assert_close(mean[:, 1:], predictor.best(out)[:, 1:])
    variance = 0.01 + torch.nn.functional.softplus(out[:, [4, 6]] - 2 * math.log(0.1)).expm1() * 0.01
    torch.testing.assert_close(share[:, 1:], (1 - variance).clamp(min=0.01), rtol=1e-3, atol=1e-3)
    factual, wanted = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(predictor.target(factual, factual, moments)[:, 1:], mean[:, 1:])
    torch.testing.assert_close(
        predictor.target(wanted, factual, moments)[:, 1:], (mean + share * (wanted - factual))[:, 1:]
    )
    assert torch.equal(predictor.target(wanted, factual, moments)[:, 0], wanted[:, 0])


@torch.no_grad()
def test_carried_residuals_put_no_force_on_a_null_intervention():
    method = fitted(GRAPHS["values"], scale=3.0, contrast=0.0)
    split = random_split(method.graph, seed=2)[:6]
    u, z = method.abduct(split.x, split.parents), method.encoder.standardise(split.parents)
    assert u["moments"].shape == (6, SMALL["steps"], 1, 2)
    x, t = u["x"], method.path.inversion[-1].t_next
    aim = method.predictor.target(z, z, u["moments"][:, -1])
    assert method.predictor.gradient(x, t, aim, z, 0.0, detach_variance=True).abs().max() < 1e-5
    assert method.predictor.gradient(x, t, z, z, 0.0).abs().max() > 1e-3


@torch.no_grad()
def test_full_contrast_leaves_the_null_intervention_unguided():
    method = fitted(GRAPHS["classes"], scale=5.0, contrast=1.0)
    split = random_split(method.graph, seed=2)[:6]
    u = method.abduct(split.x, split.parents)
    null, other = method.predict(u, split.parents), method.predict(u, (split.parents + 1) % 3)
    method.scale = 0.0
    plain = method.predict(u, split.parents)
    torch.testing.assert_close(null, plain)
    assert not torch.allclose(other, plain, atol=1e-3)


@torch.no_grad()
def test_abduction_reads_no_predictor_and_no_parents(both):
    split = random_split(both.graph, seed=2)[:4]
    u = both.abduct(split.x, split.parents)
    assert torch.equal(u["pa"], split.parents)
    assert torch.equal(u["x"], both.abduct(split.x, split.parents.flip(0))["x"])


@torch.no_grad()
def test_fit_follows_its_generator_and_leaves_the_global_one_alone(both):
    before = torch.get_rng_state()
    again = fitted(both.graph, scale=2.0, contrast=0.5)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in both.state_dict().items())
    other = DiffSCM(both.graph, **SMALL)
    other.fit(random_session(both.graph, seed=1))
    assert not torch.equal(other.predictor.trunk.inlet.weight, both.predictor.trunk.inlet.weight)


def test_weights_are_an_average_with_warm_up():
    from cfbench_methods.nn.training import train

    graph, seen = GRAPHS["classes"], []
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    run = random_session(graph)

    def losses(x, pa, rng):
        seen.append(float(net.weight.detach()))
        return (net.weight - 10).square().sum()

    train(run, net, losses, 96, stage="", batch=32, lr=0.1, cycle=False, ema=0.9999, weight_decay=0)
    # Adam walks .1, .2, .3 for a constant sign of the gradient
    mean = 0.0
    for n, weight in enumerate((0.1, 0.2, 0.3)):
        decay = (1 + n) / (10 + n)
        mean = decay * mean + (1 - decay) * weight
    assert seen == pytest.approx([0, 0.1, 0.2], abs=1e-3)
    assert float(net.weight.detach()) == pytest.approx(mean, abs=1e-3)


@torch.no_grad()
def test_the_predictor_is_shown_the_step_that_the_image_is_at(both, monkeypatch):
    shown = []
    forward = both.predictor.trunk.forward
    monkeypatch.setattr(both.predictor.trunk, "forward", lambda x, t: shown.append(int(t[0])) or forward(x, t))
    split = random_split(both.graph)[:2]
    both.predict(both.abduct(split.x, split.parents), split.parents)
    assert shown == [186, 374, 561, 749, 749, 561, 374, 186]


def test_training_on_all_levels_or_on_respaced_ones_with_their_number():
    graph = GRAPHS["classes"]
    x, rng = torch.zeros(20_000, *graph.shape), torch.Generator().manual_seed(0)
    t, number = DiffSCM(graph, **SMALL)._draw_t(x, rng)
    assert t.min() == 0
    assert t.max() > 990
    assert torch.equal(t, number)
    assert (t < 750).float().mean() == pytest.approx(0.975, abs=0.01)
    t, number = DiffSCM(graph, **SMALL, respaced=100)._draw_t(x, rng)
    assert sorted(set(t.tolist())) == list(range(0, 1000, 10))
    assert torch.equal(t, 10 * number)


@pytest.mark.parametrize("preset", ["paper", "repo"])
@torch.no_grad()
def test_presets_run(preset):
    graph = GRAPHS["classes"]
    params = {**DiffSCM.presets[preset], "width": 8, "predictor_width": 8, "batch": 20, "steps": 5}
    run = random_session(graph, images=80)
    method = DiffSCM(graph, **params)
    method.fit(run)
    split = random_split(graph)[:3]
    assert method.predict(method.abduct(split.x, split.parents), split.parents).isfinite().all()
    assert method.tune(run) == {}


def test_presets_state_the_published_settings():
    paper, repo = (DiffSCM(GRAPHS["classes"], **DiffSCM.presets[name]) for name in ("paper", "repo"))
    assert (paper.scale, paper.contrast, paper.threshold, len(paper.path.generation)) == (0.7, 0, clip, 1000)
    assert paper.path.generation[0].a == pytest.approx(2.43e-9, rel=2e-3)
    assert paper.path.inversion[-1].a_next == 0
    assert [m.t for m in repo.path.generation] == list(range(740, -1, -10))
    assert repo.threshold is dynamic_threshold
    repaired = DiffSCM(
        GRAPHS["classes"], **{**DiffSCM.presets["repo"], "clip": "final", "aligned": True, "respaced": 0}
    )
    assert repaired.threshold is None
    assert repaired.path.inversion[-1].a_next == repaired.path.generation[0].a


@torch.no_grad()
def test_a_repaired_abduction_neither_clips_nor_normalises(both):
    split = random_split(both.graph)[:2]
    routes = {}
    for name in ("final", "steps", "normalise"):
        method = DiffSCM(both.graph, **SMALL, clip=name)
        method.load_state_dict(both.state_dict())
        method.denoiser.mean.fill_(-2.0)  # estimates of the clean image leave [-1, 1]
        routes[name] = method.abduct(split.x, split.parents)["x"]
    assert not torch.allclose(routes["final"], routes["steps"], atol=1e-3)
    assert not torch.allclose(routes["steps"], routes["normalise"], atol=1e-3)


@torch.no_grad()
def test_tune_stores_what_was_left_open_and_records_its_curve():
    graph, tables = GRAPHS["both"], {}
    method = DiffSCM(graph, **SMALL, contrast=None)
    run = random_session(graph, record=tables.__setitem__)
    method.fit(run)
    chosen = method.tune(run)
    rows = tables["guidance"]
    assert set(chosen) == {"scale", "contrast"}
    best = next(r for r in rows if r["chosen"])
    assert chosen == {"scale": best["scales"], "contrast": best["contrast"]}
    tried = guidance_tuning.CONTRASTS[chosen["contrast"]]
    assert all(min(tried) <= scale <= max(tried) for scale in chosen["scale"])
    assert {"effectiveness", "change", "composition", "effectiveness/digit"} <= set(rows[0])
    assert [r["scale"] for r in rows if not r["scale"]] == [0.0]
    assert {r["t"] for r in tables["predictor"]} == {-1, *range(0, 1000, 100)}
    again = DiffSCM(graph, **SMALL, **chosen)
    assert again.tune(run) == {}
    assert (again.scale, again.contrast) == (chosen["scale"], chosen["contrast"])
    for given, contrast in (({"contrast": 0.0}, 0.0), ({}, 0.5)):
        plain = DiffSCM(graph, **SMALL, **given)
        plain.load_state_dict(method.state_dict())
        assert set(plain.tune(run)) == {"scale"}
        assert plain.contrast == contrast
        assert [r["scale"] for r in tables["guidance"]] == [0.0, *guidance_tuning.SCALES_OF_EACH]
    turned = DiffSCM(graph, **SMALL, contrast=None, scale=[1.0, 2.0, 3.0])
    turned.load_state_dict(method.state_dict())
    assert set(turned.tune(run)) == {"contrast"}
    assert turned.scale == [1.0, 2.0, 3.0]


def test_each_parent_gets_the_smallest_scale_that_moves_it_enough():
    curves = {"digit": (0.9, 0.94, 1.0), "width": (0.5, 0.94, 1.0), "grey": (0.9, 0.8, 0.2)}
    rows = [
        {"contrast": 0.5, "scale": s, **{f"effectiveness/{name}": c[i] for name, c in curves.items()}}
        for i, s in enumerate((1.0, 2.0, 4.0))
    ]
    other = {"contrast": 0.0, "scale": 0.5, **{f"effectiveness/{name}": 2.0 for name in curves}}
    assert guidance_tuning.scale_of_each([*rows, other], rows[2], GRAPHS["both"].variables, 0.95) == [4.0, 2.0, 1.0]


@torch.no_grad()
def test_one_scale_is_that_scale_for_every_parent(both):
    split = random_split(both.graph, seed=2)[:3]
    u, new = both.abduct(split.x, split.parents), split.parents.flip(0)
    answers = {}
    kept = both.scale
    rows = torch.tensor([[2.0, 0.0, 2.0], [2.0, 2.0, 2.0], [2.0, 0.0, 2.0]])
    for name, scale in {"one": 2.0, "each": [2.0, 2.0, 2.0], "some": [2.0, 0.0, 2.0], "rows": rows}.items():
        both.scale = scale
        answers[name] = both.predict(u, new)
    both.scale = kept
    torch.testing.assert_close(answers["one"], answers["each"])
    assert not torch.allclose(answers["one"], answers["some"], atol=1e-4)
    torch.testing.assert_close(
        answers["rows"], torch.where(rows[:, 1, None, None, None] > 0, answers["one"], answers["some"])
    )


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@torch.no_grad()
def test_every_sampler_answers_draws_and_counts(both, sampler):
    method = DiffSCM(both.graph, **SMALL, scale=2.0, contrast=1.0, sampler=sampler)
    method.load_state_dict(both.state_dict())
    split = random_split(both.graph, seed=2)[:3]
    calls = {"unet": 0, "trunk": 0}
    hooks = [
        net.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
        for name, net in (("unet", method.denoiser.unet), ("trunk", method.predictor.trunk))
    ]
    u = method.abduct(split.x, split.parents)
    assert calls["unet"] + calls["trunk"] == method.evaluations["abduct"]
    null = method.predict(u, split.parents)
    for hook in hooks:
        hook.remove()
    assert calls["unet"] + calls["trunk"] == method.evaluations["abduct"] + method.evaluations["predict"]
    assert method.predict(u, split.parents.flip(0)).isfinite().all()
    if method.sampler.exact:  # full contrast leaves the null intervention unguided
        torch.testing.assert_close(null, split.x, atol=1e-4, rtol=0)
    drawn = [method.sample(split.parents, Streams(seeds)) for seeds in ([1, 2, 3], [1, 2, 4])]
    assert drawn[0].shape == split.x.shape
    torch.testing.assert_close(drawn[0][:2], drawn[1][:2], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(drawn[0][2], drawn[1][2], atol=1e-3)
    assert not torch.allclose(method.sample(split.parents.flip(0), Streams([1, 2, 3])), drawn[0], atol=1e-4)


@torch.no_grad()
def test_drawn_images_start_from_noise_with_the_moments_of_noised_data(both, monkeypatch):
    method = DiffSCM(both.graph, **SMALL, scale=0.0)
    method.load_state_dict(both.state_dict())
    monkeypatch.setattr(method.sampler, "generate", lambda eps, u, route, push: u["x"])
    monkeypatch.setattr(method, "_image", lambda x: x)
    drawn = method.sample(torch.zeros(2000, 3), Streams(range(2000)))
    x0 = 2 * random_split(both.graph).x - 1
    a = method.path.generation[0].a
    torch.testing.assert_close(drawn.mean(0), math.sqrt(a) * x0.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.var(0), a * x0.var(0, correction=0) + 1 - a, atol=0.2, rtol=0)


@pytest.mark.parametrize(("sampler", "residual"), [("ddim", "none"), ("belm", "exact-inverse"), ("direct", "full")])
def test_the_residual_policy_is_the_samplers(sampler, residual):
    assert DiffSCM(GRAPHS["both"], **SMALL, sampler=sampler).residual == residual


@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
@torch.no_grad()
def test_networks_in_bfloat16_leave_images_and_states_in_float32(both, sampler):
    method = DiffSCM(both.graph, **SMALL, scale=2.0, contrast=0.5, sampler=sampler)
    method.load_state_dict(both.state_dict())
    split = random_split(both.graph, seed=2)[:4]
    answers = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            u = method.abduct(split.x, split.parents)
            answers.append(method.predict(u, split.parents.flip(0)))
        assert all(value.dtype == torch.float32 for value in (*u.values(), answers[-1]))
    assert (answers[0] - answers[1]).abs().mean() < 0.02
    assert not torch.equal(*answers)


def test_the_rule_takes_the_least_change_among_the_effective():
    rows = [
        {"scale": 1, "effectiveness": 0.5, "change": 0.01, "composition": 0.001, "cld": 1.2},
        {"scale": 2, "effectiveness": 0.97, "change": 0.019, "composition": 0.004, "cld": 1.1},
        {"scale": 3, "effectiveness": 0.96, "change": 0.020, "composition": 0.001, "cld": 1.3},
        {"scale": 4, "effectiveness": 1.0, "change": 0.05, "composition": 0.002, "cld": 1.15},
    ]
    assert guidance_tuning.choose(rows, "effectiveness", 0.95)["scale"] == 3
    assert guidance_tuning.choose(rows, "effectiveness", 0.999)["scale"] == 4
    assert guidance_tuning.choose(rows, "cld", 0.95)["scale"] == 2


CURVES = {"digit": (0.90, 0.925, 0.975, 0.99), "width": (0.45, 0.55, 0.6, 0.62)}
"""The effectiveness of two parents at each scale, as a short fit on strokes has it."""
STEP = math.log(1.5)


def noisy_curve(seed, each):
    """A curve from ``each`` questions about either parent: a class is there or not, a value in part."""
    g = torch.Generator().manual_seed(seed)
    scales = guidance_tuning.SCALES_OF_EACH
    digit, width = (torch.tensor(c)[:, None] for c in CURVES.values())
    found = torch.cat(
        [
            (torch.rand(each, generator=g) < digit).float(),  # what a scale reaches, a larger one reaches too
            width + 0.2 * torch.randn(each, generator=g) + 0.1 * torch.randn(len(scales), each, generator=g),
        ],
        dim=1,
    )
    moved = torch.tensor([0.040, 0.043, 0.046, 0.049])[:, None]
    change = moved + 0.01 * torch.randn(2 * each, generator=g)
    return guidance_tuning.Curve(
        [{"contrast": 0.5, "scale": s} for s in scales],
        {"change": change, "composition": moved.expand(-1, 24) / 10, "effectiveness": found},
        torch.arange(2).repeat_interleave(each),
        tuple(CURVES),
    )


def rule_of_each(rows):
    best = guidance_tuning.choose(rows, "effectiveness", 0.97)
    return best, guidance_tuning.scale_of_each(rows, best, (DIGIT, WIDTH), 0.97)


def test_other_questions_move_the_choice_by_a_step_of_the_grid_at_most():
    def logs(choose, each, seeds=range(100)):
        return torch.tensor([choose(noisy_curve(seed, each)) for seed in seeds]).log() / STEP

    def settled(found):
        return guidance_tuning.settle(found, rule_of_each).scale

    def picked(found):
        return rule_of_each(found.rows())[1]

    def near(choices, truth):
        return ((choices - truth).abs() <= 1.01).float().mean(0)

    few, many = 24, guidance_tuning.ANSWERS // 5 // 4  # before, and of four parents
    assert (near(logs(settled, many), logs(settled, 5000, [0])) >= 0.95).all()
    assert near(logs(picked, few), logs(picked, 5000, [0]))[0] < 0.95  # the rule itself, of few questions
    assert (logs(settled, many).std(0) < 0.9 * logs(picked, many).std(0)).all()


def test_resamples_keep_the_number_about_each_variable_and_rows_are_means():
    found = noisy_curve(0, 30)
    (row, *_), rows = found.rows(), list(found.resamples(400))
    assert row["effectiveness/digit"] == pytest.approx(float(found.scores["effectiveness"][0, :30].mean()))
    assert row["effectiveness"] == pytest.approx((row["effectiveness/digit"] + row["effectiveness/width"]) / 2)
    share = torch.tensor([r[0]["effectiveness/digit"] for r in rows])
    assert torch.equal((30 * share).round(), 30 * share) or (30 * share - (30 * share).round()).abs().max() < 1e-4
    spread = float(found.scores["effectiveness"][0, :30].std(correction=0)) / 30**0.5
    assert share.std().item() == pytest.approx(spread, rel=0.15)
    assert share.mean().item() == pytest.approx(row["effectiveness/digit"], abs=0.01)


def test_the_most_frequent_contrast_is_taken_with_the_mean_of_its_scales():
    found = noisy_curve(0, 30)
    picks = iter([(0.5, 2.0), (0.5, 4.5), (1.0, 30.0)] * 100)

    def rule(rows):
        contrast, scale = next(picks)
        return {"contrast": contrast, "scale": scale}, scale

    choice = guidance_tuning.settle(found, rule)
    assert choice.scale == 3.0
    assert (choice.row["contrast"], choice.row["scale"]) == (0.5, 3.0)


def test_no_guidance_is_never_chosen_and_what_it_does_not_move_is_said():
    rows = [
        {"contrast": 0.5, "scale": s, "cld": c, "change": s, "composition": 0, "effectiveness": (a + b) / 2}
        | {"effectiveness/digit": a, "effectiveness/grey": b}
        for s, c, a, b in ((0.0, 0.8, 0.1, 0.5), (1.0, 0.9, 0.9, 0.51), (2.0, 0.95, 0.95, 0.5))
    ]
    for rule in guidance_tuning.RULES:
        best = guidance_tuning.choose(rows, rule, 0.9)
        assert best["scale"] == 1
        said = guidance_tuning.remarks(rows, best, [1.0, 2.0], ("digit", "grey"), rule)
        assert said[-1] == (
            "guidance does not steer grey: effectiveness 0.50 on validation data at scale 2, 0.50 without guidance"
        )
        assert (said[:-1] == ["no guidance at all has a CLD of 0.800, the chosen scale 0.900"]) == (rule == "cld")
    steered = [row | {"effectiveness/grey": 0.5 + row["scale"] / 2} for row in rows]
    assert guidance_tuning.remarks(steered, steered[1], 1.0, ("digit", "grey"), "effectiveness") == []


def test_differences_of_a_kernel_do_not_decide_between_scales():
    rows = [{"scale": s, "effectiveness": 0.5, "change": c, "composition": 0} for s, c in ((2, 0.0200001), (3, 0.02))]
    assert guidance_tuning.choose(rows, "effectiveness", 0.95)["scale"] == 2


@torch.no_grad()
def test_the_papers_rule_uses_a_vae_of_the_methods_own():
    graph, tables = GRAPHS["both"], {}
    method = DiffSCM(graph, **SMALL, rule="cld", contrast=0.0)
    run = random_session(graph, record=tables.__setitem__)
    method.fit(run)
    chosen = method.tune(run)
    ratios = {row["scale"]: abs(math.log(row["scale"] / chosen["scale"])) for row in tables["guidance"] if row["scale"]}
    assert set(chosen) == {"scale"}
    assert [row["scale"] for row in tables["guidance"] if row["chosen"]] == [min(ratios, key=ratios.get)]
    assert all(math.log(2) - 1e-6 <= row["cld"] <= math.log(2 * math.e) + 1e-6 for row in tables["guidance"])
    assert not hasattr(DiffSCM(graph, **SMALL), "vae")


def test_divergence_is_the_kl_of_torch_distributions():
    g = torch.Generator().manual_seed(0)
    means, logs = torch.randn(2, 4, 16, generator=g), torch.randn(2, 4, 16, generator=g)
    got = cld.divergence((means[0], logs[0]), (means[1], logs[1]))
    normal = [torch.distributions.Normal(m, torch.exp(v / 2)) for m, v in zip(means, logs, strict=True)]
    for i in range(4):
        a = torch.distributions.Normal(normal[0].loc[i], normal[0].scale[i])
        expected = torch.distributions.kl_divergence(a, normal[1]).sum(1)
        torch.testing.assert_close(got[i], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_doing_nothing_scores_ln_of_one_plus_e():
    vae = cld.VAE((1, 8, 8))
    x, pool = torch.rand(4, 1, 8, 8), torch.rand(50, 1, 8, 8)
    near = torch.ones(4, 50, dtype=torch.bool)
    torch.testing.assert_close(
        cld.latent_divergence(vae, x, x, pool, near, near), torch.full((4,), math.log(1 + math.e))
    )


def test_questions_change_one_variable_and_what_follows_from_it():
    graph = GRAPHS["both"]
    split = random_split(graph)
    q = guidance_tuning.questions(graph, split, 30, torch.Generator().manual_seed(0))
    changed = q.pa != q.cf_pa
    assert q.variable.tolist() == ([0, 1, 2, 0] * 8)[:30]
    for k, expected in enumerate(([True, False, False], [False, True, True], [False, False, True])):
        assert (changed[q.variable == k] == torch.tensor(expected)).all()
    donors = {tuple(row) for row in split.parents[:, 1:].tolist()}
    assert all(tuple(row) in donors for row in q.cf_pa[q.variable == 1, 1:].tolist())


def test_encoder_standardises_values_and_keeps_classes():
    graph = GRAPHS["both"]
    pa = random_split(graph, 500).parents
    encoder = ParentEncoder(graph).fit(pa)
    encoded = encoder(pa)
    assert encoder.dim == encoded.shape[1] == 5
    torch.testing.assert_close(encoded[:, :3].argmax(1).float(), pa[:, 0])
    torch.testing.assert_close(encoded[:, 3:].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded[:, 3:].std(0, correction=0), torch.ones(2))
    assert torch.equal(encoder.standardise(pa)[:, 0], pa[:, 0])


def test_evaluations_count_gradients_apart(both):
    calls = {"unet": 0, "trunk": 0}
    hooks = [
        both.denoiser.unet.register_forward_hook(lambda *_: calls.__setitem__("unet", calls["unet"] + 1)),
        both.predictor.trunk.register_forward_hook(lambda *_: calls.__setitem__("trunk", calls["trunk"] + 1)),
    ]
    split = random_split(both.graph)[:2]
    with torch.no_grad():
        u = both.abduct(split.x, split.parents)
        assert calls["unet"] + calls["trunk"] == both.evaluations["abduct"]
        assert calls["unet"] == SMALL["steps"] + 1  # the sampler reads its last level too
        read = calls["trunk"]
        both.predict(u, split.parents)
    for hook in hooks:
        hook.remove()
    assert calls["unet"] + calls["trunk"] == both.evaluations["abduct"] + both.evaluations["predict"]
    assert calls["trunk"] - read == both.evaluations["predict_gradients"]


@pytest.mark.parametrize(
    "params",
    [
        {"clip": "x"},
        {"sampler": "x"},
        {"scale": (1.0, 2.0)},
        {"scale": "2/3"},
        {"scale": "much"},
        {"rule": "x"},
        {"schedule": "x"},
        {"output": "x"},
        {"steps": 0},
    ],
)
def test_bad_settings_are_named(params):
    with pytest.raises(UserError):
        DiffSCM(GRAPHS["classes"], **{**SMALL, **params})


def test_scales_are_spelled_on_a_command_line():
    assert DiffSCM(GRAPHS["both"], **SMALL, scale="4.5/3/2").scale == [4.5, 3.0, 2.0]
    assert DiffSCM(GRAPHS["both"], **SMALL, scale=2).scale == 2


def test_tuning_without_a_clean_predictor_is_refused():
    with pytest.raises(UserError, match="clean_share"):
        DiffSCM(GRAPHS["classes"], **SMALL, clean_share=0.0)


def test_more_steps_use_more_levels():
    path = DiffSCM(GRAPHS["classes"], **{**SMALL, "steps": 50}).path
    assert all(one.a < two.a for one, two in pairwise(path.generation))
    assert len(path.generation) == 50
