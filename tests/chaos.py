"""Runs that are disturbed at seeded moments, and what must hold of them whatever happened; a plugin file too.

``python tests/chaos.py FIRST LAST`` plays the seeds and prints what was done to each run.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cfbench import storage
from cfbench.contract import Method
from cfbench.runs.progress import read_events

HERE = Path(__file__)
MOOD = "CFBENCH_TEST_MOOD"
PATIENCE = 600.0
"""Seconds after which a command counts as hung."""
ALONE = ("driver", "disk", "flip", "truncate", "remove", "raise", "timeout", "interrupt", "interrupts")
LOCAL = (*ALONE, "driver only", "worker", "worker")
CLUSTER = ("driver", "driver only", "worker", "node", "node", "flip", "remove", "raise", "interrupts")
KINDS = {"alone": ALONE, "two workers": LOCAL, "cluster": CLUSTER}


KILLS = ("driver", "driver only")


class Moody(Method):
    """The mean image of what it saw; raises or hangs where the file that CFBENCH_TEST_MOOD names says so."""

    def __init__(self, graph):
        super().__init__(graph)
        self.register_buffer("mean", torch.zeros(graph.shape))

    def fit(self, run):
        for step, (x, _) in enumerate(run.batches(8, 16)):
            self.mean += x.mean(0) / 8
            _feel("fit", step)

    def tune(self, run):
        _feel("tune", 0)
        return {}

    def abduct(self, x, pa, rng):
        _feel("abduct", 0)
        return x + 0.01 * rng.normal(*x.shape[1:])

    def predict(self, u, pa, rng):
        _feel("predict", 0)
        return ((u + self.mean) / 2).clamp(0, 1)


def _feel(where: str, step: int) -> None:
    mood = Path(os.environ.get(MOOD, ""))
    what, place, at = (mood.read_text().split() if mood.is_file() else ()) or ("", "", "0")
    if place == where and step >= int(at):
        if what == "hang":
            time.sleep(3600)
        raise ArithmeticError(f"in a bad mood in {where}")


@dataclass(frozen=True)
class Fault:
    """What is done to a command when a share ``moment`` of its events has happened, ``delay`` seconds later."""

    kind: str
    moment: float
    delay: float
    dice: int

    def __str__(self) -> str:
        return f"{self.kind} at {self.moment:.0%} + {self.delay:.2f} s"


def script(seed: int, how: str) -> list[Fault]:
    """One to three faults."""
    rng = random.Random(f"{seed} {how}")
    faults = [rng.choice(KINDS[how]) for _ in range(rng.choice([1, 2, 3, 3]))]
    delays = [rng.choice([0.0, 0.01, 0.05, 0.3]) for _ in faults]
    return [Fault(kind, rng.uniform(0, 0.85), d, rng.randrange(2**31)) for kind, d in zip(faults, delays, strict=True)]


class Nodes:
    """A cluster of a head and one more node, which may be killed and is replaced then."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self.node = self.cluster.add_node(num_cpus=1)

    def kill(self) -> None:
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = None

    def mend(self) -> None:
        self.node = self.node or self.cluster.add_node(num_cpus=1)


@dataclass
class Stage:
    """A run's folder under disturbance, and what is known of the stages that it finished."""

    root: Path
    how: str
    nodes: Nodes | None = None
    disk: bool = False
    damaged: Counter[str] = field(default_factory=Counter)
    finished: dict[str, tuple[int, int]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.root / "runs" / "tiny"

    @property
    def mood(self) -> Path:
        return Path(os.environ[MOOD])

    def argv(self, *more: str) -> list[str]:
        common = ["--plugin", str(HERE.with_name("toys.py")), "--plugin", str(HERE), "--datasets", "bars"]
        common += ["--methods", "learns,patient,moody", "--metrics", "truth,composition", "--preset", "tiny"]
        common += ["--no-plots", "--no-controls", "--only", "all", "--run-root", str(self.run.parent)]
        if self.nodes is not None:
            return ["run", *common, "--address", self.nodes.cluster.address, *more]
        return ["run", *common, "--jobs", "2" if self.how == "two workers" else "1", *more]


def _command(argv: list[str], log: str, environ: Mapping[str, str]) -> None:
    """The process that carries a command out."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environ)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from cfbench.cli.main import main

    main(argv)


def begin(stage: Stage, *more: str) -> Any:
    """Start the command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cfbench.cli.main", "cfbench.cli.run", "cfbench.runs.context", "chaos"])
    environ = {MOOD: os.environ[MOOD], "PATIENCE": "0.02", "CFBENCH_CHECKPOINT_S": "0.02", "OMP_NUM_THREADS": "1"}
    process = context.Process(target=_command, args=(stage.argv(*more), str(stage.root.with_suffix(".log")), environ))
    process.start()
    return process


def play(stage: Stage, faults: list[Fault]) -> None:
    """The same command, disturbed by a fault at a time, and once undisturbed, with what must hold after each."""
    for fault in faults:
        stage.history.append(str(fault))
        disturb(stage, fault)
        check(stage)
    process = begin(stage)
    process.join(PATIENCE)
    assert process.exitcode == 0, f"exit code {process.exitcode} after {stage.history}: {said(stage)}"
    check(stage)
    counted(stage)


def said(stage: Stage) -> str:
    log = stage.root.with_suffix(".log")
    return log.read_text(errors="replace")[-3000:] if log.is_file() else ""


def disturb(stage: Stage, fault: Fault) -> None:
    """Run the command once, with a fault."""
    dice = random.Random(fault.dice)
    if fault.kind in ("raise", "timeout"):
        place = dice.choice(["fit", "fit", "tune", "abduct", "predict"])
        what = "hang" if fault.kind == "timeout" else "raise"
        stage.mood.write_text(f"{what} {place} {dice.randrange(8) if place == 'fit' else 0}")
    before = len(list(read_events(stage.run)))
    process = begin(stage, *(("--timeout", "5") if fault.kind == "timeout" else ()))
    try:
        _await(stage, process, before, fault)
        DEEDS.get(fault.kind, _nothing)(stage, process, dice)
        alive = process.exitcode is None
        process.join(PATIENCE)
        late = process.exitcode == 0 if fault.kind in KILLS else not alive
        stage.history[-1] += f" -> {process.exitcode}{' (late)' if late else ''}"
        assert process.exitcode is not None, f"hangs after {stage.history}: {said(stage)}"
    finally:
        stage.mood.unlink(missing_ok=True)
        _kill([process.pid])
        (stage.root / "ballast").unlink(missing_ok=True)
        if stage.nodes is not None:
            stage.nodes.mend()


def _await(stage: Stage, process: Any, before: int, fault: Fault) -> None:
    """Wait for the fault's moment, or for the command's end."""
    deadline = time.monotonic() + PATIENCE
    while process.exitcode is None and time.monotonic() < deadline:
        events = list(read_events(stage.run))[before:]
        tasks = next((e["tasks"] for e in events if e["event"] == "begin"), None)
        seen = sum(e["event"] in ("start", "wrote") for e in events)
        if tasks is not None and seen >= fault.moment * 2 * tasks:
            process.join(fault.delay)
            return
        process.join(0.02)


def _nothing(stage: Stage, process: Any, dice: random.Random) -> None:
    """The method itself does what is to be done."""


def _driver(stage: Stage, process: Any, dice: random.Random) -> None:
    """Kill the driver and all that it started at once."""
    family = [process.pid, *descendants(process.pid)]
    _kill(family)
    process.join()


def _driver_only(stage: Stage, process: Any, dice: random.Random) -> None:
    """Kill the driver; its workers find out by themselves."""
    _kill([process.pid])
    process.join()


def _worker(stage: Stage, process: Any, dice: random.Random) -> None:
    """Kill one of the processes that do the work; of the driver alone there are none."""
    names = {pid: _name(pid) for pid in descendants(os.getpid() if stage.nodes else process.pid)}
    workers = [pid for pid, name in names.items() if name.startswith("ray::") and "Agent" not in name]
    busy = [pid for pid in workers if "IDLE" not in names[pid]] or workers
    if busy:
        _kill([dice.choice(sorted(busy))])


def _node(stage: Stage, process: Any, dice: random.Random) -> None:
    """Kill a node of the cluster."""
    assert stage.nodes is not None
    stage.nodes.kill()


def _disk(stage: Stage, process: Any, dice: random.Random) -> None:
    """Fill the disk but for a few kilobytes; room is made after the command."""
    free = shutil.disk_usage(stage.root).free - dice.choice([0, 8, 64]) * 1024
    with suppress(OSError), (stage.root / "ballast").open("wb", buffering=0) as file:
        for _ in range(max(free, 0) // 4096):
            file.write(bytes(4096))


def _spoil(how: Callable[[Path, random.Random], None]) -> Callable[[Stage, Any, random.Random], None]:
    """Damage a file of a finished stage, while the command goes on."""

    def deed(stage: Stage, process: Any, dice: random.Random) -> None:
        places = sorted(manifests(stage.run))
        if not places:
            return
        place = dice.choice(places)
        files = sorted(p for p in (stage.run / place).rglob("*") if p.is_file())
        if files:
            file = dice.choice(files)
            stage.history.append(f"{place}/{file.name}")
            stage.damaged[place] += 1
            stage.finished.pop(place, None)
            with suppress(FileNotFoundError):
                how(file, dice)

    return deed


def _flip(file: Path, dice: random.Random) -> None:
    """In place, as a disk would: the byte changes in whatever names lead to it."""
    with file.open("r+b") as opened:
        at = dice.randrange(max(file.stat().st_size, 1))
        opened.seek(at)
        byte = opened.read(1) or b"\0"
        opened.seek(at)
        opened.write(bytes([byte[0] ^ 1 << dice.randrange(8)]))


def _truncate(file: Path, dice: random.Random) -> None:
    os.truncate(file, dice.randrange(max(file.stat().st_size, 1)))


def _remove(file: Path, dice: random.Random) -> None:
    file.unlink()


def _interrupt(stage: Stage, process: Any, dice: random.Random) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGINT)


def _interrupts(stage: Stage, process: Any, dice: random.Random) -> None:
    _interrupt(stage, process, dice)
    process.join(dice.uniform(0.05, 0.5))
    if process.exitcode is None:
        _interrupt(stage, process, dice)


DEEDS: Mapping[str, Callable[[Stage, Any, random.Random], None]] = {
    "driver": _driver,
    "driver only": _driver_only,
    "worker": _worker,
    "node": _node,
    "disk": _disk,
    "flip": _spoil(_flip),
    "truncate": _spoil(_truncate),
    "remove": _spoil(_remove),
    "interrupt": _interrupt,
    "interrupts": _interrupts,
}


def descendants(pid: int) -> list[int]:
    """All processes below one, from Linux' /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def manifests(run: Path) -> dict[str, tuple[int, int]]:
    """Every finished stage that answers a question, and what tells its manifest from one that was written anew."""
    found = {}
    for path in run.rglob("stage.json"):
        place = path.parent.relative_to(run).as_posix()
        if "/." not in f"/{place}" and "failed" not in place:
            with suppress(FileNotFoundError):
                found[place] = path.stat().st_ino, path.stat().st_mtime_ns
    return found


def check(stage: Stage) -> None:
    """Nothing that was finished was lost or made anew, but for what a fault damaged."""
    now = manifests(stage.run)
    changed = [place for place, number in stage.finished.items() if now.get(place) != number]
    assert not changed, f"finished stages were lost or computed again: {changed} after {stage.history}"
    damaged = [p for p in now if p not in stage.damaged and storage.damaged_files(stage.run / p)]
    assert not damaged, f"stages that nobody touched are spoilt: {damaged} after {stage.history}"
    stage.finished = {place: number for place, number in now.items() if not storage.damaged_files(stage.run / place)}


def counted(stage: Stage) -> None:
    """The log of events tells the same: a stage is written once, and once more each time that it was damaged."""
    wrote = Counter(e["stage"] for e in read_events(stage.run) if e["event"] == "wrote" and "failed" not in e["stage"])
    often = {place: n for place, n in wrote.items() if n > 1 + stage.damaged[place]}
    assert not often, f"computed too often: {often} after {stage.history}"
    assert stage.disk or set(wrote) >= set(manifests(stage.run)), "a stage was finished that the log does not know"


def table(stage: Stage) -> pd.DataFrame:
    """What the run came to, without its runtimes."""
    df = pd.read_csv(stage.run / "leaderboard" / "bars.csv")
    return df[~df.metric.str.startswith("runtime")].reset_index(drop=True)


@contextmanager
def small_disk(root: Path, size: str = "24m") -> Iterator[bool]:
    """A folder on a file system of its own, where one may be mounted; yields whether it is."""
    root.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)], capture_output=True
    )
    mounted = bool(done) and done.returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(root)], check=True)


@contextmanager
def moods(folder: Path) -> Iterator[None]:
    """The file that says how `Moody` feels."""
    os.environ[MOOD] = str(folder / "mood")
    try:
        yield
    finally:
        del os.environ[MOOD]


def undisturbed(folder: Path) -> pd.DataFrame:
    """The table of a run that nobody disturbs."""
    stage = Stage(folder / "undisturbed", "alone")
    stage.root.mkdir()
    play(stage, [])
    return table(stage)


def survive(folder: Path, seed: int, how: str, expected: pd.DataFrame, nodes: Nodes | None = None) -> Stage:
    """A run that is disturbed as its seed says and ends as an undisturbed one."""
    root = folder / f"{how.replace(' ', '-')}-{seed}"
    with small_disk(root) as small:
        faults = [f for f in script(seed, how) if small or f.kind != "disk"]
        stage = Stage(root, how, nodes if how == "cluster" else None, disk=any(f.kind == "disk" for f in faults))
        play(stage, faults)
        pd.testing.assert_frame_equal(table(stage), expected, check_exact=True)
    return stage


def main(first: int, last: int, hows: list[str]) -> None:
    """Play seeds and tell how each went."""
    folder, good = Path(tempfile.mkdtemp(prefix="cfbench-chaos-")), 0
    with moods(folder):
        expected = undisturbed(folder)
        nodes = Nodes() if "cluster" in hows else None
        for seed in range(first, last):
            how, begun = hows[seed % len(hows)], time.monotonic()
            try:
                history = survive(folder, seed, how, expected, nodes).history
                good += 1
                print(f"seed {seed}, {how}: {'; '.join(history)}: good, {time.monotonic() - begun:.0f} s", flush=True)
            except AssertionError as error:
                print(f"seed {seed}, {how}: {[str(f) for f in script(seed, how)]}: BROKEN: {error}", flush=True)
        if nodes:
            nodes.cluster.shutdown()
    print(f"{good} of {last - first}; {folder}")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    import chaos  # by the name under which the forked processes know it

    chaos.main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or ["alone"])
