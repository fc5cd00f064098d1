"""Small runs on the toy data set for tests that change, merge and repeat them, and ways to doctor what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from cfbench import storage
from cfbench.cli.main import _main

TOYS = str(Path(__file__).with_name("toys.py"))
METRICS = "truth,composition,realism"


def toy_run(root: Path, *args: str) -> list[str]:
    """The words of a run of the toy data set under the tiny budget, whose name is ``tiny``."""
    return ["run", "--plugin", TOYS, "--datasets", "bars", "--preset", "tiny", "--run-root", str(root), *args]


def timeless(root: Path) -> pd.DataFrame:
    """The table of the run ``tiny`` without its runtimes."""
    df = pd.read_csv(root / "tiny" / "leaderboard" / "bars.csv")
    return df[~df.metric.str.startswith("runtime")].reset_index(drop=True)


def small_run(root: Path, name: str, *args: str, metrics: str = METRICS) -> int:
    """A run in seconds, without charts and controls."""
    base = ["--jobs", "1", "--metrics", metrics, "--no-plots", "--no-controls"]
    return _main(toy_run(root, *base, "--data-root", str(root), "--name", name, *args))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for logs of the run itself."""
    kept = (p for p in folder.rglob("*") if p.is_file() and p.name != "events.jsonl" and ".progress" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def stage(run: Path, pattern: str) -> Path:
    """The one stage of a run that matches, as ``cells/bars/learns/seed-0/images-*``."""
    (found,) = run.glob(pattern)
    return found


def seal(folder: Path) -> None:
    """Make a stage's manifest agree with its files, as one who meddles with them would."""
    about = storage.read_json(folder / storage.MANIFEST)
    about["files"] = {name: storage.sha256(folder / name) for name in about["files"]}
    storage.write_json(folder / storage.MANIFEST, about)


def shift(folder: Path, file: str, by: float, name: str | None = None) -> None:
    """Add to the first number of one tensor, or of all that are floats, and seal the stage."""
    tensors = storage.read_tensors(folder / file)
    for key, x in tensors.items():
        if x.numel() and x.is_floating_point() and name in (None, key):
            x.view(-1)[0] += by
    storage.write_tensors(folder / file, tensors)
    seal(folder)


def doctor(run: Path, change) -> None:
    """Change what ``run.json`` says."""
    about = json.loads((run / "run.json").read_text())
    about = change(about) or about
    (run / "run.json").write_text(json.dumps(about))
