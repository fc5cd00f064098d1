"""Untrusted files, drawn at random: each is read or refused in one line, in bounded time and memory."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cfbench_datasets.folder import decode
from cfbench_datasets.folder.modes import RefusedImage
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_answer_files import DO, KEY, NULL, PLAN, SHAPE, header, npy
from test_image_modes import READ, REFUSED, png, tiff

from cfbench.conformance.subjects.toy import Bars
from cfbench.engine.display import RunMonitor
from cfbench.engine.prepare import check_bundle
from cfbench.errors import UserError
from cfbench.evaluation.plan import make_plan
from cfbench.exchange.external import read_answers
from cfbench.judges import Judges
from cfbench.plugins.spec import Spec
from cfbench.report.charts import recorded
from cfbench.runs.budget import Budget
from cfbench.runs.bundle import ABOUT, FORMAT, Bundle, digest_of, read_bundle
from cfbench.runs.job import Cell, Job
from cfbench.runs.progress import EVENTS, FOLDER, read_events, tasks_in_progress
from cfbench.storage import sha256, write_tensors

GROWTH = 2**20
"""KiB that a process may grow by."""


def bounded(examples: int) -> settings:
    """So many examples, always the same, none of which may take ten seconds."""
    return settings(
        max_examples=examples, deadline=10_000, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Fail where the process grows by more than a gigabyte, even for a moment."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is the present one
    except OSError:  # no Linux, or not allowed
        yield
        return
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < GROWTH


def memory(of: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(of)).split()[1])


def refused(error: Exception) -> None:
    """A refusal is a line that says something."""
    text = str(error)
    assert text
    assert len(text.splitlines()) == 1
    assert text.isprintable()


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """Bytes with a few places overwritten, cut out, repeated or filled with large numbers."""
    for _ in range(draw(st.integers(1, 5))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 64))
        new = draw(st.sampled_from([b"", b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", data[at : at + 64] * 3]))
        new = draw(st.one_of(st.just(new), st.binary(max_size=8)))
        data = data[:at] + new + data[at + min(size, len(new)) * draw(st.integers(0, 1)) :]
    return data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**30, -1, 1e308, "\x1b]0;a\x07", "do|x", "../..", "a" * 2000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@st.composite
def altered(draw: Any, value: Any) -> Any:
    """JSON with a value somewhere replaced, left out or added."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 4)) == 0:
        return draw(values)
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        return [draw(altered(v)) if i == at else v for i, v in enumerate(value)]
    key, what = draw(st.sampled_from(sorted(value))), draw(st.sampled_from(["change", "change", "drop", "add"]))
    if what == "add":
        return value | {draw(st.text(max_size=8)): draw(values)}
    rest = {k: v for k, v in value.items() if k != key}
    return rest if what == "drop" else rest | {key: draw(altered(value[key]))}


@st.composite
def archives(draw: Any) -> bytes:
    """An archive of arrays with headers, types, shapes and contents drawn at random."""
    dtype = draw(st.sampled_from(["|u1", "<f4", ">f8", "<f2", "<c8", "|O", "<U9", "|S3", "<M8[s]", "|V1000000000"]))
    sizes = st.lists(st.sampled_from([-1, 0, 1, 2, 3, 10**12, 2**63]), max_size=5).map(tuple)
    shape, fortran = draw(sizes | st.just((2, *SHAPE))), draw(st.booleans())
    text = draw(st.sampled_from([
        f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n", "{'shape': 1}",
        "[" * 99, "1" * 9999, "{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': False, 'shape': (2,), }\n",
    ]))  # fmt: skip
    body = draw(st.sampled_from([NULL.tobytes(), b"", bytes(10**6)]))
    whole = [header(text) + body, header(text, b"\2\0") + body, npy(NULL)[:-1], body]
    member = draw(st.sampled_from(whole))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([0, 8, 12, 14]))) as archive:
        for name, data in {"plan.npy": npy(np.array(KEY)), "do/v.npy": npy(DO), "null.npy": npy(NULL)}.items():
            archive.writestr(name, member if draw(st.booleans()) else data)
    return file.getvalue()


ANSWERS = io.BytesIO()
np.savez_compressed(ANSWERS, **{"plan": np.array(KEY), "null": NULL, "do/v": DO})


@bounded(150)
@given(archives() | damaged(ANSWERS.getvalue()))
@example(b"")
def test_answers(tmp_path, data):
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    try:
        images, _ = read_answers(path, PLAN, KEY, SHAPE, 1)
    except UserError as error:
        refused(error)
    else:
        assert {name: tuple(x.shape) for name, x in images.items()} == {"null": (2, *SHAPE), "do/v": (3, *SHAPE)}


FILES = [data for data, _ in [*READ.values(), *REFUSED.values()]]
small, shorts = st.integers(0, 17), st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=4).map(tuple)
pngs = st.builds(
    lambda rows, depth, colour, clear, lut, exif: png(np.frombuffer(rows, np.uint8).reshape(12, -1), depth, colour,
                                                      PLTE=lut, tRNS=clear, eXIf=exif),
    st.sampled_from([12 * 2, 12 * 16, 12 * 32, 12 * 64]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    st.sampled_from([1, 2, 4, 8, 16, 3]), st.integers(0, 7), st.binary(max_size=8), st.binary(max_size=12),
    st.binary(max_size=20),
)  # fmt: skip
tiffs = st.builds(
    lambda pixels, bits, photometric, order, format, extra, orientation, subsampling: tiff(
        pixels, bits, photometric, order, format=format, extra=extra, orientation=orientation, subsampling=subsampling),
    st.binary(max_size=800), st.lists(st.sampled_from([1, 2, 4, 8, 12, 16, 32, 64]), min_size=1, max_size=5).map(tuple),
    st.integers(0, 9), st.sampled_from("<>"), st.sampled_from([(1,), (2,), (3,), (1, 2)]), shorts,
    st.sampled_from([(1,), (6,), (99,)]), shorts,
)  # fmt: skip


@bounded(300)
@given(st.sampled_from(FILES).flatmap(damaged) | pngs | tiffs, st.sampled_from([None, "grey", "rgb"]), st.booleans())
@example(b"P5 9999999 9999999 255\n", None, True)
@example(b"P6 30000 30000 255\n", None, True)
@example(b"BM" + b"\xff" * 200, "grey", False)
def test_images(data, mode, resized):
    try:
        pixels, used = decode.decode(data, mode, (8, 9) if resized else None)
    except RefusedImage as error:
        refused(error)
    else:
        assert pixels.dtype == np.uint8
        assert pixels.shape[0] in ({"grey": [1], "rgb": [3]}.get(mode, [1, 3]))
        assert pixels.shape[1:] == (8, 9) if resized else max(pixels.shape[1:]) <= decode.LARGEST
        assert used is None or 0 <= used[0] <= used[1] <= 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A bundle of the toy data set."""
    folder, data = tmp_path_factory.mktemp("fuzz") / "bundle", Bars()
    for part in ("plan", "judges"):
        (folder / part).mkdir(parents=True)
    plan = make_plan(data, Path(), name="marginal", split="test", factuals=12)
    plan.save(folder / "plan")
    write_tensors(folder / "plan/factuals.safetensors", {"x": data.split(Path(), "test").images[plan.rows]})
    Judges(data.graph, width=2, features=4, latents=2).save(folder / "judges")
    graph = {
        "shape": list(data.graph.shape),
        "variables": [vars(v) | {"parents": list(v.parents)} for v in data.graph.variables],
    }
    about = {
        "format": FORMAT, "cfbench": "0", "name": "toy", "version": "1", "environment": {}, "graph": graph,
        "dataset": {"name": "bars", "preset": "", "params": {}}, "budget": {"factuals": 12, "judge": 1.0},
        "plan": {"name": "marginal", "split": "test", "action": "exact", "factuals": 12},
    }  # fmt: skip
    seal(folder, about)
    return folder


def seal(folder: Path, about: Any) -> None:
    """Write what a bundle says, with the digests of its files, as anybody may."""
    if isinstance(about, dict):
        files = {
            p.relative_to(folder).as_posix(): sha256(p) for p in folder.rglob("*") if p.name != ABOUT and p.is_file()
        }
        about = {"files": files} | about
        about |= {"digest": digest_of(about)}
    (folder / ABOUT).write_text(json.dumps(about))


def use(folder: Path) -> None:
    """Read a bundle as a run does, or be refused."""
    try:
        about = read_bundle(folder)
        budget = Budget("tiny", "", 1, 12, 1, (0,), 1.0)
        job = Job(folder, Path(), budget, split=about["plan"]["split"], plan=about["plan"]["name"])
        named = Bundle("bars", about["name"], about["version"], about["digest"], about["plan"]["action"], folder)
        check_bundle(named, Bars(), job)
    except UserError as error:
        refused(error)


def test_a_bundle_as_it_should_be_is_taken(bundle):
    assert read_bundle(bundle)["name"] == "toy"
    check_bundle(Bundle("bars", "toy", "1", "", "exact", bundle), Bars(), Job(bundle, Path(), None))


@bounded(80)
@given(st.data())
def test_descriptions_of_bundles(bundle, data):
    whole = (bundle / ABOUT).read_bytes()
    about = json.loads(whole)
    about.pop("digest")
    try:
        if data.draw(st.booleans()):
            seal(bundle, data.draw(altered(about)))
        else:
            (bundle / ABOUT).write_bytes(data.draw(damaged(whole)))
        use(bundle)
    finally:
        (bundle / ABOUT).write_bytes(whole)


@bounded(40)
@given(st.data())
def test_files_of_bundles(bundle, data):
    whole = (bundle / ABOUT).read_bytes()
    about = {k: v for k, v in json.loads(whole).items() if k not in ("digest", "files")}
    path = bundle / data.draw(st.sampled_from(["plan/plan.json", "judges/judges.json", "plan/plan.safetensors",
                                               "plan/factuals.safetensors", "judges/judges.safetensors"]))  # fmt: skip
    before = path.read_bytes()
    try:
        if path.suffix == ".json" and data.draw(st.booleans()):
            path.write_text(json.dumps(data.draw(altered(json.loads(before)))))
        elif path.suffix == ".safetensors" and data.draw(st.booleans()):
            save_file(data.draw(tensors(load_file(path))), path)
        else:
            path.write_bytes(data.draw(damaged(before)))
        seal(bundle, about)
        use(bundle)
    finally:
        path.write_bytes(before)
        (bundle / ABOUT).write_bytes(whole)


@st.composite
def tensors(draw: Any, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors one of which has another type, shape, name or values, or is left out."""
    name = draw(st.sampled_from(sorted(found)))
    x = found.pop(name)
    change = draw(st.sampled_from(["type", "shape", "name", "values", "drop", "empty"]))
    others = {
        "type": lambda: {name: x.to(draw(st.sampled_from([torch.float16, torch.int8, torch.bool, torch.float64])))},
        "shape": lambda: {name: x.flatten()[None].contiguous()},
        "name": lambda: {draw(st.text(min_size=1, max_size=8)): x},
        "values": lambda: {name: torch.full_like(x, draw(st.sampled_from([-1, 1, 100])))},
        "drop": dict,
        "empty": lambda: {name: x.flatten()[:0]},
    }
    return {**found, **others[change]()}


CELL = Cell(
    Spec("bars"), Spec("mine"), 0, Spec("mine"), dict.fromkeys(("plan", "judges", "train", "tune", "images"), "0" * 12)
)
EVENT = {"time": 1.0, "event": "end", "pid": 1, "task": "bars mine seed 0: train", "status": "done", "seconds": 1.0}
NOTE = {"task": "bars mine seed 0: train", "stage": "fit", "done": 1, "total": 2, "loss": 0.1, "begun": 1.0,
        "stage_begun": 1.0, "first": 0, "now": 2.0}  # fmt: skip
lines = st.sampled_from([EVENT, NOTE, {"stage": "fit", "step": 1, "images": 64, "loss": 0.5}]).flatmap(
    lambda row: altered(row).map(lambda v: json.dumps(v).encode()) | damaged(json.dumps(row).encode())
)


@bounded(100)
@given(
    st.lists(lines, max_size=4), st.sampled_from([b"", b"[" * 10**5, b"\xff\xfe", b"9" * 5000, b'{"event": "begin"}'])
)
def test_logs(tmp_path, found, more):
    text = b"\n".join([*found, more]) + b"\n"
    (tmp_path / FOLDER).mkdir(exist_ok=True)
    (tmp_path / EVENTS).write_bytes(text)
    (tmp_path / "log.jsonl").write_bytes(text)
    (tmp_path / FOLDER / "a.json").write_bytes(found[0] if found else more)
    assert all(isinstance(event, dict) for event in read_events(tmp_path))
    assert all(isinstance(row, dict) for row in recorded.read_log(tmp_path / "log.jsonl"))
    for note in tasks_in_progress(tmp_path):
        assert str(note).isprintable()
    monitor = RunMonitor(tmp_path, [CELL])
    monitor.update()
    monitor.rows()
