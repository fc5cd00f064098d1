"""Every check of the conformance suite can fail: plugins with one error each, and the violations."""

from __future__ import annotations

import itertools
import random
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from cfbench.conformance import Check, Skipped, Violation, checks, subject
from cfbench.conformance.subjects.toy import Bars
from cfbench.contract import Column, Control, Dataset, Method, Metric, Split
from cfbench.errors import UserError
from cfbench.graph import CausalGraph, Variable
from cfbench.runs.environment import ProcessState


class Right(Method):
    """A small network that draws the image anew from its grey levels and the parents."""

    answer_params = frozenset({"gain"})
    presets = {"dim": {"gain": 0.5}}

    def __init__(self, graph, gain: float = 1.0):
        super().__init__(graph)
        self.gain = gain
        self.net = nn.Sequential(nn.Linear(66, 32), nn.SiLU(), nn.Linear(32, 64))

    def draw(self, x, pa):
        return torch.sigmoid(self.net(torch.cat([x.flatten(1), pa], 1))).view(-1, 1, 8, 8)

    def fit(self, run):
        optimizer = torch.optim.Adam(self.parameters(), 1e-3)
        for x, pa in run.batches(run.images // 64, 64):
            loss = (self.draw(x, pa) - x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log({"loss": loss.item()})

    def abduct(self, x, pa, rng):
        return x + 0.01 * rng.normal(*x.shape[1:])

    def predict(self, u, pa, rng):
        return (self.draw(u, pa) * self.gain).clamp(0, 1)

    def sample(self, pa, rng):
        return self.draw(rng.normal(1, 8, 8), pa)


class Copies(Control):
    """The factual."""

    reacts = False

    def answer(self, questions):
        return questions.x


class Error(Metric):
    """Root mean square distance to the truth."""

    columns = {"rms": Column("distance to the truth", "lower", "", 0.0, privileged=True)}
    needs = frozenset({"truth"})

    def __call__(self, evidence):
        gap = evidence.answer.double() - evidence.truth.double()
        return {"rms": gap.square().flatten(1).mean(1).sqrt()}


class Data(Bars):
    """The toy, with an instrument."""

    def measure(self, images):
        return {"level": images.amax((1, 2, 3))}


CALLS = itertools.count(1)
"""Another number at each call."""


def then(name, change):
    """A plugin whose method gives another result."""

    def build(base):
        old = getattr(base, name)
        return {name: lambda self, *args: change(self, old(self, *args), *args)}

    return build


def first(name, change):
    """A plugin whose method does something before what it should do."""

    def build(base):
        old = getattr(base, name)

        def new(self, *args, **kwargs):
            change(self, *args)
            return old(self, *args, **kwargs)

        return {name: new}

    return build


def both(*builds):
    return lambda base: {key: value for build in builds for key, value in build(base).items()}


def instead(**attributes):
    """A plugin with other attributes."""
    return lambda base: attributes


def made(change):
    """A method whose constructor does something at its end."""

    def init(self, graph, gain: float = 1.0):
        Right.__init__(self, graph, gain)
        change(self)

    return instead(__init__=init)


def wrong(base, build):
    return type("Wrong", (base,), {"__doc__": "Wrong.", "__module__": __name__, **build(base)})


def untyped(self, graph, gain=1.0):
    Right.__init__(self, graph)


def sulky(self, graph, gain: float = 1.0):
    Right.__init__(self, graph)
    if gain < 1:
        raise ValueError("too dark")


def without_batches(self, run):
    self.draw(run.train.x, run.train.parents).mean().backward()
    darken(self)


@torch.no_grad()
def darken(self, *args):
    self.net[0].weight.mul_(0.5)


def live(self, u, pa, rng):
    with torch.enable_grad():
        return Right.predict(self, u, pa, rng)


def only(mask, value):
    """A value [B, 1, 1, 1] for some rows, 0 for the others."""
    return torch.where(mask, value, 0.0)[:, None, None, None]


def look(self, u, pa, rng):
    Bars().oracle(Path(), "test", torch.arange(len(pa)), pa)


def blind(self, u, pa, rng):
    return self.draw(torch.zeros(len(pa), 64), pa)


def aside(self, u, pa, rng):
    x, sums = u
    return self.draw(x + 0.1 * torch.tensor(sums[: len(pa)]).view(-1, 1, 1, 1), pa)


def squeezed(self, u, pa, rng):
    return self.draw(u[0], pa)


KIND, LAST, PLACES = torch.tensor([1.0, 0.0]), torch.tensor([-1]), torch.linspace(0.5, 1, 24)[:, None, None, None]
METHODS = [
    ("signatures", "Wrong defines no predict", instead(predict=Method.predict)),
    ("docstring", "has no docstring", instead(__doc__=None)),
    ("settings", "'gain' has no type", instead(__init__=untyped)),
    ("constructor", "constructor raised ZeroDivisionError", made(lambda self: 1 / 0)),
    ("presets", "preset 'dim' raised ValueError: too dark", instead(__init__=sulky)),
    ("residual", "'some'", instead(residual="some")),
    ("fit", "exceed the 0 images left", first("fit", lambda self, run: list(run.batches(run.images, 1)))),
    ("budget", "has seen 2024 images", then("fit", lambda self, none, run: setattr(run, "seen", 2024))),
    ("budget", "trains net.0.weight while run.seen stays 0", instead(fit=without_batches)),
    ("fit-data", "changes run.train.images", first("fit", lambda self, run: run.train.images.zero_())),
    ("fit-log", "gets a Tensor as 'x'", first("fit", lambda self, run: run.log({"x": torch.ones(2)}))),
    ("fit-log", "loss became nan", first("fit", lambda self, run: run.log({"loss": torch.nan}))),
    ("weights", "net.0.bias", then("fit", lambda self, *args: self.net[0].bias.data.fill_(torch.inf))),
    ("loads", "in the constructor", then("fit", lambda self, *args: self.register_buffer("late", torch.ones(1)))),
    ("tune", "tune gives dim, not among", instead(tune=lambda self, run: {"dim": 1})),
    ("tune", "changes the weights", instead(tune=lambda self, run: darken(self) or {})),
    ("fit-state", "changes the thread count", made(lambda self: torch.set_num_threads(3))),
    ("fit-state", "numpy's global random", first("fit", lambda self, run: np.random.rand())),
    ("fit-seed", "seeds torch's global generator", made(lambda self: torch.manual_seed(5))),
    ("fit-seed", "differ in net.0.weight", made(lambda self: self.net[0].bias.data.fill_(random.random()))),
    ("answers", r"predict raised ZeroDivisionError.*\.py line \d+", first("predict", lambda *args: 1 / 0)),
    ("answers", r"abduct raised .*calls sys.exit\(3\)", first("abduct", lambda *args: sys.exit(3))),
    ("type", "float64", then("predict", lambda self, image, *args: image.double())),
    ("type", "are a ndarray", then("predict", lambda self, image, *args: image.numpy())),
    ("shape", r"are \[8, 64\]", then("predict", lambda self, image, *args: image.flatten(1))),
    ("device", "gradient graph", instead(predict=live)),
    ("range", "divide by 255", then("predict", lambda self, image, *args: image * 255)),
    ("finite", "3 of 40 answers", then("predict", lambda self, image, *args: image.index_fill(0, LAST, torch.nan))),
    ("inputs", "predict changes its argument pa", first("predict", lambda self, u, pa, rng: pa.zero_())),
    ("inputs", "abduct changes its argument x", first("abduct", lambda self, x, pa, rng: x.mul_(0.5))),
    ("noise", "holds a builtin_function", instead(abduct=lambda self, *args: abs, predict=blind)),
    ("noise", r"of 8 images is \[1, 8, 1, 8, 8\]", instead(abduct=lambda self, x, *args: x[None], predict=squeezed)),
    ("noise", "changes the noise u", first("predict", lambda self, u, pa, rng: u.mul_(0.5))),
    (
        "null",
        "own parents lie in",
        both(
            then("abduct", lambda self, u, x, pa, rng: (u, pa)),
            instead(predict=lambda self, u, pa, rng: self.draw(u[0], pa) + only((u[1] == pa).all(1), 1.0)),
        ),
    ),
    ("far-parents", "NaN", then("predict", lambda self, image, u, pa, rng: image + only(pa[:, 1] > 5, torch.nan))),
    ("streams", "the global random state", then("abduct", lambda self, u, *args: u + torch.randn_like(u))),
    ("streams", "differently each time", then("predict", lambda self, image, *args: image / next(CALLS))),
    (
        "memory",
        "keep what abduct learns in the noise",
        both(
            first("abduct", lambda self, x, pa, rng: setattr(self, "x", x)),
            instead(predict=lambda self, u, pa, rng: self.draw(self.x[: len(pa)], pa)),
        ),
    ),
    ("order", "position in the batch", then("predict", lambda self, image, *args: image * PLACES[: len(image)])),
    ("batch-size", "the rest of the batch", then("predict", lambda self, image, *args: image / image.max())),
    ("batch-size", "one image alone, predict raised", first("predict", lambda self, u, *args: 1 / (len(u) - 1))),
    (
        "batch-size",
        "rows 5, 2 and 2",
        instead(abduct=lambda self, x, *args: (x, tuple(x.sum((1, 2, 3)).tolist())), predict=aside),
    ),
    (
        "weights-kept",
        "changes count",
        both(
            made(lambda self: self.register_buffer("count", torch.zeros(1))),
            first("predict", lambda self, *args: self.count.add_(1)),
        ),
    ),
    ("reacts", "same when level changes", instead(predict=lambda self, u, pa, rng: self.draw(u, pa * KIND))),
    ("reacts", "though Wrong.reacts is False", instead(reacts=False)),
    ("state", "default dtype", first("predict", lambda *args: torch.set_default_dtype(torch.float64))),
    ("state", "sample changes Python's global random", first("sample", lambda *args: random.random())),
    ("test-data", r"predict calls Bars.oracle\('test'\)", first("predict", look)),
    ("test-data", r"fit calls Bars.split\('test'\)", first("fit", lambda *args: Bars().split(Path(), name="test"))),
    (
        "round-trip",
        "register_buffer",
        both(
            first("fit", lambda self, run: setattr(self, "mean", run.train.x.mean())),
            then("predict", lambda self, image, *args: image * getattr(self, "mean", 1.0)),
        ),
    ),
    ("sample", r"are \[7, 1, 8, 8\]", then("sample", lambda self, image, *args: image[1:])),
    ("sample-streams", "other streams", instead(sample=lambda self, pa, rng: self.draw(torch.zeros(len(pa), 64), pa))),
]


def column(*args, **more):
    return instead(columns={"rms": Column("distance", *args, privileged=True, **more)})


def score(change):
    return then("__call__", lambda self, scores, evidence: {"rms": change(scores["rms"], evidence)})


METRICS = [
    ("signatures", "direction 'up'", column("up")),
    ("docstring", "has no docstring", instead(__doc__=None)),
    ("settings", "'power' has no type", instead(__init__=lambda self, power=2: None)),
    ("constructor", "constructor raised ZeroDivisionError", instead(__init__=lambda self: 1 / 0)),
    ("columns", "the role 'quality'", column("lower", role="quality")),
    ("columns", "privileged=True", instead(columns={"rms": Column("distance", "lower")})),
    ("declarations", "needs names thruth", instead(needs=frozenset({"thruth"}))),
    ("scores", "which needs must name", instead(needs=frozenset())),
    ("outputs", "'mean' is no declared column", then("__call__", lambda self, scores, e: {"mean": scores["rms"]})),
    ("shape", r"rms is \[5\] for 48 images", score(lambda v, e: v[:5])),
    ("finite", "finite for 0%", score(lambda v, e: v * torch.nan)),
    ("bounds", "beyond its declared bound 0.1", column("lower", "", 0.0, 0.1)),
    ("inputs", "changes evidence.answer", first("__call__", lambda self, e: e.answer.mul_(255))),
    ("repeatable", "scored again", score(lambda v, e: v + torch.rand(len(v)))),
    ("order", "changes with the order", score(lambda v, e: v + torch.arange(len(v)))),
    ("batching", "with the other images", score(lambda v, e: v / v.max())),
    ("jackknife", "without some of the images", score(lambda v, e: v.mean() / float(len(v) % 8 != 2))),
    ("jackknife", "keeps of all", score(lambda v, e: e.once("mean", lambda: v.mean().expand(len(v))).mean())),
    ("direction", "noise would win", column("higher")),
    ("direction", "noise would win", column("target", target=5.0)),
    ("state", "default dtype", first("__call__", lambda *args: torch.set_default_dtype(torch.float64))),
]


def split(change, name="split"):
    return then(name, lambda self, split, *args: change(split))


def graph(*variables):
    return instead(graph=CausalGraph(variables, (1, 8, 8)))


def restless(self, new, pa, *args):
    return new + (new != pa)[:, :1] * torch.tensor([0.0, 0.1]) * torch.rand(1)


LEVEL = Bars.graph["level"]
DATA = [
    ("signatures", "defines no split", instead(split=Dataset.split)),
    ("docstring", "has no docstring", instead(__doc__=None)),
    ("settings", "'size' has no type", instead(__init__=lambda self, size=3: None)),
    ("constructor", "missing 1 required", instead(__init__=lambda self, size: None)),
    ("data", "raised KeyError", first("split", lambda *args: {}["train"])),
    ("graph", "kind has 1 class", graph(Variable("kind", "categorical"), LEVEL)),
    ("splits", "has images of torch.float32", split(lambda s: Split(s.x, s.parents, s.index))),
    ("splits", r"has parents \[512, 1\]", split(lambda s: Split(s.images, s.parents[:, :1], s.index))),
    ("parents", "graph says 0 to 1", split(lambda s: Split(s.images, s.parents * 3, s.index))),
    ("disjoint", "row numbers occur twice", instead(split=lambda self, root, name: Bars().split(root, "train"))),
    ("again", "other images in split", split(lambda s: Split(s.images + random.randint(1, 200), s.parents, s.index))),
    ("again", "fingerprint changes", instead(fingerprint=lambda self, root: str(next(CALLS)))),
    ("act", "changes its argument pa", first("act", lambda self, pa, do, rng: pa.zero_())),
    ("act", "changes kind by 1", then("act", lambda self, new, *args: new + torch.tensor([1.0, 0.0]))),
    ("act", "two responses", then("act", restless)),
    ("oracle", "misses the factual by", then("oracle", lambda self, image, *args: 1 - image)),
    ("oracle", "marked with a truth", instead(oracle=Dataset.oracle)),
    ("truth", "kind is marked 'none'", graph(Variable("kind", "categorical", size=2), LEVEL)),
    ("measure", "not in the graph", instead(measure=lambda self, images: {"grey": images.mean((1, 2, 3))})),
    ("measure", "depends on the other images", then("measure", lambda self, m, x: {"level": m["level"] - x.mean()})),
    ("plans", "'mine' asks nothing", instead(plans=("marginal", "mine"))),
    ("judge-split", "of torch.float32", split(lambda s: Split(s.x, s.parents, s.index), "judge_split")),
    ("state", "numpy's global random", first("split", lambda *args: np.random.rand())),
]
BASES = {Right: METHODS, Error: METRICS, Data: DATA}
CASES = [pytest.param(b, *case, id=f"{b.__name__}-{case[0]}") for b, cases in BASES.items() for case in cases]


def find(thing, name) -> Check:
    return next(check for check in checks(thing) if check.name == name)


@pytest.mark.parametrize(("base", "name", "says", "build"), CASES)
def test_what_is_wrong_is_told(base, name, says, build):
    before = ProcessState()
    plugin = subject(wrong(base, build))
    found = find(plugin, name).outcome(plugin)
    assert isinstance(found, Violation), found
    assert re.search(says, str(found)), found
    assert "\n" not in str(found)
    assert not before.changes()


@pytest.mark.parametrize("plugin", [Right, Copies, Error, Data])
def test_nothing_is_told_of_what_is_right(plugin):
    right = subject(plugin)
    assert [str(found) for check in checks(right) if (found := check.outcome(right))] == []


@pytest.mark.parametrize("base", BASES)
def test_every_check_is_failed_by_something(base):
    assert {check.name for check in checks(base)} == {name for name, *_ in BASES[base]}


def test_checks_that_mean_nothing_without_another_are_skipped():
    plugin = subject(wrong(Right, instead(fit=lambda self, run: 1 / 0)))
    outcomes = [(check.name, check.outcome(plugin)) for check in checks(plugin)]
    assert [name for name, found in outcomes if isinstance(found, Violation)] == ["fit"]
    assert str(find(plugin, "budget").outcome(plugin)) == "waits for 'fit'"


def test_a_data_set_without_its_data_is_skipped():
    absent = subject(wrong(Data, first("split", lambda *args: _absent())))
    outcomes = {check.name: check.outcome(absent) for check in checks(absent)}
    assert str(outcomes["data"]) == "toy: no file; bring it"
    assert all(found is None or isinstance(found, Skipped) for found in outcomes.values())


def _absent():
    raise UserError("toy: no file; bring it")


def test_violations_and_skips_are_raised():
    plugin = subject(wrong(Right, instead(__doc__=None, fit=lambda self, run: 1 / 0)))
    with pytest.raises(Violation, match="no docstring"):
        find(plugin, "docstring")(plugin)
    with pytest.raises(Skipped, match="waits for"):
        find(plugin, "loads")(plugin)


def test_what_an_import_draws_is_no_fault_of_a_plugin(monkeypatch):
    def load(*args):
        if "late" not in sys.modules:
            monkeypatch.setitem(sys.modules, "late", ModuleType("late"))
            random.random()

    plugin = subject(wrong(Data, first("split", load)))
    assert find(plugin, "state").outcome(plugin) is None


def test_checks_print_as_their_names_and_only_plugins_have_some():
    names = [str(check) for check in checks(subject(Right))]
    assert len(set(names)) == len(names) == len(checks(Right))
    with pytest.raises(UserError, match="give the class of a Method"):
        subject(int)


def test_the_scene_of_a_subject_is_its_own_keywords():
    dark = subject(Right, gain=0.25)
    assert dark.restored.gain == 0.25
    assert float(dark.images.max()) <= 0.25
