"""Classifier-free Diff-SCM: label dropout, forms of guidance, abduction, samplers, and tuning."""

from __future__ import annotations

import math

import pytest
import torch
from cfbench_methods.diffscm_cfg import GRID, DiffSCMCFG
from fits import DIGIT, WIDTH, random_session, random_split

from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable

pytestmark = pytest.mark.portable

GREY = Variable("grey", "continuous", parents=("width",))
GRAPHS = {
    "both": CausalGraph((DIGIT, WIDTH, GREY), (1, 8, 8)),
    "classes": CausalGraph((DIGIT,), (1, 8, 8)),
    "values": CausalGraph((WIDTH,), (3, 7, 9)),
}
SMALL = {"width": 8, "mult": (1, 2), "steps": 4, "clean_share": 0.0, "scale": 2.0, "sampler": "ddim"}


def fitted(graph, **params):
    """Briefly trained, then given weights that react to everything."""
    method = DiffSCMCFG(graph, **{**SMALL, **params})
    method.fit(random_session(graph, images=128))
    with torch.no_grad():
        for i, parameter in enumerate(method.denoiser.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return method.eval()


def answering(method, **params):
    other = DiffSCMCFG(method.graph, **{**SMALL, **params})
    other.load_state_dict(method.state_dict())
    return other.eval()


@pytest.fixture(scope="module")
def both():
    return fitted(GRAPHS["both"])


@pytest.fixture(scope="module", params=GRAPHS)
def method(request):
    return fitted(GRAPHS[request.param])


def asked(graph, count=6):
    split = random_split(graph, count, seed=2)
    return split.x, split.parents, split.parents.roll(1, 0)


@pytest.mark.parametrize("drop", [0.0, 0.35, 1.0])
def test_labels_are_hidden_at_the_rate_asked_for_and_never_in_place(drop):
    graph, tokens = GRAPHS["both"], []
    method, run = DiffSCMCFG(graph, **SMALL, drop=drop), random_session(GRAPHS["both"])
    method.denoiser.losses = lambda x, eps, t, c, velocity: tokens.append(c) or x.sum()
    split = random_split(graph, 4000)
    before = split.parents.clone()
    method._denoised(split.x, split.parents, run.rng)
    assert torch.equal(split.parents, before)
    hidden = (tokens[0] == 0).all(1)
    assert hidden.float().mean() == pytest.approx(drop, abs=0.03)
    assert torch.equal(tokens[0][~hidden], method.encoder.token(before)[~hidden])


@torch.no_grad()
def test_the_velocity_loss_is_the_error_of_the_velocity(both):
    x, pa, _ = asked(both.graph)
    net, eps = both.denoiser, torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    t, c = torch.tensor([0, 50, 200, 400, 600, 900]), both.encoder.token(pa)
    a = net.alpha_bar[t][:, None, None, None]
    x_t = a.sqrt() * x + (1 - a).sqrt() * eps
    got = net(x_t, t, c)
    clean = (x_t - (1 - a).sqrt() * got) / a.sqrt()
    error = (a.sqrt() * got - (1 - a).sqrt() * clean) - (a.sqrt() * eps - (1 - a).sqrt() * x)
    torch.testing.assert_close(
        net.losses(x, eps, t, c, velocity=True).mean(), error.square().mean(), rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(net.losses(x, eps, t, c).mean(), (got - eps).square().mean())


def test_training_levels_lie_below_the_focus_but_for_a_tenth():
    graph, seen = GRAPHS["classes"], []
    method = DiffSCMCFG(graph, **SMALL, focus=0.5)
    method.denoiser.losses = lambda x, eps, t, c, velocity: seen.append(t) or x.sum()
    split = random_split(graph, 8000)
    method._denoised(split.x, split.parents, random_session(graph).rng)
    assert (seen[0] < 500).float().mean() == pytest.approx(0.95, abs=0.01)
    assert seen[0].max() > 980


@torch.no_grad()
@pytest.mark.parametrize("base", ["null", "factual", "classes"])
def test_one_move_back_is_ddim_along_the_guided_noise(both, base):
    """Against the equations written out for a single move from ᾱ to the clean image."""
    method = answering(both, base=base, scale=3.0, steps=1, start=0.3)
    x, pa, new = asked(both.graph)
    a = method.denoiser.alpha_bar[299]
    noise, t = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), torch.full((6,), 299)
    there = method.denoiser(noise, t, method.encoder.token(new))
    token = {
        "null": torch.zeros(6, method.encoder.dim + 1),
        "factual": method.encoder.token(pa),
        "classes": method.encoder.token(torch.cat([pa[:, :1], new[:, 1:]], dim=1)),
    }[base]
    here = method.denoiser(noise, t, token)
    clean = (noise - (1 - a).sqrt() * (here + 3 * (there - here))) / a.sqrt()
    got = method.predict({"x": noise, "pa": pa}, new)
    torch.testing.assert_close(got, ((clean + 1) / 2).clamp(0, 1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_abduction_follows_the_token_it_is_told(both):
    x, pa, new = asked(both.graph)
    null, factual = answering(both, abduction="null"), answering(both, abduction="factual")
    assert torch.equal(null.abduct(x, pa)["x"], null.abduct(x, new)["x"])
    assert not torch.allclose(factual.abduct(x, pa)["x"], factual.abduct(x, new)["x"], atol=1e-4)
    torch.testing.assert_close(factual.abduct(x, pa)["pa"], pa)


@torch.no_grad()
def test_guidance_from_the_factual_parents_vanishes_on_the_null_intervention(method):
    x, pa, new = asked(method.graph)
    plain, strong = (answering(method, scale=w, base="factual") for w in (1.0, 6.0))
    u = plain.abduct(x, pa)
    torch.testing.assert_close(strong.predict(u, pa), plain.predict(u, pa))
    assert not torch.allclose(strong.predict(u, new), plain.predict(u, new), atol=1e-3)
    published = [answering(method, scale=w, base="null").predict(u, pa) for w in (1.0, 6.0)]
    torch.testing.assert_close(published[0], plain.predict(u, pa))
    assert not torch.allclose(*published, atol=1e-3)


@torch.no_grad()
def test_guidance_from_the_factual_classes_leaves_values_to_the_plain_model(both):
    x, pa, new = asked(both.graph)
    plain, strong = answering(both, scale=1.0), answering(both, scale=6.0)
    u = plain.abduct(x, pa)
    same_class = torch.cat([pa[:, :1], new[:, 1:]], dim=1)
    torch.testing.assert_close(strong.predict(u, same_class), plain.predict(u, same_class))
    assert not torch.allclose(strong.predict(u, new), plain.predict(u, new), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["direct", "edict", "bdia", "belm"])
def test_exact_samplers_return_the_image_at_any_scale(both, sampler):
    x, pa, _ = (part.double() for part in asked(both.graph))  # as rounding in single precision grows to 4e-4
    method = answering(both, sampler=sampler, scale=4.0, steps=20).double()
    assert method.residual == ("full" if sampler == "direct" else "exact-inverse")
    x = 0.1 + 0.8 * x
    torch.testing.assert_close(method.predict(method.abduct(x, pa), pa), x, atol=1e-9, rtol=0)
    published = answering(both, sampler=sampler, scale=4.0, steps=6, base="null").double()
    assert (published.predict(published.abduct(x, pa), pa) - x).abs().mean() > 1e-3


@torch.no_grad()
def test_fixed_points_bring_the_null_intervention_closer(both):
    x, pa, _ = asked(both.graph)
    errors = []
    for rounds in (0, 8):
        method = answering(both, fixed_point=rounds, steps=20, start=0.3, rho=1.0)
        errors.append(float((method.predict(method.abduct(x, pa), pa) - x).abs().mean()))
    assert errors[1] < 0.3 * errors[0]


@torch.no_grad()
@pytest.mark.parametrize("params", [{}, {"scale": 1.0}, {"sampler": "edict"}, {"sampler": "belm", "base": "null"}])
def test_evaluations_are_counted(both, params):
    method, calls = answering(both, **params), []
    method.denoiser.unet.register_forward_hook(lambda *_: calls.append(1))
    x, pa, new = asked(both.graph, 2)
    u = method.abduct(x, pa)
    assert len(calls) == method.evaluations["abduct"]
    method.predict(u, new)
    assert len(calls) == method.evaluations["abduct"] + method.evaluations["predict"]


def tuned(graph, **params):
    tables = {}
    method, run = DiffSCMCFG(graph, **{**SMALL, "scale": None, "clean_share": 0.2, **params}), random_session(graph)
    run.record = tables.__setitem__
    method.fit(run)
    return method, method.tune(run), tables.get("guidance"), run


def test_tuning_chooses_a_scale_of_its_curve_by_the_rule():
    method, chosen, rows, run = tuned(GRAPHS["both"])
    assert [r["scale"] for r in rows] == list(GRID)
    assert {"effectiveness", "change", "composition", "effectiveness/digit", "effectiveness/grey"} <= set(rows[0])
    assert set(chosen) == {"scale"}
    assert chosen["scale"] == method.scale
    ratios = {r["scale"]: abs(math.log(r["scale"] / method.scale)) for r in rows}
    assert [r["scale"] for r in rows if r["chosen"]] == [min(ratios, key=ratios.get)]
    assert run.seen <= run.images
    assert answering(method, **chosen, clean_share=0.2).tune(run) == {}


def test_the_training_loss_is_logged():
    rows = []
    DiffSCMCFG(GRAPHS["both"], **{**SMALL, "clean_share": 0.2}).fit(random_session(GRAPHS["both"], log=rows.append))
    assert {r["stage"] for r in rows} == {"clean predictor", "diffusion"}
    assert all("loss" in r and "step" in r for r in rows)


@torch.no_grad()
def test_the_published_preset_runs():
    graph = GRAPHS["classes"]
    method = DiffSCMCFG(graph, **{**DiffSCMCFG.presets["paper"], "width": 8, "mult": (1, 2), "clean_share": 0.0})
    assert (method.abduction, method.base, method.scale, method.drop) == ("null", "null", 3.0, 0.35)
    x, pa, new = asked(graph, 2)
    assert method.predict(method.abduct(x, pa), new).isfinite().all()
    assert method.tune(random_session(graph)) == {}


@pytest.mark.parametrize(
    "params",
    [
        {"abduction": "x"},
        {"base": "x"},
        {"loss": "x"},
        {"sampler": "x"},
        {"steps": 0},
        {"scale": None},
        {"schedule": "x"},
    ],
)
def test_bad_settings_are_named(params):
    with pytest.raises(UserError):
        DiffSCMCFG(GRAPHS["classes"], **{**SMALL, **params})
