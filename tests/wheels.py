"""Wheels of this checkout and of the example distribution, built once, installed away from the checkout."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "cfbench-example-plugin"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "cfbench", "methods", "datasets")
"""What of the checkout goes into its wheel; the rest may be large."""


@cache
def checkout() -> Path:
    """The wheel of the checkout, built in a copy of its sources, so that neither it nor an old build is touched."""
    return wheel(ROOT, SOURCES)


@cache
def example() -> Path:
    """The wheel of the example distribution."""
    return wheel(EXAMPLE, ("pyproject.toml", "README.md", "src"))


def wheel(source: Path, parts: tuple[str, ...]) -> Path:
    """The wheel of a distribution, made of some files and folders of its source."""
    folder = Path(tempfile.mkdtemp(prefix="cfbench-wheel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / "source"
    for part in parts:
        if (source / part).is_dir():
            shutil.copytree(source / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source / part, copy / part)
    here = ["--no-build-isolation"] if _builds() else []
    pip("wheel", "--no-deps", *here, "--wheel-dir", str(folder), str(copy))
    (found,) = folder.glob("*.whl")
    return found


def install(folder: Path, *wheels: Path) -> None:
    """Unpack wheels, with their metadata and scripts, into a folder to be named in PYTHONPATH."""
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(folder), *map(str, wheels))


def pip(*args: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip {' '.join(args)} failed:\n{done.stdout}{done.stderr}")


def surroundings(installed: Path) -> dict[str, str]:
    """Environment variables for a process that finds what is installed in a folder before anything else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CFBENCH_", "PYTEST_"))}
    return kept | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def _builds() -> bool:
    """Whether this environment has the setuptools that builds need, which saves a download."""
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False
