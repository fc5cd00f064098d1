"""The command that checks a plugin, and the process that it does so in."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from cfbench.cli.main import _main
from cfbench.conformance.command import check_command

TOYS = Path(__file__).with_name("toys.py")
BROKEN = Path(__file__).with_name("broken")
HEAD = "import os, signal, subprocess, sys, time\nfrom cfbench.contract import Method\n\n\n"
MINE = (
    HEAD + "class Mine(Method):\n"
    '    """Shifts the grey level with the parents."""\n\n'
    "    def abduct(self, x, pa, rng):\n"
    "        return x - 0.1 * pa.sum(1)[:, None, None, None]\n\n"
    "    def predict(self, u, pa, rng):\n"
    "        {}\n"
    "        return (u + 0.1 * pa.sum(1)[:, None, None, None]).clamp(0, 1)\n"
)


def wait_for(what, seconds=120.0):
    """What a function gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def alive(pid):
    """Whether a process is there, and no zombie that nobody has asked after yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def write(folder, line="pass"):
    file = folder / "mine.py"
    file.write_text(MINE.format(line))
    return file


def test_the_report_has_a_line_for_each_check_and_a_sum(capfd):
    assert _main(["check", "knows[knob=2]", "--plugin", str(TOYS)]) == 0
    out, _ = capfd.readouterr()
    head, *lines, total = out.splitlines()
    assert head == "knows[knob=2]  method, toys.py"
    assert len(lines) > 20
    assert all(re.match(r"  (ok|skipped) +\S+ +\S", line) for line in lines), out
    passed = sum(line.startswith("  ok") for line in lines)
    assert total.startswith(f"knows[knob=2]: {passed} passed")


def test_what_a_plugin_prints_does_not_disturb_the_report(tmp_path, capfd):
    file = write(tmp_path, "print('  FAILED   reacts   loud'); os.write(1, b'quiet'); sys.stdout.flush()")
    assert _main(["check", str(file)]) == 0
    out, err = capfd.readouterr()
    assert "loud" not in out
    assert "quiet" not in out
    assert "loud" in err
    assert "FAILED" not in out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_what_a_plugin_starts_ends_with_the_check(tmp_path):
    pid = tmp_path / "pid"
    start = "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    start += f"open({str(pid)!r}, 'w').write(str(p.pid))"
    file = tmp_path / "mine.py"
    file.write_text(HEAD + start + "\n" + MINE.removeprefix(HEAD).format("pass"))
    assert check_command(str(file), data_root=tmp_path, plugins=(), timeout=60.0) == 0
    wait_for(lambda: not alive(int(pid.read_text())))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_a_check_ends_when_the_command_is_killed(tmp_path):
    pid = tmp_path / "pid"
    file = tmp_path / "mine.py"
    file.write_text(f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    command = subprocess.Popen([sys.executable, "-P", "-m", "cfbench", "check", str(file)], stdout=subprocess.DEVNULL)
    try:
        examiner = int(wait_for(lambda: pid.exists() and pid.read_text()))
        assert alive(examiner)
    finally:
        command.kill()
        command.wait()
    wait_for(lambda: not alive(examiner))


def test_after_three_breakdowns_the_rest_is_given_up(tmp_path, capfd):
    die = "os.kill(os.getpid(), signal.SIGKILL)"
    file = write(tmp_path, f"if len(pa) == 1 or pa.abs().max() > 5: {die}")
    file.write_text(file.read_text() + f"\n    def fit(self, run):\n        if run.images < 1000: {die}\n")
    assert _main(["check", str(file)]) == 1
    out = capfd.readouterr().out
    assert out.count("killed its process with SIGKILL") == 1
    assert len(re.findall(r"FAILED +\S+ +as '", out)) == 2
    assert re.search(r"not run +round-trip +3 processes broke down before", out)
    assert re.search(r"mine: \d+ passed, 3 failed, .*\d+ not run", out)


FITS = '''
class Fits(Mine):
    """Fits in steps."""

    def __init__(self, graph):
        super().__init__(graph)
        self.register_buffer("level", torch.zeros(1))

    def fit(self, run):
        for step, (x, pa) in enumerate(run.batches(run.images // 32, 32)):
            {}
        self.level += x.mean()
'''


def check_fit(folder, line, capfd, timeout):
    """The report on a method whose fit does something at each step."""
    file = folder / "fits.py"
    file.write_text(f"import torch\n{MINE.format('pass')}{FITS.format(line)}")
    assert check_command("fits", data_root=folder, plugins=(file,), timeout=timeout) == 1
    return click.unstyle(capfd.readouterr().out)


def test_a_fit_that_is_slow_is_not_called_hung_and_the_step_it_is_at_is_named(tmp_path, capfd):
    out = check_fit(tmp_path, "time.sleep(0.6)", capfd, 4.0)
    found = re.search(r"not run +fit +step (\d+) of 32 of fit after 4 s; try --timeout (\d+)$", out, re.M)
    assert found, out
    assert 1 <= int(found[1]) <= 6
    assert int(found[2]) > 0.6 * 32
    assert "hangs" not in out
    assert re.search(r"skipped +test-data +waits for 'fit'", out), "nobody has seen whether the fit uses them"
    assert re.search(r"^fits: \d+ passed, \d+ skipped, 1 not run$", out, re.M)


def test_a_fit_that_stops_at_a_step_hangs_there(tmp_path, capfd):
    out = check_fit(tmp_path, "time.sleep(3600 if step == 3 else 0)", capfd, 4.0)
    says = r"FAILED +fit +hangs: at step 3 of 32 of fit since [34](\.\d)? of 4 s \(fits.py line \d+\)$"
    assert re.search(says, out, re.M), out
    assert re.search(r"skipped +test-data +waits for 'fit'", out)


def test_what_calls_did_counts_when_a_later_check_ended_the_process(tmp_path, capfd):
    """The checks of state and test data then see in a new process what the first one saw."""
    file = tmp_path / "fits.py"
    change = "torch.set_num_threads(2); os._exit(3) if len(pa) == 1 else None"
    head = "import torch\nfrom pathlib import Path\nfrom cfbench.conformance.subjects.toy import Bars\n"
    file.write_text(head + MINE.format(change) + FITS.format("Bars().split(Path(), 'test')"))
    assert check_command("fits", data_root=tmp_path, plugins=(file,), timeout=60.0) == 1
    out = click.unstyle(capfd.readouterr().out)
    assert re.search(r"FAILED +batch-size +ended its process with exit status 3", out), out
    assert re.search(r"FAILED +state +predict changes the thread count", out), out
    assert re.search(r"FAILED +test-data +fit calls Bars.split\('test'\)", out), out


def test_several_plugins_of_a_file_are_all_checked(tmp_path, capfd):
    file = write(tmp_path)
    file.write_text(file.read_text() + "\n\nclass Half(Method):\n    def abduct(self, x, pa, rng):\n        return x\n")
    assert _main(["check", str(file)]) == 1
    out = capfd.readouterr().out
    assert re.search(r"^mine: \d+ passed$", out, re.M)
    assert re.search(r"^half: .*1 failed|^half: .*2 failed", out, re.M)
    assert "Half defines no predict" in out


def test_a_name_that_something_else_has_is_told_with_the_checks(tmp_path, capfd):
    file = write(tmp_path)
    file.write_text(file.read_text().replace("class Mine(", "class DeepSCM("))
    assert _main(["check", str(file)]) == 1
    out = capfd.readouterr().out
    assert re.search(r"FAILED +name +two plugins claim the method 'deepscm': .*DeepSCM of mine.py", out)
    assert re.search(r"^deepscm: \d+ passed, 1 failed$", out, re.M)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["no_such_file.py"], "no such file"),
        (["know", "--plugin", str(TOYS)], "no plugin 'know'; did you mean 'knows'?"),
        (["knows[dmi=1]", "--plugin", str(TOYS)], "knows has no setting 'dmi'; did you mean 'dim'?"),
    ],
)
def test_a_mistake_of_the_user_is_one_line(capfd, args, says):
    assert _main(["check", *args]) == 1
    out, err = capfd.readouterr()
    assert says in err
    assert out == ""


def test_a_name_asked_for_while_a_file_is_broken_tells_of_the_file(tmp_path, capfd):
    file = tmp_path / "mine.py"
    file.write_text("class Mine(:\n")
    assert _main(["check", "mine", "--plugin", str(file)]) == 1
    out = capfd.readouterr().out
    assert re.search(r"FAILED +load +unknown method 'mine', and .*mine.py cannot be loaded: SyntaxError", out)
