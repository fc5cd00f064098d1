"""Files of answers as other programs may write them: read with the right values, or refused in a line."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest
import torch

from cfbench.cli.main import _main as cfbench
from cfbench.errors import UserError
from cfbench.evaluation.plan import Asked, Plan
from cfbench.exchange.external import read_answers
from cfbench.exchange.npz import read_npz

SHAPE = (1, 2, 3)
KEY = "0123456789ab"
FACTUAL = torch.tensor([0, 1, 1])
ASKED = Asked(FACTUAL, torch.zeros(3), torch.zeros(3, 1), torch.ones(3, dtype=torch.bool))
PLAN = Plan("marginal", "test", torch.arange(2), torch.arange(2), torch.zeros(2, 1), {"v": ASKED})
NULL = np.arange(12, dtype=np.uint8).reshape(2, *SHAPE) * 20
DO = NULL[[0, 1, 1]]


def answers(path, **changes):
    np.savez_compressed(path, **{"plan": np.array(KEY), "null": NULL, "do/v": DO, **changes})
    return path


def read(path):
    return read_answers(path, PLAN, KEY, SHAPE, 1)


def refusal(path) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: str, version: bytes = b"\1\0") -> bytes:
    size = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode()


def zipped(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in {"plan.npy": npy(np.array(KEY)), "do/v.npy": npy(DO), **members}.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", np.longdouble, "fortran", "header 2", "header 3"]
)
def test_floats_of_every_size_and_order_are_read(tmp_path, dtype):
    values = (NULL / 255).astype("<f2") if dtype in ("<f2", ">f2") else NULL / 255
    path = tmp_path / "a.npz"
    if dtype == "fortran":
        answers(path, null=np.asfortranarray(values))
    elif str(dtype).startswith("header"):
        file = io.BytesIO()
        np.lib.format.write_array(file, values, version=(int(dtype[-1]), 0))
        zipped(path, **{"null.npy": file.getvalue()})
    else:
        answers(path, null=values.astype(dtype))
    images, wrong = read(path)
    assert not wrong
    assert images["null"].dtype == torch.float32
    assert np.array_equal(images["null"].numpy(), values.astype(np.float32))
    assert np.array_equal(images["do/v"].numpy(), (DO.astype(np.float32) / 255))


@pytest.mark.parametrize("plan", [np.array(KEY.encode()), np.array([KEY]), np.array(KEY, dtype=">U12")])
def test_the_plan_is_a_text_of_any_kind(tmp_path, plan):
    assert read(answers(tmp_path / "a.npz", plan=plan))[0].keys() == {"null", "do/v"}


def broken_deflate(path):
    data = bytearray(answers(path, null=NULL.repeat(1)[:12].reshape(NULL.shape)).read_bytes())
    with zipfile.ZipFile(path) as file:
        at = file.getinfo("null.npy").header_offset + 30 + len("null.npy") + 20
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 1, 2, 3), }\n"
CASES = {
    "empty": (lambda p: p.write_bytes(b""), "is no .npz of plain arrays (File is not a zip file)"),
    "npy": (lambda p: p.write_bytes(npy(NULL)), "is no .npz of plain arrays (File is not a zip file)"),
    "cut": (lambda p: p.write_bytes(answers(p).read_bytes()[:200]), "is no .npz of plain arrays"),
    "deflate": (broken_deflate, "is no .npz of plain arrays"),
    "no array": (lambda p: zipped(p, **{"null.npy": b"hello, world"}), "is no .npz of plain arrays"),
    "empty member": (lambda p: zipped(p, **{"null.npy": b""}), "is no .npz of plain arrays"),
    "huge": (lambda p: zipped(p, **{"null.npy": header(HUGE)}), "found uint8 [1000000000000, 1, 2, 3]"),
    "short": (lambda p: zipped(p, **{"null.npy": npy(NULL)[:-1]}), "is no .npz of plain arrays"),
    "long header": (lambda p: zipped(p, **{"null.npy": header(" " * 10**8, b"\2\0")}), "is no .npz of plain arrays"),
    "nested header": (lambda p: zipped(p, **{"null.npy": header("(" * 9000)}), "is no .npz of plain arrays"),
    "objects": (lambda p: answers(p, null=np.array([{}], dtype=object)), "null holds Python objects"),
    "fields": (lambda p: answers(p, null=np.zeros(2, dtype=[("a", "f4")])), "null must be images [2, 1, 2, 3]"),
    "complex": (lambda p: answers(p, null=NULL.astype(complex)), "null must be images [2, 1, 2, 3]"),
    "text": (lambda p: answers(p, plan=np.zeros((3, 4))), "plan must be a text"),
    "long text": (lambda p: answers(p, plan=np.array("a" * 9999)), "plan must be a text"),
    "no letters": (lambda p: answers(p, plan=np.frombuffer(b"\xff\xff\xff\x7f", "<U1")), "answers the plan �"),
    "escapes": (lambda p: answers(p, **{"\x1b]0;a\x07": NULL}), "unknown arrays \N{REPLACEMENT CHARACTER}]0;a"),
    "pipe": (lambda p: os.mkfifo(p), "it is a pipe or a device, no plain file"),
    "endless": (lambda p: p.symlink_to("/dev/zero"), "it is a pipe or a device, no plain file"),
    "folder": (lambda p: p.mkdir(), "Is a directory"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_file_of_answers_is_refused_in_a_line(tmp_path, case):
    write, says = CASES[case]
    write(tmp_path / "a.npz")
    assert says in refusal(tmp_path / "a.npz")


def test_an_array_is_looked_at_before_it_is_read(tmp_path, monkeypatch):
    """4 MB that unpack to 4 GB: nothing but the headers is unpacked."""
    path = tmp_path / "a.npz"
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1, 28, 28), }\n"
    zipped(path, **{"null.npy": header(text) + bytes(10**7)})
    monkeypatch.setattr(np.lib.format, "read_array", lambda *args, **kw: pytest.fail("read"))
    assert "null must be images [2, 1, 2, 3]" in refusal(path)
    with pytest.raises(UserError, match="stop"):
        read_npz(path, lambda *about: (_ for _ in ()).throw(UserError("stop")))


@pytest.mark.parametrize("case", ["empty", "pipe", "endless", "folder"])
def test_the_command_says_so_too(tmp_path, capsys, monkeypatch, case):
    from cfbench.exchange import external

    CASES[case][0](tmp_path / "a.npz")
    if case != "empty":
        with pytest.raises(UserError, match="cannot be read"):
            external._answers_digest(tmp_path / "a.npz")
    monkeypatch.setattr(external, "score_command", lambda file, **options: len(read(file)))
    assert cfbench(["score", str(tmp_path / "a.npz"), "--name", "mine"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("cfbench: error: ")
    assert err.count("\n") == 1


CUT = """
from cfbench.conformance.subjects.toy import Bars


class Cut(Bars):
    def {where}(self, root):
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")


class Reads(Bars):
    def {where}(self, root):
        raise KeyError("label")
"""


@pytest.mark.parametrize("where", ["open", "prepare"])
def test_a_data_set_that_meets_a_cut_file_is_no_interrupt(tmp_path, capsys, where):
    (tmp_path / "cut.py").write_text(CUT.format(where=where))
    for name, says in (("cut", "EOFError: Compressed file ended"), ("reads", "KeyError: 'label'")):
        assert cfbench(["prepare", name, "--plugin", str(tmp_path / "cut.py"), "--data-root", str(tmp_path)]) == 1
        err = capsys.readouterr().err
        assert f"{name} cannot be {'opened' if where == 'open' else 'prepared'}: {says}" in err
        assert "(cut.py line " in err
        assert err.count("\n") == 1


def test_no_command_takes_the_end_of_a_file_for_an_interrupt(monkeypatch, capsys):
    def ends(*args, **options):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("cfbench.cli.run.run_command", ends)
    assert cfbench(["run"]) == 1
    assert "a file ends too early: EOFError: Ran out of input (test_answer_files.py line" in capsys.readouterr().err
