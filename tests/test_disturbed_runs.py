"""Whichever of a run's processes get a signal at whatever moment, the same command ends as if none had come."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import chaos
import pandas as pd
import pytest

from cfbench.runs.progress import read_events

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL")
LONGEST = 600.0
"""Seconds after which a command counts as hung."""
AFTERWARDS = 90.0
"""Seconds that processes have to end after the command: an agent of Ray may look for a head that is gone for 60."""
SHARED_MEMORY = Path("/dev/shm")
KINDS = {
    "plugins, two jobs": ("bars", "2"),
    "built in, two jobs": ("digits", "2"),
    "plugins, one job": ("bars", "1"),
    "built in, one job": ("digits", "1"),
}
GROUPS = {
    "plugins, two jobs": ("driver", "workers", "raylet", "gcs"),
    "built in, two jobs": ("driver", "workers", "raylet", "gcs"),
    "plugins, one job": ("driver", "workers"),
    "built in, one job": ("driver",),
}
TURNS = [*KINDS, *list(KINDS)[:2]]
"""Kinds of runs by seed: two of three use Ray."""


class Run(chaos.Stage):
    """A run's folder, with a temporary folder of its own for all its processes."""

    @property
    def dataset(self) -> str:
        return KINDS[self.how][0]

    @cached_property
    def temporary(self) -> Path:
        """A folder with a short path, as Ray's sockets lie in it."""
        return Path(tempfile.mkdtemp(prefix="cfbench-d-", dir="/tmp"))

    def argv(self) -> list[str]:
        dataset, jobs = KINDS[self.how]
        toys, here = chaos.HERE.with_name("toys.py"), chaos.HERE
        rows = ["--methods", "deepscm", "--metrics", "effectiveness,composition"]
        if dataset == "bars":
            rows = ["--methods", "learns,patient,moody", "--metrics", "truth,composition"]
            rows += ["--plugin", str(toys), "--plugin", str(here)]
        more = ["--preset", "tiny", "--no-plots", "--no-controls", "--run-root", str(self.run.parent), "--jobs", jobs]
        return ["run", "--datasets", dataset, *rows, *more]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command, in a session of its own."""
        environ = {"PATIENCE": "0.02", "CFBENCH_CHECKPOINT_S": "0.02", "OMP_NUM_THREADS": "1"}
        environ |= {"TMPDIR": str(self.temporary)}
        with self.root.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "cfbench", *self.argv()], cwd=self.root,
                env=os.environ | environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_hear_signals,
            )  # fmt: skip

    def processes(self) -> list[int]:
        """All processes that were started with the run's temporary folder."""
        entry, found = f"TMPDIR={self.temporary}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if entry in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found


def _hear_signals() -> None:
    """As in a terminal: a shell's background ignores interrupts, and ``nohup`` that the terminal is closed."""
    for number in SIGNALS[:3]:
        signal.signal(getattr(signal, number), signal.SIG_DFL)


@dataclass(frozen=True)
class Signal:
    """A signal to some of a run's processes, ``pause`` seconds after the last one."""

    number: str
    whom: tuple[str, ...]
    pause: float
    share: float

    def __str__(self) -> str:
        return f"{self.number} to {'+'.join(self.whom)}"


@dataclass(frozen=True)
class Disturbance:
    """Signals sent to a command ``delay`` seconds after a mark: its launch, or an event of its log."""

    mark: str
    share: float
    delay: float
    signals: tuple[Signal, ...]

    def __str__(self) -> str:
        at = f"{self.share:.0%} of the tasks" if self.mark == "tasks" else self.mark
        return f"{', '.join(map(str, self.signals))} at {at} + {self.delay:.2f} s"


def script(seed: int) -> list[Disturbance]:
    """One or two disturbances, of one or two signals each."""
    rng, how = random.Random(f"signals {seed}"), TURNS[seed % len(TURNS)]
    first = SIGNALS[seed * 3 // 2 % len(SIGNALS)]
    last = _disturbance(rng, how, first, ("launch", "begin", "tasks", "tasks", "tasks", "stop"))
    return [_disturbance(rng, how, rng.choice(SIGNALS), ("begin", "tasks")), last] if seed % 3 == 2 else [last]


def _disturbance(rng: random.Random, how: str, number: str, marks: tuple[str, ...]) -> Disturbance:
    mark = rng.choice(marks)
    longest = {"launch": 3.0, "begin": 10.0 if "raylet" in GROUPS[how] else 3.0, "tasks": 0.5, "stop": 1.0}[mark]
    delay = rng.choice([0.0, rng.uniform(0, longest)])
    groups = ("driver",) if mark == "launch" else GROUPS[how]
    signals = [_signal(rng, groups, each) for each in rng.choice([[number], [number], [number, rng.choice(SIGNALS)]])]
    if len([s for s in signals if s.number == "SIGKILL" and "workers" in s.whom]) > 1:
        del signals[1:]  # a task whose process is killed twice has failed
    return Disturbance(mark, rng.uniform(0, 0.9 if "stop" in marks else 0.4), delay, tuple(signals))


def _signal(rng: random.Random, groups: tuple[str, ...], number: str) -> Signal:
    subsets = [whom for n in range(1, len(groups) + 1) for whom in combinations(groups, n)]
    return Signal(number, rng.choice(subsets), rng.choice([0.0, 0.1, 1.0]), rng.choice([0.5, 1.0]))


def groups_of(driver: int) -> dict[str, list[int]]:
    """The processes of a run: those that tasks are executed in, of Ray or not, are its workers."""
    found: dict[str, list[int]] = {"driver": [driver], "workers": [], "raylet": [], "gcs": []}
    for pid in chaos.descendants(driver):
        name = chaos._name(pid)
        program = Path(name.partition(" ")[0]).name
        if program in ("raylet", "gcs_server"):
            found[program.removesuffix("_server")].append(pid)
        elif (name.startswith("ray::") and "Agent" not in name) or "default_worker.py" in name or "fork_server" in name:
            found["workers"].append(pid)
    return found


def survive(root: Path, seed: int, expected: pd.DataFrame) -> list[str]:
    """A run that is disturbed as its seed says and ends as an undisturbed one; what was done to it."""
    run = Run(root / f"seed-{seed}", TURNS[seed % len(TURNS)])
    run.root.mkdir()
    shared = set(os.listdir(SHARED_MEMORY))
    try:
        for disturbance in script(seed):
            run.history.append(str(disturbance))
            code = disturb(run, disturbance, random.Random(seed))
            run.history[-1] += f" -> {code}"
            assert code in (0, 1, *_codes(disturbance)), f"exit code {code} after {run.history}: {chaos.said(run)}"
            check(run)
            if code >= 0:
                check_left(run, shared)
        assert ended(run, run.start()) == 0, f"unfinished after {run.history}: {chaos.said(run)}"
        check(run)
        chaos.counted(run)
        check_left(run, shared)
        counted = [path.name for path in run.temporary.glob("cfbench-tasks/*")]
        assert not counted, f"tasks left in the count of a device after {run.history}: {counted}"
        pd.testing.assert_frame_equal(table(run), expected, check_exact=True)
        assert hidden(run) == [".progress", ".progress/.lock"], run.history
    finally:
        for pid in run.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(run.temporary, ignore_errors=True)
    return run.history


def _codes(disturbance: Disturbance) -> set[int]:
    """What a command may end with: 128 and the number of a signal, or the signal itself."""
    numbers = [getattr(signal, s.number).value for s in disturbance.signals]
    return {*(128 + n for n in numbers if n != signal.SIGKILL), *(-n for n in numbers)}


def disturb(run: Run, disturbance: Disturbance, rng: random.Random) -> int:
    """The exit code of the command, which got the signals if it was still there."""
    before = len(list(read_events(run.run)))
    process = run.start()
    _await(run, process, before, disturbance)
    for sent in disturbance.signals:
        with suppress(subprocess.TimeoutExpired):
            process.wait(sent.pause)
        groups = groups_of(process.pid) if process.poll() is None else {}
        for whom in sent.whom:
            for pid in [pid for pid in groups.get(whom, []) if whom != "workers" or rng.random() < sent.share]:
                with suppress(ProcessLookupError):
                    os.kill(pid, getattr(signal, sent.number))
        if process.poll() is not None:
            run.history[-1] += " (late)"
    return ended(run, process)


def _await(run: Run, process: subprocess.Popen[bytes], before: int, disturbance: Disturbance) -> None:
    """Wait for a moment of a command, or for its end."""
    deadline = time.monotonic() + LONGEST
    while process.poll() is None and time.monotonic() < deadline and disturbance.mark != "launch":
        events = list(read_events(run.run))[before:]
        begun = next((e["tasks"] for e in events if e["event"] == "begin"), None)
        seen = sum(e["event"] in ("start", "wrote") for e in events)
        if (
            begun is not None
            and {
                "begin": True,
                "tasks": seen > disturbance.share * 2 * begun,
                "stop": events[-1]["event"] == "stop",
            }[disturbance.mark]
        ):
            break
        time.sleep(0.01)
    with suppress(subprocess.TimeoutExpired):
        process.wait(disturbance.delay)


def ended(run: Run, process: subprocess.Popen[bytes]) -> int:
    """The exit code of a command; what its threads were doing where it does not end."""
    try:
        return process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
        process.wait()
        pytest.fail(f"hangs after {run.history}: {chaos.said(run)}")


def check(run: Run) -> None:
    """Nothing failed, nothing that was finished was lost or made anew, and nobody is shown a traceback.

    Python itself shows one of a Ctrl-C while it imports cfbench.
    """
    said = run.root.with_suffix(".log").read_text(errors="replace")
    assert "Traceback" not in said or "launch" in run.history[-1], f"{run.history}: {said[-6000:]}"
    failed = sorted(path.relative_to(run.run).as_posix() for path in run.run.rglob("failed-*"))
    assert not failed, f"recorded {failed} after {run.history}: {chaos.said(run)}"
    chaos.check(run)


def check_left(run: Run, shared: set[str]) -> None:
    """No process, no temporary folder and no shared memory is left.

    What all runs of a machine have in common may be: the folder in which they count each other, and that of torch.
    """
    deadline = time.monotonic() + AFTERWARDS
    while (alive := run.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive, f"processes left after {run.history}: {[chaos._name(pid) for pid in alive]}: {chaos.said(run)}"
    left = [
        p.name for p in run.temporary.iterdir() if not (p.name.startswith("torchinductor_") and not any(p.iterdir()))
    ]
    assert left in ([], ["cfbench-tasks"]), f"temporary folders left after {run.history}: {left}: {chaos.said(run)}"
    assert not unused(set(os.listdir(SHARED_MEMORY)) - shared), f"shared memory left after {run.history}"


def unused(names: set[str]) -> set[str]:
    """Names in shared memory that no process has open, for those of others come and go."""
    for path in Path("/proc").glob("[0-9]*/maps") if names else ():
        with suppress(OSError):
            maps = path.read_text()
            names = {name for name in names if f"{SHARED_MEMORY}/{name}" not in maps}
    return {name for name in names if (SHARED_MEMORY / name).exists()}


def hidden(run: Run) -> list[str]:
    """What a finished run still has of its way there."""
    found = (path.relative_to(run.run) for path in run.run.rglob("*"))
    return sorted(str(path) for path in found if any(part.startswith(".") for part in path.parts))


def table(run: Run) -> pd.DataFrame:
    """What the run came to, without its runtimes."""
    df = pd.read_csv(run.run / "leaderboard" / f"{run.dataset}.csv")
    return df[~df.metric.str.startswith("runtime")].reset_index(drop=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The tables of runs that nobody disturbs, by data set, made when they are asked for."""
    tables = {}

    def of(dataset: str) -> pd.DataFrame:
        if dataset not in tables:
            how = next(how for how, (name, jobs) in KINDS.items() if (name, jobs) == (dataset, "1"))
            root = tmp_path_factory.mktemp("undisturbed") / dataset
            root.mkdir()
            run = Run(root, how)
            try:
                assert ended(run, run.start()) == 0, chaos.said(run)
            finally:
                shutil.rmtree(run.temporary, ignore_errors=True)
            tables[dataset] = table(run)
        return tables[dataset]

    return of


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(chaos.MOOD, str(tmp_path / "mood"))
    return tmp_path


QUICK = (10, 14, 27)


@pytest.mark.parametrize("seed", QUICK)
def test_a_run_survives_the_signals_of_its_seed(root, expected, seed):
    survive(root, seed, expected(KINDS[TURNS[seed % len(TURNS)]][0]))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(30))
def test_thirty_runs_survive_the_signals_of_their_seeds(root, expected, seed):
    history = survive(root, seed, expected(KINDS[TURNS[seed % len(TURNS)]][0]))
    print(f"seed {seed}, {TURNS[seed % len(TURNS)]}: {'; '.join(history)}")
