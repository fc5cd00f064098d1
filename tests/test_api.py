"""The suite from Python: the numbers of the command line, results that display themselves, the steps alone."""

from __future__ import annotations

import copy
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pandas as pd
import pytest
import torch
import toys

import cfbench
from cfbench import storage
from cfbench.api.result import Result
from cfbench.cli.main import _main
from cfbench.evaluation.plan import Plan
from cfbench.plugins.digest import source_digest
from cfbench.runs.manifest import write_manifest

TOYS = str(Path(__file__).with_name("toys.py"))
METRICS = "composition,truth,runtime"
SCRIPT = "<script>alert(1)</script>"
ASKED = {"preset": "tiny", "controls": False, "metrics": METRICS}


class Raises(toys.Learns):
    def fit(self, run):
        raise ArithmeticError(SCRIPT)


class Logs(toys.Learns):
    def fit(self, run):
        super().fit(run)
        run.log({"step": run.seen, "loss": 0.5})


class L2(cfbench.Metric):
    """Has a unit that a page must not take for markup."""

    columns = {"l2": cfbench.Column("distance to the factual", "lower", unit="<i>px</i>")}

    def __call__(self, evidence):
        return {"l2": (evidence.x - evidence.answer).flatten(1).norm(dim=1)}


@pytest.fixture(scope="module")
def command_run(tmp_path_factory):
    """The folder of a run of the command line."""
    root = tmp_path_factory.mktemp("command_run")
    rows = "learns,knows[dim=0.5],tunes,raises"
    args = ["run", "--plugin", TOYS, "--datasets", "bars", "--methods", rows, "--preset", "tiny", "--jobs", "1"]
    args += ["--no-plots", "--no-controls", "--metrics", METRICS, "--run-root", str(root)]
    assert _main([*args, "--data-root", str(root)]) == 2
    return root / "tiny"


@pytest.fixture(scope="module")
def session_run(tmp_path_factory):
    """A run of classes and instances."""
    rows = [toys.Learns, {"half": toys.Knows(toys.Bars.graph, dim=0.5)}, "tunes", Raises, "identity", toys.Draws]
    weights = tmp_path_factory.mktemp("weights") / "grey.safetensors"
    storage.write_tensors(weights, {"mean": torch.full((1, 8, 8), 0.25)})
    return cfbench.run(
        rows, toys.Bars(), metrics=[*METRICS.split(","), L2], plugins=[toys.Tunes], preset="tiny", controls=False,
        weights={"draws": weights},
        run_root=tmp_path_factory.mktemp("session"), data_root="nowhere", progress=False,
    )  # fmt: skip


def timeless(frame, *columns):
    kept = frame[~frame.metric.str.startswith("runtime")].reset_index(drop=True)
    return kept[list(columns)] if columns else kept


def asked_about(folder, row, do):
    """The stored answers of a row to an intervention, with what it was asked."""
    cell = next(c for c, _ in cfbench.load(folder).stored.states if c.method.label == row)
    about = cfbench.load(folder).manifest.datasets["bars"]
    plan, stored = (
        Plan.load(folder / about.plan),
        storage.read_tensors(folder / cell.stage("images") / "answers.safetensors"),
    )
    x = storage.read_tensors(folder / about.plan / "factuals.safetensors")["x"]
    asked = plan.asked[do]
    rows = asked.factual
    return SimpleNamespace(
        x=x[rows], pa=plan.pa[rows], index=plan.index[rows], value=asked.value, cf_pa=asked.cf_pa,
        image=stored[f"do/{do}"],
    )  # fmt: skip


def test_names_give_the_numbers_of_the_command_line_to_the_letter(command_run, tmp_path):
    ours = cfbench.run(
        "learns,knows[dim=0.5],tunes,raises", "bars", run_root=tmp_path, data_root=tmp_path, plugins=[TOYS],
        progress=False, jobs=1, **ASKED,
    )  # fmt: skip
    theirs = pd.read_csv(command_run / "leaderboard" / "bars.csv", keep_default_na=True)
    ours.write(tmp_path / "out", pictures=False)
    again = pd.read_csv(tmp_path / "out" / "bars.csv")
    pd.testing.assert_frame_equal(timeless(again), timeless(theirs), check_exact=True)
    assert ours.folder == tmp_path / "tiny"
    assert [c[0] for c in ours.manifest.commands] == ["cfbench.run"]


def test_classes_and_instances_give_the_same_scores(command_run, session_run):
    ours, theirs = session_run.scores, cfbench.load(command_run).scores
    for mine, other in (("learns", "learns"), ("half", "knows[dim=0.5]"), ("tunes", "tunes")):
        names = ["metric", "variable", "do", "questions", "value", "n", "status"]
        one = timeless(ours[(ours.method == mine) & (ours.metric != "l2.l2")], *names)
        two = timeless(theirs[theirs.method == other], *names)
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert session_run.methods == ("learns", "half", "tunes", "raises", "identity", "draws")
    assert set(ours[ours.metric == "l2.l2"].method) == set(session_run.methods)


def test_a_registered_class_keeps_its_name():
    from cfbench.plugins.registry import Registry, SessionPlugins

    session_run = SessionPlugins()
    for name in ("diffscm-cfg", "identity"):
        assert session_run.specs("method", Registry().load("method", name)) == name
    assert session_run.specs("method", {"mine[dim=2]": toys.Knows, "mine": toys.Knows}) == "mine[dim=2],mine"
    assert session_run.specs("dataset", ["digits", toys.Bars]) == "digits,bars"
    assert set(session_run.classes) == {"mine", "bars"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": {"identity": toys.Learns}}, "'identity' is cfbench_methods.identity:Identity of cfbench-scm"),
        ({"methods": [toys.Raises, Raises]}, "'raises' is another one of this session"),
        ({"methods": toys.Bars}, "Bars is no Method or Control"),
        ({"methods": 3}, "int is no Method or Control"),
        ({"methods": {"a,b": toys.Learns}}, "'a,b' names 2 rows"),
        ({"methods": {"a b": toys.Learns}}, "'a b' is not a spec"),
        ({"methods": "learnt", "plugins": [toys.Learns]}, "did you mean 'learns'?"),
        ({"methods": {"made[dim=2]": toys.Knows(toys.Bars.graph)}}, "made is an instance"),
        ({"methods": toys.Knows(cfbench.CausalGraph((cfbench.Variable("k", "continuous"),), (1, 8, 8)))}, "its class"),
        ({"datasets": toys.Learns}, "Learns is no Dataset"),
        ({"metrics": []}, "leave metrics out"),
        ({"metrics": "l3", "plugins": [L2]}, "im_of_means, l2, measured"),
        ({"plugins": [3]}, "int is no plugin"),
        ({"plugins": ["missing.py"]}, "no such file"),
        ({"seeds": -1}, "holds a negative number"),
        ({"settings": {"learns.x": 1}}, "learns has no setting 'x'"),
        ({"preset": "tinny"}, "did you mean 'tiny'?"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, options, says):
    usual = {"methods": toys.Learns, "datasets": toys.Bars, "preset": "tiny", "progress": False}
    with pytest.raises(cfbench.UserError) as error:
        cfbench.run(**{**usual, **options}, run_root=tmp_path, data_root=tmp_path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def dimmed(by):
    class Mine(toys.Learns):
        def predict(self, u, pa, rng):
            return super().predict(u, pa, rng) * by

    return Mine


def test_a_redefined_class_is_run_again_and_the_same_one_is_not(tmp_path, capsys):
    asked = {"datasets": toys.Bars, "run_root": tmp_path, "jobs": 2, **ASKED}
    results = [cfbench.run(dimmed(by), **asked) for by in (0.9, 0.5, 0.5)]
    values = [timeless(r.scores, "metric", "do", "questions", "value") for r in results]
    lines = [line for line in capsys.readouterr().err.splitlines() if "tasks to do" in line]
    assert [int(line.split(": ")[1].split(" ")[0]) for line in lines] == [6, 4, 0]
    assert not values[0].equals(values[1])
    assert values[1].equals(values[2])


def test_questions_and_judges_come_from_a_bundle_as_on_the_command_line(command_run, tmp_path):
    assert _main(["bundle", str(command_run), "--out", str(tmp_path / "bars-v1"), "--version", "1.0"]) == 0
    common = {"metrics": "truth", "run_root": tmp_path, "data_root": tmp_path, "progress": False}
    one, two = (
        cfbench.run("knows", "bars", **(ASKED | common | {"bundles": given, "name": name}), plugins=[TOYS], jobs=1)
        for name, given in (("one", tmp_path / "bars-v1"), ("two", [str(tmp_path / "bars-v1")]))
    )
    for result in (one, two):
        assert result.manifest.datasets["bars"].bundle["name"] == "bars-v1"
        assert any(word.startswith("bundles=") for word in result.manifest.commands[0])
    first = cfbench.load(command_run).manifest.datasets["bars"]
    assert Path(one.manifest.datasets["bars"].plan).name != Path(first.plan).name, "the bundle's key"
    asked = [storage.read_tensors(f / a.plan / "factuals.safetensors")["x"] for f, a in (
        (command_run, first), (one.folder, one.manifest.datasets["bars"])
    )]  # fmt: skip
    assert torch.equal(*asked)
    with pytest.raises(cfbench.UserError, match="no-such-bundle"):
        cfbench.run("knows", "bars", bundles=tmp_path / "no-such-bundle", **(ASKED | common), plugins=[TOYS])


def test_training_logs_are_written_for_tensorboard_as_each_fit_ends(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            self.folder = Path(folder)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            (self.folder / "events").write_text("")

        def add_scalar(self, tag, value, step):
            written.append((tag, value, step))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    asked = ASKED | {"metrics": "truth", "run_root": tmp_path, "data_root": tmp_path, "progress": False, "jobs": 1}
    off = cfbench.run(Logs, "bars", **asked, plugins=[TOYS])
    assert not (off.folder / "tensorboard").exists()
    assert not written
    cfbench.run([Logs, "learns", {"more": Logs}], "bars", **asked, plugins=[TOYS], tensorboard=True)
    found = {p.relative_to(off.folder / "tensorboard").parts[1] for p in off.folder.rglob("tensorboard/**/events")}
    assert found == {"logs", "more"}, "a fit that was done before, and one that was done now"
    assert written == [("loss", 0.5, 64)] * 2
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(cfbench.UserError, match="pip install 'cfbench-scm\\[tensorboard\\]'"):
        cfbench.run("learns", "bars", **asked, plugins=[TOYS], tensorboard=True)


def test_a_class_given_is_not_sent_to_workers_and_this_is_reported(tmp_path, capsys):
    cfbench.run(toys.Learns, toys.Bars, jobs=2, run_root=tmp_path, preset="tiny", controls=False, metrics="runtime")
    assert capsys.readouterr().err.count("only this process knows the classes at hand") == 1


SESSION = """
from cfbench import Method
SHIFT = {shift}
def helper(x):
    "{doc}"
    return x * {factor}
class Mine(Method):
    answer_params = frozenset({{"a", "b"}})
    def abduct(self, x, pa, rng):
        return x + SHIFT
    def predict(self, u, pa, rng):
        return [helper(v) for v in u]
"""


def test_what_a_class_of_a_session_uses_tells_it_apart():
    def digest(**parts):
        scope = {"__name__": "__main__"}
        exec(SESSION.format(**{"shift": 1, "factor": 2, "doc": "Twice.", **parts}), scope)
        return source_digest(scope["Mine"])

    assert digest() == digest() == digest(doc="Two times.")
    assert len({digest(), digest(shift=2), digest(factor=3)}) == 3


def test_an_edited_helper_counts_though_its_class_is_the_same():
    scope = {"__name__": "__main__"}
    exec(SESSION.format(shift=1, factor=2, doc=""), scope)
    before = source_digest(scope["Mine"])
    scope["helper"] = eval("lambda x: x", scope)
    assert source_digest(scope["Mine"]) != before


def test_a_run_loads_from_its_name_or_folder_without_its_plugins(session_run, monkeypatch):
    def refuse(self):
        raise AssertionError(f"{self.name} is imported")

    monkeypatch.setattr(EntryPoint, "load", refuse)
    for loaded in (cfbench.load("tiny", session_run.folder.parent), cfbench.load(session_run.folder)):
        pd.testing.assert_frame_equal(loaded.scores, session_run.scores)
        pd.testing.assert_frame_equal(loaded.wide, session_run.wide)
        pd.testing.assert_frame_equal(loaded.pairs, session_run.pairs)
        assert repr(loaded) == repr(session_run)
    with pytest.raises(cfbench.UserError, match="did you mean 'tiny'"):
        cfbench.load("tin", session_run.folder.parent)


def test_cells_that_fail_are_reported(session_run):
    (row,) = session_run.failures.to_dict("records")
    assert (row["dataset"], row["method"], row["seed"], row["status"]) == ("bars", "raises", 0, "failed")
    assert SCRIPT in row["reason"]
    assert "1 of 6 cells unfinished" in repr(session_run)


def test_html_holds_the_numbers_and_no_markup_of_others(session_run):
    page, text = session_run._repr_html_(), str(session_run.table(details=True))
    for markup in (SCRIPT, "<script", "<i>px"):
        assert markup not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;i&gt;px" in page
    assert f"<p>{session_run!r}</p>" in page
    value = session_run.scores[
        (session_run.scores.method == "half") & (session_run.scores.metric == "l2.l2")
    ].value.iloc[0]
    for shown in (page, text):
        assert f"{value:.2f}"[:4] in shown
        assert "95 % interval" in shown
        assert "tunes chose dim=0.5" in shown
        assert "tunes: half as bright is enough." in shown
    assert page.count("<table>") == 4
    assert "<b>" in page.partition("<tbody>")[2].partition("</tbody>")[0], "nothing is the best"
    assert max(map(len, text.splitlines())) <= 120


def test_tables_of_other_data_sets_are_refused(session_run):
    with pytest.raises(cfbench.UserError, match="no data set 'bar'; did you mean 'bars'"):
        session_run.table("bar")


def test_pictures_are_png_and_leave_the_notebook_as_it_was(session_run, tmp_path):
    before = dict.__getitem__(matplotlib.rcParams, "backend"), matplotlib.rcParams["axes.grid"]
    assert {"composition", "truth", "l2", "quality-cost"} <= set(session_run.plots)
    pictures = [
        session_run.plot(),
        session_run.plot("truth"),
        session_run.plot("l2", "bars"),
        session_run.gallery(columns=6),
    ]
    assert all(p._repr_png_().startswith(b"\x89PNG\r\n") for p in pictures)
    assert len({p._repr_png_() for p in pictures}) == 4
    assert pictures[0].save(tmp_path / "cost.png").read_bytes() == pictures[0].path.read_bytes()
    assert (dict.__getitem__(matplotlib.rcParams, "backend"), matplotlib.rcParams["axes.grid"]) == before
    with pytest.raises(cfbench.UserError, match="no chart 'truths'; did you mean 'truth'"):
        session_run.plot("truths")


def test_a_picture_outlives_its_result(session_run):
    picture = cfbench.load(session_run.folder).plot("truth")
    assert picture.path.is_file()
    assert picture._repr_png_()


def test_a_run_without_a_plan_has_no_tables(session_run, tmp_path):
    folder = tmp_path / "bare"
    write_manifest(folder, session_run.manifest)
    bare = cfbench.load(folder)
    assert len(bare.scores) == len(bare.plots) == 0
    assert "bars has no plan yet" in str(bare.table())
    assert "bars has no plan yet" in bare._repr_html_()
    assert (bare.failures.status == "pending").all()
    with pytest.raises(cfbench.UserError, match="there is none"):
        bare.gallery()


@pytest.mark.parametrize("row", ["learns", "knows[dim=0.5]", "tunes"])
@pytest.mark.parametrize("do", ["kind", "level"])
def test_a_method_that_is_loaded_answers_what_the_run_stored(command_run, row, do, recwarn):
    method = cfbench.load_method(command_run, row, data_root="nowhere", plugins=[TOYS])
    asked = asked_about(command_run, row, do)
    answer = cfbench.counterfactual(
        method, asked.x, asked.pa, {do: asked.value}, dataset=toys.Bars(), index=asked.index
    )
    assert not method.training
    assert torch.equal(answer.cf_pa, asked.cf_pa)
    assert torch.equal(answer.image, asked.image)
    assert not [w for w in recwarn if "fitted with" in str(w.message)]


class Products(toys.Learns):
    """Answers through a matrix product, which the precision rounds."""

    name = "products"

    def __init__(self, graph):
        super().__init__(graph)
        self.mix = torch.nn.Linear(64, 64)

    def predict(self, u, pa, rng):
        return torch.sigmoid(self.mix(u.flatten(1)).view_as(u))

    def sample(self, pa, rng):
        return self.predict(rng.normal(1, 8, 8), pa, rng)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    rows, root = [Products, "resample[of=products]", {"other": Products}], tmp_path_factory.mktemp("lowered")
    return cfbench.run(rows, toys.Bars, **ASKED, precision="bf16", run_root=root, data_root=root, progress=False)


@pytest.mark.parametrize("row", ["products", "resample[of=products]", "other"])
def test_a_method_of_a_run_in_bfloat16_answers_as_it_did_there(lowered, row):
    asked = asked_about(lowered.folder, row, "level")
    method = cfbench.load_method(lowered, row)
    for each in (method, copy.deepcopy(method)):
        answer = cfbench.counterfactual(
            each, asked.x, asked.pa, {"level": asked.value}, dataset=toys.Bars(), index=asked.index
        )
        same = slice(1) if row.startswith("resample") else slice(None)  # what is drawn has a stream for each question
        assert torch.equal(answer.image[same], asked.image[same])
    assert not torch.is_autocast_enabled("cpu")
    if row == "products":
        assert type(method).__name__ == "Products"
        assert isinstance(method, Products)
        exact = Products(toys.Bars.graph)
        exact.load_state_dict(method.state_dict())
        pa, rng = asked.pa[:4], cfbench.Streams(range(4))
        u = torch.rand(4, 1, 8, 8)
        assert method.predict(u, pa, rng).dtype == method.sample(pa, cfbench.Streams(range(4))).dtype == torch.bfloat16
        away = (exact.predict(u, pa, rng) - method.predict(u, pa, rng).float()).abs().max()
        assert 0 < away < 0.01


def test_rows_of_this_session_are_loaded_through_its_result(session_run):
    asked = asked_about(session_run.folder, "half", "kind")
    method = cfbench.load_method(session_run, "half")
    assert method.dim == 0.5
    again = cfbench.load_method(session_run.folder, "half", plugins={"half": method, "bars": toys.Bars()})
    for each in (method, again):
        answer = cfbench.counterfactual(each, asked.x, asked.pa, {"kind": asked.value}, dataset=toys.Bars)
        assert torch.equal(answer.image, asked.image)


def test_weights_that_were_given_are_loaded_and_no_change_is_reported(session_run, recwarn):
    method = cfbench.load_method(session_run, "draws")
    assert torch.equal(method.mean, torch.full((1, 8, 8), 0.25))
    assert not [w for w in recwarn if "fitted with" in str(w.message)]


def test_a_class_that_has_changed_since_is_reported(tmp_path):
    run = cfbench.run(
        dimmed(0.9), toys.Bars, run_root=tmp_path, preset="tiny", controls=False, metrics="runtime", progress=False
    )
    cfbench.load_method(run, "mine")
    run.classes["mine"] = dimmed(0.5)
    with pytest.warns(UserWarning, match="mine seed 0: its source or settings are not those that it was fitted with"):
        cfbench.load_method(run, "mine")
    with pytest.warns(UserWarning, match="whether its fit is up to date is unknown: unknown dataset 'bars'"):
        cfbench.load_method(run.folder, "mine", plugins=[dimmed(0.9)])


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        ("learn", {}, "has no row 'learn'; did you mean 'learns'?"),
        ("learns,half", {}, "has no row"),
        ("raises", {}, f"bars raises seed 0 of the run tiny is failed: train: ArithmeticError: {SCRIPT}"),
        ("learns", {"seed": 3}, "learns has no seed 3 in the run tiny; it has 0"),
        ("learns", {"dataset": "bar"}, "no data set 'bar'; did you mean 'bars'?"),
    ],
)
def test_what_cannot_be_loaded_is_reported(session_run, row, options, says):
    with pytest.raises(cfbench.UserError) as error:
        cfbench.load_method(session_run, row, **options)
    assert says in str(error.value)


def test_a_name_that_a_file_of_the_run_has_is_refused(session_run):
    run = Result(session_run.folder, files=(Path(TOYS),))
    with pytest.raises(cfbench.UserError, match=r"method 'learns' is Learns of toys\.py; give Knows another name"):
        cfbench.load_method(run, "learns", plugins={"learns": toys.Knows})


def test_a_data_set_is_loaded_by_name_class_or_instance(tmp_path):
    given = toys.Bars()
    assert cfbench.load_dataset(given) is given
    for dataset, plugins in (
        ("bars", [TOYS]),
        ("mine", {"mine": toys.Bars}),
        ("mine", {"mine": given}),
        (toys.Bars, ()),
    ):
        found = cfbench.load_dataset(dataset, plugins=plugins)
        assert type(found).__name__ == "Bars"
        assert found is not given
        assert found.graph == given.graph
    with pytest.raises(cfbench.UserError, match="'bars,bars\\[a=1\\]' names 2 data sets; give one"):
        cfbench.load_dataset("bars,bars[a=1]", plugins=[TOYS])


def test_a_row_whose_class_is_not_given_is_reported(session_run):
    with pytest.raises(cfbench.UserError, match="half is not installed"):
        cfbench.load_method(session_run.folder, "half")


def test_learned_mechanisms_are_loaded_and_answer_as_the_plan_did(tmp_path, monkeypatch):
    monkeypatch.setattr("cfbench.evaluation.mechanisms.STEPS", 150)
    run = cfbench.run(
        "identity", toys.Bars, action="learned", run_root=tmp_path, preset="tiny", controls=False, metrics="runtime",
        progress=False, name="learned",
    )  # fmt: skip
    asked, method = asked_about(run.folder, "identity", "level"), cfbench.load_method(run, "identity")
    act = cfbench.load_action("learned", run_root=tmp_path)
    silent = toys.Bars()
    monkeypatch.setattr(silent, "act", lambda pa, do, rng: None)
    taken = cfbench.counterfactual(method, asked.x, asked.pa, {"level": asked.value}, dataset=silent)
    assert torch.equal(taken.cf_pa, asked.cf_pa), "where the data know none, the run's"
    answer = cfbench.counterfactual(method, asked.x, asked.pa, {"level": asked.value}, action=act)
    assert torch.equal(answer.cf_pa, asked.cf_pa)
    moved = act(asked.pa, {"kind": 1 - asked.pa[:, 0]}, torch.Generator())
    assert (moved[:, 1] - asked.pa[:, 1] - 0.2 * (1 - 2 * asked.pa[:, 0])).abs().mean() < 0.1


def test_known_responses_are_not_loaded_as_learned_ones(session_run):
    with pytest.raises(cfbench.UserError, match="respond as it says itself; give dataset='bars'"):
        cfbench.load_action(session_run)


@pytest.fixture
def question():
    split = toys.Bars().split(Path(), "test")
    method = toys.Learns(toys.Bars.graph)
    return SimpleNamespace(method=method, images=split.images[:6], x=split.x[:6], pa=split.parents[:6])


def test_questions_may_be_written_in_several_ways(question):
    q, bars = question, toys.Bars()
    answer = cfbench.counterfactual(q.method, q.x, q.pa, {"kind": 1}, dataset=bars)
    pa = {"kind": q.pa[:, 0].tolist(), "level": q.pa[:, 1].numpy()}
    again = cfbench.counterfactual(q.method, q.images, pa, {"kind": [1] * 6}, action=bars.act)
    assert torch.equal(answer.image, again.image)
    assert torch.equal(answer.cf_pa, bars.act(q.pa, {"kind": torch.ones(6)}, torch.Generator()))
    first = cfbench.counterfactual(q.method, q.x[0], q.pa[0], {"kind": 1}, dataset=bars)
    assert torch.equal(first.image, answer.image[:1])
    other = cfbench.counterfactual(q.method, q.x, q.pa, {"kind": 1}, dataset=bars, seed=1)
    assert not torch.equal(other.image, answer.image)
    null = cfbench.counterfactual(q.method, q.x, q.pa, {})
    assert torch.equal(null.cf_pa, q.pa)
    assert answer._repr_png_().startswith(b"\x89PNG")
    assert repr(answer) == "Answer(do(kind) of 6 images 1x8x8)"


def test_asking_leaves_the_method_its_inputs_and_the_random_state_alone(question):
    q, state = question, torch.get_rng_state()
    x, pa = q.x.clone(), q.pa.clone()
    q.method.train()
    cfbench.counterfactual(q.method, q.x, q.pa, {"level": 0.5})
    assert q.method.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(q.x, x)
    assert torch.equal(q.pa, pa)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": toys.Bars()}, "is no Method"),
        ({"method": cfbench.Control(toys.Bars.graph)}, "Control is a control: it looks answers up in the data"),
        ({"method": toys.Wide(toys.Bars.graph)}, "Wide: predict must give [6, 1, 8, 8], found [6, 1, 8, 9]"),
        ({"x": torch.zeros(6, 1, 9, 9)}, "x holds images [B, 1, 8, 8], found [6, 1, 9, 9]"),
        ({"x": torch.full((6, 1, 8, 8), 200.0)}, "divide by 255?"),
        ({"x": torch.zeros(6, 1, 8, 8).long()}, "found torch.int64"),
        ({"pa": torch.zeros(5, 2)}, "pa holds [6, 2] values (kind, level), found [5, 2]"),
        ({"pa": {"kind": 0}}, "pa has no value for level"),
        ({"pa": {"kind": 0, "level": 0.5, "size": 1}}, "no variable 'size'"),
        ({"do": {"kin": 1}}, "no variable 'kin'; did you mean 'kind'?"),
        ({"do": {"kind": 2}}, "kind: found 2, the classes are 0 to 1"),
        ({"do": {"kind": 0.5}}, "kind: found 0.5"),
        ({"do": {"kind": "upright"}}, "kind takes a number, or one an image; found 'upright'"),
        ({"do": {"level": [0.1, 0.2]}}, "level: 2 values for 6 images"),
        ({"do": {"level": float("nan")}}, "level: 1 of 1 values are not finite"),
        (
            {"x": torch.zeros(6, 1, 8, 8).index_fill(0, torch.tensor([1, 4]), torch.nan)},
            "x holds 128 pixels that are not finite, in 2 of 6 images",
        ),
        ({"pa": [[0, 0.5]] * 4 + [[0, torch.inf]] * 2}, "level: 2 of 6 values are not finite"),
        ({"pa": {"kind": 0, "level": [0.5] * 5 + [torch.nan]}}, "level: 1 of 6 values are not finite"),
        (
            {"dataset": None, "action": lambda pa, do, rng: pa / (pa[:, :1] * 0)},
            "the action gives parents that are not finite: 6 of 6 of kind, 6 of 6 of level; give numbers",
        ),
        (
            {"dataset": None, "action": lambda pa, do, rng: pa[:, :1]},
            "the action gives parents [6, 1]; give [6, 2] (kind, level)",
        ),
        ({"dataset": None}, "nothing says how parents respond (level to do(kind)); give dataset=, or action="),
        ({"action": toys.Bars().act}, "give one of them"),
        ({"index": [1, 2]}, "2 numbers for 6 images"),
        ({"dataset": "digits"}, "another graph than that of Digits"),
    ],
)
def test_a_question_that_does_not_fit_is_one_line(question, change, says):
    usual = {"method": question.method, "x": question.x, "pa": question.pa, "do": {"kind": 1}, "dataset": toys.Bars()}
    with pytest.raises(cfbench.UserError) as error:
        cfbench.counterfactual(**{**usual, **change})
    assert says in str(error.value)


def test_answers_that_break_the_contract_are_nan_and_reported(question):
    with pytest.warns(UserWarning, match=r"Loud: 6 of 6 answers do: out of \[0, 1\]"):
        answer = cfbench.counterfactual(
            toys.Loud(toys.Bars.graph), question.x, question.pa, {"kind": 1}, dataset=toys.Bars()
        )
    assert answer.image.isnan().all()


def test_a_package_that_is_imported_alone_is_light_and_has_all_it_lists():
    code = (
        "import sys, cfbench\n"
        "assert set(cfbench.__all__) <= set(dir(cfbench))\n"
        "heavy = {'torch', 'numpy', 'pandas', 'click', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import cfbench.engine.execute\n"
        "assert callable(cfbench.run) and cfbench.run.__module__ == 'cfbench.api.run'\n"
        "assert all(getattr(cfbench, name) is not None for name in cfbench.__all__)\n"
        "assert not hasattr(cfbench, 'walk')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
