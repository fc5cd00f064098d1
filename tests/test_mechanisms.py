"""Learned action: densities against closed forms, responses against known SCMs, and its way through a run."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from toys import Bars

from cfbench import storage
from cfbench.cli.main import _main
from cfbench.evaluation import mechanisms
from cfbench.evaluation.mechanisms import ParentMechanisms, gumbels, mechanism_card
from cfbench.graph import CausalGraph, Variable

pytestmark = pytest.mark.portable

N = 6000
GRAPH = CausalGraph(
    (
        Variable("kind", "categorical", size=3),
        Variable("a", "continuous", low=-6.0, high=6.0, parents=("kind",)),
        Variable("b", "continuous", low=-20.0, high=20.0, unit="mm", parents=("a", "kind")),
        Variable("other", "categorical", size=2, parents=("a",)),
    ),
    (1, 4, 4),
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def draw(n: int, seed: int):
    """kind; a = kind - 1 + noise; b = 2 a + (1 + kind) noise; other = 1 with probability sigmoid(2 a)."""
    rng = torch.Generator().manual_seed(seed)
    kind = torch.multinomial(WEIGHTS, n, replacement=True, generator=rng).float()
    u = torch.randn(2, n, generator=rng)
    a = kind - 1 + u[0]
    b = 2 * a + (1 + kind) * u[1]
    other = (torch.rand(n, generator=rng) < torch.sigmoid(2 * a)).float()
    return torch.stack([kind, a, b, other], 1), u


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(mechanisms, "STEPS", 400)


@cache
def fitted() -> ParentMechanisms:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learned = ParentMechanisms(GRAPH)
        learned.fit(draw(N, 0)[0])
    return learned


def rng():
    return torch.Generator().manual_seed(0)


def test_held_out_likelihood_comes_near_the_true_entropies():
    pa, _ = draw(4000, 1)
    found = -fitted().log_prob(pa).mean(0)
    kind, gauss = pa[:, 0], 0.5 * math.log(2 * math.pi * math.e)
    true = [
        float(-(WEIGHTS * WEIGHTS.log()).sum()),
        gauss,
        gauss + float(torch.log(1 + kind).mean()),
        float(-torch.nn.functional.logsigmoid(2 * pa[:, 1] * (2 * pa[:, 3] - 1)).mean()),
    ]
    assert found.tolist() == pytest.approx(true, abs=0.06)


@pytest.mark.parametrize("k", [1, 2])
def test_the_density_of_a_value_integrates_to_one(k):
    grid = torch.linspace(GRAPH.variables[k].low, GRAPH.variables[k].high, 4001)
    pa = torch.tensor([[1.0, 0.3, 0.5, 1.0]]).repeat(len(grid), 1)
    pa[:, k] = grid
    density = fitted().log_prob(pa)[:, k].exp()
    assert torch.trapezoid(density, grid.double()).item() == pytest.approx(1, abs=5e-3)


def test_values_respond_as_the_known_scm_does():
    pa, u = draw(2000, 2)
    new = fitted().act(pa, {"kind": torch.full((2000,), 2.0)}, rng())
    a = 1 + u[0]
    b = 2 * a + 3 * u[1]
    assert (new[:, 1] - a).abs().mean() < 0.1
    assert (new[:, 2] - b).abs().mean() < 0.4
    assert (pa[:, 2] - b).abs().mean() > 2


def test_what_is_set_stays_set_and_what_sees_no_change_stays_as_it_was():
    pa, _ = draw(500, 3)
    learned = fitted()
    assert torch.equal(learned.act(pa, {"kind": pa[:, 0], "a": pa[:, 1]}, rng()), pa)
    new = learned.act(pa, {"a": pa[:, 1] + 1, "b": torch.zeros(500)}, rng())
    assert torch.equal(new[:, 0], pa[:, 0])
    assert torch.equal(new[:, 1], pa[:, 1] + 1)
    assert torch.equal(new[:, 2], torch.zeros(500))
    leaf = learned.act(pa, {"b": torch.zeros(500)}, rng())
    assert torch.equal(leaf[:, [0, 1, 3]], pa[:, [0, 1, 3]])


def test_a_response_never_leaves_the_range_even_where_no_training_data_lie():
    pa, _ = draw(200, 4)
    new = fitted().act(pa, {"a": torch.full((200,), 50.0)}, rng())
    assert new.isfinite().all()
    assert new[:, 2].min() >= -20
    assert new[:, 2].max() <= 20


def test_classes_respond_with_the_probabilities_of_their_new_context():
    pa, _ = draw(4000, 5)
    new = fitted().act(pa, {"a": torch.full((4000,), 0.5)}, rng())
    assert new[:, 3].mean().item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=0.05)
    kept = (new[:, 3] == pa[:, 3]).float().mean()
    independent = new[:, 3].mean() * pa[:, 3].mean() + (1 - new[:, 3].mean()) * (1 - pa[:, 3].mean())
    assert kept > independent + 0.1


def test_posterior_gumbel_noise_keeps_the_class_and_has_the_prior_as_its_mixture():
    logits = torch.log(torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)).repeat(40_000, 1)
    k = torch.multinomial(logits[0].exp(), 40_000, replacement=True, generator=rng())
    noise = gumbels(logits, k, rng())
    assert torch.equal((logits + noise).argmax(1), k)
    euler = 0.5772156649
    assert noise.mean(0).tolist() == pytest.approx([euler] * 3, abs=0.03)
    assert noise.var(0).tolist() == pytest.approx([math.pi**2 / 6] * 3, abs=0.06)
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.03


def test_the_card_compares_with_the_exact_response_where_there_is_one():
    bars = Bars()
    train, valid = (bars.split(Path(), part).parents for part in ("train", "valid"))
    learned = ParentMechanisms(bars.graph)
    learned.fit(train)
    rows = {(r["variable"], r["data"]): r for r in mechanism_card(learned, bars, train, valid)}
    assert rows.keys() == {("kind", "real"), ("level", "real"), ("level", "do(kind)")}
    assert rows["level", "do(kind)"]["error"] < 0.02
    assert rows["level", "real"]["error"] == pytest.approx(math.log(0.2), abs=0.3)


@pytest.mark.parametrize("choice", ["exact", "learned"])
def test_a_run_says_by_which_action_its_parents_respond(choice, tmp_path, capsys):
    toys = Path(__file__).with_name("toys.py")
    args = ["run", "--methods", "knows", "--datasets", "bars", "--plugin", str(toys), "--preset", "tiny"]
    args += ["--run-root", str(tmp_path), "--name", "r", "--jobs", "1", "--no-plots", "--metrics", "composition,truth"]
    assert _main([*args, "--action", choice]) == 0
    assert f"action: {choice}" in capsys.readouterr().out
    plan = storage.read_tensors(next((tmp_path / "r" / "plans").glob("*")) / "plan.safetensors")
    exact = Bars().act(plan["pa"], {"kind": plan["value/kind"]}, rng())
    assert torch.equal(plan["cf_pa/kind"], exact) == (choice == "exact")
    assert (plan["cf_pa/kind"] - exact).abs().max() < 0.1
    assert bool(list((tmp_path / "r").glob("mechanisms/*/card.json"))) == (choice == "learned")


def test_the_same_folder_takes_no_other_action(tmp_path, capsys):
    toys = Path(__file__).with_name("toys.py")
    args = ["run", "--methods", "knows", "--datasets", "bars", "--plugin", str(toys), "--preset", "tiny"]
    args += ["--run-root", str(tmp_path), "--name", "r", "--jobs", "1", "--no-plots", "--metrics", "composition"]
    assert _main(args) == 0
    assert _main([*args, "--action", "learned"]) == 1
    assert "another action" in capsys.readouterr().err
