"""Questions and judges bundled from a run, and runs that use them; damaged and invented bundles are refused."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from cfbench.cli.main import _main
from cfbench.engine.request import Request
from cfbench.errors import UserError
from cfbench.plugins.spec import Spec
from cfbench.runs.bundle import assign_bundles, digest_of, read_bundle
from cfbench.runs.context import LoadedJob
from cfbench.runs.manifest import reopen_job
from cfbench.storage.stage import sha256

TOYS = str(Path(__file__).with_name("toys.py"))
BARS = Spec("bars")
OTHER = """
from cfbench.conformance.subjects import toy


class Bars(toy.Bars):
    def table(self):
        pa, hand = super().table()
        pa[ROW, 1] += 0.1
        return pa, hand
"""


def run(folder, *args, plugin=TOYS):
    words = ["run", "--plugin", plugin, "--datasets", "bars", "--preset", "tiny", "--jobs", "1", "--no-plots"]
    words += ["--metrics", "truth,effectiveness", "--no-controls", "--data-root", str(folder)]
    return _main([*words, "--run-root", str(folder / "runs"), *args])


def bundle(folder, *args):
    return _main(["bundle", *args, "--run-root", str(folder / "runs")])


def about(folder, name):
    return json.loads((folder / "runs" / name / "run.json").read_text())


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    """A laboratory that made a bundle of its run, and another one that used it."""
    folder = tmp_path_factory.mktemp("labs")
    assert run(folder, "--methods", "knows") == 0
    assert bundle(folder, "tiny", "--out", str(folder / "bars-v1"), "--version", "1.0") == 0
    assert run(folder, "--methods", "knows,learns", "--bundle", str(folder / "bars-v1"), "--name", "used") == 0
    return folder


@pytest.fixture
def copied(labs, tmp_path):
    """A bundle to spoil."""
    return Path(shutil.copytree(labs / "bars-v1", tmp_path / "bars-v1"))


def seal(folder):
    """Make the digests of a changed bundle right."""
    record = json.loads((folder / "bundle.json").read_text())
    record["files"] = {n: sha256(folder / n) if (folder / n).is_file() else "0" * 64 for n in record["files"]}
    (folder / "bundle.json").write_text(json.dumps(record | {"digest": digest_of(record)}))


def say(folder, **changed):
    record = json.loads((folder / "bundle.json").read_text()) | changed
    (folder / "bundle.json").write_text(json.dumps(record | {"digest": digest_of(record)}))


def test_questions_truths_and_judges_are_those_of_the_bundle(labs):
    described, part = about(labs, "used")["datasets"]["bars"], {"plan": "plan", "judges": "judges"}
    for kind, name in part.items():
        files = sorted(p for p in (labs / "bars-v1" / name).iterdir())
        assert len(files) >= 3
        assert all((labs / "runs/used" / described[kind] / p.name).read_bytes() == p.read_bytes() for p in files)


def test_scores_are_those_of_the_run_that_it_came_from(labs):
    one, other = (pd.read_csv(labs / "runs" / name / "leaderboard/bars.csv") for name in ("tiny", "used"))
    one, other = (t[t.method == "knows"].reset_index(drop=True) for t in (one, other))
    assert len(one) > 4
    pd.testing.assert_series_equal(one.value, other.value)


def test_the_table_names_version_and_digest(labs):
    digest = read_bundle(labs / "bars-v1")["digest"]
    for name in ("bars.md", "bars.tex", "bars-appendix.tex"):
        text = (labs / "runs/used/leaderboard" / name).read_text().replace(r"\allowbreak{}", "")
        assert f"bundle bars-v1, version 1.0, sha256 {digest}" in " ".join(text.split())
        assert "bundle" not in (labs / "runs/tiny/leaderboard" / name).read_text()


def test_keys_tell_a_run_by_a_bundle_from_one_of_its_own(labs):
    own, used = (next(c for c in about(labs, n)["cells"] if c["method"]["name"] == "knows") for n in ("tiny", "used"))
    assert own["keys"]["train"] == used["keys"]["train"]
    assert not {*own["scores"].values(), own["keys"]["images"]} & {*used["scores"].values(), used["keys"]["images"]}


def test_a_run_taken_up_again_has_the_keys_without_the_bundle(labs):
    loaded = LoadedJob(reopen_job(labs / "runs/used", data_root=labs, device="cpu"))
    assert loaded.keys.plan(BARS) == about(labs, "used")["datasets"]["bars"]["plan_key"]
    assert loaded.judge_folder(BARS).is_dir()


def test_the_same_command_does_nothing_again_and_verify_repeats_it(labs, capsys):
    assert run(labs, "--methods", "knows,learns", "--bundle", str(labs / "bars-v1"), "--name", "used") == 0
    assert "0 of" in capsys.readouterr().out
    words = ["verify", "used", "--run-root", str(labs / "runs"), "--data-root", str(labs), "--plugin", TOYS]
    assert _main([*words, "--cells", "2"]) == 0
    assert "2 cells: 2 equal" in capsys.readouterr().out


def test_the_same_run_gives_the_same_bundle(labs, tmp_path):
    assert bundle(labs, "tiny", "--out", str(tmp_path / "again"), "--name", "bars-v1", "--version", "1.0") == 0
    assert read_bundle(tmp_path / "again")["digest"] == read_bundle(labs / "bars-v1")["digest"]
    assert bundle(labs, "used", "--out", str(tmp_path / "third"), "--name", "bars-v1", "--version", "1.0") == 0
    assert read_bundle(tmp_path / "third")["files"] == read_bundle(labs / "bars-v1")["files"]


def test_a_stage_of_the_bundle_that_was_damaged_in_the_run_is_taken_from_it_again(labs, tmp_path, capfd):
    shutil.copytree(labs / "runs/used", tmp_path / "runs/used")
    plan = tmp_path / "runs/used" / about(labs, "used")["datasets"]["bars"]["plan"] / "plan.safetensors"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run(tmp_path, "--methods", "knows", "--bundle", str(labs / "bars-v1"), "--name", "used") == 0
    assert "does not match its manifest" in capfd.readouterr().err
    assert plan.read_bytes() == whole


def test_learned_mechanisms_come_along(tmp_path):
    assert run(tmp_path, "--methods", "knows", "--action", "learned") == 0
    assert bundle(tmp_path, "tiny-learned-action", "--out", str(tmp_path / "learned")) == 0
    assert run(tmp_path, "--methods", "knows", "--bundle", str(tmp_path / "learned"), "--name", "used") == 0
    described = about(tmp_path, "used")["datasets"]["bars"]
    assert described["action"] == "learned"
    made, given = tmp_path / "runs/used" / described["mechanisms"], tmp_path / "learned/mechanisms"
    assert (made / "weights.safetensors").read_bytes() == (given / "weights.safetensors").read_bytes()
    words = ["verify", "used", "--run-root", str(tmp_path / "runs"), "--data-root", str(tmp_path), "--plugin", TOYS]
    assert _main([*words, "--cells", "1"]) == 0


def test_the_budget_of_questions_and_judges_is_the_bundles(labs):
    request = Request(datasets="bars", plugins=(Path(TOYS),), bundles=(labs / "bars-v1",), preset="quick")
    assert (request.job.budget.factuals, request.job.budget.judge) == (12, 0.02)
    assert request.job.budget.images == 130_000
    assert request.job.folder.name == "quick-bars-v1-1.0"


def test_runs_by_different_bundles_are_not_merged(labs, tmp_path, capfd):
    assert bundle(labs, "tiny", "--out", str(tmp_path / "bars-v2"), "--version", "2") == 0
    assert run(labs, "--methods", "knows", "--bundle", str(tmp_path / "bars-v2"), "--name", "second") == 0
    for pair in (("used", "second"), ("used", "tiny")):
        assert _main(["merge", *pair, "--name", "both", "--run-root", str(labs / "runs")]) == 1
        assert re.search("have another (plan|bundle) of bars", capfd.readouterr().err)
    assert run(labs, "--methods", "learns", "--bundle", str(labs / "bars-v1"), "--name", "third") == 0
    assert _main(["merge", "used", "third", "--name", "both", "--run-root", str(labs / "runs")]) == 0
    assert about(labs, "both")["datasets"]["bars"]["bundle"]["version"] == "1.0"


def refused(folder, capfd, *args, says, plugin=TOYS):
    """A run ends in a line, and nothing is written."""
    capfd.readouterr()
    assert run(folder, "--methods", "identity", *args, plugin=plugin) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert re.search(says, err), err
    assert not (folder / "runs").exists()


def test_a_bundle_is_for_the_data_set_of_its_label_or_else_of_its_name(copied):
    say(copied, dataset={"name": "folder", "preset": "", "params": {"path": "there"}})
    one, other = (Spec("folder", params={"path": p}) for p in ("here", "there"))
    assert assign_bundles([copied], [Spec("bars"), one, other])[0].dataset == "folder[path=there]"
    assert assign_bundles([copied], [Spec("bars"), one])[0].dataset == "folder[path=here]"
    with pytest.raises(
        UserError, match=r"is for folder\[path=there\], the run asks about folder\[path=here\], folder\[path=no"
    ):
        assign_bundles([copied], [one, Spec("folder", params={"path": "nowhere"})])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--split", "valid"), "made with --split test, not valid"),
        (("--plan", "force-change"), "made with --plan marginal"),
        (("--action", "learned"), "made with --action exact"),
        (("--datasets", "strokes"), "is for bars, the run asks about strokes"),
    ],
)
def test_a_bundle_that_asks_something_else_is_refused(labs, tmp_path, capfd, args, says):
    refused(tmp_path, capfd, "--bundle", str(labs / "bars-v1"), *args, says=says)


def test_two_bundles_of_one_data_set_are_refused(labs, tmp_path, capfd):
    given = ("--bundle", str(labs / "bars-v1"))
    refused(tmp_path, capfd, *given, *given, says="bars has the bundle .* already")


def test_other_data_are_reported_with_the_rows_that_differ(labs, tmp_path, capfd):
    plan = load_file(labs / "bars-v1/plan/plan.safetensors")
    (tmp_path / "other.py").write_text(OTHER.replace("ROW", str(int(plan["index"][3]))))
    says = f"not those of the bundle .*: 1 of 12 factuals of bars differ, row {int(plan['rows'][3])} of the test split"
    refused(tmp_path, capfd, "--bundle", str(labs / "bars-v1"), says=says, plugin=str(tmp_path / "other.py"))


def test_another_bundle_under_the_same_name_is_refused(labs, capfd):
    for name, given in (("tiny", ("--bundle", str(labs / "bars-v1"))), ("used", ())):
        assert run(labs, "--methods", "knows", *given, "--name", name) == 1
        assert "another bundle" in capfd.readouterr().err


def test_a_bundle_is_not_written_over(labs, tmp_path, capfd):
    before = (labs / "bars-v1/bundle.json").read_bytes()
    assert bundle(labs, "tiny", "--out", str(labs / "bars-v1"), "--version", "2") == 1
    assert "is there already" in capfd.readouterr().err
    assert (labs / "bars-v1/bundle.json").read_bytes() == before
    assert bundle(labs, "tiny", "--out", str(tmp_path / "new"), "--version", "a b") == 1
    assert "--version" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_judges_or_with_damaged_ones_is_not_bundled(labs, tmp_path, capfd):
    shutil.copytree(labs / "runs/tiny", tmp_path / "runs/tiny")
    judges = next((tmp_path / "runs/tiny/judges").iterdir())
    (judges / "judges.json").write_text("{}")
    assert bundle(tmp_path, "tiny", "--out", str(tmp_path / "new")) == 1
    assert "does not match its manifest (judges.json)" in capfd.readouterr().err
    shutil.rmtree(judges)
    assert bundle(tmp_path, "tiny", "--out", str(tmp_path / "new")) == 1
    assert "is missing" in capfd.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


class Boom:
    """What happens when a pickle is loaded."""

    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def flip(folder):
    path = folder / "judges/judges.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def pickled(folder):
    (folder / "plan/plan.safetensors").write_bytes(pickle.dumps(Boom()))
    seal(folder)


def header(folder):
    (folder / "plan/plan.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    seal(folder)


def linked_file(folder):
    (folder / "plan/plan.json").rename(folder.parent / "elsewhere.json")
    (folder / "plan/plan.json").symlink_to(folder.parent / "elsewhere.json")


def linked_folder(folder):
    (folder / "judges").rename(folder.parent / "elsewhere")
    (folder / "judges").symlink_to(folder.parent / "elsewhere")


def leaving(folder):
    (folder.parent / "secret.json").write_text("{}")
    files = json.loads((folder / "bundle.json").read_text())["files"]
    say(folder, files=files | {"plan/../../secret.json": sha256(folder.parent / "secret.json")})


def out_of_range(folder):
    tensors = load_file(folder / "plan/plan.safetensors")
    tensors["factual/kind"] += 10**6
    save_file(tensors, folder / "plan/plan.safetensors")
    seal(folder)


def fewer_images(folder):
    save_file({"x": load_file(folder / "plan/factuals.safetensors")["x"][:3]}, folder / "plan/factuals.safetensors")
    seal(folder)


def huge_judges(folder):
    (folder / "judges/judges.json").write_text(
        json.dumps({**json.loads((folder / "judges/judges.json").read_text()), "sizes": {"width": 10**9}})
    )
    seal(folder)


def other_graph(folder):
    graph = json.loads((folder / "bundle.json").read_text())["graph"]
    say(folder, graph=graph | {"shape": [3, 8, 8]})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (flip, "judges.safetensors is not the file that bundle.json describes"),
        (lambda f: (f / "plan/truth.safetensors").unlink(), "truth.safetensors is missing"),
        (lambda f: (f / "bundle.json").unlink(), "holds no bundle"),
        (lambda f: (f / "bundle.json").write_text("{"), "no JSON"),
        (lambda f: (f / "bundle.json").write_text("[]"), "is no mapping"),
        (lambda f: say(f, format=2), "it has format 2, this cfbench reads format 1"),
        (lambda f: say(f, name="\x1b[2J"), "damaged"),
        (lambda f: say(f, files={}), "plan/plan.json is missing"),
        (pickled, "no safetensors file"),
        (header, "no safetensors file"),
        (linked_file, "plan/plan.json is a link"),
        (linked_folder, "judges is a link"),
        (leaving, "is no file of a bundle"),
        (out_of_range, "are about no factuals of its own"),
        (fewer_images, "it has 3 factual images and asks about 12"),
        (huge_judges, "no whole number from 1 to 4096"),
        (other_graph, "another causal graph or image size"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_damaged_and_foreign_bundles_end_in_a_line(copied, tmp_path, capfd, monkeypatch, spoil, says):
    spoil(copied)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    refused(tmp_path / "lab", capfd, "--bundle", str(copied), says=says)
    assert not (tmp_path / "exploded").exists()


def test_a_changed_name_changes_no_digest_unseen(copied, tmp_path, capfd):
    record = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps(record | {"version": "9"}))
    refused(tmp_path / "lab", capfd, "--bundle", str(copied), says="its digest is not that of its contents")
